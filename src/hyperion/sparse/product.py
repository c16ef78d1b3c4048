"""Products of sparse and dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._kernels import sparse as kernels
from .._kernels.threads import Team
from ..cpu import shared_team as team_of
from ..errors import InvalidArgumentError, UnsupportedError
from . import arrays, structure
from .config import SparseFormat
from .interop import from_scipy, is_scipy
from .matrix import SparseMatrix
from .stores import Rows, Store

__all__ = ["sparse_mat_mul"]

Array = NDArray[Any]

FEW_COLUMNS = 4  # below, the transpose of rows is multiplied by adding to where indices say


def sparse_mat_mul(
    a: SparseMatrix | ArrayLike | Any,
    b: SparseMatrix | ArrayLike | Any,
    out: NDArray[np.float32] | None = None,
    *,
    threads: int | None = None,
    simd: str | None = None,
) -> Any:
    """``a @ b``, where at least one is sparse.

    Parameters
    ----------
    a, b : SparseMatrix, SciPy sparse matrix, or array
        Arrays have one dimension or two, any strides, and real numbers, which become float32.
    out : float32 array, optional
        Where a dense result goes: of its shape, any strides, apart from the inputs.
    threads : int, optional
        By default as many as suit this process. They change no bit of the result.
    simd : str, optional
        The kernels' level; by default the best, or the portable ones if the matrix was made with ``enable_simd=False``.

    Returns
    -------
    float32 array, or SparseMatrix
        Sparse times sparse is sparse, in the format of a (BSR with its block size); its stored values may be zero.

    Raises
    ------
    InvalidArgumentError
        If inner dimensions differ, neither is sparse, or `out` does not fit or overlaps an input.
    UnsupportedError
        If 32 bits cannot index the values of a sparse result.
    MemoryBudgetError, HyperionMemoryError
        If the result or what is needed on the way does not fit.

    Notes
    -----
    A result is one chain of multiply-adds in the order of the indices. Values that are not stored are not multiplied: a
    NaN in the dense operand reaches those results whose row has a value there. From the second or third product on, an owned matrix keeps its
    values also in an order that makes products with many columns faster (about 5 bytes a value), and one that is multiplied
    from the side on which it is not compressed keeps its transpose, both as far as the process's ledger permits. Quantized
    values are expanded to float32 for a product with a sparse matrix, and for one with blocks that cannot be turned as they are.
    """
    a, b = _operand(a), _operand(b)
    left, right = isinstance(a, SparseMatrix), isinstance(b, SparseMatrix)
    team = team_of(threads)
    if left and right:
        if out is not None:
            raise InvalidArgumentError("the product of two sparse matrices is sparse: it has no out=")
        return _sparse_sparse(a, b, team)
    if left:
        x = arrays.dense("b", b)
        return _times_dense(a, x, out, team, simd)
    if right:
        x = arrays.dense("a", a)
        if x.shape[-1] != b.shape[0]:
            raise InvalidArgumentError(f"{x.shape} times {b.shape}: the inner dimensions differ")
        result = _times_dense(b.T, x.T, out if out is None else _turned_out(out), team, simd)
        return result.T if out is None else out
    raise InvalidArgumentError(f"one of a and b must be sparse, not {type(a).__name__} and {type(b).__name__}")


def _operand(value: Any) -> Any:
    return from_scipy(value, None, True) if is_scipy(value) else value


def _turned_out(out: Any) -> Any:
    return out.T if isinstance(out, np.ndarray) else out


def _times_dense(a: SparseMatrix, x: Array, out: Any, team: Team, simd: str | None) -> Array:
    if x.shape[0] != a.shape[1]:
        raise InvalidArgumentError(f"{a.shape} times {x.shape}: the inner dimensions differ")
    shape = (a.shape[0], *x.shape[1:])
    if out is None:
        out = arrays.new(shape, np.float32, "dense product")
    else:
        arrays.check_out(out, shape, [x, *a._store.arrays()])
    level = simd if simd is not None or a.enable_simd else "generic"
    columns, target = (x[:, np.newaxis], out[:, np.newaxis]) if x.ndim == 1 else (x, out)
    _multiply(a._store, a._transposed, columns, target, team, level)
    return out


def _multiply(store: Store, transposed: bool, x: Array, out: Array, team: Team, level: str | None) -> None:
    store.guard()
    with arrays.Scratch() as scratch:
        if not transposed:
            kernels.multiply(team, store.raw(), store.tiles(x.shape[1], team), x, out, scratch.take, level)
        elif isinstance(store, Rows) and (x.shape[1] < FEW_COLUMNS or store.quantized is not None):
            kernels.scatter(team, store.raw(), x, out, scratch.take, level)
        else:
            turned = _turned(store, team)
            kernels.multiply(team, turned.raw(), turned.tiles(x.shape[1], team), x, out, scratch.take, level)


def _turned(store: Store, team: Team) -> Store:
    """The transpose's rows; float32 for the time of this product where codes cannot be turned with their scales."""
    try:
        return store.turned(team)
    except UnsupportedError:
        if store.quantized is None:
            raise
        return store.expanded().turned(team)


# ---- Sparse times sparse -----------------------------------------------------------------------------------


def _rows_of(matrix: SparseMatrix) -> Rows:
    rows = matrix.dequantized().to_format(SparseFormat.CSR)._store
    assert isinstance(rows, Rows)
    rows.guard()
    return rows


def _sparse_sparse(a: SparseMatrix, b: SparseMatrix, team: Team) -> SparseMatrix:
    if a.shape[1] != b.shape[0]:
        raise InvalidArgumentError(f"{a.shape} times {b.shape}: the inner dimensions differ")
    if a.format is SparseFormat.CSC:  # columns of the product from columns: (b.T a.T).T
        return _sparse_sparse(b.T.dequantized().to_format(SparseFormat.CSR), a.T, team).T
    left, right = _rows_of(a), _rows_of(b)
    counts = np.zeros(left.shape[0], np.int32)
    with arrays.Scratch() as scratch:
        kernels.sparse_sparse(team, left.raw(), right.raw(), scratch.take, counts)
        indptr = arrays.starts_of(counts)
        n = int(indptr[-1])
        indices, values = arrays.new((n,), np.int32), arrays.new((n,), np.float32)
        kernels.sparse_sparse(team, left.raw(), right.raw(), scratch.take, counts, indptr, indices, values)
    rows = Rows((left.shape[0], right.shape[1]), (1, 1), indptr, indices, values, True)
    if a.format is SparseFormat.BSR:
        blocks = structure.to_blocks(rows, a.block_shape, team)
        return SparseMatrix._of(blocks, False, a.enable_simd)
    return SparseMatrix._of(rows, False, a.enable_simd)
