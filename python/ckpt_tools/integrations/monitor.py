"""The health of a model that is being trained, whatever trains it."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

from ..live import explain, measure, policy_text
from ..records import Inspection, Record
from .logs import Log, logs_of

#: From best to worst.
VERDICTS = ["healthy", "untrained", "weak", "dying", "dead", "corrupt"]
#: Without ``every``, measuring takes this share of the time at most.
SHARE = 0.01
#: Measurements that a cause is looked for in; of more, every second one of the older is forgotten.
KEPT = 64


class Health(Record):
    """The health at a step: ``step``, ``verdict``, ``reasons``, ``metrics``, and the :attr:`inspection` itself."""

    __slots__ = ("_inspection",)
    _inspection: Inspection

    def __init__(self, fields: dict[str, Any], inspection: Inspection) -> None:
        super().__init__(fields)
        object.__setattr__(self, "_inspection", inspection)

    @property
    def inspection(self) -> Inspection:
        """All that was measured."""
        return self._inspection


class HealthMonitor:
    """Measures a model while it is trained, and says when to stop.

    Args:
        model: The module, or what returns its state dict.
        optimizer: The optimizer, for the cause of a collapse: its learning rate and its weight decay.
        every: Measure at every so many steps; ``None`` measures as often as 1 % of the time allows.
        stop_on: The verdict, or a worse one, at which :meth:`step` says to stop; ``None`` only tells.
        background: Measure on another thread while training goes on; a verdict is then known some steps later. What is
            measured of a tensor is of no one moment. Without it, training waits.
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
        if every is not None and every < 1:
            raise ValueError("every must be a number of steps of 1 or more, or None")
        if stop_on is not None and stop_on not in VERDICTS[2:]:
            raise ValueError(f"stop_on is one of {', '.join(VERDICTS[2:])}, and not {stop_on!r}")
        if policy is not None:
            policy_text(policy)
        self._model = model
        self._optimizer = optimizer
        self._every = every
        self._stop_on = stop_on
        self._thread = ThreadPoolExecutor(1, "ckpt-health") if background else None
        self._pending: Future[tuple[Inspection, float]] | None = None
        self._pending_step = 0
        self._logs: list[Log] = logs_of(log, log_dir)
        self._config = config if config is not None else _config_of(model)
        self._policy = policy
        self._on_health = on_health
        self._settings: list[tuple[float, float]] = []
        self._records: list[Inspection] = []
        self._last = 0.0
        self._cost: float | None = None
        self._told: int | None = None
        self.reason = None
        self.causes = []
        self.health = None

    def step(self, step: int) -> bool:
        """Is told that the step with this number has been taken; true when the run is to be stopped."""
        self._collect(wait=False)
        # While gradients accumulate, the same step is told several times.
        is_new, self._told = step != self._told, step
        if self.reason is None and self._pending is None and is_new and self._is_due(step):
            self._note_settings()
            self._pending_step = step
            if self._thread is not None:
                self._pending = self._thread.submit(self._measured, step)
            else:
                self._pending = Future()
                self._pending.set_result(self._measured(step))
                self._collect(wait=True)
        return self.reason is not None

    def close(self) -> bool:
        """Waits for what is being measured, and ends. True when the run was to be stopped."""
        self._collect(wait=True)
        if self._thread is not None:
            self._thread.shutdown()
        for log in self._logs:
            log.close()
        return self.reason is not None

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
        # As long as measuring took is its share of the time since.
        return time.monotonic() - self._last >= self._cost * (1 / SHARE - 1)

    def _measured(self, step: int) -> tuple[Inspection, float]:
        begun = time.monotonic()
        state = self._model() if not hasattr(self._model, "state_dict") and callable(self._model) else self._model
        first = self._told or step
        inspection = measure(state, step=step, config=self._config, policy=self._policy, histogram=False)
        # While it was measured in the background, training went on: a cause is looked for at the middle of that time.
        middle = (first + (self._told or step)) // 2
        # A run's records are files of one folder, by step.
        record = {**inspection.to_dict(), "path": f"run/step-{middle:09}", "step": middle}
        return Inspection(record), time.monotonic() - begun

    def _collect(self, wait: bool) -> None:
        if self._pending is None or not (wait or self._pending.done()):
            return
        pending, self._pending = self._pending, None
        inspection, self._cost = pending.result()
        self._last = time.monotonic()
        self._records.append(inspection)
        if len(self._records) > KEPT:
            self._records = self._records[0:1] + self._records[2 : KEPT // 2 : 2] + self._records[KEPT // 2 :]
        health = Health(
            {
                "step": self._pending_step,
                "verdict": inspection.verdict,
                "reasons": inspection.reasons,
                "metrics": metrics(inspection),
            },
            inspection,
        )
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
        lr, decay = (None, None) if not self._settings else map(_mean, zip(*self._settings, strict=True))
        return explain(self._records, lr=lr, weight_decay=decay, accum=1)

    def _note_settings(self) -> None:
        """The learning rate and the weight decay of the weights that decay; they may change from step to step."""
        groups = getattr(self._optimizer, "param_groups", None) or []
        decaying = [group for group in groups if group.get("weight_decay") and "lr" in group]
        for group in (decaying or groups)[:1]:
            if "lr" in group:
                self._settings.append((float(group["lr"]), float(group.get("weight_decay", 0.0))))


def metrics(inspection: Inspection) -> dict[str, float]:
    """The numbers to log of an inspection: how bad it is, how many tensors are of each verdict, the smallest and the median
    std of matrices, and how many values are not finite."""
    tensors = inspection.to_dict()["tensors"]
    judged = [tensor for tensor in tensors if tensor["verdict"] is not None]
    found = {"health/verdict": float(VERDICTS.index(inspection.verdict))} if inspection.verdict else {}
    for verdict in VERDICTS:
        found[f"health/{verdict}"] = float(sum(tensor["verdict"] == verdict for tensor in judged))
    stats = [tensor["stats"] for tensor in tensors if tensor["group"] == "weights" and tensor["stats"]]
    found["health/not_finite"] = float(sum(stat["nan"] + stat["inf"] for stat in stats))
    stds = sorted(t["stats"]["std"] for t in judged if t["stats"] and t["stats"]["std"] is not None)
    if stds:
        found["health/min_std"] = stds[0]
        found["health/median_std"] = stds[len(stds) // 2]
    return found


def _mean(values: tuple[float, ...]) -> float:
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def _config_of(model: Any) -> Mapping[str, Any] | None:
    """The configuration of a model of transformers."""
    to_dict = getattr(getattr(model, "config", None), "to_dict", None)
    if not callable(to_dict):
        return None
    config = to_dict()
    if not isinstance(config, Mapping):
        return None
    return {"architectures": [type(model).__name__], **{k: v for k, v in config.items() if v is not None}}
