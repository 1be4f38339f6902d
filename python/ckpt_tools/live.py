"""Tensors of a running program, measured and judged as if they had been saved."""

import json
import math
import operator
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsIndex

from . import _native
from .errors import CkptError, UnsupportedError, UsageError
from .frameworks import needed
from .records import Inspection, Record

#: Integers of the sizes of elements: every type of that size can be seen as one without a copy.
_SAME_SIZE = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


def measure(
    state: Any,
    *,
    name: str = "state dict",
    step: SupportsIndex | None = None,
    config: Mapping[str, Any] | None = None,
    policy: str | os.PathLike[str] | None = None,
    histogram: bool = True,
    sha256: bool = False,
) -> Inspection:
    """Measures and judges tensors in memory, as :func:`inspect` does those of a file.

    >>> r = ckpt_tools.measure(model.state_dict(), step=step)       # doctest: +SKIP
    >>> if r.verdict in ("dying", "dead"):                          # doctest: +SKIP
    ...     raise RuntimeError(r.reasons[0])

    Args:
        state: A state dict, a module, or any nest of dictionaries and lists with tensors of PyTorch, arrays of NumPy, or
            anything that NumPy can see (``__array__``, ``__dlpack__``, the buffer protocol). Plain values in it, bytes among them, are the
            record's metadata, as those of a file are. Nothing is copied that is on the CPU and in order. Of a DTensor this
            rank's part is measured.
        name: What it is called in the record, in place of a path.
        step: The training step.
        config: The model's configuration, as in Hugging Face's config.json, by which its layers are known better than by
            their names.
        policy: A file with the thresholds for verdicts.
        histogram: Count the magnitudes of elements too.
        sha256: Add the SHA-256 of each tensor's elements.

    Other threads run meanwhile, also one that trains: numbers of a tensor that changes mix several moments.
    """
    if hasattr(state, "state_dict") and not isinstance(state, Mapping):
        state = state.state_dict()
    tensors: list[tuple[str, str, object, bool]] = []
    values: dict[str, Any] = {} if step is None else {"step": _whole(step)}
    for path, item in _leaves(state, ""):
        seen = _seen(path, item)
        if seen is None and item is state:
            kind = type(state).__name__
            raise UsageError(f"a {kind} has no tensors with names; a state dict has: measure(model.state_dict())")
        if seen is not None:
            tensors.append((path, *seen))
        elif path:
            _put(values, path.split("."), item)
    text = None if policy is None else policy_text(policy)
    record = _native.measure(
        name,
        tensors,
        values=json.dumps(_plain(values)),
        config=None if config is None else json.dumps(_plain(config)),
        policy=text,
        histogram=histogram,
        sha256=sha256,
    )
    return Inspection(json.loads(record))


def explain(
    records: Iterable[Record],
    *,
    lr: float | None = None,
    weight_decay: float | None = None,
    accum: int | None = None,
) -> list[Record]:
    """Why the weights of a run died or are dying, gravest cause first: of records of its checkpoints, or of its model in
    memory at several steps.

    >>> causes = ckpt_tools.explain(ckpt_tools.inspect_all("run/"))   # doctest: +SKIP
    >>> causes[0].title, causes[0].advice                           # doctest: +SKIP

    Args:
        records: What :func:`inspect` and :func:`measure` return. Records of one run have paths in one folder.
        lr: The run's learning rate, where the records lack it.
        weight_decay: The run's weight decay, where the records lack it.
        accum: Steps, as the records count them, per optimizer step.

    Returns:
        For each cause ``cause``, ``title``, ``sentence``, ``layers``, ``evidence`` and ``advice``; none for a run that is
        alive. What compares the weights of two checkpoints with each other is in ``report`` alone.
    """
    # What could not be read tells nothing.
    readable = [fields for fields in (record.to_dict() for record in records) if "error" not in fields]
    texts = [json.dumps(fields) for fields in readable]
    causes = _native.explain(texts, lr=lr, weight_decay=weight_decay, accumulation=accum)
    return [Record(cause) for cause in json.loads(causes)]


def policy_text(path: str | os.PathLike[str]) -> str:
    """What a file with thresholds says."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{os.fspath(path)}: the policy cannot be read: {error}", path=os.fspath(path)) from error


def _whole(step: SupportsIndex) -> int:
    """The step as a number of Python."""
    try:
        return operator.index(step)
    except TypeError as error:
        raise UsageError(f"step is {step!r}, and no whole number") from error


def _plain(value: Any) -> Any:
    """The value as JSON has it, written as it would be had it been read from a file: numbers of NumPy and of tensors with one
    element as numbers, and what JSON has no number for as text."""
    if isinstance(value, Mapping):
        return {_unicode(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _unicode(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**64 else str(int(value))
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else "NaN" if math.isnan(value) else str(float(value))
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        number = value.item()
        return _plain(number) if isinstance(number, (bool, int, float, str)) else repr(number)
    return _unicode(repr(value))


def _unicode(text: str) -> str:
    """The text with what no text can hold, a lone half of a character, as an escape."""
    return text.encode(errors="backslashreplace").decode()


def _leaves(item: Any, path: str, around: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """What is in nested dictionaries and lists, with the keys that lead to it."""
    inner = f"{path}." if path else ""
    if isinstance(item, Mapping):
        keyed: Iterable[tuple[Any, Any]] = item.items()
    elif isinstance(item, (list, tuple)):
        keyed = enumerate(item)
    else:
        yield path, item
        return
    if id(item) in around:
        raise UsageError(f"`{path}` contains itself")
    for key, value in keyed:
        yield from _leaves(value, f"{inner}{_unicode(str(key))}", (*around, id(item)))


def _put(values: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        values = inner
    values.setdefault(keys[-1], value)


def _seen(name: str, item: Any) -> tuple[str, object, bool] | None:
    """The type of a tensor's elements, an array of its memory, and whether it is a scalar; ``None`` for what is no tensor."""
    try:
        return _lent(name, item)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, CkptError):
            raise
        raise UnsupportedError(f"tensor `{name}`: its elements cannot be seen: {error}", tensor=name) from error


def _lent(name: str, item: Any) -> tuple[str, object, bool] | None:
    if hasattr(item, "untyped_storage"):
        return _of_torch(name, item)
    has_array = hasattr(item, "__array__")
    if not has_array and not hasattr(item, "__dlpack__") and not _is_buffer(item):
        return None
    numpy = needed("numpy", "numpy")
    if type(item).__module__ == "numpy" and not isinstance(item, numpy.ndarray) and item.ndim == 0:
        # A scalar is a plain value.
        return None
    array = numpy.asarray(item) if has_array or _is_buffer(item) else numpy.from_dlpack(item)
    dtype = array.dtype
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    if dtype.kind in "OSUMm" or dtype.itemsize > 16 or (dtype.kind == "f" and dtype.itemsize > 8):
        raise UnsupportedError(f"tensor `{name}`: elements of {dtype} are no numbers that are measured", tensor=name)
    return dtype.newbyteorder("=").name, *_in_order(array)


def _is_buffer(item: object) -> bool:
    """Whether it lends its memory, as ``memoryview`` and ``array.array`` do; bytes are plain values."""
    if isinstance(item, (bytes, bytearray)):
        return False
    try:
        memoryview(item).release()  # type: ignore[arg-type]
    except TypeError:
        return False
    return True


def _of_torch(name: str, tensor: Any) -> tuple[str, object, bool]:
    import torch

    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        # Of a tensor that ranks share, this rank's part: nobody waits for the others.
        tensor = tensor.to_local()
    if tensor.is_sparse or tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.is_meta:
        raise UnsupportedError(f"tensor `{name}`: it is on the meta device, and has no elements", tensor=name)
    tensor = tensor.cpu().resolve_conj().resolve_neg()
    dtype = str(tensor.dtype).removeprefix("torch.")
    size = tensor.element_size()
    if size in _SAME_SIZE and not tensor.is_complex():
        tensor = tensor.view(getattr(torch, _SAME_SIZE[size]))
    elif dtype == "complex32":
        tensor = tensor.view(torch.int32)
    return dtype, *_in_order(tensor.numpy())


def _in_order(array: Any) -> tuple[object, bool]:
    """The array as one of integers of the same size, copied if its elements are not in order; and whether it was a scalar,
    which is then a vector of one element."""
    numpy = needed("numpy", "numpy")
    scalar = array.ndim == 0
    if scalar:
        array = array.reshape(1)

    if any(step < 0 for step in array.strides):
        array = numpy.ascontiguousarray(array)
    if array.dtype.kind != "c":
        array = array.view(f"i{array.dtype.itemsize}")
    return array, scalar
