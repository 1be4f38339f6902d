"""Tensors of checkpoints of any format, as arrays."""

import json
import operator
import os
import warnings
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from . import _native
from .errors import CkptWarning, UsageError
from .frameworks import Framework, framework as framework_of

#: What SafeTensors calls types of elements.
_SAFETENSORS = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "complex64": "C64", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float4_e2m1fn_x2": "F4",
}


class safe_open:
    """A checkpoint of any format and layout, opened for its tensors. Nothing in it is executed.

    It is used as the function of the same name in the package ``safetensors``:

    >>> with ckpt_tools.safe_open("model.gguf", framework="np") as f:    # doctest: +SKIP
    ...     for name in f.keys():
    ...         w = f.get_tensor(name)
    ...     rows = f.get_slice("token_embd.weight")[:8]

    Args:
        path: A file, one shard or the index of a sharded set, or a folder that holds one checkpoint.
        framework: ``"np"`` for NumPy, with bfloat16 and float8 as types of ``ml_dtypes``; ``"pt"`` for PyTorch.
        device: The device of PyTorch's tensors.
        stored: Quantized weights as they are stored: codes, scales and zero points as tensors of their own, and blocks of
            GGUF and packed ternary matrices as bytes. Without it they are the float32 values that they stand for.
        i2s_layout: The layout of I2_S tensors in a GGUF file: ``x86``, ``arm`` or ``rows``.

    Where a tensor's bytes can be used as they are, it shares the mapped file: nothing is read before it is used, and the
    array keeps the file open. NumPy's are then read-only; PyTorch's may be changed, and the file does not.

    Raises:
        UnreadableError: if there is no checkpoint, or it cannot be opened. One that is damaged opens, with
            :attr:`damage`, and those of its tensors that are intact can be read.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        framework: str = "np",
        device: Any = "cpu",
        *,
        stored: bool = False,
        i2s_layout: str | None = None,
    ) -> None:
        self._framework: Framework = framework_of(framework, device)
        self._path = os.fsdecode(path)
        self._checkpoint: _native.Checkpoint | None = _native.Checkpoint(self._path, stored=stored, i2s_layout=i2s_layout)

    def _opened(self) -> _native.Checkpoint:
        if self._checkpoint is None:
            raise UsageError(f"{self._path}: it has been closed")
        return self._checkpoint

    def __enter__(self) -> "safe_open":
        self._opened()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes it. Arrays that share its bytes keep what they need."""
        self._checkpoint = None

    def keys(self) -> list[str]:
        """The names of all tensors, in file order."""
        return self._opened().names()

    def offset_keys(self) -> list[str]:
        """The same as :meth:`keys`."""
        return self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __repr__(self) -> str:
        if self._checkpoint is None:
            return f"<{self._path}: closed>"
        return f"<{self._path}: {self.format}, {len(self)} tensors>"

    @property
    def format(self) -> str:
        """The container, such as ``safetensors`` or ``pytorch-zip``."""
        return self._opened().format

    @property
    def damage(self) -> str | None:
        """What is wrong with the container, if something is."""
        return self._opened().damage

    def metadata(self) -> dict[str, Any]:
        """The plain values beside the tensors: of SafeTensors the strings of ``__metadata__``, of GGUF its keys, of
        PyTorch's files what else is in the object. Empty where there are none, for which ``safetensors`` returns ``None``."""
        metadata: dict[str, Any] = json.loads(self._opened().metadata())
        return metadata

    def get_tensor(self, name: str) -> Any:
        """The tensor called ``name``.

        Raises:
            TensorNotFoundError: with the closest names.
            DamagedError: if its bytes are missing or damaged.
            UnsupportedError: for elements that the framework has no type for.
        """
        return _tensor(self._framework, self._opened().tensor(name))

    def get_tensors(self) -> dict[str, Any]:
        """All tensors, by name. Of two of one name, the first."""
        tensors: dict[str, Any] = {}
        for name in self.keys():
            if name not in tensors:
                tensors[name] = self.get_tensor(name)
        return tensors

    def get_slice(self, name: str) -> "Slice":
        """The tensor called ``name``, of which only what is then indexed is read."""
        return Slice(self._framework, self._opened().tensor(name))


def _tensor(framework: Framework, tensor: _native.Tensor) -> Any:
    tensor.check()
    sparse = tensor.sparse()
    if sparse is not None:
        layout, indices, values = sparse
        parts = [_tensor(framework, part) for part in indices]
        return framework.sparse(tensor, layout, parts, _tensor(framework, values))
    array = framework.shared(tensor)
    if array is None:
        array = framework.owned(tensor, tensor.read_all(), tensor.shape)
    return framework.finished(array)


class Slice:
    """A tensor of which parts are read: ``f.get_slice("w")[2:4, :, -1]``. Integers, slices, ``...`` and ``None``."""

    def __init__(self, framework: Framework, tensor: _native.Tensor) -> None:
        self._framework = framework
        self._tensor = tensor

    @property
    def shape(self) -> list[int]:
        """The sizes of its dimensions."""
        return self._tensor.shape

    @property
    def dtype(self) -> str:
        """The type of what is read, by its name in PyTorch."""
        return self._tensor.element

    def get_shape(self) -> list[int]:
        """The sizes of its dimensions."""
        return self.shape

    def get_dtype(self) -> str:
        """The type of what is read, by its name in SafeTensors; of types that it has not, :attr:`dtype`."""
        return _SAFETENSORS.get(self.dtype, self.dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self._tensor.name}: {self.dtype} {self.shape}>"

    def __getitem__(self, index: Any) -> Any:
        selection, view = _selected(index, self.shape, self._framework.reverses)
        self._tensor.check()
        if self._tensor.sparse() is not None:
            raise UsageError(f"tensor `{self._tensor.name}`: a sparse tensor is not sliced; use get_tensor", tensor=self._tensor.name)
        array = self._framework.shared(self._tensor)
        if array is None:
            counts = [count for _, count, _ in selection]
            array = self._framework.owned(self._tensor, self._tensor.read(selection), counts)
        else:
            array = array[tuple(slice(start, start + (count - 1) * step + 1 if count else start, step) for start, count, step in selection)]
        return self._framework.finished(array[view])


def _selected(index: Any, shape: list[int], reverses: bool) -> tuple[list[tuple[int, int, int]], tuple[Any, ...]]:
    """First index, number and step in each dimension of ``shape``, forwards; and what is then taken of these."""
    given = list(index) if isinstance(index, tuple) else [index]
    wildcards = sum(item is Ellipsis for item in given)
    if wildcards > 1:
        raise IndexError("an index can only have a single ellipsis ('...')")
    named = sum(item is not None and item is not Ellipsis for item in given)
    if named > len(shape):
        raise IndexError(f"too many indices: the tensor has {len(shape)} dimensions, and {named} were indexed")
    rest = [slice(None)] * (len(shape) - named)
    at = next((i for i, item in enumerate(given) if item is Ellipsis), len(given))
    selection: list[tuple[int, int, int]] = []
    view: list[Any] = []
    for item in given[:at] + rest + given[at + 1 :]:
        if item is None:
            view.append(None)
            continue
        size = shape[len(selection)]
        if isinstance(item, slice):
            start, stop, step = item.indices(size)
            count = len(range(start, stop, step))
            if step < 0 and not reverses:
                raise ValueError("step must be greater than zero")
            first = start if step > 0 or count == 0 else start + (count - 1) * step
            selection.append((first if count else 0, count, abs(step)))
            view.append(slice(None, None, -1) if step < 0 else slice(None))
            continue
        selection.append((_place(item, size, len(selection)), 1, 1))
        view.append(0)
    return selection, tuple(view)


def _place(item: Any, size: int, axis: int) -> int:
    if isinstance(item, bool) or type(item).__name__ in ("bool", "bool_"):
        raise TypeError("a slice is indexed by integers, slices, ... and None; use get_tensor(name)[…] for others")
    try:
        place = operator.index(item)
    except TypeError as error:
        raise TypeError(
            "a slice is indexed by integers, slices, ... and None; use get_tensor(name)[…] for others"
        ) from error
    if not -size <= place < size:
        raise IndexError(f"index {place} is out of bounds for dimension {axis} of size {size}")
    return place % size


def load(
    path: str | bytes | os.PathLike[str] | os.PathLike[bytes],
    framework: str = "np",
    device: Any = "cpu",
    *,
    stored: bool = False,
    i2s_layout: str | None = None,
) -> dict[str, Any]:
    """All tensors of the checkpoint at ``path``, by name: ``torch.load`` for any format, which executes nothing.

    >>> ckpt_tools.load("model.pt", framework="pt").keys()          # doctest: +SKIP
    dict_keys(['embed.weight', …])

    Names are the file's own; of nested objects the keys are joined by dots. Tensors that are one storage in the file are
    one in PyTorch too. Of two that would have one name, as ``{"a.b": x, "a": {"b": y}}`` holds, the first is returned, with a
    warning. The arguments, and what the arrays share, are those of :class:`safe_open`.

    Raises:
        DamagedError: if a tensor is damaged; ``safe_open`` reads the others.
    """
    with safe_open(path, framework, device, stored=stored, i2s_layout=i2s_layout) as opened:
        tensors: dict[str, Any] = {}
        for name in opened.keys():
            if name in tensors:
                text = f"{os.fsdecode(path)}: two tensors are called `{name}`, and the first of them is in the result"
                warnings.warn(text, CkptWarning, stacklevel=2)
                continue
            tensors[name] = opened.get_tensor(name)
        return tensors
