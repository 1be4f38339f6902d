"""Tensors in memory are measured as if they had been saved."""

import array
import pathlib
import threading
import tracemalloc
import warnings

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

import ckpt_tools
from test_tensors import EIGHT_BITS, FLOATS, INTEGERS, of_type

LEFT = {"path", "format", "file_bytes", "warnings", "globals"}


def model(std=0.02):
    torch.manual_seed(0)
    layers = torch.nn.ModuleDict(
        {f"layers_{i}": torch.nn.ModuleDict({"up_proj": torch.nn.Linear(64, 96)}) for i in range(3)}
    )
    for parameter in layers.parameters():
        torch.nn.init.normal_(parameter, std=std)
    return layers


@pytest.mark.parametrize("std", [0.02, 1e-7, 0.0])
def test_a_model_is_judged_as_its_file_is(std):
    network = model(std)
    torch.save(network.state_dict(), "model.pt")
    live, saved = ckpt_tools.measure(network), ckpt_tools.inspect("model.pt")
    assert {k: v for k, v in live.to_dict().items() if k not in LEFT} == {
        k: v for k, v in saved.to_dict().items() if k not in LEFT
    }
    assert live.format == "memory" and live.path == "state dict"
    assert (live.verdict == "healthy") == (std == 0.02)


@pytest.mark.parametrize("name", INTEGERS + FLOATS + EIGHT_BITS + ["bool", "complex64", "complex128"])
def test_every_type_is_measured_as_its_file_is(name):
    tensor = of_type(name, (33, 7))
    state = {"t": tensor, "transposed": tensor.t(), "part": tensor[1::2, 2:5], "scalar": tensor[0, 0], "none": tensor[:0]}
    torch.save({key: value.clone(memory_format=torch.contiguous_format) for key, value in state.items()}, "state.pt")
    saved = {t.name: t for t in ckpt_tools.inspect("state.pt", sha256=True).tensors}
    for t in ckpt_tools.measure(state, sha256=True).tensors:
        wanted = saved[t.name]
        assert (t.dtype, t.shape, t.stats, t.sha256) == (wanted.dtype, wanted.shape, wanted.stats, wanted.sha256)
    if name in ("complex64", "complex128") or name.startswith("uint") and name != "uint8":
        return
    array = tensor.view(torch.uint8).numpy().view(getattr(ml_dtypes, name, None) or name)
    if name == "bool":
        array = tensor.numpy()
    measured = ckpt_tools.measure({"t": array}, sha256=True).tensors[0]
    assert (measured.dtype, measured.stats, measured.sha256) == (saved["t"].dtype, saved["t"].stats, saved["t"].sha256)


def test_tied_weights_are_one():
    weight = torch.randn(40, 30)
    record = ckpt_tools.measure({"embed.weight": weight, "head.weight": weight, "other.weight": weight.clone()})
    shared = {t.name: t.shared_with for t in record.tensors}
    assert shared == {"embed.weight": ["head.weight"], "head.weight": ["embed.weight"], "other.weight": []}
    assert record.parameters == 2 * 40 * 30


def test_nothing_is_copied_that_is_in_order():
    array = np.ones((1024, 8192), np.float32)
    tensor = torch.ones(1024, 8192, dtype=torch.bfloat16).t()
    tracemalloc.start()
    ckpt_tools.measure({"a": array, "b": array.T, "c": array[::2], "t": tensor}, histogram=False)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    backwards = ckpt_tools.measure({"b": array[::-1]}).tensors[0]
    assert backwards.stats.mean == 1.0


class Lent:
    """What is seen by DLPack alone."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **given):
        return self.tensor.__dlpack__(**given)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


def test_what_numpy_can_see_is_measured():
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    own = array.array("f", [1, 2, 6])
    record = ckpt_tools.measure(
        {"dlpack": Lent(np.full((2, 3), 2.0)), "big": big, "view": memoryview(np.arange(4.0)), "array": own, "n": 3, "b": b"1"}
    )
    assert {t.name: t.stats.mean for t in record.tensors} == {"dlpack": 2.0, "big": 2.5, "view": 1.5, "array": 3.0}
    assert record.metadata["n"] == 3
    with pytest.raises(ckpt_tools.UnsupportedError, match="names"):
        ckpt_tools.measure({"names": np.array(["a"])})
    with pytest.raises(ckpt_tools.UnsupportedError, match="meta device"):
        ckpt_tools.measure({"m": torch.empty(3, device="meta")})
    for other in [np.zeros(3, np.longdouble), np.zeros(3, ml_dtypes.float8_e3m4)]:
        with pytest.raises(ckpt_tools.UnsupportedError, match="`m`"):
            ckpt_tools.measure({"m": other})
    for nameless in [torch.nn.Linear(2, 2).parameters(), 5, "model.pt", None]:
        with pytest.raises(ckpt_tools.UsageError, match="state dict"):
            ckpt_tools.measure(nameless)


def test_optimizers_and_plain_values_are_told_apart():
    network = model()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.1)
    sum(p.sum() for p in network.parameters()).backward()
    optimizer.step()
    state = {"model_state_dict": network.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    live = ckpt_tools.measure(state, step=12)
    torch.save({**state, "step": 12}, "training.pt")
    saved = ckpt_tools.inspect("training.pt")
    assert live.step == saved.step == 12
    assert [(t.name, t.group) for t in live.tensors] == [(t.name, t.group) for t in saved.tensors]
    assert {t.group for t in live.tensors} == {"weights", "optimizer"}


def test_a_configuration_and_a_policy_are_used():
    weights = {"model.layers.0.mlp.up_proj.weight": torch.randn(64, 64) * 0.005}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64}
    assert ckpt_tools.measure(weights, config=config).model.architecture == "LlamaForCausalLM"
    with open("wrong.toml", "w") as file:
        file.write("[gate]\nnonsense = 1\n")
    with pytest.raises(ckpt_tools.UsageError, match="nonsense"):
        ckpt_tools.measure(weights, policy="wrong.toml")


def test_a_run_that_collapses_is_seen_before_it_is_saved():
    network = model()
    verdicts = []
    for step in range(8):
        verdicts.append(ckpt_tools.measure(network, step=step).verdict)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(0.05)
    assert verdicts[0] == "healthy" and verdicts[-1] != "healthy", verdicts


def test_measuring_lets_other_threads_run():
    big = {f"w{i}": np.random.default_rng(i).standard_normal((512, 4096)).astype(np.float32) for i in range(32)}
    done = threading.Event()
    ticks = 0

    def measure():
        ckpt_tools.measure(big)
        done.set()

    thread = threading.Thread(target=measure)
    thread.start()
    while not done.wait(0.001):
        ticks += 1
    thread.join()
    assert ticks > 3


def test_plain_values_are_what_a_file_of_them_has(tmp_path):
    state = {
        "w": torch.randn(8, 8),
        "best": float("inf"),
        "last": float("-inf"),
        "none": float("nan"),
        "large": 2**70,
        "count": np.int64(5),
        "rate": np.float32(1.5),
        "done": np.bool_(True),
    }
    torch.save(state, tmp_path / "m.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert ckpt_tools.measure(state).metadata == ckpt_tools.inspect(tmp_path / "m.pt", cache=False).metadata


@pytest.mark.parametrize("step", [7, np.int64(7), torch.tensor(7)])
def test_a_step_is_any_whole_number(step):
    assert ckpt_tools.measure({"w": torch.randn(4, 4)}, step=step).step == 7
    with pytest.raises(ckpt_tools.UsageError, match="whole number"):
        ckpt_tools.measure({"w": torch.randn(4, 4)}, step=7.5)


def test_a_configuration_may_have_infinities():
    """As Mamba 2's has for the limit of its time steps."""
    transformers = pytest.importorskip("transformers")
    from ckpt_tools.integrations import HealthMonitor

    config = transformers.Mamba2Config(
        hidden_size=64, num_heads=8, head_dim=16, num_hidden_layers=2, vocab_size=100, state_size=16, n_groups=1
    )
    assert float("inf") in config.time_step_limit
    monitor = HealthMonitor(transformers.Mamba2ForCausalLM(config), every=1, background=False)
    monitor.step(1)
    assert monitor.health.verdict in ("healthy", "untrained")


@pytest.mark.parametrize(
    "item",
    [
        Lent(torch.randn(4, 4).bfloat16()),
        Lent(torch.randn(4, 4).requires_grad_()),
        torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(2, 4)], layout=torch.jagged),
        np.zeros((4, 4), ml_dtypes.float4_e2m1fn),
    ],
    ids=["dlpack of bfloat16", "dlpack that needs gradients", "jagged", "four bits"],
)
def test_tensors_that_cannot_be_seen_are_told_by_name(item):
    with pytest.raises(ckpt_tools.UnsupportedError, match="layer.weight"):
        ckpt_tools.measure({"layer": {"weight": item}})


def test_what_has_no_tensors_with_names_is_refused():
    circle = {"w": torch.randn(4, 4)}
    circle["again"] = [circle]
    for state, words in [(pathlib.Path("m.pt"), "no tensors"), ({1, 2}, "no tensors"), (circle, "contains itself")]:
        with pytest.raises(ckpt_tools.UsageError, match=words):
            ckpt_tools.measure(state)
    assert [tensor.name for tensor in ckpt_tools.measure({"a\udcff": torch.randn(4, 4)}).tensors] == ["a\\udcff"]
