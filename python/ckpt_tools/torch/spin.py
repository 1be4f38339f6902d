"""BitNetSpinSolver: sign descent with a momentum of signs, in which weights near zero tunnel to the other side."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .draws import signs
from .model import Chosen, Model, rounded
from .own import Own, at_least_zero, below_one, gradients_of

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT


class BitNetSpinSolver(Own):
    """``ckpt train --optimizer spin``: where gradients say only in which direction to go.

    With ``s(x)`` the sign of x, or 0, each step is::

        w *= 1 - lr * weight_decay
        b  = momentum * b + (1 - momentum) * s(g);  d = s(b)
        w -= lr * d
        w += -d * lr * tunnel_strength        where then |w| < hysteresis_threshold; d = 0 has a random sign there

    The rule is that of the original trainer of bitnet-student (docs/bitnet.md in ckpt's repository), which had no weight
    decay; signs of gradients as steps are those of signSGD with momentum (Bernstein et al. 2018,
    https://arxiv.org/abs/1802.04434).

    Args:
        params: A model, whose parameters are then grouped and named as ``ckpt train`` does; or parameters, named
            parameters or groups of them, as PyTorch's optimizers take.
        lr: Learning rate.
        momentum: Share of the past in the direction, at least 0 and below 1.
        hysteresis_threshold: Below it weights tunnel.
        tunnel_strength: How far they tunnel, in learning rates.
        weight_decay: Decoupled weight decay; of a model, that of parameters outside BitLinears.
        ternary_weight_decay: Of a model: decoupled weight decay of the weights of BitLinears.
        ternary: Of a model: which these are, by names or a function of name and parameter; by default the weights of
            modules whose class is called BitLinear or some such.
        seed: Names the random signs; the ranks of one run have the same.
        step: Steps of the run that were taken before, which are part of what names random signs.

    Raises:
        UsageError: For numbers with which training is impossible.
    """

    def __init__(
        self,
        params: "ParamsT | nn.Module",
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        hysteresis_threshold: float = 0.05,
        tunnel_strength: float = 2.0,
        weight_decay: float = 0.0,
        *,
        ternary_weight_decay: float = 0.0,
        ternary: Chosen | None = None,
        seed: int = 0,
        step: int = 0,
    ) -> None:
        at_least_zero(lr=lr, weight_decay=weight_decay, ternary_weight_decay=ternary_weight_decay)
        below_one(momentum=momentum)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "hysteresis_threshold": hysteresis_threshold,
            "tunnel_strength": tunnel_strength,
            "seed": seed,
            "step": step,
        }
        groups: Any = params
        if isinstance(params, nn.Module):
            model = Model(params)
            self._take_positions(model)
            of_bitlinear = model.ternary(ternary)
            groups = model.groups(model.parameters, of_bitlinear, weight_decay, ternary_weight_decay)
        elif ternary_weight_decay or ternary is not None:
            raise UsageError("ternary weights are told apart only in a model: give it in place of its parameters")
        super().__init__(groups, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group; the settings that it lacks are those of the optimizer."""
        if self.param_groups and isinstance(param_group, dict):
            param_group.setdefault("step", self.param_groups[0]["step"])
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Takes a step, after ``closure``, if there is one, has computed the loss that is then returned. The host waits for
        each device and group once."""
        loss = self._loss(closure)
        for group in self.param_groups:
            for members in self._with_gradients(group):
                self._update(members, group, members[0].dtype)
            group["step"] += 1
        return loss

    def _update(self, members: list[Tensor], group: dict[str, Any], dtype: torch.dtype) -> None:
        lr, decay = float(group["lr"]), 1.0 - float(group["lr"]) * group["weight_decay"]
        momentum = rounded(group["momentum"], dtype)
        threshold = rounded(group["hysteresis_threshold"], dtype)
        buffers = [self._buffer(p) for p in members]
        gradients = list(torch._foreach_sign(gradients_of(members)))
        # Each product is rounded by itself: the sign of a sum near zero must not depend on what a device fuses.
        torch._foreach_mul_(gradients, rounded(1.0 - momentum, dtype))
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        directions = torch._foreach_sign(buffers)
        if decay != 1.0:
            torch._foreach_mul_(members, decay)
        lr = rounded(lr, dtype)
        torch._foreach_sub_(members, torch._foreach_mul(directions, lr))
        near = [p.abs() < threshold for p in members]
        undecided = [close & (d == 0) for close, d in zip(near, directions, strict=True)]
        for p, d, which, some in zip(members, directions, undecided, _any(undecided), strict=True):
            if some:
                elements = which.flatten().nonzero().squeeze(1)
                # d is turned round below.
                d[which] = -signs(group["seed"], group["step"], self._positions[p], elements).to(d.dtype)
        torch._foreach_mul_(directions, -rounded(lr * rounded(group["tunnel_strength"], dtype), dtype))
        torch._foreach_mul_(directions, near)
        torch._foreach_add_(members, directions)


def _any(masks: list[Tensor]) -> list[bool]:
    """Whether each has a true element; the host waits once."""
    found: list[bool] = torch.stack([mask.any() for mask in masks]).tolist()
    return found
