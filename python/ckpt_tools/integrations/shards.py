"""Models of which each rank has a part: what all ranks found, together."""

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import CkptError, UnsupportedError


def is_sharded(model: Any) -> bool:
    """Whether ranks share the parameters of a module (DTensor: FSDP2, tensor parallelism), so that each measures its part.

    Raises:
        UnsupportedError: They share them in a way in which no rank can tell what is whose.
    """
    parameters = list(_parameters(model))
    for parameter in parameters:
        if hasattr(parameter, "ds_id"):
            raise UnsupportedError(
                "DeepSpeed's ZeRO-3 leaves no parameters that could be measured while it trains; inspect its checkpoints, "
                "or train with FSDP2"
            )
        if getattr(parameter, "_fsdp_flattened", False) or type(parameter).__name__ == "FlatParameter":
            raise UnsupportedError(
                "FSDP1 makes vectors of the parameters, which cannot be measured while it trains; inspect its checkpoints, "
                "or use FSDP2 (`fully_shard`)"
            )
    distributed = _distributed()
    if distributed is None or distributed.get_world_size() == 1:
        return False
    return any(hasattr(parameter, "to_local") for parameter in parameters)


def own_part(state: Any) -> Any:
    """A state dict without the tensors of which this rank has nothing: others measure them."""
    if hasattr(state, "state_dict") and not isinstance(state, Mapping):
        state = state.state_dict()
    if not isinstance(state, Mapping):
        return state

    def is_empty(value: Any) -> bool:
        local: Any = getattr(value, "to_local", None)
        return local is not None and bool(local().numel() == 0)

    return {name: value for name, value in state.items() if not is_empty(value)}


def is_first() -> bool:
    """Whether this is the first rank, or the only one."""
    distributed = _distributed()
    return distributed is None or distributed.get_rank() == 0


def gathered(found: Any) -> list[Any]:
    """What each rank found, by rank; each of them has to ask. What is an exception is raised, on all of them."""
    distributed = _distributed()
    all_found: list[Any] = [None] * distributed.get_world_size()
    failed = isinstance(found, Exception)
    distributed.all_gather_object(all_found, str(found) if failed else found)
    if failed:
        raise found
    for rank, other in enumerate(all_found):
        if isinstance(other, str):
            raise CkptError(f"rank {rank} could not measure its part of the model: {other}")
    return all_found


def slowest(seconds: list[tuple[float, float]], share: float) -> int:
    """Steps until the next measurement, by what each rank measured: how long that took, and a step of training."""
    cost, step = max(cost for cost, _ in seconds), min(step for _, step in seconds)
    return max(1, math.ceil(cost * (1 / share - 1) / max(step, 1e-6)))


def _parameters(model: Any) -> Iterator[Any]:
    parameters = getattr(model, "parameters", None)
    if callable(parameters):
        yield from parameters()
    elif callable(model) and not hasattr(model, "state_dict") and _distributed() is not None:
        state = model()
        yield from state.values() if hasattr(state, "values") else ()


def _distributed() -> Any:
    """``torch.distributed``, if processes train together."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed
