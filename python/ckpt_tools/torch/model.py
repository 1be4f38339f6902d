"""What the parameters of a model are: their names, which of them BitLinears quantize, which are hidden matrices."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..errors import UnsupportedError, UsageError

#: Which parameters: their names, or a function of a name and the parameter.
Chosen: TypeAlias = Iterable[str] | Callable[[str, nn.Parameter], bool]

#: What PyTorch wraps models, and modules of them, in.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
#: What may be before the names of a model.
_BEFORE = {"module", "model", "state_dict", "net"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_MLP = {"gate_proj", "up_proj", "down_proj"}
#: Modules whose output is the model's.
_HEADS = {"lm_head", "head", "output", "embed_out", "output_projection", "unembed", "classifier", "score"}


def clean(name: str) -> str:
    """The name without what PyTorch wraps modules in: ``_orig_mod.layers.0.w`` of a compiled model is ``layers.0.w``."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def canonical(name: str) -> str:
    """The clean name without what may be before the names of a model."""
    name = clean(name)
    while "." in name and name.split(".", 1)[0] in _BEFORE:
        name = name.split(".", 1)[1]
    return name


class Model:
    """The parameters of a model, by their clean names, in its order."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.parameters: dict[str, nn.Parameter] = {}
        for name, parameter in module.named_parameters():
            refuse_shards(parameter, name)
            self.parameters[clean(name)] = parameter
        if not self.parameters:
            raise UsageError(f"{type(module).__name__} has no parameters")
        embeddings = (m.weight for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)))
        self._embeddings = {id(weight) for weight in embeddings}

    def __iter__(self) -> Iterator[tuple[str, nn.Parameter]]:
        return iter(self.parameters.items())

    def chosen(self, which: Chosen) -> dict[str, nn.Parameter]:
        """The parameters of ``which``."""
        if callable(which):
            return {name: p for name, p in self if which(name, p)}
        if isinstance(which, str):
            which = [which]
        found: dict[str, nn.Parameter] = {}
        for name in which:
            known = self.parameters.get(clean(name))
            if known is None:
                raise UsageError(f"the model has no parameter `{name}`", tensor=name)
            found[clean(name)] = known
        return found

    def ternary(self, which: Chosen | None = None) -> dict[str, nn.Parameter]:
        """The matrices of ``which``; by default the weights of modules whose class is called BitLinear or some such
        (BitLinear158, AutoBitLinear)."""
        if which is None:
            quantized = {
                id(weight)
                for module in self._module.modules()
                if any("bitlinear" in base.__name__.lower() for base in type(module).__mro__)
                for name, weight in module.named_parameters(recurse=False)
                if name == "weight"
            }
            return {name: p for name, p in self._matrices() if id(p) in quantized}
        found = self.chosen(which)
        if callable(which):
            matrices = dict(self._matrices())
            return {name: p for name, p in found.items() if name in matrices}
        for name, parameter in found.items():
            if parameter.ndim != 2:
                raise UsageError(f"`{name}` has {parameter.ndim} dimensions; the weight of a BitLinear has 2", tensor=name)
            if id(parameter) in self._embeddings:
                raise UsageError(f"`{name}` is an embedding, and not the weight of a BitLinear", tensor=name)
        return found

    def projections(self, attention: bool) -> dict[str, nn.Parameter]:
        """The weights of gate, up and down; with those of attention where asked."""
        of = _MLP | _ATTENTION if attention else _MLP
        return {name: p for name, p in self._matrices() if name.split(".")[-1] == "weight" and _module(name) in of}

    def hidden(self, which: Chosen | None = None) -> dict[str, nn.Parameter]:
        """The matrices of ``which``; by default all that are neither an embedding nor the model's output."""
        if which is not None:
            found = self.chosen(which)
            if callable(which):
                return {name: p for name, p in found.items() if p.ndim == 2}
            return {name: p for name, p in found.items() if _is_matrix(name, p)}
        head = getattr(self._module, "get_output_embeddings", None)
        of_head: Any = head() if callable(head) else None
        outputs = {id(p) for p in of_head.parameters()} if isinstance(of_head, nn.Module) else set()

        def is_hidden(name: str, parameter: nn.Parameter) -> bool:
            at_the_ends = id(parameter) in outputs or _module(name) in _HEADS or "embed" in name.lower()
            return name.split(".")[-1] == "weight" and not at_the_ends

        return {name: p for name, p in self._matrices() if is_hidden(name, p)}

    def _matrices(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Parameters of two dimensions that are no embeddings."""
        return ((name, p) for name, p in self if p.ndim == 2 and id(p) not in self._embeddings)

    def groups(
        self, wanted: Iterable[str], ternary: Iterable[str], weight_decay: float, ternary_weight_decay: float
    ) -> list[dict[str, Any]]:
        """Parameter groups as ``ckpt train`` makes them: one in the model's order if all have the same weight decay, else
        ternary weights and the others."""
        names, of_bitlinear = set(wanted), set(ternary)
        trained = [name for name, p in self if name in names and p.requires_grad]
        parts = [(trained, weight_decay)]
        if weight_decay != ternary_weight_decay:
            parts = [
                ([name for name in trained if name in of_bitlinear], ternary_weight_decay),
                ([name for name in trained if name not in of_bitlinear], weight_decay),
            ]
        return [
            {"params": [self.parameters[n] for n in part], "param_names": part, "weight_decay": decay}
            for part, decay in parts
            if part
        ]


def _module(name: str) -> str:
    return name.split(".")[-2] if "." in name else ""


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    if parameter.ndim != 2:
        raise UsageError(f"`{name}` has {parameter.ndim} dimensions; a matrix has 2", tensor=name)
    return True


def refuse_shards(parameter: Tensor, name: str | None = None) -> None:
    """Refuses a parameter of which each rank has a part."""
    if hasattr(parameter, "to_local"):
        what = "a parameter" if name is None else f"`{name}`"
        raise UnsupportedError(
            f"{what} is shared out among ranks (DTensor), which these optimizers do not update", tensor=name
        )


def rounded(value: float, dtype: torch.dtype) -> float:
    """The number as the operations on elements of ``dtype`` have it: in float32, or float64 for float64."""
    return value if dtype == torch.float64 else torch.tensor(value, dtype=torch.float32).item()
