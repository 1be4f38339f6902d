"""Health while a model is trained: measured beside the training steps, logged, and the run stopped before it is dead.

In a loop of one's own:

>>> monitor = HealthMonitor(model, optimizer, stop_on="dying")      # doctest: +SKIP
>>> for step, batch in enumerate(batches):                          # doctest: +SKIP
...     train_step(batch)
...     if monitor.step(step):
...         print(monitor.reason)
...         break
>>> monitor.close()                                                 # doctest: +SKIP

With a trainer, ``transformers.Trainer(..., callbacks=[TransformersCallback(stop_on="dying")])`` and
``lightning.Trainer(..., callbacks=[LightningCallback(stop_on="dying")])``.
"""

from typing import TYPE_CHECKING, Any

from .monitor import Health, HealthMonitor

if TYPE_CHECKING:
    from .of_lightning import LightningCallback
    from .of_transformers import TransformersCallback

__all__ = ["Health", "HealthMonitor", "LightningCallback", "TransformersCallback"]


def __getattr__(name: str) -> Any:
    # Each imports its trainer.
    if name == "TransformersCallback":
        from .of_transformers import TransformersCallback

        return TransformersCallback
    if name == "LightningCallback":
        from .of_lightning import LightningCallback

        return LightningCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
