"""What commands found: the JSON that they print, as objects."""

import copy
import html
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from . import _native
from .frameworks import needed

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class Record:
    """An object of the JSON that ``ckpt`` prints: its fields are attributes, and :meth:`to_dict` is the JSON itself."""

    __slots__ = ("_fields",)
    _fields: dict[str, Any]

    def __init__(self, fields: dict[str, Any]) -> None:
        object.__setattr__(self, "_fields", fields)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self._fields:
            raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self._fields)}")
        return _wrapped(self._fields[name])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("a record does not change; to_dict() gives a copy of its fields")

    def __getitem__(self, name: str) -> Any:
        return _wrapped(self._fields[name])

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._fields})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self._fields == other._fields

    def __hash__(self) -> int:
        return hash(json.dumps(self._fields, sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._fields,))

    def get(self, name: str, default: Any = None) -> Any:
        """The field called ``name``, or ``default`` where there is none."""
        return _wrapped(self._fields[name]) if name in self._fields else default

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain dictionaries and lists, as ``ckpt … --format json`` prints them."""
        return copy.deepcopy(self._fields)

    def __repr__(self) -> str:
        shown = [f"{name}={_short(value)}" for name, value in self._fields.items()]
        return f"{type(self).__name__}({', '.join(shown)})"


def arrow_schema(columns: list[tuple[str, str]]) -> "pyarrow.Schema":
    """The schema of PyArrow for columns that are texts, counts, reals or flags."""
    pyarrow = needed("pyarrow", "arrow")
    types = {
        "text": pyarrow.string(),
        "count": pyarrow.int64(),
        "real": pyarrow.float64(),
        "flag": pyarrow.bool_(),
    }
    return pyarrow.schema([(name, types[kind]) for name, kind in columns])


def _wrapped(value: Any) -> Any:
    if isinstance(value, dict):
        return Record(value)
    if isinstance(value, list):
        return [_wrapped(item) for item in value]
    return value


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{len(value)} fields}}" if value else "{}"
    if isinstance(value, list) and len(value) > 4:
        return f"[{len(value)} items]"
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


#: The colour of a verdict in HTML, readable on light and dark pages.
_COLOURS = {
    "healthy": "#2e8b57",
    "untrained": "#2a8fa8",
    "weak": "#b8860b",
    "dying": "#b04fb0",
    "dead": "#d04040",
    "corrupt": "#d04040",
}
#: Rows of a table in HTML; the worst come first.
_ROWS = 20
_WORST_FIRST = ["corrupt", "dead", "dying", "weak", "untrained", "healthy", None]


class Inspection(Record):
    """What a checkpoint contains, what was measured of its tensors, and how it was judged.

    >>> r = ckpt_tools.inspect("model.pt")                          # doctest: +SKIP
    >>> r.verdict, r.reasons                                        # doctest: +SKIP
    ('healthy', [])
    >>> [t.name for t in r.tensors if t.verdict == "dead"]          # doctest: +SKIP
    []
    >>> r.to_pandas().sort_values("std").head()                     # doctest: +SKIP
    """

    __slots__ = ()

    @property
    def verdict(self) -> str | None:
        """``healthy``, ``untrained``, ``weak``, ``dying``, ``dead`` or ``corrupt``: that of the worst tensor; ``None``
        where nothing could be judged."""
        verdict: str | None = self._fields["verdict"]
        return verdict

    @property
    def findings(self) -> list[Record]:
        """What is wrong: with the whole (``tensor`` is ``None``) and with its tensors, as the rules found it.

        Each has ``tensor``, ``verdict``, ``reason`` and ``finding``, the facts."""
        found = [
            {"tensor": None, "verdict": self.verdict, "reason": None, "finding": whole}
            for whole in self._fields.get("findings", [])
        ]
        for tensor in self._fields["tensors"]:
            facts = [tensor["finding"]] if "finding" in tensor else []
            for i, finding in enumerate(facts + tensor.get("also", [])):
                reason = tensor.get("reason") if i == 0 and facts else None
                found.append(
                    {
                        "tensor": tensor["name"],
                        "verdict": tensor["verdict"],
                        "reason": reason,
                        "finding": finding,
                    }
                )
        return [Record(finding) for finding in found]

    @property
    def tensors(self) -> list[Record]:
        """Every tensor in file order: ``name``, ``dtype``, ``shape``, ``role``, ``stats``, ``verdict``…"""
        return [Record(tensor) for tensor in self._fields["tensors"]]

    @property
    def metadata(self) -> dict[str, Any]:
        """Config, optimizer settings and other plain values of the file. Long arrays are summarised."""
        metadata: dict[str, Any] = copy.deepcopy(self._fields["metadata"])
        return metadata

    def to_columns(self) -> dict[str, list[Any]]:
        """The tensors as columns, which the tables are made of: those of ``ckpt inspect --format csv``."""
        return {name: values for name, _, values in self._columns()}

    def _columns(self) -> list[tuple[str, str, list[Any]]]:
        return _native.columns(json.dumps(self._fields))

    def to_arrow(self) -> "pyarrow.Table":
        """One row per tensor, as a table of PyArrow."""
        columns = self._columns()
        schema = arrow_schema([(name, kind) for name, kind, _ in columns])
        made: "pyarrow.Table" = needed("pyarrow", "arrow").table({name: values for name, _, values in columns}, schema=schema)
        return made

    def to_pandas(self) -> "pandas.DataFrame":
        """One row per tensor, as a data frame of pandas."""
        library = needed("pandas", "pandas")
        types = {"text": "object", "count": "Int64", "real": "float64", "flag": "boolean"}
        columns = {name: library.Series(values, dtype=types[kind]) for name, kind, values in self._columns()}
        frame: "pandas.DataFrame" = library.DataFrame(columns)
        return frame

    def to_polars(self) -> "polars.DataFrame":
        """One row per tensor, as a data frame of Polars."""
        library = needed("polars", "polars")
        types: dict[str, Any] = {
            "text": library.String,
            "count": library.Int64,
            "real": library.Float64,
            "flag": library.Boolean,
        }
        columns = self._columns()
        frame: "polars.DataFrame" = library.DataFrame(
            {name: values for name, _, values in columns},
            schema={name: types[kind] for name, kind, _ in columns},
            strict=False,
        )
        return frame

    def __repr__(self) -> str:
        fields = self._fields
        judged = fields["verdict"] or "not judged"
        lines = [f"<{fields['path']}: {judged}; {fields['format']}, {len(fields['tensors'])} tensors, {_count(fields['parameters'])} parameters>"]
        lines += [f"  {reason}" for reason in fields["reasons"]]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        fields = self._fields
        word = fields["verdict"] or "not judged"
        colour = _COLOURS.get(word, "inherit")
        head = (
            f"<p><b>{html.escape(fields['path'])}</b>: <b style='color:{colour}'>{word}</b>; "
            f"{html.escape(fields['format'])}, {_count(fields['parameters'])} parameters</p>"
        )
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in fields["reasons"])
        tensors = sorted(fields["tensors"], key=lambda t: _WORST_FIRST.index(t["verdict"]))
        rows = "".join(_html_row(tensor) for tensor in tensors[:_ROWS])
        more = len(tensors) - _ROWS
        rest = f"<p>and {more} more, none of them worse</p>" if more > 0 else ""
        table = f"<table><tr><th>tensor<th>dtype<th>shape<th>std<th>verdict</tr>{rows}</table>"
        return f"{head}<ul>{reasons}</ul>{table}{rest}"


def _html_row(tensor: dict[str, Any]) -> str:
    std = (tensor["stats"] or {}).get("std")
    shape = " × ".join(map(str, tensor["shape"]))
    verdict = tensor["verdict"] or ""
    colour = _COLOURS.get(verdict, "inherit")
    return (
        f"<tr><td>{html.escape(tensor['name'])}<td>{html.escape(tensor['dtype'])}<td>{shape}"
        f"<td>{'' if std is None else format(std, '.3g')}<td style='color:{colour}'>{verdict}</tr>"
    )


def _count(number: int) -> str:
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


class Gate(Record):
    """The gate's answer. It is true if all checkpoints pass.

    >>> if not ckpt_tools.gate("model.pt"):                         # doctest: +SKIP
    ...     raise SystemExit("not this one")
    """

    __slots__ = ()

    @property
    def passed(self) -> bool:
        """Whether every checkpoint passes."""
        return bool(self._fields["status"] == "passed")

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        lines = [f"<gate: {self._fields['status']}>"]
        for checkpoint in self._fields["checkpoints"]:
            lines.append(f"  {checkpoint['path']}: {checkpoint['status']}")
            lines += [f"    {finding['message']}" for finding in checkpoint["findings"][:3]]
            if len(checkpoint["findings"]) > 3:
                lines.append(f"    and {len(checkpoint['findings']) - 3} more")
        return "\n".join(lines)


class Diff(Record):
    """What differs between two checkpoints. It is true if something does, or could not be compared."""

    __slots__ = ()

    @property
    def differs(self) -> bool:
        """Whether anything differs. What could not be read does: its ``status`` is ``unreadable``."""
        return bool(self._fields["differs"])

    def __bool__(self) -> bool:
        return self.differs


class Scan(Record):
    """What loading files would execute. It is true if nothing was found and everything could be scanned."""

    __slots__ = ()

    @property
    def clean(self) -> bool:
        """Whether every file could be scanned, and none has a finding that counts."""
        return bool(self._fields["status"] == "clean")

    def __bool__(self) -> bool:
        return self.clean

    @property
    def findings(self) -> list[Record]:
        """The findings of all files, each with the ``path`` of its file."""
        files = self._fields["files"]
        return [Record({"path": file["path"], **found}) for file in files for found in file["findings"]]


class Edit(Record):
    """What was edited and written: ``output``, ``bytes``, ``tensors``, ``changes``, ``notes``, ``verified``, ``perplexity``."""

    __slots__ = ()


class Conversion(Record):
    """What was written: ``output`` (a path, or a folder of several), ``text`` (what ``ckpt convert`` says), ``warnings``."""

    __slots__ = ()
