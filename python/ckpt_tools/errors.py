"""What goes wrong, as exceptions. Their texts are those that ``ckpt`` prints."""

import errno
import os
from typing import Any

from . import _native


class CkptWarning(UserWarning):
    """Something is not as it should be, and the work went on."""


class CkptError(Exception):
    """Anything that ``ckpt`` refuses or cannot do."""

    #: The file that is at fault, if it is one.
    path: str | None
    #: The tensor that is at fault, if it is one.
    tensor: str | None

    def __init__(self, text: str, *, path: str | None = None, tensor: str | None = None) -> None:
        super().__init__(text)
        self.path = path
        self.tensor = tensor
        _tell(self, path)

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return (_again, (type(self), str(self), self.path, self.tensor))


class UsageError(CkptError, ValueError):
    """An option, a pattern or a policy that is wrong, or an input that would be overwritten."""


class RefusedError(CkptError):
    """What was asked for was refused, or what was written is not the same as its source."""


class UnreadableError(CkptError, OSError):
    """A file that cannot be read."""


class MissingFileError(UnreadableError, FileNotFoundError):
    """A file that is not there."""


class UnrecognisedError(UnreadableError):
    """A file of no known format."""


class DamagedError(UnreadableError):
    """Bytes are missing or inconsistent; :attr:`tensor` says of which tensor, if of one."""


class UnsupportedError(CkptError, NotImplementedError):
    """Something well-formed that is not supported."""


class TensorNotFoundError(CkptError, KeyError):
    """The checkpoint has no tensor of this name."""


class WriteError(CkptError, OSError):
    """An output that exists or cannot be written."""


_OF_KIND: dict[str, type[CkptError]] = {
    "io": UnreadableError,
    "unrecognised": UnrecognisedError,
    "damaged": DamagedError,
    "unsupported": UnsupportedError,
    "not-found": TensorNotFoundError,
    "usage": UsageError,
}

_OF_EXIT_CODE: dict[int, type[CkptError]] = {
    1: RefusedError,
    2: UsageError,
    3: UnreadableError,
    4: WriteError,
}


def of_kind(kind: str, text: str, *, path: str | None = None, tensor: str | None = None) -> CkptError:
    """The exception for a kind of errors."""
    chosen = _OF_KIND.get(kind, UnreadableError)
    if kind == "io" and path is not None and not os.path.lexists(path) and _native.is_missing(path):
        chosen = MissingFileError
    return chosen(text, path=path, tensor=tensor)


def of_exit_code(code: int, text: str, *, path: str | None = None) -> CkptError:
    """The exception for a command that ended with ``code``."""
    return _OF_EXIT_CODE.get(code, CkptError)(text, path=path)


def _again(made: type[CkptError], text: str, path: str | None, tensor: str | None) -> CkptError:
    return made(text, path=path, tensor=tensor)


def _tell(error: Exception, path: str | None) -> None:
    """Gives an error of the system's kinds what the system's own have."""
    if isinstance(error, OSError):
        error.filename = path
    if isinstance(error, FileNotFoundError):
        error.errno = errno.ENOENT
