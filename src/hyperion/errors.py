"""Error codes, the exception tree, and the process-wide error handler.

Every exception that Hyperion raises on purpose is a :class:`HyperionError` and carries one documented
:class:`ErrorCode`. Where Python users would catch a built-in class (``MemoryError``, ``OSError``, ``ValueError``,
``NotImplementedError``, ``RuntimeError``) the exception is one of those as well.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Any

__all__ = [
    "ErrorCode",
    "FormatError",
    "HyperionError",
    "HyperionIOError",
    "HyperionMemoryError",
    "HyperionRuntimeError",
    "InvalidArgumentError",
    "MemoryBudgetError",
    "UnsupportedError",
    "get_error_message",
    "set_error_handler",
]


class ErrorCode(enum.IntEnum):
    """The documented error codes."""

    SUCCESS = 0
    MEMORY = 1
    IO = 2
    INVALID_ARGUMENT = 3
    NOT_IMPLEMENTED = 4
    RUNTIME = 5


_MESSAGES = {
    ErrorCode.SUCCESS: "Success",
    ErrorCode.MEMORY: "Out of memory, or a memory budget would be exceeded",
    ErrorCode.IO: "A file could not be read or written",
    ErrorCode.INVALID_ARGUMENT: "An argument or a file's content is not valid",
    ErrorCode.NOT_IMPLEMENTED: "The requested feature or model architecture is not supported",
    ErrorCode.RUNTIME: "The operation failed while it ran",
}

ErrorHandler = Callable[[ErrorCode, str, dict[str, Any]], None]
_handler: ErrorHandler | None = None
_inside = threading.local()


class HyperionError(Exception):
    """Root of the tree.

    Parameters
    ----------
    message : str
        What was expected, what came, and where.
    **context
        Machine-readable details (``path``, ``offset``, ``tensor``, ...), kept in :attr:`context` and passed to the
        error handler.
    """

    code: ErrorCode = ErrorCode.RUNTIME

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.context = context
        _notify(self)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.context)


class HyperionMemoryError(HyperionError, MemoryError):
    """Memory could not be had (``ErrorCode.MEMORY``)."""

    code = ErrorCode.MEMORY


class MemoryBudgetError(HyperionMemoryError):
    """A budget cannot hold what was asked; the message names the smallest budget that would."""


class HyperionIOError(HyperionError, OSError):
    """A file is missing, truncated, replaced or failing (``ErrorCode.IO``)."""

    code = ErrorCode.IO


class InvalidArgumentError(HyperionError, ValueError):
    """A value does not fit its documented meaning (``ErrorCode.INVALID_ARGUMENT``)."""

    code = ErrorCode.INVALID_ARGUMENT


class FormatError(InvalidArgumentError):
    """A file's bytes do not follow its format; ``context['offset']`` is where."""


class UnsupportedError(HyperionError, NotImplementedError):
    """A valid request that this version cannot serve (``ErrorCode.NOT_IMPLEMENTED``)."""

    code = ErrorCode.NOT_IMPLEMENTED


class HyperionRuntimeError(HyperionError, RuntimeError):
    """An operation failed while it ran (``ErrorCode.RUNTIME``)."""

    code = ErrorCode.RUNTIME


def get_error_message(code: ErrorCode | int) -> str:
    """Return the sentence that describes an error code.

    Raises
    ------
    InvalidArgumentError
        If ``code`` is not one of :class:`ErrorCode`.
    """
    try:
        return _MESSAGES[ErrorCode(code)]
    except ValueError:
        raise InvalidArgumentError(f"error code {code!r} is not one of {[int(c) for c in ErrorCode]}") from None


def set_error_handler(handler: ErrorHandler | None) -> ErrorHandler | None:
    """Install a function that is told of every :class:`HyperionError` when it is made.

    Parameters
    ----------
    handler : callable or None
        Called as ``handler(code, message, context)``. What it raises is discarded, so that it never hides the error
        itself. None removes the handler.

    Returns
    -------
    callable or None
        The handler that was installed before.
    """
    global _handler
    if handler is not None and not callable(handler):
        raise InvalidArgumentError(f"an error handler must be callable or None, not {type(handler).__name__}")
    previous, _handler = _handler, handler
    return previous


def _notify(error: HyperionError) -> None:
    handler = _handler
    if handler is None or getattr(_inside, "handler", False):  # an error made by a handler is not reported to it
        return
    _inside.handler = True
    try:
        handler(error.code, error.message, dict(error.context))
    except Exception:  # noqa: BLE001, S110 - whatever it raises must not hide the error itself
        pass
    finally:
        _inside.handler = False


def _rebuild(cls: type[HyperionError], message: str, context: dict[str, Any]) -> HyperionError:
    """Unpickle without telling the handler a second time."""
    base = OSError if issubclass(cls, OSError) else Exception  # the base whose C layout the class has
    error = base.__new__(cls, message)
    Exception.__init__(error, message)
    error.message, error.context = message, context
    return error
