"""The health of a model that is being trained, whatever trains it."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

from ..errors import UsageError
from ..live import explain, measure, policy_text
from ..records import Inspection, Record
from .logs import Log, logs_of
from .shards import gathered, is_first, is_sharded, own_part, slowest

#: From best to worst.
VERDICTS = ["healthy", "untrained", "weak", "dying", "dead", "corrupt"]
#: Without ``every``, measuring takes this share of the time at most.
SHARE = 0.01
#: States of up to so many bytes are copied before they are measured in the background: small models change while they are.
COPIED = 64 << 20
#: Measurements that a cause is looked for in; of more, every second one of the older is forgotten.
KEPT = 64


class Health(Record):
    """The health at a step: ``step``, ``verdict``, ``reasons``, ``metrics``, and the :attr:`inspection` itself."""

    __slots__ = ("_inspection",)
    _inspection: Inspection

    def __init__(self, fields: dict[str, Any], inspection: Inspection) -> None:
        super().__init__(fields)
        object.__setattr__(self, "_inspection", inspection)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._fields, self._inspection))

    @property
    def inspection(self) -> Inspection:
        """All that was measured."""
        return self._inspection


class HealthMonitor:
    """Measures a model while it is trained, and says when to stop.

    Of a model that ranks share (DTensor: FSDP2, tensor parallelism) each rank measures its part and the worst counts: all of
    them make a monitor and tell it every step. Training then waits for it, and the first rank logs. Copies of a model
    are alike, so one rank measures.

    Args:
        model: The module, or what returns its state dict.
        optimizer: The optimizer, for the cause of a collapse: its learning rate and its weight decay.
        every: Measure at every so many steps; ``None`` measures as often as 1 % of the time allows.
        stop_on: The verdict, or a worse one, at which :meth:`step` says to stop; ``None`` only tells.
        background: Measure on another thread while training goes on; a verdict is then known some steps later. A
            small model (64 MB) is copied first; tensors of a larger one may change while they are measured, so that their
            numbers mix several steps. Without it, training waits.
        log: Where metrics go: ``"auto"`` for TensorBoard (with ``log_dir``), W&B and MLflow where these are installed and a
            run is active; a function of metrics and step, or ``None``.
        log_dir: The folder of TensorBoard's events.
        config: The model's configuration, as in Hugging Face's config.json; by default that of the model, if it has one.
        policy: A file with the thresholds for verdicts.
        on_health: Called with each :class:`Health`, on the thread that calls :meth:`step`.
    """

    #: Why to stop, in words; ``None`` as long as there is no reason.
    reason: str | None
    #: The causes that were found when it said to stop, gravest first.
    causes: list[Record]
    #: The last health that was measured.
    health: Health | None

    def __init__(
        self,
        model: Any,
        optimizer: Any = None,
        *,
        every: int | None = None,
        stop_on: Literal["weak", "dying", "dead", "corrupt"] | None = "dying",
        background: bool = True,
        log: Literal["auto"] | Callable[[dict[str, float], int], None] | None = "auto",
        log_dir: str | None = None,
        config: Mapping[str, Any] | None = None,
        policy: str | None = None,
        on_health: Callable[[Health], None] | None = None,
    ) -> None:
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"every must be a whole number of steps of 1 or more, or None, and not {every!r}")
        if log not in ("auto", None) and not callable(log):
            raise ValueError(f"log is 'auto', a function of metrics and step, or None, and not {log!r}")
        if stop_on is not None and stop_on not in VERDICTS[2:]:
            raise ValueError(f"stop_on is one of {', '.join(VERDICTS[2:])}, and not {stop_on!r}")
        if policy is not None:
            policy_text(policy)
        self._model = model
        self._optimizer = optimizer
        self._every = every
        self._stop_on = stop_on
        self._shared = is_sharded(model)
        self._background = background and not self._shared
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False
        self._pending: Future[tuple[Inspection, float]] | None = None
        self._pending_step = 0
        self._logs: list[Log] = logs_of(log, log_dir) if not self._shared or is_first() else []
        self._config = config if config is not None else _config_of(model)
        self._policy = policy
        self._on_health = on_health
        self._groups: list[dict[str, Any]] = []
        self._records: list[Inspection] = []
        self._last = 0.0
        self._cost: float | None = None
        self._told: int | None = None
        # Of a model that ranks share: steps that were told since the last measurement, and after how many the next one is.
        self._since = 0
        self._interval = 1
        self.reason = None
        self.causes = []
        self.health = None

    def step(self, step: int) -> bool:
        """Is told that the step with this number has been taken; true when the run is to be stopped."""
        if self._closed:
            raise UsageError("the monitor is closed, and measures nothing any more; make a new one")
        self._collect(wait=False)
        # While gradients accumulate, the same step is told several times.
        is_new, self._told = step != self._told, step
        self._since += is_new
        if self.reason is None and self._pending is None and is_new and self._is_due(step):
            self._groups = settings(self._optimizer, self._model)
            self._pending_step = step
            if self._background:
                self._thread = self._thread or ThreadPoolExecutor(1, "ckpt-health")
                self._pending = self._thread.submit(self._measured, step, copied(self._state()))
            else:
                self._pending = Future()
                try:
                    self._pending.set_result(self._measured(step))
                except Exception as error:
                    self._pending = None
                    if self._shared:
                        # The other ranks wait for what this one found.
                        gathered(error)
                    raise
                self._collect(wait=True)
        return self.reason is not None

    def close(self) -> bool:
        """Waits for what is being measured, and ends. True when the run was to be stopped."""
        self._closed = True
        try:
            self._collect(wait=True)
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            for log in self._logs:
                log.close()
        return self.reason is not None

    def __getstate__(self) -> dict[str, Any]:
        # Neither threads nor places for metrics can be sent or kept.
        self._collect(wait=True)
        return {**self.__dict__, "_thread": None, "_logs": []}

    def __enter__(self) -> "HealthMonitor":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.close()
        except Exception:
            # What ended the loop is the news, not that its last measurement failed.
            if kind is None:
                raise

    def _is_due(self, step: int) -> bool:
        if self._every is not None:
            return step % self._every == 0
        if self._cost is None:
            return True
        if self._shared:
            # By what the ranks agreed on.
            return self._since >= self._interval
        # As long as measuring took is its share of the time since.
        return time.monotonic() - self._last >= self._cost * (1 / SHARE - 1)

    def _state(self) -> Any:
        """What is measured."""
        return self._model() if not hasattr(self._model, "state_dict") and callable(self._model) else self._model

    def _measured(self, step: int, state: Any = None) -> tuple[Inspection, float]:
        begun = time.monotonic()
        is_copy, state = state is not None, self._state() if state is None else state
        if self._shared:
            state = own_part(state)
        first = self._told or step
        inspection = measure(state, step=step, config=self._config, policy=self._policy, histogram=False)
        # While it was measured in the background, training went on: a cause is looked for at the middle of that time.
        middle = step if is_copy else (first + (self._told or step)) // 2
        # A run's records are files of one folder, by step.
        record = {**inspection.to_dict(), "path": f"run/step-{middle:09}", "step": middle}
        record["training"] = _training(self._groups, record["tensors"])
        return Inspection(record), time.monotonic() - begun

    def _agreed(self, inspection: Inspection) -> dict[str, Any]:
        """The verdict, the reasons and the metrics of the parts of all ranks."""
        cost = self._cost or 0.0
        # Before the second measurement nobody knows how long a step takes.
        trained = (time.monotonic() - self._last - cost) / max(self._since, 1) if self._last else 0.0
        fields = inspection.to_dict()
        ranks = gathered(
            {
                "verdict": fields["verdict"],
                "reasons": fields["reasons"],
                "tensors": [_numbers(tensor) for tensor in fields["tensors"]],
                "seconds": (cost, trained),
            }
        )
        self._interval = slowest([rank["seconds"] for rank in ranks], SHARE) if self._last else 1
        self._since = 0
        worst = max(ranks, key=lambda rank: -1 if rank["verdict"] is None else VERDICTS.index(rank["verdict"]))
        whole: dict[str, dict[str, Any]] = {}
        for part in (tensor for rank in ranks for tensor in rank["tensors"]):
            whole[part["name"]] = _joined(whole.get(part["name"], part), part)
        return {
            "verdict": worst["verdict"],
            "reasons": worst["reasons"],
            "metrics": _metrics(worst["verdict"], list(whole.values())),
        }

    def _collect(self, wait: bool) -> None:
        if self._pending is None or not (wait or self._pending.done()):
            return
        pending, self._pending = self._pending, None
        inspection, self._cost = pending.result()
        found = self._agreed(inspection) if self._shared else None
        self._last = time.monotonic()
        self._records.append(inspection)
        if len(self._records) > KEPT:
            self._records = self._records[0:1] + self._records[2 : KEPT // 2 : 2] + self._records[KEPT // 2 :]
        if found is None:
            found = {"verdict": inspection.verdict, "reasons": inspection.reasons, "metrics": metrics(inspection)}
        health = Health({"step": self._pending_step, **found}, inspection)
        self.health = health
        for log in self._logs:
            log.write(health.metrics.to_dict(), self._pending_step)
        if self._on_health is not None:
            self._on_health(health)
        self._judge(health)

    def _judge(self, health: Health) -> None:
        if self._stop_on is None or health.verdict is None:
            return
        if VERDICTS.index(health.verdict) < VERDICTS.index(self._stop_on):
            return
        self.causes = self.explain()
        why = f"step {health.step}: the model is {health.verdict}"
        if health.reasons:
            why += f" ({health.reasons[0]})"
        if self.causes:
            why += f". {self.causes[0].title}: {self.causes[0].sentence}"
        self.reason = why

    def explain(self) -> list[Record]:
        """Why weights are dying, by what was measured so far, gravest cause first."""
        return explain(self._records, accum=1)


def copied(state: Any) -> dict[str, Any] | None:
    """A copy of a state dict's tensors, or of those of a module; ``None`` for what is large or is no such thing. Tensors that share
    their memory do so in the copy."""
    state = state.state_dict() if hasattr(state, "state_dict") else state
    if not isinstance(state, Mapping):
        return None
    tensors = {name: item for name, item in state.items() if hasattr(item, "untyped_storage")}
    if sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()) > COPIED:
        return None
    try:
        return copy.deepcopy(dict(state))
    except Exception:
        # Something in it cannot be copied, and is seen where it is.
        return None


#: What `ckpt` calls the optimizers of PyTorch; of others, their weight decay is taken for decoupled if the weights shrink so.
_KINDS = {"AdamW": "adamw", "Adam": "adam-l2", "SGD": "sgd", "Muon": "muon", "Lion": "lion"}


def settings(optimizer: Any, model: Any) -> list[dict[str, Any]]:
    """The parameter groups of ``optimizer`` as they are now, for :func:`_training`: its settings, and the ``names`` of the
    parameters in ``model``; of parameters whose names are not known, one group, that of the weights that decay."""
    # Accelerate's is around the one that steps.
    optimizer = getattr(optimizer, "optimizer", optimizer)
    groups = [group for group in getattr(optimizer, "param_groups", None) or [] if "lr" in group]
    named = getattr(model, "named_parameters", None)
    names = {id(parameter): name for name, parameter in named()} if callable(named) else {}
    found = [
        {
            "kind": _kind(optimizer, group),
            "lr": _number(group["lr"]),
            "weight_decay": _number(group.get("weight_decay", 0.0)),
            "momentum": _number(group.get("momentum")),
            "dampening": _number(group.get("dampening")),
            "nesterov": bool(group.get("nesterov")),
            "names": [names[id(parameter)] for parameter in group.get("params", []) if id(parameter) in names],
        }
        for group in groups
    ]
    if any(group["names"] for group in found):
        return found
    return ([group for group in found if group["weight_decay"]] or found)[:1]


def _kind(optimizer: Any, group: Mapping[str, Any]) -> str:
    if type(optimizer).__name__ == "Adam" and group.get("decoupled_weight_decay"):
        return "adamw"
    return _KINDS.get(type(optimizer).__name__, "unknown")


def _number(value: Any) -> float | None:
    """A setting, which may be a tensor; ``None`` for what is no number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _training(groups: list[dict[str, Any]], tensors: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The settings of the optimizer as a record has them, where it was saved with its optimizer."""
    if not groups:
        return None
    places = {tensor["name"]: place for place, tensor in enumerate(tensors)}
    recorded = []
    for number, group in enumerate(groups):
        own = sorted(places[name] for name in group["names"] if name in places)
        rest = {key: value for key, value in group.items() if key != "names"}
        path = f"optimizer.param_groups.{number}"
        recorded.append({"path": path, **rest, "tensors": own, "moments": [[] for _ in own]})
    return {
        "groups": recorded,
        "optimizer_steps": None,
        "accumulation": None,
        "config_lr": None,
        "config_weight_decay": None,
    }


def metrics(inspection: Inspection) -> dict[str, float]:
    """The numbers to log of an inspection: how bad it is, how many tensors are of each verdict, the smallest and the median
    std of matrices, and how many values are not finite."""
    return _metrics(inspection.verdict, [_numbers(tensor) for tensor in inspection.to_dict()["tensors"]])


def _metrics(verdict: str | None, tensors: list[dict[str, Any]]) -> dict[str, float]:
    judged = [tensor for tensor in tensors if tensor["verdict"] is not None]
    found = {"health/verdict": float(VERDICTS.index(verdict))} if verdict else {}
    for name in VERDICTS:
        found[f"health/{name}"] = float(sum(tensor["verdict"] == name for tensor in judged))
    found["health/not_finite"] = float(sum(tensor["not_finite"] for tensor in tensors))
    stds = sorted(tensor["std"] for tensor in judged if tensor["std"] is not None)
    if stds:
        found["health/min_std"] = stds[0]
        found["health/median_std"] = stds[len(stds) // 2]
    return found


def _numbers(tensor: dict[str, Any]) -> dict[str, Any]:
    """What metrics tell of a tensor."""
    stats = tensor["stats"]
    counts = stats is not None and tensor["group"] == "weights"
    return {
        "name": tensor["name"],
        "verdict": tensor["verdict"],
        "std": stats["std"] if stats else None,
        "not_finite": stats["nan"] + stats["inf"] if counts else 0,
    }


def _joined(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """What metrics tell of a tensor of which two ranks have parts, or a copy each: the worst of both."""
    verdicts = [part["verdict"] for part in (a, b) if part["verdict"] is not None]
    stds = [part["std"] for part in (a, b) if part["std"] is not None]
    return {
        "name": a["name"],
        "verdict": max(verdicts, key=VERDICTS.index, default=None),
        "std": min(stds, default=None),
        "not_finite": max(a["not_finite"], b["not_finite"]),
    }


def _config_of(model: Any) -> Mapping[str, Any] | None:
    """The configuration of a model of transformers."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    if not callable(to_dict):
        return None
    config = to_dict()
    if not isinstance(config, Mapping):
        return None
    return {"architectures": [type(model).__name__], **{k: v for k, v in config.items() if v is not None}}
