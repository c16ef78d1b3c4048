"""What comes in and goes out: dtypes, shapes, overlaps, buffers from the ledger."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperion.errors import HyperionMemoryError, InvalidArgumentError
from hyperion.memory import process_budget

__all__ = ["Float32", "apart", "describe", "float32", "new", "output", "places", "room", "scratch", "whole_floats"]

Float32 = NDArray[np.float32]


def describe(value: Any) -> str:
    """What a value is, for messages."""
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def float32(name: str, value: Any) -> Float32:
    """`value`, which must be a float32 array of the machine's byte order."""
    if isinstance(value, np.ndarray) and value.dtype == np.float32:
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name} must be a float32 array: {error}") from None
    if array.dtype != np.float32:
        raise InvalidArgumentError(f"{name} must be a float32 array, not {describe(array)}; convert it with astype(np.float32)")
    return array


def new(shape: tuple[int, ...]) -> Float32:
    """An uninitialised array, or HyperionMemoryError with the number of bytes."""
    try:
        return np.empty(shape, np.float32)
    except (MemoryError, ValueError) as error:
        raise HyperionMemoryError(f"no memory for {4 * math.prod(shape)} bytes of results: {error}") from None


def output(out: Any, shape: tuple[int, ...]) -> Float32:
    """`out`, checked to be writable float32 of a shape, or a new array."""
    if out is None:
        return new(shape)
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
        raise InvalidArgumentError(f"out must be a float32 array of shape {shape}, not {describe(out)}")
    if not out.flags.writeable:
        raise InvalidArgumentError("out is read-only")
    if out.size and any(stride == 0 and n > 1 for stride, n in zip(out.strides, out.shape, strict=True)):
        raise InvalidArgumentError(f"out of shape {out.shape} and strides {out.strides} has several elements in one place")
    return out


def apart(out: Float32, name: str, value: NDArray[Any], *, same: bool = False) -> None:
    """Raise where `out` shares memory with an input; where `same`, it may be that input itself."""
    if not np.may_share_memory(out, value):
        return
    if same and out.ctypes.data == value.ctypes.data and out.shape == value.shape and out.strides == value.strides:
        return
    try:
        shared = np.shares_memory(out, value, max_work=10**6)  # type: ignore[arg-type]
    except RuntimeError:  # TooHardError: strides that interlock; what cannot be told apart is refused
        shared = True
    if shared:
        raise InvalidArgumentError(f"out overlaps {name}" + (" without being the same array" if same else ""))


def whole_floats(array: NDArray[Any]) -> bool:
    """Whether values are at whole floats from each other, as the kernels count."""
    return bool(array.flags.aligned) and all(stride % 4 == 0 for stride in array.strides)


def places(batch: tuple[int, ...], *firsts: NDArray[Any]) -> NDArray[np.int64]:
    """Bytes from the first to each part of a batch (int64 [parts, arrays]).

    firsts: of each array the first value of every part, of a shape that broadcasts to `batch`.
    """
    if math.prod(batch) == 1:
        return np.zeros((1, len(firsts)), np.int64)
    columns: list[Any] = []
    for first in firsts:
        found = np.zeros((), np.int64)
        for n, stride in zip(batch, np.broadcast_to(first, batch).strides, strict=True):
            found = np.add.outer(found, np.arange(n, dtype=np.int64) * stride)
        columns.append(found.ravel())
    return np.ascontiguousarray(np.stack(columns, axis=1))


@contextlib.contextmanager
def scratch(owner: str, nbytes: int) -> Iterator[Any]:
    """A buffer of bytes that counts in the process's ledger while it lives; None for no bytes.

    It comes from the C library, which hands out the same pages again: fresh ones would cost more than a small product.

    Raises
    ------
    MemoryBudgetError
        If the process's limit leaves no room for it.
    """
    if nbytes == 0:
        yield None
        return
    with process_budget().reserve(owner, nbytes):
        try:
            buffer = np.empty(nbytes, np.uint8)
        except MemoryError as error:
            raise HyperionMemoryError(f"no memory for {nbytes} bytes of {owner}'s buffer: {error}") from None
        yield buffer


@contextlib.contextmanager
def room(owner: str, shape: tuple[int, ...]) -> Iterator[Float32]:
    """An uninitialised contiguous array that counts in the process's ledger while it lives; errors are those of `scratch`."""
    with scratch(owner, 4 * math.prod(shape)) as buffer:
        yield new(shape) if buffer is None else buffer.view(np.float32).reshape(shape)
