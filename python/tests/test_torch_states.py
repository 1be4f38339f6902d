"""What the optimizers for PyTorch save: training goes on from it as if it had not been stopped, there and in ckpt train."""

import copy
import warnings

import ckpt_tools
import pytest
import torch
from ckpt_tools import UsageError
from ckpt_tools.torch import NAMES, BitNetSpinSolver, Muon, Polarized, optimizer, polarize
from ckpt_tools.torch.states import fitted
from torch import nn

from conftest import FIXTURES, HEALTHY
from ternary import TERNARY, Network, every, same, train, weights, zero_rate


@pytest.mark.parametrize("name", every())
def test_a_run_resumed_half_way_is_the_one_that_was_not_stopped(name, tmp_path):
    def made_of(model):
        made = optimizer(name, model, seed=5)
        return made, torch.optim.lr_scheduler.CosineAnnealingLR(made, 20)

    def go(model, made, schedule, first, steps):
        for step in range(first, first + steps):
            train(model, made, 1, step)
            schedule.step()

    whole = Network()
    with torch.no_grad():
        # Some of these get a random sign.
        for name_ in TERNARY:
            whole.get_parameter(name_)[::2, ::3] = 0.0
    began = copy.deepcopy(whole)
    made, schedule = made_of(whole)
    go(whole, made, schedule, 0, 10)

    half = copy.deepcopy(began)
    made, schedule = made_of(half)
    go(half, made, schedule, 0, 5)
    saved = {"model": half.state_dict(), "optimizer": made.state_dict(), "schedule": schedule.state_dict()}
    torch.save(saved, tmp_path / "half.pt")
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    again = Network()
    made, schedule = made_of(again)
    again.load_state_dict(saved["model"])
    made.load_state_dict(saved["optimizer"])
    schedule.load_state_dict(saved["schedule"])
    go(again, made, schedule, 5, 5)
    assert same(weights(whole), weights(again)), "to the last bit"


def test_settings_that_a_saved_state_lacks_stay_as_they_are():
    """As in a state of the program, which has no seed; without names, groups without members do not count."""
    model = Network()
    made = BitNetSpinSolver(model.parameters(), seed=7, step=5)
    train(model, made, 1)
    state = made.state_dict()
    for group in state["param_groups"]:
        del group["seed"], group["step"]
        group["lr"] = 0.5
    state["param_groups"].append({**state["param_groups"][0], "params": []})
    other = BitNetSpinSolver(model.parameters(), seed=8, step=9)
    other.load_state_dict(state)
    (group,) = other.param_groups
    assert (group["seed"], group["step"], group["lr"]) == (8, 9, 0.5)
    assert torch.equal(other.state[model.lm_head.bias]["momentum_buffer"], made.state[model.lm_head.bias]["momentum_buffer"])


def test_a_state_of_another_optimizer_is_refused():
    model = Network()
    states = {}
    for name in NAMES:
        copied = copy.deepcopy(model)
        made = optimizer(name, copied)
        train(copied, made, 1)
        states[name] = made.state_dict()
    for name, other, words in [
        ("spin", "adamw", "no `momentum_buffer`"),
        ("spin", "muon", "belongs to Muon"),
        ("muon", "adamw", "no `muon` and `adamw`"),
        ("muon", "muon-adamw", "other parameters"),
        ("muon-adamw", "muon", "other parameters"),
        ("polarized-adamw", "muon", "belongs to Muon"),
        ("polarized-muon", "spin", "no `muon`"),
    ]:
        with pytest.raises(UsageError, match=words):
            optimizer(name, model).load_state_dict(states[other])
    cubic = Muon([{"params": [(n, model.get_parameter(n)) for n in TERNARY]}], form="cubic")
    for name in TERNARY:
        model.get_parameter(name).grad = torch.ones_like(model.get_parameter(name))
    cubic.step()
    quintic = Muon([{"params": [(n, model.get_parameter(n)) for n in TERNARY]}])
    with pytest.raises(UsageError, match="its cubic form saved this state"):
        quintic.load_state_dict(cubic.state_dict())
    with pytest.raises(UsageError, match=r"groups of \[3\] parameters"):
        BitNetSpinSolver(model.lm_head.parameters()).load_state_dict(
            BitNetSpinSolver([*model.lm_head.parameters(), model.conv.bias]).state_dict()
        )
    for name in ("spin", "muon", "polarized-muon-adamw"):
        wide = Network(32)
        with pytest.raises(UsageError, match="another model"):
            optimizer(name, wide).load_state_dict(states[name.removeprefix("polarized-")])
    for nonsense in [None, {}, {"state": {}}, {"state": 3, "param_groups": []}]:
        with pytest.raises(UsageError):
            BitNetSpinSolver(model).load_state_dict(nonsense)
        with pytest.raises(UsageError):
            optimizer("polarized-adamw", model).load_state_dict(nonsense)


def test_parameters_are_found_by_name_whatever_groups_they_were_in():
    """Saved in one group and in another order; loaded into two groups of a wrapped model."""
    model = Network()
    named = list(model.named_parameters())[::-1]
    first = polarize(torch.optim.AdamW([{"params": [p for _, p in named]}], lr=3e-4, betas=(0.9, 0.95)), model)
    train(model, first, 3)
    state = first.state_dict()

    class Wrapped(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    wrapped = Wrapped(copy.deepcopy(model))
    second = optimizer("polarized-adamw", wrapped, weight_decay=0.1)
    assert len(second.param_groups) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.load_state_dict(state)
    for (name, p), q in zip(model.named_parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(first.state[p]["exp_avg"], second.state[q]["exp_avg"]), name
    assert second.targets == {f"module.{name}": target for name, target in first.targets.items()}


def test_another_target_is_told():
    model = Network()
    state = polarize(zero_rate(model), model, relative_target=0.5).state_dict()
    other = polarize(zero_rate(model), model)
    with pytest.warns(ckpt_tools.CkptWarning, match=r"0.5 of each layer's mean\|w\|, but this run continues with 0.25"):
        other.load_state_dict(state)
    assert other.targets == polarize(zero_rate(model), model).targets


def test_the_state_is_that_of_the_optimizer_alone_too():
    model = Network()
    made = polarize(torch.optim.AdamW(model.parameters()), model)
    train(model, made, 2)
    assert isinstance(made, torch.optim.Optimizer) and isinstance(made, Polarized)
    alone = torch.optim.AdamW(model.parameters())
    alone.load_state_dict(made.state_dict())
    assert alone.state[model.lm_head.bias]["step"] == 2
    assert "25" in repr(made) and "AdamW" in repr(made)


def test_the_program_resumes_what_pytorch_saved(tmp_path, program):
    """A checkpoint of PyTorch goes on in ckpt train with its optimizer's state, and that of another is refused."""
    saved = torch.load(HEALTHY, weights_only=True)

    class Student(nn.Module):
        """Only its parameters: what it computes does not matter here."""

        def __init__(self):
            super().__init__()
            for name, values in saved["model_state_dict"].items():
                *path, leaf = name.split(".")
                at = self
                for part in path:
                    if part not in at._modules:
                        at.add_module(part, type("BitLinear", (nn.Module,), {})() if "_proj" in part else nn.Module())
                    at = at._modules[part]
                at.register_parameter(leaf, nn.Parameter(values.clone()))

    for name in every():
        model = Student()
        made = optimizer(name, model, seed=3)
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.grad = 1e-3 * torch.randn_like(parameter)
        made.step()
        checkpoint = {**saved, "model_state_dict": model.state_dict(), "optimizer_state_dict": made.state_dict()}
        torch.save(checkpoint, tmp_path / f"{name}.pt")
        data = FIXTURES / "trajectories" / "truth.safetensors"
        options = ["--data", data, "--steps", "2002", "--length", "16", "--batch", "1", "--validate-every", "0"]
        ran = program("train", "--resume", tmp_path / f"{name}.pt", "--optimizer", name, *options, "-o", tmp_path / name)
        assert ran.returncode == 0, (name, ran.stderr)
        assert "reset" not in ran.stderr and "start at zero" not in ran.stderr and "target" not in ran.stderr, ran.stderr
        theirs = torch.load(tmp_path / name / "step-002002.pt", weights_only=True)["optimizer_state_dict"]
        made.load_state_dict(theirs)
        other = "spin" if "spin" not in name else "adamw"
        ran = program("train", "--resume", tmp_path / f"{name}.pt", "--optimizer", other, *options, "-o", tmp_path / "no")
        assert ran.returncode != 0 and "optimizer" in ran.stderr, name


def test_names_that_differ_only_in_what_may_wrap_a_model_are_told_apart():
    saved = {
        "state": {0: {"moment": 0}, 1: {"moment": 1}},
        "param_groups": [{"params": [0, 1], "param_names": ["model.weight", "module.weight"], "lr": 1.0}],
    }
    groups = [{"params": [0, 1], "lr": 1.0}]
    same = fitted(saved, groups, [["module.weight", "model.weight"]])
    assert same["state"] == {0: {"moment": 1}, 1: {"moment": 0}}
    with pytest.raises(ckpt_tools.UsageError, match="weight"):
        fitted(saved, groups, [["weight", "net.weight"]])
