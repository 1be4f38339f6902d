"""The optimizers in PyTorch's company: what they leave alone, what they refuse, schedulers, scalers, closures, groups; and a
ternary network that dies by weight decay, and does not with the polarizer."""

import copy
import re
import subprocess
import sys
import warnings

import ckpt_tools
import pytest
import torch
from ckpt_tools import UnsupportedError, UsageError
from ckpt_tools.integrations import HealthMonitor
from ckpt_tools.torch import NAMES, BitNetSpinSolver, Muon, Polarized, optimizer, orthogonalize, polarize
from conftest import FIXTURES, HEALTHY, REPOSITORY
from torch import nn

# Tensors are small: threads that wait for each other take longer than the work.
torch.set_num_threads(1)


class BitLinear(nn.Linear):
    """y = (xq . wq) * ws, with the straight-through estimator: w rounds to -1, 0, +1 times its mean size."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x):
        scale = self.weight.abs().mean() + 1e-8
        rounded = (self.weight / scale).round().clamp(-1, 1) * scale
        return nn.functional.linear(x, self.weight + (rounded - self.weight).detach())


class Network(nn.Module):
    """An embedding, norms, biases, a convolution, ternary matrices, and a head."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(12, width)
        self.conv = nn.Conv1d(width, width, 1)
        mlp = {"up_proj": BitLinear(width, 2 * width), "down_proj": BitLinear(2 * width, width)}
        self.layers = nn.ModuleList([nn.ModuleDict({"norm": nn.LayerNorm(width), "mlp": nn.ModuleDict(mlp)})])
        self.lm_head = nn.Linear(width, 12)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2)
        for layer in self.layers:
            x = x + layer["mlp"]["down_proj"](torch.relu(layer["mlp"]["up_proj"](layer["norm"](x))))
        return self.lm_head(x)


TERNARY = ["layers.0.mlp.up_proj.weight", "layers.0.mlp.down_proj.weight"]


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(0, 12, (4, 8), generator=generator)


def loss_of(model, step):
    ids = batch(step)
    return nn.functional.cross_entropy(model(ids).flatten(0, 1), (ids.flatten() + 1) % 12)


def train(model, made, steps, first=0):
    for step in range(first, first + steps):
        made.zero_grad()
        loss_of(model, step).backward()
        made.step()


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def zero_rate(model):
    """An optimizer that changes nothing by itself."""
    return torch.optim.SGD(model.parameters(), lr=0.0)


@pytest.mark.parametrize("well", ["one-sided", "two-sided", "constant", "piecewise"])
def test_only_ternary_matrices_are_polarized(well):
    model = Network()
    before = weights(model)
    made = polarize(zero_rate(model), model, well=well, target_scale=0.2)
    assert list(made.targets) == TERNARY
    train(model, made, 1)
    changed = [name for name, w in weights(model).items() if not torch.equal(w, before[name])]
    assert changed == TERNARY


def test_pushes_are_those_of_the_energy():
    """One side is the gradient of strength * (|w| - target)^2 where |w| < target, by autograd."""
    model = Network()
    w = model.layers[0]["mlp"]["up_proj"].weight
    energy_of = w.detach().clone().requires_grad_()
    target, strength = 0.1, 0.05
    distance = (energy_of.abs() - target).clamp(max=0.0)
    (strength * distance.square()).sum().backward()
    want = (energy_of - energy_of.grad).detach()
    train(model, polarize(zero_rate(model), model, target_scale=target, strength=strength), 1)
    torch.testing.assert_close(w.detach(), want)


def test_what_is_not_trained_is_left_alone():
    model = Network()
    up, down = (model.layers[0]["mlp"][name].weight for name in ("up_proj", "down_proj"))
    made = polarize(torch.optim.SGD([down, model.lm_head.weight], lr=0.0), model, target_scale=0.2)
    assert list(made.targets) == [TERNARY[1]]
    before = weights(model)
    down.requires_grad_(False)
    train(model, made, 1)
    assert same(before, weights(model)), "without a gradient there is no step"
    down.requires_grad_(True)
    made.add_param_group({"params": [up], "lr": 0.0})
    assert list(made.targets) == TERNARY[::-1]
    train(model, made, 1)
    assert not torch.equal(up, before[TERNARY[0]]) and not torch.equal(down, before[TERNARY[1]])


def test_ternary_weights_may_be_named():
    model = Network()
    by_name = polarize(zero_rate(model), model, ternary=[TERNARY[1]])
    by_function = polarize(zero_rate(model), model, ternary=lambda name, p: "down" in name or "norm" in name)
    assert list(by_name.targets) == list(by_function.targets) == [TERNARY[1]]
    compiled = torch.compile(model)
    assert list(polarize(zero_rate(compiled), compiled).targets) == TERNARY


def test_what_cannot_be_polarized_is_said():
    model, plain = Network(), nn.Linear(3, 3)
    sgd = zero_rate(model)
    for words, call in [
        ("BitLinear", lambda: polarize(zero_rate(plain), plain)),
        ("none of the model's ternary weights", lambda: polarize(zero_rate(plain), model)),
        ("polarized already", lambda: polarize(polarize(sgd, model), model)),
        ("no torch.optim.Optimizer", lambda: polarize(model, model)),
        ("no parameter `up`", lambda: polarize(sgd, model, ternary=["up"])),
        ("dimensions", lambda: polarize(sgd, model, ternary=["lm_head.bias"])),
        ("is an embedding", lambda: polarize(sgd, model, ternary=["embed_tokens.weight"])),
        ("one-sided, two-sided", lambda: polarize(sgd, model, well="deep")),
        ("not both", lambda: polarize(sgd, model, target_scale=0.1, relative_target=0.1)),
        ("target nan", lambda: polarize(sgd, model, target_scale=float("nan"))),
        ("overshoots", lambda: polarize(sgd, model, strength=0.6)),
        ("strength -1", lambda: polarize(sgd, model, well="constant", strength=-1)),
    ]:
        with pytest.raises(UsageError, match=words):
            call()


def test_settings_with_which_nothing_trains_are_refused():
    model = Network()
    for words, call in [
        ("lr -1", lambda: BitNetSpinSolver(model, lr=-1)),
        ("momentum 1.0", lambda: BitNetSpinSolver(model, momentum=1.0)),
        ("adamw_lr nan", lambda: Muon(model, adamw_lr=float("nan"))),
        ("beta2", lambda: Muon(model, betas=(0.9, 1.0))),
        ("'quintic' or 'cubic'", lambda: Muon(model, form="quartic")),
        ("updates every matrix", lambda: Muon(model, form="cubic", hidden=TERNARY)),
        ("only known of a model", lambda: Muon(model.parameters(), ternary_weight_decay=0.1)),
        ("only in a model", lambda: BitNetSpinSolver(model.parameters(), ternary=TERNARY)),
        ("no parameters", lambda: BitNetSpinSolver([])),
        ("no parameters", lambda: Muon([])),
        ("not one tensor", lambda: BitNetSpinSolver(model.lm_head.weight)),
        ("make it two", lambda: Muon(model.embed_tokens.parameters()).add_param_group({"params": [*model.lm_head.parameters()]})),
        ("other dimensions", lambda: Muon([{"params": [model.lm_head.bias], "use_muon": True}])),
        ("needs `params`", lambda: BitNetSpinSolver([{"lr": 1.0}])),
        ("unknown optimizer `adam`; choose one of adamw, muon", lambda: optimizer("adam", model)),
        ("unexpected keyword argument 'lrr'", lambda: optimizer("adamw", model, lrr=1.0)),
        ("has no polarizer", lambda: optimizer("adamw", model, polarizer={})),
    ]:
        with pytest.raises(UsageError, match=words):
            call()
    with pytest.raises(UnsupportedError, match="decoupled"):
        optimizer("sgd", model, weight_decay=0.1)
    with torch.device("meta"):
        unmade = Network()
    with pytest.raises(UnsupportedError, match="meta device"):
        polarize(zero_rate(unmade), unmade)
    with pytest.raises(UnsupportedError, match="complex"):
        BitNetSpinSolver([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    sparse = nn.Embedding(4, 2, sparse=True)
    sparse(torch.tensor([1])).sum().backward()
    with pytest.raises(UnsupportedError, match="sparse"):
        Muon(sparse.parameters()).step()


def every():
    """Each optimizer by name, polarized and not."""
    return [front + name for name in NAMES for front in ("", "polarized-")]


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


def std(model):
    return min(model.get_parameter(name).std().item() for name in TERNARY)


def test_a_ternary_network_dies_by_weight_decay_and_lives_with_the_polarizer():
    def trained(polarized):
        model = Network()
        made = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=40.0)
        if polarized:
            made = polarize(made, model)
        train(model, made, 300)
        return model

    began, dead, alive = std(Network()), trained(False), trained(True)
    assert std(dead) < 0.01 * began, (std(dead), began)
    assert std(alive) > 0.1 * began, (std(alive), began)


def test_health_is_watched_beside_a_polarized_optimizer():
    def stopped(polarized):
        model = Network(32)
        # What matters is that the weights of BitLinears shrink.
        ternary = [model.get_parameter(name) for name in TERNARY]
        made = torch.optim.SGD(ternary, lr=1e-4, weight_decay=200.0)
        if polarized:
            made = polarize(made, model, strength=0.2)
        with HealthMonitor(model, made, every=20, background=False, log=None, stop_on="weak") as monitor:
            for step in range(300):
                train(model, made, 1, step)
                if monitor.step(step):
                    return monitor
        return monitor

    lost, kept = stopped(False), stopped(True)
    assert lost.reason is not None and "_proj.weight is weak" in lost.reason
    assert "decay" in lost.causes[0].cause
    assert kept.reason is None and kept.health.verdict == "healthy"


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


@pytest.mark.parametrize("name", ["polarized-adamw", "muon", "spin", "polarized-muon-adamw"])
def test_closures_compute_the_loss_once(name):
    model = Network()
    by_hand = copy.deepcopy(model)
    calls = []

    def closure():
        assert torch.is_grad_enabled()
        calls.append(1)
        made.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    made = optimizer(name, model)
    loss = made.step(closure)
    assert len(calls) == 1 and loss.item() == loss_of(by_hand, 0).item()
    train(by_hand, optimizer(name, by_hand), 1)
    assert same(weights(model), weights(by_hand))


def test_an_optimizer_that_calls_its_closure_often_may_be_polarized():
    model = Network()
    made = polarize(torch.optim.LBFGS(model.parameters(), max_iter=3), model)

    def closure():
        made.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    began = loss_of(model, 0).item()
    for _ in range(3):
        made.step(closure)
    assert loss_of(model, 0).item() < began


@pytest.mark.parametrize("name", ["polarized-adamw", "muon", "spin", "polarized-muon"])
def test_a_scaler_skips_steps_that_overflow(name):
    model = Network()
    by_hand = copy.deepcopy(model)
    made, other = optimizer(name, model), optimizer(name, by_hand)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        made.zero_grad()
        loss = loss_of(model, step)
        scaler.scale(loss * float("inf") if step == 1 else loss).backward()
        before = weights(model)
        scaler.step(made)
        scaler.update()
        assert same(before, weights(model)) == (step == 1)
    train(by_hand, other, 1, 0)
    train(by_hand, other, 1, 2)
    for one, two in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_a_fused_optimizer_skips_with_its_polarizer():
    model = Network()
    made = polarize(torch.optim.AdamW(model.parameters(), fused=True), model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss_of(model, 0) * float("inf")).backward()
    before = weights(model)
    scaler.step(made)
    assert same(before, weights(model))


@pytest.mark.parametrize("name", every())
def test_schedulers_set_every_rate(name):
    model = Network()
    made = optimizer(name, model)
    rates = [group["lr"] for group in made.param_groups]
    schedule = torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1.0 / (1 + step))
    with warnings.catch_warnings():
        # Steps before those of the scheduler are noticed by PyTorch.
        warnings.simplefilter("error")
        train(model, made, 1)
        schedule.step()
    assert [group["lr"] for group in made.param_groups] == [lr / 2 for lr in rates]
    before = weights(model)
    for group in made.param_groups:
        group["lr"] = 0.0
    train(model, made, 1)
    changed = {n for n, w in weights(model).items() if not torch.equal(w, before[n])}
    assert changed <= (set(TERNARY) if name.startswith("polarized-") else set())


def test_hooks_see_the_polarized_weights():
    model = Network()
    made = polarize(zero_rate(model), model, target_scale=0.2)
    before = weights(model)
    seen = []
    made.register_step_post_hook(lambda o, args, kwargs: seen.append(weights(model)))
    made.register_state_dict_post_hook(lambda o, state: {**state, "more": 1})
    train(model, made, 1)
    assert same(seen[0], weights(model)) and not same(seen[0], before)
    assert made.state_dict()["more"] == 1


def test_muon_divides_parameters_as_they_are_given():
    model = Network()

    def parts(made):
        groups = made.param_groups
        return [sum(len(g["params"]) for g in groups if ("ns_iters" in g) == muon) for muon in (True, False)]

    everything = len(list(model.parameters()))
    assert parts(Muon(model)) == [2, everything - 2]
    assert parts(Muon(model, form="cubic")) == [4, everything - 4]
    assert parts(Muon(model.parameters())) == parts(Muon(model.named_parameters())) == [4, everything - 4]
    assert parts(Muon(model, hidden=["lm_head.weight"])) == [1, everything - 1]
    given = [
        {"params": [model.embed_tokens.weight, model.lm_head.weight], "use_muon": False, "lr": 0.5},
        {"params": [*model.layers.parameters()], "momentum": 0.5},
    ]
    made = Muon(given)
    assert [("ns_iters" in g) for g in made.param_groups] == [True, False, False]
    assert parts(made) == [2, 4] and [g["lr"] for g in made.param_groups if "ns_iters" not in g] == [0.5, 3e-4]
    assert [g["momentum"] for g in made.param_groups if "ns_iters" in g] == [0.5]
    made.add_param_group({"params": [model.conv.bias]})
    more = nn.Linear(4, 4, bias=False)
    made.add_param_group({"params": more.weight})
    assert parts(made) == [3, 5]
    train(model, made, 2)
    state = made.state_dict()
    assert set(state) == {"muon", "adamw"} and state["muon"]["state"].keys() == {0, 1}
    other = Muon(copy.deepcopy(given))
    other.add_param_group({"params": [model.conv.bias]})
    other.add_param_group({"params": more.weight})
    other.load_state_dict(state)
    assert other.state[model.conv.bias]["step"] == made.state[model.conv.bias]["step"] == 2
    before = weights(model)
    train(model, other, 1)
    assert not torch.equal(before["conv.bias"], model.conv.bias)


def test_orthogonalized_matrices_have_equal_singular_values():
    """To what each iteration promises; zero stays zero."""
    torch.manual_seed(1)
    for shape in [(40, 12), (12, 40), (16, 16)]:
        matrix = torch.nn.init.orthogonal_(torch.empty(shape)) + 0.05 * torch.randn(shape)
        values = torch.linalg.svdvals(orthogonalize(matrix))
        assert 0.6 < values.min() and values.max() < 1.3, values
        norm = torch.linalg.matrix_norm(matrix)
        values = torch.linalg.svdvals(orthogonalize(matrix, "cubic", iterations=12)) / norm
        torch.testing.assert_close(values, torch.ones_like(values), rtol=1e-3, atol=1e-3)
        for form in ("quintic", "cubic"):
            assert not orthogonalize(torch.zeros(shape), form).any()


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


def test_bfloat16_weights_are_trained():
    for name in every():
        model = Network().to(torch.bfloat16)
        before = weights(model)
        train(model, optimizer(name, model), 2)
        after = weights(model)
        assert all(w.dtype == torch.bfloat16 and w.isfinite().all() for w in after.values()), name
        assert not same(before, after)


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


def test_models_of_several_ranks(tmp_path):
    """Copies on each rank are trained; parameters that ranks share out are refused."""
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'ranks'}", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Network())
        made = optimizer("polarized-muon", model)
        assert list(made.targets) == [f"module.{name}" for name in TERNARY]
        before = weights(model)
        train(model, made, 2)
        assert not same(before, weights(model))
        shared = Network()
        linear = shared.layers[0]["mlp"]["up_proj"]
        linear.weight = nn.Parameter(distribute_tensor(linear.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)]))
        for call in (optimizer, lambda name, model: BitNetSpinSolver(model.parameters())):
            with pytest.raises(UnsupportedError, match="shared out among ranks"):
                call("polarized-adamw", shared)
    finally:
        dist.destroy_process_group()


def test_without_pytorch_it_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; import ckpt_tools.torch"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UnsupportedError: this needs torch: pip install 'ckpt-tools[torch]'" in ran.stderr


def test_everything_public_says_what_it_is():
    import ckpt_tools.torch as module

    for name in module.__all__:
        assert getattr(module, name).__doc__, name


def of_the_page():
    """What the page's examples of trainers define."""
    blocks = re.findall(r"^```python\n(.*?)^```", (REPOSITORY / "docs" / "python.md").read_text(), re.M | re.S)
    (block,) = [block for block in blocks if "def trained_by_lightning" in block]
    names = {"torch": torch, "polarize": polarize}
    exec(block, names)
    return names


def examples(count):
    for step in range(count):
        ids = batch(step)[0]
        yield {"ids": ids, "labels": (ids + 1) % 12}


class WithLoss(nn.Module):
    """What transformers' Trainer wants of a model."""

    def __init__(self):
        super().__init__()
        self.network = Network()

    def forward(self, ids, labels):
        logits = self.network(ids)
        return {"loss": nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


@pytest.mark.filterwarnings("ignore")
def test_transformers_trains_as_the_page_shows(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=205,
        learning_rate=1e-3,
        report_to=[],
        save_strategy="steps",
        save_steps=205,
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1000,
    )
    model = WithLoss()
    monitor = of_the_page()["trained_by_transformers"](model, arguments, list(examples(64)))
    assert monitor.reason is None and monitor.health.verdict == "healthy"
    saved = torch.load(tmp_path / "checkpoint-205" / "optimizer.pt", weights_only=True)
    assert list(saved["polarizer"]["targets"]) == [f"network.{name}" for name in TERNARY]
    assert saved["polarizer"]["step"] == 205


@pytest.mark.filterwarnings("ignore")
def test_lightning_trains_as_the_page_shows(tmp_path):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = WithLoss()

        def training_step(self, batch, index):
            return self.model(**batch)["loss"]

        def configure_optimizers(self):
            return polarize(torch.optim.AdamW(self.parameters(), lr=1e-3), self)

    module = Module()
    data = torch.utils.data.DataLoader(list(examples(205)), batch_size=1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    monitor = of_the_page()["trained_by_lightning"](
        module, data, max_epochs=1, accelerator="cpu", default_root_dir=tmp_path, **quiet
    )
    assert monitor.reason is None and monitor.health.verdict == "healthy"
    (path,) = tmp_path.rglob("*.ckpt")
    (state,) = torch.load(path, weights_only=False)["optimizer_states"]
    assert state["polarizer"]["step"] == 205
