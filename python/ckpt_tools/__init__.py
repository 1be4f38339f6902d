"""Open, measure, judge, compare and convert neural-network checkpoints of any format. Nothing in them is executed.

>>> import ckpt_tools
>>> with ckpt_tools.safe_open("model.pt", framework="np") as f:    # doctest: +SKIP
...     w = f.get_tensor("layers.0.mlp.up_proj.weight")
>>> ckpt_tools.inspect("model.pt").verdict                        # doctest: +SKIP
'healthy'

``safe_open`` and ``load`` give tensors, ``inspect`` and ``measure`` say whether a model is alive, and ``gate``,
``diff``, ``scan``, ``convert``, ``edit`` and ``report`` do what the commands of the same names do. ``run`` runs any command.
``rows`` and ``table`` are for very many checkpoints, on Ray, Dask or Spark.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._native import __version__

if TYPE_CHECKING:
    from .commands import Completed, convert, diff, edit, gate, inspect, inspect_all, report, run, scan
    from .errors import (
        CkptError,
        CkptWarning,
        DamagedError,
        MissingFileError,
        RefusedError,
        TensorNotFoundError,
        UnreadableError,
        UnrecognisedError,
        UnsupportedError,
        UsageError,
        WriteError,
    )
    from .live import explain, measure
    from .records import Conversion, Diff, Edit, Gate, Inspection, Record, Scan
    from .tables import rows, schema, table
    from .tensors import Slice, load, safe_open

__all__ = [
    "CkptError",
    "CkptWarning",
    "Completed",
    "Conversion",
    "DamagedError",
    "Diff",
    "Edit",
    "Gate",
    "Inspection",
    "MissingFileError",
    "Record",
    "RefusedError",
    "Scan",
    "Slice",
    "TensorNotFoundError",
    "UnreadableError",
    "UnrecognisedError",
    "UnsupportedError",
    "UsageError",
    "WriteError",
    "__version__",
    "convert",
    "diff",
    "edit",
    "explain",
    "gate",
    "inspect",
    "inspect_all",
    "load",
    "measure",
    "report",
    "rows",
    "run",
    "safe_open",
    "scan",
    "schema",
    "table",
]

#: What each module has. They are imported when something of them is used, so that the program begins at once.
_MODULES = {
    "commands": ["Completed", "convert", "diff", "edit", "gate", "inspect", "inspect_all", "report", "run", "scan"],
    "errors": ["CkptError", "CkptWarning", "DamagedError", "MissingFileError", "RefusedError", "TensorNotFoundError", "UnreadableError", "UnrecognisedError", "UnsupportedError", "UsageError", "WriteError"],
    "live": ["explain", "measure"],
    "records": ["Conversion", "Diff", "Edit", "Gate", "Inspection", "Record", "Scan"],
    "tables": ["rows", "schema", "table"],
    "tensors": ["Slice", "load", "safe_open"],
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
