"""What a tensor holds, and where."""

from __future__ import annotations

import dataclasses
import enum
import math
import operator
import os
from typing import Any

import numpy as np

from hyperion.errors import InvalidArgumentError
from hyperion.members import member
from hyperion.memory import MemoryBudget, MemoryConfig, MemoryPool, MemoryStrategy, engine_pool, parse_size

__all__ = ["SEGMENT", "DataType", "TensorAllocStrategy", "TensorMemoryConfig", "TensorMemoryStats", "check_dims", "count"]

SEGMENT = 4096
"""Elements that are summed as one: every strategy cuts a tensor at multiples of it, so that results are the same bits."""
SMALLEST_WINDOW = 64 << 10
LARGEST = 2**63 - 1


class DataType(enum.Enum):
    """Type of a tensor's elements; the value is NumPy's name of it."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    FLOAT64 = "float64"
    INT8 = "int8"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    UINT8 = "uint8"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype of NumPy."""
        return np.dtype(self.value)

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point type."""
        return self.numpy.kind == "f"

    @classmethod
    def of(cls, dtype: Any) -> DataType:
        """The member for a member, its name in any case, or what NumPy takes for a dtype.

        Raises
        ------
        InvalidArgumentError
            If tensors have no such type.
        """
        if isinstance(dtype, cls):
            return dtype
        if isinstance(dtype, str) and dtype.upper() in cls.__members__:
            return cls[dtype.upper()]
        try:
            kind = np.dtype(dtype)
            if kind.isnative and dtype is not None:
                return cls(kind.name)
        except (TypeError, ValueError):
            pass
        names = ", ".join(m.value for m in cls)
        raise InvalidArgumentError(f"a tensor's dtype is one of {names}, not {dtype!r}")


class TensorAllocStrategy(enum.Enum):
    """Where a tensor's elements are.

    Attributes
    ----------
    STATIC
        In pages of their own, allocated once.
    POOLED
        In a block of a pool: for tensors that come and go.
    STREAMING
        In a file, through a window in memory: for tensors larger than memory.
    """

    STATIC = 0
    POOLED = 1
    STREAMING = 2


@dataclasses.dataclass(kw_only=True)
class TensorMemoryConfig:
    """Settings of tensors; checked when made and when a field is set.

    Parameters
    ----------
    strategy : TensorAllocStrategy or str
        Where the elements are; a name will do.
    pool_size : int or str
        POOLED: bytes of the pool that the tensors made with this object share, reserved with the first of them. 0 takes
        the process's pool.
    stream_buffer_size : int or str
        STREAMING: bytes of a tensor's window in memory, at least 64 KiB (rounded down to a multiple of 32 KiB).
    enable_in_place : bool
        Whether :meth:`Tensor.in_place` may change such tensors.
    stream_directory : str or PathLike, optional
        STREAMING: where the file without a name is; the system's directory for temporary files by default. One that is held
        in memory (tmpfs) saves none.
    """

    strategy: TensorAllocStrategy | str = TensorAllocStrategy.STATIC
    pool_size: int | str = 0
    stream_buffer_size: int | str = 4 << 20
    enable_in_place: bool = True
    stream_directory: str | os.PathLike[str] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "strategy":
            value = member(TensorAllocStrategy, value, "TensorMemoryConfig.strategy")
        elif name in ("pool_size", "stream_buffer_size"):
            value = parse_size(value)
            if name == "stream_buffer_size" and value < SMALLEST_WINDOW:
                raise InvalidArgumentError(f"TensorMemoryConfig.{name} is {value}, expected {SMALLEST_WINDOW} bytes or more")
            if name == "pool_size":
                object.__setattr__(self, "_pool", None)
        elif name == "enable_in_place":
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"TensorMemoryConfig.{name} is {value!r}, expected a bool")
        elif name == "stream_directory":
            if value is not None and not isinstance(value, (str, os.PathLike)):
                raise InvalidArgumentError(f"TensorMemoryConfig.{name} is {value!r}, expected a path")
            value = None if value is None else os.fspath(value)
        else:
            names = ", ".join(field.name for field in dataclasses.fields(TensorMemoryConfig))
            raise InvalidArgumentError(f"TensorMemoryConfig has no field {name!r}; it has {names}")
        object.__setattr__(self, name, value)

    def copy(self) -> TensorMemoryConfig:
        """A copy that later changes do not reach; its tensors share this one's pool."""
        result = dataclasses.replace(self)
        object.__setattr__(result, "_pool", self._pool)  # type: ignore[attr-defined]
        return result

    def pool(self, budget: MemoryBudget) -> MemoryPool:
        """The pool of the tensors made with this object.

        Raises
        ------
        MemoryBudgetError
            If the ledger cannot hold a new one.
        """
        size = parse_size(self.pool_size)
        if not size:
            return engine_pool()
        pool: MemoryPool | None = self._pool  # type: ignore[attr-defined]
        if pool is None or pool.closed or pool.budget is not budget:
            settings = MemoryConfig(initial_pool_size=size, max_pool_size=size, strategy=MemoryStrategy.DYNAMIC)
            pool = MemoryPool(settings, budget=budget, name="tensor pool")
            object.__setattr__(self, "_pool", pool)
        return pool


@dataclasses.dataclass(frozen=True)
class TensorMemoryStats:
    """What a tensor takes and what it moved.

    Attributes
    ----------
    strategy : TensorAllocStrategy or None
        Where the elements are; None for a tensor over memory that somebody else owns.
    total_bytes : int
        Bytes of all elements.
    resident_bytes : int
        Bytes of memory that the tensor holds: all elements and rounding, or the window.
    file_bytes : int
        Bytes of its file.
    bytes_streamed : int
        Bytes written by :meth:`Tensor.stream`.
    bytes_read, bytes_written : int
        Bytes that went from the file to the window and back.
    window_moves : int
        How often the window took another place.
    in_place_ops : int
        Operations done in place.
    """

    strategy: TensorAllocStrategy | None
    total_bytes: int
    resident_bytes: int
    file_bytes: int = 0
    bytes_streamed: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    window_moves: int = 0
    in_place_ops: int = 0


def check_dims(dims: Any) -> tuple[int, ...]:
    """The dimensions as a tuple of integers."""
    try:
        shape = (operator.index(dims),) if hasattr(dims, "__index__") else tuple(map(operator.index, dims))
    except TypeError:
        raise InvalidArgumentError(f"dims must be integers, not {dims!r:.80}") from None
    if any(n < 0 for n in shape) or len(shape) > 32 or math.prod(shape) > LARGEST // 8:
        raise InvalidArgumentError(f"dims must be at most 32 integers of 0 or more with a product below 2**60, not {shape!r:.80}")
    return shape


def count(name: str, value: Any) -> int:
    """A number of bytes that an argument gives."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if number < 0 or isinstance(value, bool):
        raise InvalidArgumentError(f"{name} is {value!r}, expected a number of bytes")
    return number
