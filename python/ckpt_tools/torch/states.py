"""State dicts in the layout of PyTorch and ``ckpt train``: found by the parameters' names, where they are saved."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from ..errors import UsageError
from .model import canonical, clean

StateDict = dict[str, Any]


def names_of(group: Mapping[str, Any]) -> list[str] | None:
    """The names of a group's parameters, where it has them."""
    names = group.get("param_names")
    return [clean(name) for name in names] if names is not None and len(names) == len(group["params"]) else None


def fitted(saved: Any, groups: Sequence[Mapping[str, Any]], names: Sequence[list[str] | None]) -> StateDict:
    """The state dict ``saved`` with the groups, and the order of parameters, of ``groups``, whose parameters are called
    ``names``. Without names on either side groups and order have to be the same.

    Raises:
        UsageError: It belongs to other parameters, or is no state dict.
    """
    is_state = isinstance(saved, Mapping) and isinstance(saved.get("state"), Mapping)
    if not is_state or not isinstance(saved.get("param_groups"), (list, tuple)):
        composite = isinstance(saved, Mapping) and "muon" in saved
        what = "it belongs to Muon" if composite else "it has no `state` with `param_groups`"
        raise UsageError(f"this is not the state of this optimizer: {what}")
    saved_groups: Sequence[Mapping[str, Any]] = saved["param_groups"]
    of_saved = [names_of(group) for group in saved_groups]
    if any(n is None for n in of_saved) or any(n is None for n in names):
        sizes, wanted = ([len(group["params"]) for group in of] for of in (saved_groups, groups))
        if sizes != wanted:
            # The program keeps groups without members.
            saved_groups = [group for group in saved_groups if group["params"]]
            sizes = [len(group["params"]) for group in saved_groups]
        if sizes != wanted:
            raise UsageError(
                f"the saved state has groups of {sizes} parameters, and this optimizer of {wanted}; with names on both "
                "sides (an optimizer that was given the model, or named parameters) each would find its own"
            )
        return {**saved, "param_groups": [dict(group) for group in saved_groups]}
    exact = {
        name: (number, at)
        for at, (group, called) in enumerate(zip(saved_groups, of_saved, strict=True))
        for number, name in zip(group["params"], called or [], strict=True)
    }
    # What wraps a model is before its names; where that leaves one name for several, only their own tell them apart.
    numbers: dict[str, tuple[Any, int] | None] = {}
    for name, place in exact.items():
        numbers[canonical(name)] = None if canonical(name) in numbers else place
    state: dict[Any, Any] = {}
    fitted_groups = []
    following = 0
    for group, called in zip(groups, names, strict=True):
        origins = []
        for name in called or []:
            found = exact.get(name) or numbers.get(canonical(name))
            if found is None:
                raise UsageError(f"the saved state belongs to other parameters: it has no `{name}`", tensor=name)
            number, at = found
            origins.append(at)
            if number in saved["state"]:
                state[following + len(origins) - 1] = saved["state"][number]
        options = [_options(saved_groups[at]) for at in dict.fromkeys(origins)] or [_options(group)]
        if any(other != options[0] for other in options):
            raise UsageError("parameters of one group were saved in groups with different settings; make the same groups")
        members = list(range(following, following + len(origins)))
        following += len(origins)
        fitted_groups.append({**deepcopy(options[0]), "params": members, "param_names": list(called or [])})
    return {**saved, "state": state, "param_groups": fitted_groups}


def _options(group: Mapping[str, Any]) -> StateDict:
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def require(saved: Mapping[str, Any], entry: str, optimizer: str) -> None:
    """Refuses a state that has no ``entry`` for any parameter."""
    states = saved["state"].values()
    if states and not any(isinstance(state, Mapping) and entry in state for state in states):
        raise UsageError(f"the saved state has no `{entry}`, so another optimizer than {optimizer} saved it")
