"""Each step of an optimizer is that of ``ckpt train``: the file with those was made by the program's own crate
(``train/tests/suite/steps.rs``), which also goes on from the states that are saved here. ``CKPT_UPDATE_STEPS=1`` makes the
file with these anew.
"""

import copy
import os
import pickle
import warnings

import pytest
import torch
from ckpt_tools.torch import NAMES, optimizer
from torch import nn

from conftest import REPOSITORY

# Tensors are small: threads that wait for each other take longer than the work.
torch.set_num_threads(1)

DATA = REPOSITORY / "train" / "tests" / "data"
STEPS = torch.load(DATA / "steps.pt", weights_only=True)
HALF, SEED, FACTORS = STEPS["half"], STEPS["seed"], STEPS["factors"]
RUNS = list(STEPS["runs"])
#: The largest difference of a weight.
SAME = 1e-6


class BitLinear(nn.Linear):
    """A layer whose weights are rounded when it is used; here it is not."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)


class Network(nn.Module):
    """The parameters of the file, in its order."""

    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(9, 6)
        layer = nn.ModuleDict({"input_layernorm": nn.LayerNorm(6, bias=False)})
        layer["self_attn"] = nn.ModuleDict({"q_proj": BitLinear(6, 8)})
        layer["mlp"] = nn.ModuleDict({"gate_proj": BitLinear(6, 10), "down_proj": BitLinear(10, 6)})
        self.layers = nn.ModuleList([layer])
        self.norm = nn.LayerNorm(6, bias=False)
        self.lm_head = nn.Linear(6, 9, bias=False)


def network(weights):
    made = Network()
    assert list(dict(made.named_parameters())) == list(weights)
    made.load_state_dict(weights)
    return made


def built(run, model, step=0):
    """The optimizer by the settings that the run has in ckpt train."""
    settings = copy.deepcopy(STEPS["runs"][run]["settings"])
    polarizer = settings.pop("polarizer", None)
    if polarizer is not None:
        ((mode, number),) = polarizer.pop("target").items()
        polarizer[{"relative": "relative_target", "absolute": "target_scale"}[mode]] = number
    return optimizer(settings.pop("name"), model, polarizer=polarizer, seed=SEED, step=step, **settings)


def scheduled(made, first=0):
    """The schedule of the file: the factors as PyTorch's own schedulers apply them."""
    if first:
        for group in made.param_groups:
            group.setdefault("initial_lr", group["lr"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.optim.lr_scheduler.LambdaLR(made, lambda step: FACTORS[min(step, len(FACTORS) - 1)], first - 1)


def take(model, made, step):
    for name, parameter in model.named_parameters():
        parameter.grad = STEPS["gradients"][name.replace("_orig_mod.", "")][step].clone()
    made.step()


def is_at(run, model, step):
    """Whether the weights are those that the file has after so many steps."""
    for name, parameter in model.named_parameters():
        name = name.replace("_orig_mod.", "")
        want = STEPS["runs"][run]["weights"][name][step - 1]
        difference = (parameter.detach() - want).abs().max().item()
        assert difference <= SAME, f"{run}, step {step}: {name} differs by {difference}"


def follow(run, model, made, schedule, first, last=None, after=lambda step: None):
    for step in range(first, len(FACTORS) if last is None else last):
        take(model, made, step)
        schedule.step()
        is_at(run, model, step + 1)
        after(step + 1)


def at_half(run):
    """The weights half way."""
    return {name: steps[HALF - 1].clone() for name, steps in STEPS["runs"][run]["weights"].items()}


def test_names_are_those_of_ckpt_train():
    assert {STEPS["runs"][run]["settings"]["name"].removeprefix("polarized-") for run in RUNS} == set(NAMES)


@pytest.mark.parametrize("run", RUNS)
def test_every_step_is_that_of_ckpt_train(run):
    model = network(STEPS["start"])
    made = built(run, model)
    follow(run, model, made, scheduled(made), 0)
    assert getattr(made, "steps", len(FACTORS)) == len(FACTORS)


@pytest.mark.parametrize("run", RUNS)
def test_a_state_of_ckpt_train_is_resumed(run):
    model = network(STEPS["start"])
    # Relative targets are those of the start.
    made = built(run, model, step=HALF)
    model.load_state_dict(at_half(run))
    made.load_state_dict(copy.deepcopy(STEPS["runs"][run]["state"]))
    follow(run, model, made, scheduled(made, HALF), HALF)


def test_targets_are_those_that_were_saved():
    model = network(at_half("one-sided"))
    made = built("one-sided", model, step=HALF)
    of_now = made.targets
    made.load_state_dict(copy.deepcopy(STEPS["runs"]["one-sided"]["state"]))
    assert made.targets == STEPS["runs"]["one-sided"]["state"]["polarizer"]["targets"] != of_now
    follow("one-sided", model, made, scheduled(made, HALF), HALF)


def plain(value):
    """A state dict with tensors as lists, for comparing."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def halfway(run):
    """The model and the optimizer's state half way, as PyTorch saves them."""
    model = network(STEPS["start"])
    made = built(run, model)
    follow(run, model, made, scheduled(made), 0, HALF)
    return {"model": {n: p.detach().clone() for n, p in model.named_parameters()}, "state": made.state_dict()}


def test_what_the_program_resumes_is_what_is_saved():
    """The states that ``train/tests/suite/steps.rs`` goes on from are those that are saved today."""
    path = DATA / "steps-torch.pt"
    made = {"runs": {run: halfway(run) for run in RUNS}}
    if os.environ.get("CKPT_UPDATE_STEPS"):
        torch.save(made, path)
    committed = torch.load(path, weights_only=True)
    assert list(committed["runs"]) == RUNS
    for run in RUNS:
        is_close(made["runs"][run], committed["runs"][run], run)


def is_close(one, other, path):
    assert type(one) is type(other), path
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6, msg=path)
    elif isinstance(one, dict):
        # Versions of PyTorch differ in what groups say besides.
        for key in one.keys() & other.keys():
            is_close(one[key], other[key], f"{path}.{key}")
        if "params" not in one:
            assert one.keys() == other.keys(), path
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), path
        for at, (a, b) in enumerate(zip(one, other, strict=True)):
            is_close(a, b, f"{path}.{at}")
    else:
        assert one == pytest.approx(other) if isinstance(one, float) else one == other, path


@pytest.mark.parametrize("run", RUNS)
def test_states_have_the_layout_of_the_programs(run):
    """The same parts, numbers, names and tensors, and what the program's groups say is said in ours."""

    def compare(ours, theirs, path):
        # The program has groups without members too.
        groups = [group for group in theirs["param_groups"] if group["params"]]
        for ours_group, theirs_group in zip(ours["param_groups"], groups, strict=True):
            for key in theirs_group.keys() - {"initial_lr", "decoupled_weight_decay"}:
                assert plain(ours_group[key]) == pytest.approx(plain(theirs_group[key])) or plain(ours_group[key]) == plain(
                    theirs_group[key]
                ), f"{path} {key}"
        assert ours["state"].keys() == theirs["state"].keys()
        for number, entries in theirs["state"].items():
            assert ours["state"][number].keys() == entries.keys()
            for name, values in entries.items():
                torch.testing.assert_close(ours["state"][number][name], values, rtol=1e-5, atol=1e-6, msg=name)

    ours, theirs = halfway(run)["state"], STEPS["runs"][run]["state"]
    for part in [None, "muon", "adamw"]:
        if part is None and "param_groups" in theirs:
            compare(ours, theirs, run)
        elif part in theirs:
            compare(ours[part], theirs[part], f"{run} {part}")
    assert ours.get("polarizer", {}).get("targets") == theirs.get("polarizer", {}).get("targets")


@pytest.mark.parametrize("run", ["spin", "muon", "muon-adamw", "one-sided", "one-sided-muon", "one-sided-spin"])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copied", "pickled"])
def test_what_is_copied_or_pickled_goes_on(run, again):
    model = network(STEPS["start"])
    made = built(run, model)
    follow(run, model, made, scheduled(made), 0, HALF)
    other_model, other = again((model, made))
    assert {id(p) for g in other.param_groups for p in g["params"]} == {id(p) for p in other_model.parameters()}
    follow(run, other_model, other, scheduled(other, HALF), HALF)
    follow(run, model, made, scheduled(made, HALF), HALF)


@pytest.mark.parametrize("run", ["spin-two-groups", "muon", "one-sided", "one-sided-muon"])
def test_a_compiled_model_has_the_names_of_the_model(run):
    model = torch.compile(network(STEPS["start"]))
    assert all(name.startswith("_orig_mod.") for name, _ in model.named_parameters())
    made = built(run, model)
    follow(run, model, made, scheduled(made), 0, HALF)
    state = made.state_dict()
    assert "_orig_mod" not in repr(state)
    plain_model = network(at_half(run))
    other = built(run, plain_model, step=HALF)
    other.load_state_dict(state)
    follow(run, plain_model, other, scheduled(other, HALF), HALF)


@pytest.mark.parametrize("run", ["spin", "one-sided", "two-sided", "piecewise", "constant", "muon"])
def test_other_types_and_layouts_of_memory_are_the_same_numbers(run):
    """In float64 within float32's rounding; with weights stored by columns exactly as by rows."""
    model = network(STEPS["start"]).double()
    made = built(run, model)
    schedule = scheduled(made)
    by_columns = network(STEPS["start"])
    for parameter in by_columns.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.T.contiguous().T
    other = built(run, by_columns)
    other_schedule = scheduled(other)
    for step in range(HALF):
        for name, parameter in model.named_parameters():
            parameter.grad = STEPS["gradients"][name][step].double()
        made.step()
        schedule.step()
        take(by_columns, other, step)
        other_schedule.step()
        is_at(run, by_columns, step + 1)
    for name, parameter in model.named_parameters():
        want = STEPS["runs"][run]["weights"][name][HALF - 1].double()
        torch.testing.assert_close(parameter.detach(), want, rtol=0, atol=1e-5)
