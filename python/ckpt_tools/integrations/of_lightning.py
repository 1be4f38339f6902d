"""The callback for the Trainer of Lightning."""

import contextlib
from typing import Any

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError:
    from pytorch_lightning import Callback, LightningModule, Trainer  # type: ignore[assignment]

from .monitor import HealthMonitor
from .shards import is_sharded


class LightningCallback(Callback):  # type: ignore[misc]
    """Measures the model that a ``Trainer`` trains, and stops the training when it is dying.

    Its arguments are those of :class:`HealthMonitor`, which :attr:`monitor` is once training has begun. With
    ``log="auto"``, metrics go to the trainer's loggers.
    """

    #: What measures.
    monitor: HealthMonitor | None

    def __init__(self, **settings: Any) -> None:
        self._settings = settings
        self.monitor = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Of a model that ranks share each measures its part; of copies, the first one.
        if not trainer.is_global_zero and not is_sharded(pl_module):
            return
        settings = dict(self._settings)
        if settings.get("log", "auto") == "auto":

            def to_loggers(metrics: dict[str, float], step: int) -> None:
                for logger in trainer.loggers:
                    logger.log_metrics(metrics, step)

            settings["log"] = to_loggers
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        self.monitor = HealthMonitor(pl_module, optimizer, **settings)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stop = self.monitor is not None and self.monitor.step(trainer.global_step)
        if trainer.world_size > 1:
            stop = trainer.strategy.reduce_boolean_decision(stop, all=False)
        if stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.monitor is not None:
            self.monitor.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.monitor is not None:
            # What ended the training is the news, not that its last measurement failed.
            with contextlib.suppress(Exception):
                self.monitor.close()
