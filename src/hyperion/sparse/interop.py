"""SciPy's sparse matrices, which share memory with ours where the layouts agree. SciPy is imported only by whoever uses it."""

from __future__ import annotations

import sys
from typing import Any

from ..errors import InvalidArgumentError, UnsupportedError
from .config import SparseFormat
from .matrix import SparseMatrix

__all__ = ["from_scipy", "is_scipy", "to_scipy"]


def is_scipy(value: Any) -> bool:
    """Whether a value is one of SciPy's sparse matrices or arrays; false without importing SciPy where nobody has."""
    module = sys.modules.get("scipy.sparse")
    return module is not None and bool(module.issparse(value))


def from_scipy(matrix: Any, wanted: SparseFormat | None, enable_simd: bool) -> SparseMatrix:
    """A matrix of SciPy's; CSR, CSC and BSR keep their layout and, where that is canonical, their memory.

    Other layouts become the wanted one (CSR by default).
    """
    if matrix.ndim != 2:
        raise InvalidArgumentError(f"a sparse matrix must have two dimensions, not shape {matrix.shape}")
    if matrix.format not in ("csr", "csc", "bsr"):
        matrix = matrix.tocsc() if wanted is SparseFormat.CSC else matrix.tocsr()
    return SparseMatrix(
        matrix.shape, matrix.format, matrix.indptr, matrix.indices, matrix.data, enable_simd=enable_simd
    )


def to_scipy(matrix: SparseMatrix) -> Any:
    """See :meth:`hyperion.SparseMatrix.to_scipy`."""
    try:
        from scipy import sparse  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise UnsupportedError("SciPy is not installed") from error
    (rows, cols), (height, width) = matrix.shape, matrix.block_shape
    if rows % height or cols % width:
        raise UnsupportedError(f"SciPy has no blocks of {height}x{width} that reach past the edge of {matrix.shape}")
    if matrix._store.quantized is not None:
        raise UnsupportedError("SciPy has no quantized values: use dequantized()")
    kind = {SparseFormat.CSR: sparse.csr_array, SparseFormat.CSC: sparse.csc_array, SparseFormat.BSR: sparse.bsr_array}[matrix.format]
    result = kind((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape, copy=False)
    result.has_canonical_format = True
    return result
