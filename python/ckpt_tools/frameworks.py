"""Arrays of NumPy and tensors of PyTorch on the bytes of checkpoints, shared where they can be."""

import importlib
import os
from typing import Any, Protocol

from . import _native
from .errors import UnsupportedError, UsageError

#: Types of elements by their names in PyTorch, as NumPy calls them.
_NUMPY = {
    "float64": "float64",
    "float32": "float32",
    "float16": "float16",
    "int64": "int64",
    "int32": "int32",
    "int16": "int16",
    "int8": "int8",
    "uint64": "uint64",
    "uint32": "uint32",
    "uint16": "uint16",
    "uint8": "uint8",
    "bool": "bool",
    "complex64": "complex64",
    "complex128": "complex128",
    # Two numbers a byte, of which NumPy has no type.
    "float4_e2m1fn_x2": "uint8",
}

#: Types that the package ml_dtypes adds to NumPy.
_ML_DTYPES = {
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
}


class Framework(Protocol):
    """What makes arrays."""

    #: Whether a slice may go backwards.
    reverses: bool

    def shared(self, tensor: _native.Tensor) -> Any | None:
        """The tensor on the bytes of its file; ``None`` where they cannot be used as they are."""

    def owned(self, tensor: _native.Tensor, data: bytearray, shape: list[int]) -> Any:
        """An array of ``shape`` on ``data``, elements that were read for it."""

    def sparse(self, tensor: _native.Tensor, layout: str, indices: list[Any], values: Any) -> Any:
        """A sparse tensor of its parts."""

    def finished(self, array: Any) -> Any:
        """The array as the user gets it."""


def framework(name: str, device: Any) -> Framework:
    """The framework called ``name``."""
    if name in ("np", "numpy"):
        if str(device) != "cpu":
            raise UsageError(f"NumPy's arrays are on the CPU, and not on {device}; use framework='pt'")
        return NumPy()
    if name in ("pt", "torch", "pytorch"):
        return Torch(device)
    raise UsageError(f"the frameworks are 'np' and 'pt', and not {name!r}")


class NumPy:
    """NumPy. What shares the bytes of a file is read-only."""

    reverses = True

    def __init__(self) -> None:
        self._numpy = needed("numpy", "numpy")

    def _dtype(self, name: str, tensor: str) -> Any:
        known = _NUMPY.get(name)
        if known is not None:
            return self._numpy.dtype(known)
        if name not in _ML_DTYPES:
            raise UnsupportedError(f"tensor `{tensor}`: NumPy has no type for {name} elements", tensor=tensor)
        return self._numpy.dtype(getattr(needed("ml_dtypes", "numpy"), name))

    def shared(self, tensor: _native.Tensor) -> Any | None:
        if tensor.element == "complex32":
            return None
        dtype = self._dtype(tensor.element, tensor.name)
        borrowed: Any = tensor.borrowed()
        if borrowed is None:
            return None
        strides = [step * dtype.itemsize for step in tensor.strides]
        array = self._numpy.ndarray(tensor.shape, dtype, borrowed, strides=strides)
        return array if array.flags.aligned else None

    def owned(self, tensor: _native.Tensor, data: bytearray, shape: list[int]) -> Any:
        numpy = self._numpy
        if tensor.element == "complex32":
            pairs = numpy.ndarray([*shape, 2], numpy.float16, data) if data else numpy.empty([*shape, 2])
            return pairs.astype(numpy.float32).view(numpy.complex64)[..., 0]
        dtype = self._dtype(tensor.element, tensor.name)
        return numpy.ndarray(shape, dtype, data) if data else numpy.empty(shape, dtype)

    def sparse(self, tensor: _native.Tensor, layout: str, indices: list[Any], values: Any) -> Any:
        raise UnsupportedError(
            f"tensor `{tensor.name}`: NumPy has no sparse arrays; use framework='pt'", tensor=tensor.name
        )

    def finished(self, array: Any) -> Any:
        return self._numpy.asarray(array)


class Torch:
    """PyTorch. A tensor that shares the bytes of a file may be changed: what is written stays in this process."""

    reverses = False

    def __init__(self, device: Any) -> None:
        self._torch = needed("torch", "torch")
        self._device = self._torch.device(device)
        # Paths are as they were when the checkpoint was opened.
        self._folder = os.getcwd()
        self._files: dict[str, Any] = {}
        self._storages: dict[tuple[str, int, int], Any] = {}

    def _dtype(self, name: str, tensor: str) -> Any:
        dtype = getattr(self._torch, name, None)
        if not isinstance(dtype, self._torch.dtype):
            raise UnsupportedError(
                f"tensor `{tensor}`: PyTorch {self._torch.__version__} has no type for {name} elements", tensor=tensor
            )
        return dtype

    def shared(self, tensor: _native.Tensor) -> Any | None:
        torch = self._torch
        dtype = self._dtype(tensor.element, tensor.name)
        place = tensor.place()
        if place is None:
            return None
        path, offset, length, begin = place
        size = dtype.itemsize
        if begin % size:
            return None
        storage = self._storage(tensor, os.path.join(self._folder, path), offset, length, offset % size != 0)
        if storage is None or storage.data_ptr() % size:
            return None
        empty = torch.empty(0, dtype=dtype)
        return empty.set_(storage, begin // size, tensor.shape, tensor.strides)

    def _storage(self, tensor: _native.Tensor, path: str, offset: int, length: int, moved: bool) -> Any | None:
        """The storage in a file, mapped so that what is written to it stays in this process; tied weights have one. One that
        is not aligned there is copied as a whole, if it is ``moved``."""
        key = (path, offset, length)
        if key not in self._storages:
            if path not in self._files:
                try:
                    size = os.stat(path).st_size
                    whole = self._torch.UntypedStorage.from_file(path, False, size)
                    # What has taken its place since it was opened has other bytes.
                    self._files[path] = whole if tensor.is_current() else None
                except (OSError, RuntimeError, UnicodeError):
                    # The file is gone, or cannot be mapped again: its bytes are copied from where they are mapped already.
                    self._files[path] = None
            whole = self._files[path]
            fits = whole is not None and offset + length <= whole.nbytes()
            storage = whole[offset : offset + length] if fits else None
            self._storages[key] = storage.clone() if storage is not None and moved else storage
        return self._storages[key]

    def owned(self, tensor: _native.Tensor, data: bytearray, shape: list[int]) -> Any:
        torch = self._torch
        dtype = self._dtype(tensor.element, tensor.name)
        if not data:
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)

    def sparse(self, tensor: _native.Tensor, layout: str, indices: list[Any], values: Any) -> Any:
        torch = self._torch
        if layout == "coo":
            return torch.sparse_coo_tensor(indices[0], values, tensor.shape, check_invariants=True)
        makers = {
            "csr": torch.sparse_csr_tensor,
            "csc": torch.sparse_csc_tensor,
            "bsr": torch.sparse_bsr_tensor,
            "bsc": torch.sparse_bsc_tensor,
        }
        make = makers.get(layout)
        if make is None:
            raise UnsupportedError(f"tensor `{tensor.name}`: a sparse layout that is not read", tensor=tensor.name)
        return make(indices[0], indices[1], values, tensor.shape, check_invariants=True)

    def finished(self, array: Any) -> Any:
        return array.to(self._device)


def needed(module: str, extra: str) -> Any:
    """The module called ``module``, which the optional dependencies ``extra`` bring along.

    Raises:
        UnsupportedError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise needs(module, extra) from error


def needs(module: str, extra: str) -> UnsupportedError:
    """The error of a library that is not there, and the extra that brings it."""
    return UnsupportedError(f"this needs {module}: pip install 'ckpt-tools[{extra}]'")
