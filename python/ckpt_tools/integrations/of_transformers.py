"""The callback for the Trainer of transformers."""

import os
from typing import Any

import torch.distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .monitor import HealthMonitor
from .shards import is_sharded


class TransformersCallback(TrainerCallback):  # type: ignore[misc]
    """Measures the model that a ``Trainer`` trains, and stops the training when it is dying.

    Its arguments are those of :class:`HealthMonitor`, which :attr:`monitor` is once training has begun. With
    ``log="auto"``, metrics go to TensorBoard's folder of the trainer if it reports there, and to runs of W&B and MLflow.
    """

    #: What measures.
    monitor: HealthMonitor | None

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self.monitor = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        # Of a model that ranks share each measures its part; of copies, the first one.
        if not state.is_world_process_zero and not is_sharded(given["model"]):
            return
        settings = dict(self._settings)
        if "tensorboard" in (args.report_to or []) and settings.get("log", "auto") == "auto":
            settings.setdefault("log_dir", _board(args))
        self.monitor = HealthMonitor(given["model"], given.get("optimizer"), **settings)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        stop = self.monitor is not None and self.monitor.step(state.global_step)
        if args.world_size > 1:
            # The first process measures, and all of them stop.
            told = torch.tensor([float(stop)], device=args.device)
            torch.distributed.broadcast(told, src=0)
            stop = bool(told.item())
        if stop:
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        if self.monitor is not None:
            self.monitor.close()


def _board(args: TrainingArguments) -> str:
    """The folder in which the trainer's own callback, which comes first, has begun TensorBoard's events."""
    told = os.environ.get("TENSORBOARD_LOGGING_DIR") or getattr(args, "logging_dir", None)
    if told:
        return os.path.expanduser(told)
    output: str = args.output_dir or "."
    runs = os.path.join(output, "runs")
    begun = [entry for entry in os.scandir(runs) if entry.is_dir()] if os.path.isdir(runs) else []
    return max(begun, key=lambda entry: entry.stat().st_mtime_ns).path if begun else output
