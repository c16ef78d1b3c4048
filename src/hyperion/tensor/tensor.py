"""Tensors: elements, and arithmetic on them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperion.errors import HyperionRuntimeError

from . import ops
from .elements import Elements
from .ops import TensorOp

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Tensor"]


class Tensor(Elements):
    """Elements of one type in C order, zero at first. A context manager; closing gives the memory back.

    STATIC and POOLED tensors are buffers (``memoryview(t)``, ``numpy.asarray(t)``) and export DLPack, all without a copy. A
    STREAMING tensor is larger than what of it is in memory: it is read and written in parts.

    Parameters
    ----------
    dims : int or sequence of int
        Shape.
    dtype : DataType, str or NumPy dtype
    config : TensorMemoryConfig, optional
        Copied.
    budget : MemoryBudget, optional
        Ledger in which the memory counts; the process's by default.

    Raises
    ------
    InvalidArgumentError
        If the shape or the type is not one that a tensor can have.
    MemoryBudgetError
        If the ledger or the pool cannot hold it.
    HyperionIOError
        STREAMING: if the file cannot be made.
    """

    def fill(self, value: float) -> None:
        """Set all elements to one value."""
        number = ops.number("fill", value, self.dtype)
        with self._lock:
            for _, block in self.blocks(write=True, read=False):
                block[...] = number

    def in_place(self, op: TensorOp | str, params: Any = None) -> Self:
        """Change all elements; see :class:`TensorOp` for the operations and their params.

        Raises
        ------
        HyperionRuntimeError
            If `enable_in_place` is False.
        InvalidArgumentError
            If the params do not fit, the operation is not for this dtype, or the tensor cannot be written.
        HyperionIOError
            STREAMING: if the file fails; the elements before are then changed already.
        """
        self._check_open()
        if not self._config.enable_in_place:
            raise HyperionRuntimeError("in-place operations are off for this tensor (enable_in_place=False): use apply()")
        self._check_writable()
        with self._locked(params):
            ops.run(self, TensorOp.of(op), params)
            self._done += 1
        return self

    def apply(self, op: TensorOp | str, params: Any = None) -> Tensor:
        """The result of an operation as a new tensor with the same settings."""
        result = self.copy()
        try:
            with result._locked(params):
                ops.run(result, TensorOp.of(op), params)
        except BaseException:
            result.close()
            raise
        return result

    def copy(self) -> Tensor:
        """A tensor of its own with the same elements and settings."""
        self._check_open()
        result = Tensor(self._shape, self._dtype, self._config, budget=self._budget)
        with self._lock:
            for start, block in self.blocks():
                result.stream(block, start * self._dtype.numpy.itemsize)
        return result

    def sum(self) -> float | int:
        """Sum of all elements: exact for integers; for floats in float64, the same bits for every strategy."""
        with self._lock:
            return ops.total(self)

    def mean(self) -> float:
        """Mean of all elements; NaN if there are none."""
        return self.sum() / self.size if self.size else math.nan

    def min(self) -> float | int:
        """The least element; NaN if one is."""
        with self._lock:
            return ops.extreme(self, np.min)

    def max(self) -> float | int:
        """The greatest element; NaN if one is."""
        with self._lock:
            return ops.extreme(self, np.max)

    def matmul(self, other: Any, out: Any = None) -> Any:
        """The product of this matrix and one in memory, row by row: this one may be larger than memory.

        Parameters
        ----------
        other : array_like or Tensor
            [K, N] or [K], of a float type, in memory.
        out : ndarray or Tensor, optional
            Takes the result, [M, N] or [M], of this tensor's dtype; a STREAMING one may be larger than memory too.

        Returns
        -------
        ndarray or Tensor
            `out`, or a new array: the same bits for every strategy, unless it is float64.
        """
        self._check_open()
        with self._locked(out):
            return ops.matmul(self, other, out)

    __matmul__ = matmul
