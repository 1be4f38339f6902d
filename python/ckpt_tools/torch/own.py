"""What the optimizers of this package share: names and positions of parameters, state dicts that are found by name."""

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..errors import UnsupportedError, UsageError
from .model import Model, refuse_shards
from .states import StateDict, fitted, names_of, require


class Own(Optimizer):
    """An optimizer whose parameters may have names, and have positions."""

    #: What it keeps for each parameter.
    _entry: ClassVar[str] = "momentum_buffer"
    #: Where each parameter is in its model, or in the order in which it was given.
    _positions: dict[Tensor, int]

    def __init__(self, groups: Any, defaults: dict[str, Any]) -> None:
        if isinstance(groups, Tensor):
            raise UsageError(
                "an optimizer takes a model, or an iterable of parameters or groups of them, and not one tensor"
            )
        listed = list(groups)
        if not listed:
            raise UsageError("there are no parameters to optimize")
        super().__init__(listed, defaults)

    def _take_positions(self, model: Model) -> None:
        self._positions = {p: at for at, p in enumerate(model.parameters.values())}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_positions": self._positions}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; the settings that it lacks are those of the optimizer."""
        group = self._group(param_group)
        super().add_param_group(group)
        if not hasattr(self, "_positions"):
            self._positions = {}
        for parameter in group["params"]:
            self._positions.setdefault(parameter, len(self._positions))

    @staticmethod
    def _group(given: dict[str, Any]) -> dict[str, Any]:
        """The group with names beside its parameters, where these come in pairs with their names."""
        if not isinstance(given, dict):
            raise UsageError(f"a group of parameters is a dict, and not of type {type(given).__name__}")
        if "params" not in given:
            raise UsageError("a group of parameters needs `params`")
        params = given["params"]
        members = [params] if isinstance(params, Tensor) else list(params)
        if members and all(isinstance(member, tuple) for member in members):
            given["param_names"] = [name for name, _ in members]
            members = [parameter for _, parameter in members]
        for parameter in members:
            if isinstance(parameter, Tensor):
                refuse_shards(parameter)
                if parameter.is_complex():
                    raise UnsupportedError("complex parameters are not updated by these optimizers")
        given["params"] = members
        return given

    @staticmethod
    def _loss(closure: Callable[[], Any] | None) -> Any:
        if closure is None:
            return None
        with torch.enable_grad():
            return closure()

    @staticmethod
    def _with_gradients(group: dict[str, Any]) -> list[list[Tensor]]:
        """The parameters of a group that have a gradient, those of one device and type together."""
        found: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                raise UnsupportedError("sparse gradients are not supported; make the embedding with sparse=False")
            found.setdefault((parameter.device, parameter.dtype), []).append(parameter)
        return list(found.values())

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        buffer: Tensor = state["momentum_buffer"]
        return buffer

    def _names(self) -> list[list[str] | None]:
        return [names_of(group) for group in self.param_groups]

    def state_dict(self) -> StateDict:
        """The state, as ``ckpt train`` saves it; names are without what PyTorch wraps models in."""
        state = super().state_dict()
        for group, names in zip(state["param_groups"], self._names(), strict=True):
            if names is not None:
                group["param_names"] = names
        return state

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Takes over a state that this optimizer saved, in PyTorch or in ``ckpt train``; by the names of parameters, where
        both sides have them.

        Raises:
            UsageError: Another optimizer saved it, or it belongs to other parameters.
        """
        state = fitted(state_dict, self.param_groups, self._names())
        require(state, self._entry, type(self).__name__)
        self._load(state)

    def _load(self, fitting: StateDict) -> None:
        """Takes over a state of the same groups; what these do not say stays as it was."""
        for group, now in zip(fitting["param_groups"], self.param_groups, strict=True):
            for key, value in now.items():
                if key not in ("params", "param_names"):
                    group.setdefault(key, value)
            for number, parameter in zip(group["params"], now["params"], strict=True):
                _fits(fitting["state"].get(number, {}), parameter)
        super().load_state_dict(fitting)


def _fits(state: Any, parameter: Tensor) -> None:
    """Refuses state of a parameter of another shape."""
    for name, value in state.items() if isinstance(state, Mapping) else ():
        if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
            raise UsageError(
                f"a saved `{name}` has shape {list(value.shape)}, and its parameter {list(parameter.shape)}; the saved state "
                "belongs to another model"
            )


def gradients_of(parameters: list[Tensor]) -> list[Tensor]:
    """The gradients of parameters, which all have one."""
    return [p.grad for p in parameters if p.grad is not None]


def at_least_zero(**numbers: Any) -> None:
    """Refuses a number that is negative or not finite."""
    for name, value in numbers.items():
        if not (isinstance(value, (int, float, Tensor)) and math.isfinite(value) and value >= 0):
            raise UsageError(f"{name} {value} must be a number of 0 or more")


def below_one(**numbers: Any) -> None:
    """Refuses a share of the past that is not at least 0 and below 1."""
    for name, value in numbers.items():
        if not (isinstance(value, (int, float)) and 0 <= value < 1):
            raise UsageError(f"{name} {value} must be at least 0 and below 1")
