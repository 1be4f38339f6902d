"""The native half of the package."""

from collections.abc import Sequence
from os import PathLike

__version__: str

def run(args: Sequence[str | bytes | PathLike[str]]) -> tuple[int, str, list[tuple[str, str, str | None, str | None]]]:
    """Runs ``ckpt`` with ``args`` and returns its exit code, its output, and level, text, kind and file of its messages."""

def main(args: Sequence[str]) -> int:
    """Is the program ``ckpt``, and returns its exit code."""

def is_missing(path: str) -> bool: ...
def is_pattern(path: str) -> bool: ...
def measure(
    name: str,
    tensors: Sequence[tuple[str, str, object, bool]],
    *,
    values: str,
    config: str | None = None,
    policy: str | None = None,
    histogram: bool = True,
    sha256: bool = False,
) -> str:
    """The record of tensors in memory (name, type, object with the buffer protocol, whether it is a scalar), as JSON."""

def explain(
    records: Sequence[str],
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    accumulation: int | None = None,
) -> str:
    """The causes that the records of a run's checkpoints show, gravest first, as JSON."""

def columns(record: str) -> list[tuple[str, str, list[object]]]:
    """Name, type and values of the columns that the tensors of a record make up."""

def rows(line: str, which: str) -> list[dict[str, object]]:
    """The rows of a checkpoint, which a line of ``ckpt inspect --format ndjson`` is about."""

def schema() -> list[tuple[str, str, str]]:
    """Name, kind and meaning of each column of rows."""

class Borrowed:
    """The bytes of a tensor where its file is mapped; it has the buffer protocol."""

    def __len__(self) -> int: ...

class Tensor:
    """A tensor of a checkpoint."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def element(self) -> str: ...
    @property
    def shape(self) -> list[int]: ...
    @property
    def strides(self) -> list[int]: ...
    @property
    def group(self) -> str: ...
    def place(self) -> tuple[str, int, int, int] | None: ...
    def is_current(self) -> bool: ...
    def borrowed(self) -> Borrowed | None: ...
    def read(self, selection: Sequence[tuple[int, int, int]]) -> bytearray: ...
    def read_all(self) -> bytearray: ...
    def sparse(self) -> tuple[str, list[Tensor], Tensor] | None: ...
    def check(self) -> None: ...

class Checkpoint:
    """An opened checkpoint."""

    def __new__(cls, path: str | PathLike[str], *, stored: bool = False, i2s_layout: str | None = None) -> Checkpoint: ...
    def names(self) -> list[str]: ...
    def metadata(self) -> str: ...
    @property
    def format(self) -> str: ...
    @property
    def damage(self) -> str | None: ...
    def tensor(self, name: str) -> Tensor: ...
