"""What comes in and goes out: dtypes, overlaps, threads, and the three dimensions in which the kernels see an array."""

from __future__ import annotations

import contextlib
import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperion._kernels import quantize as kernels
from hyperion.errors import HyperionMemoryError, InvalidArgumentError
from hyperion.memory import process_budget

__all__ = ["BFLOAT16", "check_apart", "float_dtype", "merges", "new", "refuse", "scratch", "values_of"]

Array = NDArray[Any]
BFLOAT16 = "bfloat16"
_UNCOUNTED = 256 << 10  # bytes
_DTYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


def float_dtype(dtype: Any) -> np.dtype[Any]:
    """The dtype in memory of a float type: uint16 for bfloat16, which NumPy does not have."""
    if isinstance(dtype, str) and dtype == BFLOAT16:
        return np.dtype(np.uint16)
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is not None and found.name == BFLOAT16:
        return np.dtype(np.uint16)
    if found not in _DTYPES:
        raise InvalidArgumentError(f"dtype must be float16, bfloat16, float32 or float64, not {dtype!r}")
    return found


def values_of(w: Any, dtype: Any = None) -> Array:
    """`w` as an array that the kernels read: float16, float32, float64, or uint16 that holds bfloat16."""
    try:
        array = np.asarray(w)
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(f"w must be an array of floats: {error}") from None
    if array.dtype.name == BFLOAT16:  # a type of another package
        return array.view(np.uint16)
    if dtype is not None:
        stored = float_dtype(dtype)
        if array.dtype != stored:
            raise InvalidArgumentError(f"w of dtype {dtype} must be an array of {stored}, not {array.dtype}")
    elif array.dtype.newbyteorder("=") not in _DTYPES:
        hint = "; for bfloat16 give dtype='bfloat16'" if array.dtype == np.uint16 else ""
        raise InvalidArgumentError(f"w must be an array of float16, float32 or float64, not {array.dtype}{hint}")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def new(shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array, or HyperionMemoryError with the number of bytes."""
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        raise HyperionMemoryError(f"no memory for {nbytes} bytes of quantized data: {error}") from None


def scratch(nbytes: int) -> contextlib.AbstractContextManager[Any]:
    """The ledger's room for arrays that live as long as a call; a reservation takes longer than small ones are worth."""
    return process_budget().reserve("quantizing", nbytes) if nbytes > _UNCOUNTED else contextlib.nullcontext()


def merges(array: Array, first: int, end: int) -> bool:
    """Whether dimensions `first` .. `end` - 1 become one without a copy."""
    dims = [(n, step) for n, step in zip(array.shape[first:end], array.strides[first:end], strict=True) if n != 1]
    return not array.size or all(outer[1] == inner[0] * inner[1] for outer, inner in itertools.pairwise(dims))


def check_apart(what: str, out: Array, *others: Array | None) -> None:
    """Raise unless `out` shares no memory with the others."""
    for other in others:
        if other is None:
            continue
        try:
            shared = np.shares_memory(out, other, max_work=10**6)  # type: ignore[arg-type]
        except RuntimeError:  # TooHardError: strides that interlock; what cannot be told apart is refused
            shared = True
        if shared:
            raise InvalidArgumentError(f"{what} shares memory with the input")


def refuse(values: Array, cut: Array) -> None:
    """Raise the error that names the first value that is no finite float32; `cut` is `values` in three dimensions."""
    place = kernels.find_nonfinite(cut)
    index = tuple(int(i) for i in np.unravel_index(place, values.shape)) if place >= 0 else ()
    value = values[index] if place >= 0 else math.nan
    if values.dtype == np.uint16:
        value = np.array(int(value) << 16, np.uint32).view(np.float32)
    where = f"w[{', '.join(map(str, index))}]" if index else "w"
    raise InvalidArgumentError(
        f"{where} is {float(value):g}: only values that are finite in float32 can be quantized", index=index
    )
