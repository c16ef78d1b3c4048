"""From dense arrays and SciPy's matrices."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from ..cpu import shared_team as team_of
from ..errors import InvalidArgumentError
from . import arrays, structure
from .config import SparseConfig, SparseFormat, format_of
from .interop import from_scipy, is_scipy
from .matrix import SparseMatrix

__all__ = ["convert_to_sparse"]


def convert_to_sparse(x: ArrayLike | SparseMatrix | Any, config: SparseConfig | None = None, *, threads: int | None = None) -> SparseMatrix:
    """Store a matrix sparsely.

    Parameters
    ----------
    x : array [rows, columns], SciPy sparse matrix or SparseMatrix
        Real numbers, which become float32; any strides. Of an array all values that are not zero are stored (a NaN is not zero).
        SciPy's arrays of float32 and int32 are shared, not copied, if the layout is that of the config and canonical.
    config : SparseConfig, optional
        By default CSR for an array, and the layout that a sparse matrix has.
    threads : int, optional
        By default as many as suit this process. They change nothing in the result.

    Returns
    -------
    SparseMatrix

    Raises
    ------
    InvalidArgumentError
        If x has not two dimensions, is not real or beyond float32, or a sparse matrix's indices are out of range.
    UnsupportedError
        If 32 bits cannot index it.
    MemoryBudgetError, HyperionMemoryError
        If the process's ledger or the system cannot hold the result.
    """
    if config is not None and not isinstance(config, SparseConfig):
        raise InvalidArgumentError(f"config must be a SparseConfig, not {config!r}")
    simd = config is None or config.enable_simd
    kind = None if config is None else format_of(config.format)
    if is_scipy(x):
        matrix = from_scipy(x, kind, simd)
    elif isinstance(x, SparseMatrix):
        matrix = SparseMatrix._of(x._store, x._transposed, x.enable_simd if config is None else simd)
    else:
        array, team = arrays.dense("x", x, (2,)), team_of(threads)
        if max(array.shape) > arrays.LARGEST:
            raise InvalidArgumentError(f"shape {array.shape}: sparse matrices are indexed with 32 bits")
        by_columns = array.flags.f_contiguous and not array.flags.c_contiguous  # read it in the order of its memory
        matrix = SparseMatrix._of(structure.from_dense(array.T if by_columns else array, team), by_columns, simd)
        kind = kind or SparseFormat.CSR
    if kind is None:
        return matrix
    assert config is not None or kind is SparseFormat.CSR
    return matrix.to_format(kind, config.block_size if config is not None and kind is SparseFormat.BSR else None)
