"""Where metrics go: TensorBoard, W&B and MLflow, each where it is installed and in use."""

import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol


class Log(Protocol):
    """A place for metrics."""

    def write(self, metrics: dict[str, float], step: int) -> None:
        """Writes the metrics of a step."""

    def close(self) -> None:
        """Ends."""


def logs_of(log: Literal["auto"] | Callable[[dict[str, float], int], None] | None, log_dir: str | None) -> list[Log]:
    """The places that ``log`` names."""
    if log is None:
        return []
    if callable(log):
        return [_Function(log)]
    board = _TensorBoard.at(log_dir)
    return [_Wandb(), _MLflow(), *([board] if board is not None else [])]


class _Function:
    def __init__(self, function: Callable[[dict[str, float], int], None]) -> None:
        self._function = function

    def write(self, metrics: dict[str, float], step: int) -> None:
        self._function(metrics, step)

    def close(self) -> None:
        pass


class _TensorBoard:
    """Events of TensorBoard in a folder."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    @classmethod
    def at(cls, folder: str | None) -> "_TensorBoard | None":
        if folder is None:
            return None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
        return cls(SummaryWriter(folder))

    def write(self, metrics: dict[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """The active run of W&B."""

    def write(self, metrics: dict[str, float], step: int) -> None:
        # Who has a run has imported it.
        run = getattr(sys.modules.get("wandb"), "run", None)
        if run is not None:
            run.log({**metrics, "health/step": step})

    def close(self) -> None:
        pass


class _MLflow:
    """The active run of MLflow."""

    def write(self, metrics: dict[str, float], step: int) -> None:
        mlflow = sys.modules.get("mlflow")
        if mlflow is not None and mlflow.active_run() is not None:
            mlflow.log_metrics(metrics, step=step)

    def close(self) -> None:
        pass
