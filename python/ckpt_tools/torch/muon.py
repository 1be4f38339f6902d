"""Muon: momentum, orthogonalized by Newton-Schulz iterations; AdamW for the parameters that are no hidden matrices."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .model import Chosen, Model
from .own import Own, at_least_zero, below_one, gradients_of
from .states import StateDict, fitted, require

if TYPE_CHECKING:
    from torch.optim.optimizer import ParamsT

Form = Literal["quintic", "cubic"]

#: Newton-Schulz iterations.
_ITERATIONS = 5


def orthogonalize(matrix: Tensor, form: Form = "quintic", iterations: int = _ITERATIONS) -> Tensor:
    """The matrix turned towards the nearest one whose singular values are all equal: 1, or with ``"cubic"`` the norm that it
    had. In float32, and float64 for float64.

    With ``X = M / (|M| + 1e-7)``, each iteration is

    - quintic: ``X = a X + (b A + c A A) X`` with ``A = X X'`` and (a, b, c) = (3.4445, -4.7750, 2.0315) (Jordan 2024,
      https://kellerjordan.github.io/posts/muon/);
    - cubic: ``X = X (1.5 I - 0.5 X' X)``, the Newton-Schulz iteration (Björck and Bowie 1971,
      https://doi.org/10.1137/0708036), and the result times ``|M|``.
    """
    x = matrix if matrix.dtype == torch.float64 else matrix.float()
    # The Gram matrix of the shorter side; both give the same result.
    wide = x.shape[0] < x.shape[1]
    if wide:
        x = x.T
    norm = torch.linalg.vector_norm(x)
    x = x / (norm + 1e-7)
    for _ in range(iterations):
        gram = x.T @ x
        if form == "cubic":
            x = torch.addmm(x, x, gram, beta=1.5, alpha=-0.5)
        else:
            x = torch.addmm(x, x, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), beta=3.4445)
    if form == "cubic":
        x = x * norm
    return x.T if wide else x


class Muon(Own):
    """``ckpt train --optimizer muon`` (``form="quintic"``) and ``muon-adamw`` (``form="cubic"``).

    Each step of a matrix, with NS as :func:`orthogonalize` computes it, is::

        b = momentum * b + g
        w = w * (1 - lr * weight_decay) - lr * sqrt(max(1, rows / columns)) * NS(g + momentum * b)      quintic
        w = w * (1 - lr * weight_decay) - lr * NS(g + momentum * NS(b))                                 cubic

    The quintic form is today's (Jordan 2024, https://kellerjordan.github.io/posts/muon/), for hidden matrices. The cubic one
    is that of the original trainer of bitnet-student (docs/bitnet.md in ckpt's repository), for all matrices, embeddings
    too. ``torch.optim.AdamW`` updates the rest. Iterations are in float32, as in ``ckpt train``.

    ``state_dict`` is ``{"muon": {"state": …, "param_groups": …}, "adamw": {…}}``, as ``ckpt train`` saves it; groups of
    matrices come first in ``param_groups``.

    Args:
        params: A model, whose parameters are then divided, grouped and named as ``ckpt train`` does; or parameters, named
            parameters or groups of them. Of these all matrices are Muon's: for the quintic form give the model, or
            mark the groups of embeddings and outputs by ``"use_muon": False``.
        lr: Learning rate of matrices.
        momentum: Share of the past in the direction, at least 0 and below 1.
        form: The iteration, and how its result is used.
        weight_decay: Decoupled weight decay. Of a model: that of parameters outside BitLinears; in the cubic form, of
            parameters that are no matrices.
        adamw_lr: Learning rate of the rest.
        betas: Of AdamW.
        eps: Of AdamW.
        ternary_weight_decay: Of a model: decoupled weight decay of the weights of BitLinears; in the cubic form, of every
            matrix.
        ternary: Of a model: which these are, by names or a function of name and parameter; by default the weights of
            modules whose class is called BitLinear or some such.
        hidden: Of a model in the quintic form: Muon's matrices, in the same way; by default all that are neither an
            embedding nor the model's output.

    Raises:
        UsageError: For numbers with which training is impossible.
    """

    _adamw: torch.optim.AdamW | None

    def __init__(
        self,
        params: "ParamsT | nn.Module",
        lr: float | Tensor = 0.02,
        momentum: float = 0.95,
        *,
        form: Form = "quintic",
        weight_decay: float = 0.0,
        adamw_lr: float | Tensor = 3e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        ternary_weight_decay: float = 0.0,
        ternary: Chosen | None = None,
        hidden: Chosen | None = None,
    ) -> None:
        if form not in ("quintic", "cubic"):
            raise UsageError(f"form is 'quintic' or 'cubic', and not {form!r}")
        at_least_zero(
            lr=lr, adamw_lr=adamw_lr, weight_decay=weight_decay, ternary_weight_decay=ternary_weight_decay, eps=eps
        )
        below_one(momentum=momentum, beta1=betas[0], beta2=betas[1])
        self._form: Form = form
        self._adamw = None
        self._of_matrices: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": True,
            "ns_iters": _ITERATIONS,
            "keeps_size": form == "cubic",
        }
        self._of_rest: dict[str, Any] = {"lr": adamw_lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        groups: Any
        if isinstance(params, nn.Module):
            if form == "cubic" and hidden is not None:
                raise UsageError("the cubic form updates every matrix; `hidden` is of the quintic one")
            groups = self._groups_of(Model(params), weight_decay, ternary_weight_decay, ternary, hidden)
        elif ternary_weight_decay or ternary is not None or hidden is not None:
            raise UsageError("what a matrix is to a model is only known of a model: give it in place of its parameters")
        else:
            groups = self._divided(params)
        # Schedulers that cycle the momentum look for it here, and in each group.
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    def _groups_of(
        self, model: Model, weight_decay: float, ternary_weight_decay: float, ternary: Chosen | None, hidden: Chosen | None
    ) -> list[dict[str, Any]]:
        of_bitlinear = model.ternary(ternary)
        if self._form == "cubic":
            matrices = {name for name, p in model if p.ndim == 2}
            muon = model.groups(matrices, matrices, ternary_weight_decay, ternary_weight_decay)
        else:
            matrices = set(model.hidden(hidden))
            muon = model.groups(matrices, of_bitlinear, weight_decay, ternary_weight_decay)
        if not matrices:
            raise UsageError(
                "the model has no matrix that Muon could step: FSDP makes vectors of them unless it shards with FSDP2"
            )
        rest = [name for name in model.parameters if name not in matrices]
        adamw = model.groups(rest, of_bitlinear, weight_decay, ternary_weight_decay)
        return [{**g, "use_muon": True} for g in muon] + [{**g, "use_muon": False} for g in adamw]

    def _divided(self, params: Any) -> list[dict[str, Any]]:
        """Groups of matrices, and of the rest."""
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}] if given else []
        divided = []
        for group in map(self._group, map(dict, groups)):
            if "use_muon" in group:
                divided.append(group)
                continue
            names = group.pop("param_names", None)
            for use_muon in (True, False):
                at = [i for i, p in enumerate(group["params"]) if (getattr(p, "ndim", 0) == 2) == use_muon]
                part = {**group, "params": [group["params"][i] for i in at], "use_muon": use_muon}
                if names is not None:
                    part["param_names"] = [names[i] for i in at]
                divided.extend([part] if at else [])
        return sorted(divided, key=lambda group: not group["use_muon"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group of matrices, or of parameters for AdamW; ``"use_muon"`` says which, where both are possible. The
        settings that it lacks are those of the optimizer."""
        group = self._group(param_group)
        are_matrices = {getattr(p, "ndim", 0) == 2 for p in group["params"]}
        use_muon = group.pop("use_muon", None)
        if use_muon is None:
            if len(are_matrices) > 1:
                raise UsageError("this group has matrices and others; make it two, or say `use_muon`")
            use_muon = True in are_matrices
        if use_muon and False in are_matrices:
            raise UsageError("Muon updates matrices, and this group has a parameter of other dimensions")
        for key, value in (self._of_matrices if use_muon else self._of_rest).items():
            group.setdefault(key, value)
        super().add_param_group(group)
        if not use_muon:
            self._link()

    def _link(self) -> None:
        """Makes AdamW the optimizer of the groups that are not Muon's, with the same dictionaries and the same state."""
        rest = [group for group in self.param_groups if not _is_muons(group)]
        if not rest:
            return
        adamw = self._adamw or torch.optim.AdamW(rest, **self._of_rest)
        for group in rest:
            for key, value in adamw.defaults.items():
                group.setdefault(key, value)
        adamw.param_groups = rest
        adamw.__setstate__({"state": self.state})
        self._adamw = adamw

    def __getstate__(self) -> dict[str, Any]:
        own = {key: self.__dict__[key] for key in ("_form", "_of_matrices", "_of_rest")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_adamw", None)
        self._link()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Takes a step, after ``closure``, if there is one, has computed the loss that is then returned."""
        loss = self._loss(closure)
        for group in self.param_groups:
            if _is_muons(group):
                for members in self._with_gradients(group):
                    self._update(members, group)
        if self._adamw is not None:
            self._adamw.step()
        return loss

    def _update(self, members: list[Tensor], group: dict[str, Any]) -> None:
        lr, momentum = float(group["lr"]), group["momentum"]
        buffers, gradients = [self._buffer(p) for p in members], gradients_of(members)
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, gradients)
        for p, g, buffer in zip(members, gradients, buffers, strict=True):
            size = lr
            if self._form == "cubic":
                past = orthogonalize(buffer, "cubic", group["ns_iters"])
            else:
                past = buffer
                size *= max(1.0, p.shape[0] / max(p.shape[1], 1)) ** 0.5
            update = orthogonalize(g + momentum * past, self._form, group["ns_iters"])
            p.mul_(1.0 - lr * group["weight_decay"]).add_(update.to(p.dtype), alpha=-size)

    def state_dict(self) -> StateDict:
        """The state, as ``ckpt train`` saves it: ``{"muon": …, "adamw": …}``."""
        whole = super().state_dict()
        adamw = _part(whole, lambda group: not _is_muons(group))
        for group in adamw["param_groups"]:
            group.pop("momentum", None)
        return {"muon": _part(whole, _is_muons), "adamw": adamw}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Takes over a state that Muon of the same form saved, in PyTorch or in ``ckpt train``; by the names of parameters,
        where both sides have them.

        Raises:
            UsageError: Another optimizer saved it, or it belongs to other parameters.
        """
        if not isinstance(state_dict, Mapping) or not {"muon", "adamw"} <= state_dict.keys():
            raise UsageError("the saved state has no `muon` and `adamw`, so another optimizer than Muon saved it")
        parts = {}
        for key, entry in (("muon", self._entry), ("adamw", "exp_avg")):
            of_part = [
                (group, named)
                for group, named in zip(self.param_groups, self._names(), strict=True)
                if _is_muons(group) == (key == "muon")
            ]
            part = fitted(state_dict[key], [group for group, _ in of_part], [named for _, named in of_part])
            require(part, entry, "Muon" if key == "muon" else "AdamW")
            parts[key] = part
        for group in parts["muon"]["param_groups"]:
            if group.get("keeps_size", self._form == "cubic") != (self._form == "cubic"):
                theirs = "cubic" if group["keeps_size"] else "quintic"
                raise UsageError(f"Muon in its {theirs} form saved this state, and this one is in its {self._form} form")
        self._load(self._joined(parts["muon"], parts["adamw"]))

    def _joined(self, muon: StateDict, adamw: StateDict) -> StateDict:
        """One state dict of both, its groups in the order of this optimizer's."""
        first = sum(len(group["params"]) for group in muon["param_groups"])
        rest = [{**group, "params": [first + number for number in group["params"]]} for group in adamw["param_groups"]]
        state = {**muon["state"], **{first + number: state for number, state in adamw["state"].items()}}
        of_matrices, of_rest = iter(muon["param_groups"]), iter(rest)
        groups = [next(of_matrices if _is_muons(group) else of_rest) for group in self.param_groups]
        return {"state": state, "param_groups": groups}


def _is_muons(group: Mapping[str, Any]) -> bool:
    return "ns_iters" in group


def _part(whole: StateDict, wanted: Callable[[Mapping[str, Any]], bool]) -> StateDict:
    """The groups that are wanted and their state, numbered from 0."""
    groups = [group for group in whole["param_groups"] if wanted(group)]
    numbers = {old: new for new, old in enumerate(number for group in groups for number in group["params"])}
    state = {numbers[old]: state for old, state in whole["state"].items() if old in numbers}
    return {
        "state": dict(sorted(state.items())),
        "param_groups": [{**group, "params": [numbers[old] for old in group["params"]]} for group in groups],
    }
