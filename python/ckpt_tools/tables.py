"""Checkpoints as rows of tables, for those who share very many of them among processes (Ray, Dask, Spark).

The functions keep nothing from one call to the next, and can be sent to other processes."""

import json
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from . import _native
from .commands import Path, run
from .frameworks import needed
from .records import arrow_schema

if TYPE_CHECKING:
    import pyarrow


def rows(
    path: Path,
    *,
    which: Literal["all", "checkpoints", "tensors"] = "all",
    stats: bool = True,
    checksum: bool = False,
    policy: Path | None = None,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
    cache: bool = True,
) -> list[dict[str, Any]]:
    """The checkpoint at ``path``, or all of a folder, as rows: one for the checkpoint and one for each of its tensors.

    Every row has all columns, which :func:`schema` lists, with ``None`` where it has nothing to say. What cannot be read does
    not raise: it is a row with ``row`` ``"unreadable"``, its kind in ``error`` and the words in ``reason``.

    >>> [row["verdict"] for row in ckpt_tools.rows("model.pt", which="checkpoints")]    # doctest: +SKIP
    ['healthy']

    Args:
        path: A file or folder; no pattern.
        which: ``checkpoints`` or ``tensors`` alone.
        stats: Measure the tensors; without it only headers are read, and nothing is judged.
        checksum: Check tensors against the checksums that the file records.
        policy: A file with the thresholds for verdicts; by default ``ckpt.toml`` in the working directory, if there is one.
        i2s_layout: The layout of I2_S tensors in a GGUF file, which does not record it.
        cache: Take the measurements of files that have not changed from the cache.

    Raises:
        UsageError: for a wrong policy or option, whatever the file is.
    """
    place = os.fsdecode(path)
    options = ["--format", "ndjson"]
    options += [] if stats else ["--no-stats"]
    options += ["--checksum"] if checksum else []
    options += [] if policy is None else ["--policy", os.fsdecode(policy)]
    options += [] if i2s_layout is None else ["--i2s-layout", i2s_layout]
    options += [] if cache else ["--no-cache"]
    if not place or "\0" in place or _native.is_pattern(place):
        # It cannot be an argument, or would mean something else.
        shown = place.encode(errors="surrogateescape").decode(errors="backslashreplace")
        lines = [json.dumps({"path": shown, "error": "No such file or directory", "kind": "io"})]
    else:
        completed = run("inspect", *options, "--", place)
        lines = [line for line in completed.output.split("\n") if line]
        if not lines:
            raise completed.error()
    return [row for line in lines for row in _native.rows(line, which)]


def schema() -> "pyarrow.Schema":
    """The columns of rows with their types, as PyArrow has them: those of ``ckpt inspect --format parquet``."""
    return arrow_schema([(name, kind) for name, kind, _ in _native.schema()])


def table(
    paths: Iterable[Path],
    *,
    which: Literal["all", "checkpoints", "tensors"] = "all",
    stats: bool = True,
    checksum: bool = False,
    policy: Path | None = None,
    i2s_layout: Literal["x86", "arm", "rows"] | None = None,
    cache: bool = True,
) -> "pyarrow.Table":
    """The :func:`rows` of all ``paths`` as a table of PyArrow, whose columns have the same types whatever is in it.

    >>> pyarrow.parquet.write_table(ckpt_tools.table(paths), "part.parquet")    # doctest: +SKIP

    Written as Parquet, it is what ``ckpt report`` makes a page of.
    """
    pyarrow = needed("pyarrow", "arrow")
    options: dict[str, Any] = {
        "which": which,
        "stats": stats,
        "checksum": checksum,
        "policy": policy,
        "i2s_layout": i2s_layout,
        "cache": cache,
    }
    found = [row for path in paths for row in rows(path, **options)]
    return pyarrow.Table.from_pylist(found, schema=schema())
