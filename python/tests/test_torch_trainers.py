"""The optimizers in the loops of others: transformers, Lightning, several ranks."""

import re

import pytest
import torch
from ckpt_tools import UnsupportedError
from ckpt_tools.torch import BitNetSpinSolver, Muon, optimizer, polarize
from torch import nn

from conftest import REPOSITORY
from ternary import TERNARY, Network, batch, loss_of, same, train, weights


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


def test_an_optimizer_that_accelerate_prepared_is_polarized_when_it_steps():
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4)
    network = Network()
    model, inner = accelerator.prepare(network, torch.optim.SGD(network.parameters(), lr=0.1))
    made = polarize(inner, model, ternary=lambda name, _: any(name.endswith(ternary) for ternary in TERNARY))
    for step in range(8):
        before = weights(network)
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, step))
            made.step()
            made.zero_grad()
        assert same(before, weights(network)) == (step % 4 != 3), step
    assert made.steps == 2


def test_muons_momentum_can_be_cycled():
    for schedule in (
        lambda made: torch.optim.lr_scheduler.OneCycleLR(made, 0.1, total_steps=9),
        lambda made: torch.optim.lr_scheduler.CyclicLR(made, 0.01, 0.1, step_size_up=3),
    ):
        network = Network()
        made = Muon(network, ternary=TERNARY)
        schedule = schedule(made)
        seen = set()
        for step in range(4):
            train(network, made, 1)
            schedule.step()
            seen.add(round(made.param_groups[0]["momentum"], 6))
        assert len(seen) > 1
        saved = made.state_dict()
        assert all("momentum" not in group for group in saved["adamw"]["param_groups"])
        Muon(network, ternary=TERNARY).load_state_dict(saved)
