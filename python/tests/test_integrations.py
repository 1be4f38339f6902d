"""A run that collapses by weight decay is stopped before its model is dead, and the cause is named."""

import math
import time

import pytest
import torch

import ckpt_tools
from ckpt_tools.integrations import HealthMonitor

LR, DECAY = 0.1, 0.4


class Network(torch.nn.Module):
    """Layers that are called as those of language models are, of which training does not depend much."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layer = lambda: torch.nn.ModuleDict(  # noqa: E731
            {"mlp": torch.nn.ModuleDict({"up_proj": linear(64, 128), "down_proj": linear(128, 64)})}
        )
        self.layers = torch.nn.ModuleList([layer() for _ in range(2)])
        self.lm_head = linear(64, 8)

    def forward(self, x, labels=None):
        for layer in self.layers:
            x = x + layer["mlp"]["down_proj"](torch.relu(layer["mlp"]["up_proj"](x)))
        logits = self.lm_head(x)
        if labels is None:
            return logits
        return {"loss": 1e-9 * torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def linear(inputs, outputs):
    made = torch.nn.Linear(inputs, outputs, bias=False)
    torch.nn.init.normal_(made.weight, std=0.02)
    return made


def batches(count):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(16, 64, generator=generator), torch.randint(0, 8, (16,), generator=generator)


def sgd(network):
    return torch.optim.SGD(network.parameters(), lr=LR, weight_decay=DECAY)


def was_stopped_in_time(monitor, network):
    """Before the model was dead, by the right cause with the right numbers."""
    assert monitor.reason is not None
    assert monitor.health.verdict == "dying", monitor.reason
    assert ckpt_tools.measure(network).verdict != "dead"
    cause = monitor.causes[0]
    assert "decay" in cause.cause, cause
    assert "decay" in monitor.reason.lower(), monitor.reason
    assert any("up_proj" in layer for layer in cause.layers)


@pytest.mark.parametrize("background", [False, True])
def test_a_loop_of_ones_own_is_stopped(background):
    network = Network()
    optimizer = sgd(network)
    logged = []
    with HealthMonitor(
        network, optimizer, every=10, background=background, log=lambda m, s: logged.append((s, m))
    ) as monitor:
        for step, (x, labels) in enumerate(batches(2000)):
            network(x, labels)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
            if monitor.step(step):
                break
    assert step < 1999
    was_stopped_in_time(monitor, network)
    assert logged[0][0] == 0 and logged[0][1]["health/verdict"] == 0.0
    falls = [m["health/median_std"] for _, m in logged]
    assert falls == sorted(falls, reverse=True)
    steps = [s for s, _ in logged]
    rate = math.log(falls[0] / falls[-1]) / (steps[-1] - steps[0])
    assert rate == pytest.approx(LR * DECAY, rel=0.1)


def watched(steps):
    """A short loop that logs wherever it can."""
    network = Network()
    with HealthMonitor(network, sgd(network), every=10, background=False) as monitor:
        for step in range(steps):
            monitor.step(step)


@pytest.mark.filterwarnings("ignore")
def test_the_active_run_of_wandb_is_written_to(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(project="health", mode="offline", dir=tmp_path) as run:
        watched(21)
        kept = dict(run.summary)
    assert kept["health/step"] == 20 and kept["health/median_std"] == pytest.approx(0.02, rel=0.05), kept


@pytest.mark.filterwarnings("ignore")
def test_the_active_run_of_mlflow_is_written_to(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        watched(21)
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "health/median_std")
    assert [metric.step for metric in history] == [0, 10, 20]
    assert history[0].value == pytest.approx(0.02, rel=0.05)


def test_a_run_that_is_well_goes_on():
    network = Network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.01)
    with HealthMonitor(network, optimizer, every=5, log=None) as monitor:
        for step, (x, labels) in enumerate(batches(40)):
            network(x, labels)["loss"].backward()
            optimizer.step()
            assert not monitor.step(step)
    assert monitor.health.verdict == "healthy" and monitor.reason is None and monitor.explain() == []


def test_measuring_takes_its_share_of_the_time_and_no_more(monkeypatch):
    network = Network()
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    measured = []

    def slow(*args, **options):
        now[0] += 2.0
        measured.append(now[0])
        return real(*args, **options)

    from ckpt_tools.integrations import monitor as module

    real = module.measure
    monkeypatch.setattr(module, "measure", slow)
    monitor = HealthMonitor(network, background=False, log=None)
    for step in range(2000):
        now[0] += 1.0
        monitor.step(step)
    assert len(measured) > 5 and 2.0 * len(measured) / now[0] <= 0.0125, (len(measured), now[0])


def test_what_ends_a_loop_is_what_is_raised():
    with pytest.raises(ckpt_tools.UsageError, match=r"none\.toml"):
        HealthMonitor(torch.nn.Linear(2, 2), policy="none.toml")
    with pytest.raises(RuntimeError, match="out of data"), HealthMonitor(lambda: 5, every=1, log=None) as monitor:
        monitor.step(1)
        raise RuntimeError("out of data")


def test_wrong_settings_are_refused():
    for every in (1.5, True, 0):
        with pytest.raises(ValueError, match="every"):
            HealthMonitor(Network(), every=every)
    with pytest.raises(ValueError, match="log is 'auto'"):
        HealthMonitor(Network(), log="tensorboard")
    for settings in [{"every": 0}, {"stop_on": "healthy"}, {"stop_on": "ill"}]:
        with pytest.raises(ValueError):
            HealthMonitor(Network(), **settings)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_transformers_trainer_is_stopped(tmp_path, schedule):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from ckpt_tools.integrations import TransformersCallback

    network = Network()
    data = [{"x": x[0], "labels": labels[0]} for x, labels in batches(4000)]
    callback = TransformersCallback(every=10)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2000,
        per_device_train_batch_size=2,
        report_to=["tensorboard"],
        save_strategy="no",
        logging_steps=10,
        use_cpu=True,
        disable_tqdm=True,
        max_grad_norm=0.0,
        lr_scheduler_type=schedule,
    )
    trainer = transformers.Trainer(
        network, arguments, train_dataset=data, callbacks=[callback], optimizers=(sgd(network), None)
    )
    trainer.train()
    assert trainer.state.global_step < 2000
    was_stopped_in_time(callback.monitor, network)
    # In the run that the trainer writes, and not in one of its own.
    [run] = {file.parent for file in tmp_path.rglob("events.out.tfevents.*")}
    assert {"health/median_std", "train/loss"} <= events(run)


@pytest.mark.filterwarnings("ignore")
def test_lightnings_trainer_is_stopped(tmp_path):
    lightning = pytest.importorskip("lightning.pytorch")
    from ckpt_tools.integrations import LightningCallback
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = Network()

        def training_step(self, batch, index):
            return self.network(*batch)["loss"]

        def configure_optimizers(self):
            return sgd(self)

    module = Module()
    data = torch.utils.data.DataLoader(list(batches(2000)), batch_size=None)
    callback = LightningCallback(every=10)
    trainer = lightning.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=TensorBoardLogger(tmp_path),
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    assert trainer.global_step < 2000
    was_stopped_in_time(callback.monitor, module)
    assert "health/median_std" in events(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_what_ends_lightnings_training_ends_the_monitor(tmp_path):
    lightning = pytest.importorskip("lightning")
    from ckpt_tools.integrations import LightningCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = Network()

        def training_step(self, batch, index):
            if index == 2:
                raise RuntimeError("out of memory")
            return self.network(*batch)["loss"]

        def configure_optimizers(self):
            return sgd(self)

    callback = LightningCallback(every=1, stop_on=None)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(callbacks=[callback], max_steps=9, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(Module(), torch.utils.data.DataLoader(list(batches(9)), batch_size=None))
    assert callback.monitor.health is not None
    with pytest.raises(ckpt_tools.UsageError, match="closed"):
        callback.monitor.step(10)


def events(folder):
    """The names of scalars in TensorBoard's events below ``folder``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    names = set()
    for file in folder.rglob("events.out.tfevents.*"):
        accumulator = EventAccumulator(str(file))
        accumulator.Reload()
        names.update(accumulator.Tags()["scalars"])
    return names
