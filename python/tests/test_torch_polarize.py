"""The polarizer in PyTorch: what it pushes, what it leaves alone and refuses; a ternary network that dies by weight decay, and
does not with it."""

import pytest
import torch
from ckpt_tools import UsageError
from ckpt_tools.integrations import HealthMonitor
from ckpt_tools.torch import polarize
from torch import nn

from ternary import TERNARY, Network, same, train, weights, zero_rate


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
