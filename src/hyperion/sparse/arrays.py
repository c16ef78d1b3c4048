"""Memory of sparse matrices, and what comes in and goes out as dense arrays."""

from __future__ import annotations

import atexit
import math
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import HyperionMemoryError, InvalidArgumentError, UnsupportedError
from ..memory import allocate, process_budget

__all__ = ["LARGEST", "Scratch", "check_out", "dense", "freeze", "integers", "new", "starts_of"]

Array = NDArray[Any]
LARGEST = 2**31 - 1
SPARE = 4 << 20  # bytes of scratch from which the system gives huge pages
LEDGERED = 4 << 20  # bytes from which an array is pages of the ledger


def new(shape: tuple[int, ...], dtype: Any, owner: str = "sparse matrix") -> Array:
    """A zeroed array; one of some size is reserved in the process's ledger until it is collected.

    Raises
    ------
    MemoryBudgetError, HyperionMemoryError
        If the ledger or the system cannot hold it.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes >= LEDGERED:
        return np.frombuffer(allocate(process_budget(), owner, nbytes), dtype, math.prod(shape)).reshape(shape)
    try:
        return np.zeros(shape, dtype)
    except (MemoryError, ValueError) as error:
        raise HyperionMemoryError(f"no memory for {nbytes} bytes of a sparse matrix: {error}") from None


def freeze(array: Array) -> Array:
    """The array, read-only from now on."""
    array.flags.writeable = False
    return array


class Scratch:
    """Memory that products need on the way, given back at the end of a ``with``.

    The latest buffer stays for the next product, as touching new pages takes a good part of a product's time.
    """

    _spare: ClassVar[list[Array]] = []  # at most one; lists change atomically

    def __init__(self) -> None:
        self._taken: list[Array] = []

    def take(self, nbytes: int) -> Array:
        """A buffer of at least so many bytes; its content is undefined."""
        try:
            buffer = self._spare.pop()
        except IndexError:
            buffer = np.empty(0, np.uint8)
        if buffer.size < nbytes:
            size = max(nbytes, SPARE)
            buffer = np.frombuffer(allocate(process_budget(), "sparse products", size), np.uint8)
        self._taken.append(buffer)
        return buffer

    def __enter__(self) -> Scratch:
        return self

    def __exit__(self, *error: object) -> None:
        kept = [buffer for buffer in self._taken if buffer.size <= 4 * SPARE]
        if kept and not self._spare:
            self._spare.append(kept[-1])


atexit.register(Scratch._spare.clear)  # its pages go while there still is a ledger


def dense(name: str, value: Any, dims: tuple[int, ...] = (1, 2)) -> NDArray[np.float32]:
    """Real numbers as a float32 array that the kernels read in place, copied only if they are something else.

    Raises
    ------
    InvalidArgumentError
        If they are not real numbers, beyond float32, or of another number of dimensions.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"{name} must be an array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InvalidArgumentError(f"{name} must hold real numbers, not {array.dtype}")
    if array.ndim not in dims:
        raise InvalidArgumentError(f"{name} must have {' or '.join(map(str, dims))} dimensions, not shape {array.shape}")
    if array.dtype == np.float32 and array.flags.aligned and not any(stride % 4 for stride in array.strides):
        return array
    copy = new(array.shape, np.float32, "dense operand")
    try:
        with np.errstate(over="raise"):
            np.copyto(copy, array, casting="unsafe")
    except FloatingPointError:
        raise InvalidArgumentError(f"{name} has a value of {array.dtype} beyond float32") from None
    return copy


def check_out(out: Any, shape: tuple[int, ...], inputs: list[Array]) -> None:
    """Raise unless `out` is a writable float32 array of the shape that overlaps neither itself nor an input."""
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape:
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InvalidArgumentError(f"out must be an array of float32 of shape {shape}, not {got}")
    if not out.flags.writeable:
        raise InvalidArgumentError("out is read-only")
    if not out.flags.aligned or any(stride % 4 for stride in out.strides):
        raise InvalidArgumentError(f"out must be aligned to 4 bytes, not of strides {out.strides}")
    extent = out.itemsize
    for stride, n in sorted((abs(stride), n) for stride, n in zip(out.strides, out.shape, strict=True) if n > 1 and out.size):
        if stride < extent:
            raise InvalidArgumentError(f"out overlaps itself: shape {out.shape}, strides {out.strides}")
        extent += stride * (n - 1)
    for other in inputs:
        try:
            shared = np.shares_memory(out, other, max_work=10**6)  # type: ignore[arg-type]
        except RuntimeError:  # TooHardError: what cannot be told apart is refused
            shared = True
        if shared:
            raise InvalidArgumentError("out shares memory with an input")


def integers(name: str, value: Any) -> Array:
    """Indices as contiguous int32, not copied if they are that.

    Raises
    ------
    InvalidArgumentError
        If they are not integers of one dimension.
    UnsupportedError
        If one does not fit.
    """
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidArgumentError(f"{name} must be integers of one dimension, not {array.dtype} of shape {array.shape}")
    if array.dtype == np.int32 and array.flags.c_contiguous and array.flags.aligned:
        return array
    if array.dtype.itemsize >= 4 and array.size and int(array.max()) > LARGEST:
        raise UnsupportedError(f"{name} has {int(array.max())}: sparse matrices are indexed with 32 bits")
    if array.size and int(array.min()) < 0:
        raise InvalidArgumentError(f"{name} has {int(array.min())}, which is negative")
    result = new(array.shape, np.int32)
    np.copyto(result, array, casting="unsafe")
    return result


def starts_of(counts: Array, what: str = "values") -> Array:
    """Where each row begins, and where the last one ends.

    Raises
    ------
    UnsupportedError
        If there are more than 2**31 - 1.
    """
    total = int(counts.sum(dtype=np.int64))
    if total > LARGEST:
        raise UnsupportedError(f"{total} stored {what}: sparse matrices are indexed with 32 bits")
    starts = new((counts.size + 1,), np.int32)
    np.cumsum(counts, out=starts[1:])
    return starts
