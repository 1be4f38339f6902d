"""The polarizer: after any optimizer's step it pushes ternary weights away from zero, so that their scale cannot vanish."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import CkptWarning, UnsupportedError, UsageError
from .draws import signs
from .model import Chosen, Model, canonical, rounded
from .own import Own
from .states import StateDict, fitted

Well = Literal["one-sided", "two-sided", "constant", "piecewise"]

#: Elements whose pushes are in memory at once.
_AT_ONCE = 1 << 25
#: The target and the strength without any given.
_SHARE, _SIZE = 0.25, 0.01
_STRENGTH: dict[str, float] = {"one-sided": 0.05, "two-sided": 0.05, "constant": 0.01, "piecewise": 0.1}


def polarize(
    optimizer: Optimizer,
    model: nn.Module,
    *,
    well: Well = "one-sided",
    target_scale: float | None = None,
    relative_target: float | None = None,
    strength: float | None = None,
    ternary: Chosen | None = None,
    seed: int = 0,
    step: int = 0,
) -> "Polarized":
    """The optimizer with the polarizer after each of its steps: ``ckpt train --optimizer polarized-…``.

    Of each ternary weight w, with the target t and the strength s:

    - ``one-sided``: where ``|w| < t``, ``w += sign(w) * 2 s (t - |w|)``: a step down the energy ``s (|w| - t)^2`` of a double
      well, on the side of zero alone;
    - ``two-sided``: the same on both sides; every weight is drawn to ±t, and the layer loses its zeros;
    - ``constant``: of gate, up and down projections, where ``1e-9 < |w| < t / 2``, ``w += sign(w) * s``;
    - ``piecewise``: of all projections, ``w += sign(w) * 2 s`` below t / 2, and ``w += sign(w) * s (t - |w|)`` up to t.

    A weight of exactly 0 gets a random sign. The last two are rules of the original trainer of bitnet-student
    (docs/bitnet.md in ckpt's repository). What the polarizer is good for, and what it costs, was measured:
    docs/training-proof.md there. Other parameters (embeddings, norms, biases), parameters that the optimizer does not
    have, and those without a gradient are left alone.

    Args:
        optimizer: Any optimizer of PyTorch.
        model: The model whose parameters it updates; compiled or wrapped by DDP, if you like.
        well: How weights are pushed.
        target_scale: The target, for all layers; 0.01 by default for ``constant`` and ``piecewise``.
        relative_target: The target as a share of each layer's mean |w| now; 0.25 by default for the others.
        strength: How strongly; by default 0.05, for ``constant`` 0.01, for ``piecewise`` 0.1.
        ternary: The matrices that are polarized, by names or a function of name and parameter; by default the weights of
            modules whose class is called BitLinear or some such, and for ``constant`` and ``piecewise`` those called
            ``gate_proj``, ``q_proj`` and so on.
        seed: Names the random signs; the ranks of one run have the same.
        step: Steps of the run that were taken before, which are part of what names random signs.

    Raises:
        UsageError: For numbers that would not work, and if the model or the optimizer has no such matrices.
    """
    return Polarized(
        optimizer,
        model,
        well=well,
        target_scale=target_scale,
        relative_target=relative_target,
        strength=strength,
        ternary=ternary,
        seed=seed,
        step=step,
    )


class Polarized(Optimizer):
    """Any optimizer, with the polarizer after each of its steps; :func:`polarize` makes it and says what it does.

    Groups, state and settings are those of :attr:`optimizer`. ``state_dict`` is the optimizer's with ``polarizer`` beside it,
    as ``ckpt train`` saves it; the optimizer alone can load it, too.
    """

    #: The optimizer whose steps are followed.
    optimizer: Optimizer
    #: How weights are pushed.
    well: Well
    #: Whether :attr:`target` is a size for all layers (``absolute``), or a share of each layer's mean |w| (``relative``).
    target_mode: str
    #: The target, as :attr:`target_mode` says.
    target: float
    #: How strongly weights are pushed.
    strength: float
    #: What names the random signs, together with the number of steps.
    seed: int
    #: Steps of the run that were taken.
    steps: int

    _names: dict[Tensor, str]
    _positions: dict[Tensor, int]
    _polarizable: list[Tensor]
    _targets: dict[Tensor, float]

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        *,
        well: Well = "one-sided",
        target_scale: float | None = None,
        relative_target: float | None = None,
        strength: float | None = None,
        ternary: Chosen | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None:
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, Polarized):
            what = "polarized already" if isinstance(optimizer, Polarized) else "no torch.optim.Optimizer"
            raise UsageError(f"the optimizer is {what}")
        mode, number = _target(well, target_scale, relative_target)
        strength = _strength(well, strength)
        whole = Model(model)
        if ternary is None and well in ("constant", "piecewise"):
            polarizable = whole.projections(attention=well == "piecewise")
        else:
            polarizable = whole.ternary(ternary)
        if not polarizable:
            raise UsageError(
                f"{type(model).__name__} has no matrix to polarize: no module's class is called BitLinear; say which "
                "weights are ternary by `ternary=`"
            )
        # What PyTorch does to an optimizer that is made without its constructor, as by copying it.
        self.__setstate__(
            {
                "optimizer": optimizer,
                "well": well,
                "target_mode": mode,
                "target": number,
                "strength": strength,
                "seed": seed,
                "steps": step,
                "_names": {p: name for name, p in whole},
                "_positions": {p: at for at, p in enumerate(whole.parameters.values())},
                "_polarizable": list(polarizable.values()),
                "_targets": {},
            }
        )
        self._aim()
        if not self._targets:
            raise UsageError("the optimizer has none of the model's ternary weights; give it the parameters of this model")

    # What of the base class is the optimizer's own.

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The optimizer's groups."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.optimizer.param_groups = groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The optimizer's state."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:
        self.optimizer.state = state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The optimizer's settings for groups without their own."""
        return self.optimizer.defaults

    @defaults.setter
    def defaults(self, defaults: dict[str, Any]) -> None:
        self.optimizer.defaults = defaults

    def __getstate__(self) -> dict[str, Any]:
        names = ["optimizer", "well", "target_mode", "target", "strength", "seed", "steps"]
        return {name: self.__dict__[name] for name in [*names, "_names", "_positions", "_polarizable", "_targets"]}

    def __repr__(self) -> str:
        target = self.target if self.target_mode == "absolute" else f"{self.target} of each layer's mean|w|"
        what = f"{self.well}, target {target}, strength {self.strength}, {len(self._targets)} matrices"
        return f"Polarized ({what})\n{self.optimizer!r}"

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As the optimizer does."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the optimizer. The model's ternary weights in it are polarized too, with targets of now."""
        self.optimizer.add_param_group(param_group)
        self._aim()

    def register_state_dict_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """The optimizer's; so are the other hooks of state dicts."""
        return self.optimizer.register_state_dict_pre_hook(*args, **kwargs)

    def register_state_dict_post_hook(self, *args: Any, **kwargs: Any) -> Any:
        """The optimizer's."""
        return self.optimizer.register_state_dict_post_hook(*args, **kwargs)

    def register_load_state_dict_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        """The optimizer's."""
        return self.optimizer.register_load_state_dict_pre_hook(*args, **kwargs)

    def register_load_state_dict_post_hook(self, *args: Any, **kwargs: Any) -> Any:
        """The optimizer's."""
        return self.optimizer.register_load_state_dict_post_hook(*args, **kwargs)

    @property
    def targets(self) -> dict[str, float]:
        """The target of each matrix that is polarized, by its name."""
        return {self._names[parameter]: target for parameter, target in self._targets.items()}

    def _aim(self) -> None:
        """Gives a target to what the optimizer updates and has none yet."""
        updated = {id(p) for group in self.param_groups for p in group["params"]}
        for parameter in self._polarizable:
            if id(parameter) in updated and parameter not in self._targets:
                absolute = self.target_mode == "absolute"
                size = self.target if absolute else self.target * _mean(parameter, self._names[parameter])
                self._targets[parameter] = rounded(size, torch.float32)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """The optimizer's step, and then the polarizer's. The host waits for the device once for each 33 million elements."""
        loss = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        if self._stepped():
            with torch.no_grad():
                for members in self._batches():
                    self._push(members)
            self.steps += 1
        return loss

    def _stepped(self) -> bool:
        """Whether the optimizer took its step: one that accelerate prepared takes none while gradients accumulate, nor where
        they overflow."""
        accumulation = getattr(self.optimizer, "gradient_state", None)
        if accumulation is not None and not accumulation.sync_gradients:
            return False
        return not getattr(self.optimizer, "step_was_skipped", False)

    def _batches(self) -> Iterator[list[Tensor]]:
        """The weights to push, of one device and type and not too many at once."""
        batch: list[Tensor] = []
        for parameter in self._targets:
            if parameter.grad is None:
                continue
            size = sum(p.numel() for p in batch) + parameter.numel()
            if batch and (size > _AT_ONCE or (parameter.device, parameter.dtype) != (batch[0].device, batch[0].dtype)):
                yield batch
                batch = []
            batch.append(parameter)
        if batch:
            yield batch

    def _push(self, weights: list[Tensor]) -> None:
        dtype = weights[0].dtype
        targets = [self._targets[p] for p in weights]
        strength = rounded(self.strength, dtype)
        sizes = torch._foreach_abs(weights)
        directions = torch._foreach_sign(weights)
        if self.well in ("one-sided", "two-sided"):
            pushes = list(torch._foreach_sub(sizes, targets))
            if self.well == "one-sided":
                torch._foreach_clamp_max_(pushes, 0.0)
            torch._foreach_mul_(pushes, -2.0 * strength)
        elif self.well == "constant":
            least = rounded(1e-9, dtype)
            pushes = [
                ((size > least) & (size < target / 2)).to(dtype) * strength
                for size, target in zip(sizes, targets, strict=True)
            ]
        else:
            pushes = [
                torch.where(size < target / 2, 2.0 * strength, (target - size).clamp_min(0.0) * strength)
                for size, target in zip(sizes, targets, strict=True)
            ]
        zeros = [size == 0 for size in sizes]
        some: list[bool] = torch.stack([zero.any() for zero in zeros]).tolist()
        for p, zero, direction, found in zip(weights, zeros, directions, some, strict=True):
            if found:
                elements = zero.flatten().nonzero().squeeze(1)
                direction[zero] = signs(self.seed, self.steps, self._positions[p], elements).to(dtype)
        torch._foreach_mul_(pushes, directions)
        torch._foreach_add_(weights, pushes)

    def state_dict(self) -> StateDict:
        """The optimizer's state, with names for its parameters, and ``polarizer`` beside it."""
        state = self.optimizer.state_dict()
        if not isinstance(self.optimizer, Own):
            for group, names in zip(state["param_groups"], self._names_of_groups(), strict=True):
                if names is not None:
                    group["param_names"] = names
        polarizer = {self.target_mode: self.target, "targets": self.targets, "seed": self.seed, "step": self.steps}
        return {**state, "polarizer": polarizer}

    def _names_of_groups(self) -> list[list[str] | None]:
        """The model's names of the parameters of each group; without all of them, none."""
        groups = [[self._names.get(p) for p in group["params"]] for group in self.param_groups]
        if any(name is None for group in groups for name in group):
            return [None] * len(groups)
        return [[name for name in group if name is not None] for group in groups]

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Takes over a state that this optimizer saved, polarized or not, in PyTorch or in ``ckpt train``: by the names of
        parameters, where they are saved. Targets are kept as they were if they were chosen in the same way; else those
        of now stay, with a warning.

        Raises:
            UsageError: Another optimizer saved it, or it belongs to other parameters.
        """
        if not isinstance(state_dict, Mapping):
            raise UsageError(f"a state dict is a dict, and not of type {type(state_dict).__name__}")
        state = {key: value for key, value in state_dict.items() if key != "polarizer"}
        if not isinstance(self.optimizer, Own):
            state = fitted(state, self.param_groups, self._names_of_groups())
        self.optimizer.load_state_dict(state)
        saved = state_dict.get("polarizer")
        if isinstance(saved, Mapping) and isinstance(saved.get("targets"), Mapping):
            self._take_over(saved)

    def _take_over(self, saved: Mapping[str, Any]) -> None:
        self.seed, self.steps = int(saved.get("seed", self.seed)), int(saved.get("step", self.steps))
        chosen = next(((mode, saved[mode]) for mode in ("absolute", "relative") if mode in saved), None)
        if chosen is not None and chosen != (self.target_mode, self.target):
            warnings.warn(
                f"the saved state was polarized with the target {_said(*chosen)}, but this run continues with "
                f"{_said(self.target_mode, self.target)}",
                CkptWarning,
                stacklevel=3,
            )
            return
        targets = {canonical(name): target for name, target in saved["targets"].items()}
        for parameter in self._targets:
            target = targets.get(canonical(self._names[parameter]))
            if isinstance(target, (int, float)) and math.isfinite(target) and target >= 0:
                self._targets[parameter] = rounded(target, torch.float32)


def _said(mode: str, number: float) -> str:
    return str(number) if mode == "absolute" else f"{number} of each layer's mean|w|"


def _target(well: Well, absolute: float | None, relative: float | None) -> tuple[str, float]:
    """Whether the target is absolute or relative, and the number."""
    if well not in get_args(Well):
        raise UsageError(f"well is one of {', '.join(get_args(Well))}, and not {well!r}")
    if absolute is not None and relative is not None:
        raise UsageError("the target is absolute (`target_scale`) or relative (`relative_target`), and not both")
    if absolute is None and relative is None:
        return ("relative", _SHARE) if well in ("one-sided", "two-sided") else ("absolute", _SIZE)
    mode, number = ("absolute", absolute) if absolute is not None else ("relative", relative)
    if not (isinstance(number, (int, float)) and math.isfinite(number) and number >= 0):
        raise UsageError(f"polarization target {number} must be a number of 0 or more")
    return mode, float(number)


def _strength(well: Well, given: float | None) -> float:
    if given is None:
        return _STRENGTH[well]
    steep = well in ("one-sided", "two-sided") and isinstance(given, (int, float)) and 2.0 * given > 1.0
    if not (isinstance(given, (int, float)) and math.isfinite(given) and given >= 0) or steep:
        raise UsageError(f"polarization strength {given} must be from 0 to 0.5: beyond that, one step overshoots the target")
    return float(given)


def _mean(parameter: Tensor, name: str) -> float:
    """mean|w|."""
    if parameter.is_meta:
        raise UnsupportedError(
            f"`{name}` is on the meta device, and has no elements; polarize once the model has its weights", tensor=name
        )
    sizes = parameter.detach().abs()
    # Apple's GPUs have no float64.
    total = sizes.sum() if sizes.device.type == "mps" else sizes.sum(dtype=torch.float64)
    return float(total) / max(parameter.numel(), 1)
