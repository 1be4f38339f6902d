"""The optimizers by their names in ``ckpt train --optimizer``, with the defaults that they have there."""

from collections.abc import Callable, Mapping
from functools import partial
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import UnsupportedError, UsageError
from .model import Chosen, Model
from .muon import Muon
from .own import at_least_zero, below_one
from .polarizer import polarize
from .spin import BitNetSpinSolver

_POLARIZED = "polarized-"


def _adamw(
    model: nn.Module,
    *,
    lr: float = 3e-4,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    ternary_weight_decay: float = 0.0,
    ternary: Chosen | None = None,
) -> Optimizer:
    at_least_zero(lr=lr, eps=eps, weight_decay=weight_decay, ternary_weight_decay=ternary_weight_decay)
    below_one(beta1=betas[0], beta2=betas[1])
    groups = _groups(model, weight_decay, ternary_weight_decay, ternary)
    return torch.optim.AdamW(groups, lr=lr, betas=(betas[0], betas[1]), eps=eps)


def _sgd(
    model: nn.Module,
    *,
    lr: float = 0.1,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    ternary_weight_decay: float = 0.0,
    ternary: Chosen | None = None,
) -> Optimizer:
    at_least_zero(lr=lr)
    below_one(momentum=momentum)
    if weight_decay or ternary_weight_decay:
        raise UnsupportedError(
            "weight decay of `sgd` is decoupled in ckpt train, and torch.optim.SGD adds it to the gradient; use it without"
        )
    return torch.optim.SGD(_groups(model, 0.0, 0.0, ternary), lr=lr, momentum=momentum)


_TABLE: dict[str, Callable[..., Optimizer]] = {
    "adamw": _adamw,
    "muon": partial(Muon, form="quintic"),
    "muon-adamw": partial(Muon, form="cubic"),
    "sgd": _sgd,
    "spin": BitNetSpinSolver,
}

#: The names, which may have ``polarized-`` in front.
NAMES = list(_TABLE)


def optimizer(
    name: str, model: nn.Module, *, polarizer: Mapping[str, Any] | None = None, seed: int = 0, step: int = 0, **settings: Any
) -> Optimizer:
    """The optimizer that ``ckpt train --optimizer name`` uses, for a model in PyTorch, with the same defaults and groups.

    >>> made = optimizer("polarized-muon", model, lr=0.01, polarizer={"strength": 0.1})      # doctest: +SKIP

    Args:
        name: One of :data:`NAMES`, optionally with ``polarized-`` in front.
        model: The model; its parameters that require no gradient are left out.
        polarizer: Settings of :func:`polarize`, for a name with ``polarized-``.
        seed: Names random signs; the ranks of one run have the same.
        step: Steps of the run that were taken before.
        **settings: ``lr``, ``weight_decay`` (of parameters outside BitLinears), ``ternary_weight_decay``, ``ternary`` (which
            weights these are), and what the optimizer has besides: ``betas``, ``eps``, ``momentum``, ``adamw_lr``,
            ``hysteresis_threshold``, ``tunnel_strength``.

    Raises:
        UsageError: An unknown name or setting, or numbers with which training is impossible.
    """
    base = name.removeprefix(_POLARIZED)
    if base not in _TABLE:
        raise UsageError(
            f"unknown optimizer `{name}`; choose one of {', '.join(NAMES)}, optionally prefixed with `{_POLARIZED}`"
        )
    if polarizer is not None and base == name:
        raise UsageError(f"`{name}` has no polarizer; `{_POLARIZED}{name}` has")
    if base == "spin":
        settings |= {"seed": seed, "step": step}
    try:
        signature(_TABLE[base]).bind(model, **settings)
    except TypeError as error:
        raise UsageError(f"{name}: {error}") from error
    made = _TABLE[base](model, **settings)
    if base == name:
        return made
    of_polarizer = {"ternary": settings.get("ternary"), "seed": seed, "step": step, **(polarizer or {})}
    return polarize(made, model, **of_polarizer)


def _groups(
    model: nn.Module, weight_decay: float, ternary_weight_decay: float, ternary: Chosen | None
) -> list[dict[str, Any]]:
    whole = Model(model)
    groups = whole.groups(whole.parameters, whole.ternary(ternary), weight_decay, ternary_weight_decay)
    if not groups:
        raise UsageError(f"{type(model).__name__} has no parameters that are trained")
    return groups
