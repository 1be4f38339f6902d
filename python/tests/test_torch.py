"""The optimizers in PyTorch's company: settings, groups, schedulers, scalers, closures."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from ckpt_tools import UnsupportedError, UsageError
from ckpt_tools.torch import BitNetSpinSolver, Muon, optimizer, orthogonalize, polarize
from torch import nn

from ternary import TERNARY, Network, every, loss_of, same, train, weights, zero_rate


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
        (
            "make it two",
            lambda: Muon(model.embed_tokens.parameters()).add_param_group({"params": [*model.lm_head.parameters()]}),
        ),
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


def test_bfloat16_weights_are_trained():
    for name in every():
        model = Network().to(torch.bfloat16)
        before = weights(model)
        train(model, optimizer(name, model), 2)
        after = weights(model)
        assert all(w.dtype == torch.bfloat16 and w.isfinite().all() for w in after.values()), name
        assert not same(before, after)


def test_without_pytorch_it_says_what_to_install():
    code = "import sys; sys.modules['torch'] = None; import ckpt_tools.torch"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "UnsupportedError: this needs torch: pip install 'ckpt-tools[torch]'" in ran.stderr


def test_everything_public_says_what_it_is():
    import ckpt_tools.torch as module

    for name in module.__all__:
        assert getattr(module, name).__doc__, name
