"""The sparse matrix that users hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cpu import shared_team as team_of
from ..errors import InvalidArgumentError, UnsupportedError
from ..quantization import QuantizationConfig, QuantizedTensor, quantize_tensor
from . import arrays, codes, structure
from .config import LARGEST_BLOCK, SparseFormat, block_size_of, format_of
from .stores import Rows, Store

if TYPE_CHECKING:
    from os import PathLike

__all__ = ["SparseMatrix"]

Array = NDArray[Any]


class SparseMatrix:
    """A sparse matrix of float32, or of values quantized to 8 or 4 bits; made by :func:`hyperion.convert_to_sparse` or of arrays.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns, each below 2**31.
    format : SparseFormat or str
        Layout of the arrays, which are those of SciPy: CSR, CSC or BSR.
    indptr : int array
        Where each row (column for CSC, row of blocks for BSR) begins in `indices`, and the end of the last one.
    indices : int array
        Columns (rows for CSC, columns of blocks for BSR).
    data : float32 array or QuantizedTensor
        A value for each index [n], or a block [n, height, width], zero past the matrix's edge. Arrays are not copied if they are
        contiguous float32 and int32 and the indices of each row rise; otherwise the matrix has sorted copies, in which
        values at one place are added up. Quantized values: see :meth:`quantized`.
    enable_simd : bool
        Whether products use vector instructions.

    Raises
    ------
    InvalidArgumentError
        If the arrays are no matrix of this shape: an index out of range, rows that fall, lengths that differ.
    UnsupportedError
        If an index or the number of values does not fit 32 bits.

    Notes
    -----
    Matrices do not change: their arrays are read-only views, and everything that returns a matrix returns a new one, which may share
    arrays. Arrays that were handed in stay writable for whoever owns them; changed values are seen, and a changed structure that
    would lead a product out of its arrays is an error at the next product.
    """

    __slots__ = ("_store", "_transposed", "enable_simd")

    def __init__(
        self, shape: tuple[int, int], format: SparseFormat | str, indptr: Any, indices: Any, data: Any, *, enable_simd: bool = True
    ) -> None:
        kind, (rows, cols) = format_of(format), _shape(shape)
        if not isinstance(data, QuantizedTensor):
            data = np.ascontiguousarray(arrays.dense("data", data, (3,) if kind is SparseFormat.BSR else (1,)))
        elif data.ndim != (3 if kind is SparseFormat.BSR else 1):
            raise InvalidArgumentError(f"data of {kind.name} must have {3 if kind is SparseFormat.BSR else 1} dimensions, not {data.ndim}")
        block = (int(data.shape[1]), int(data.shape[2])) if kind is SparseFormat.BSR else (1, 1)
        if not 1 <= min(block) <= max(block) <= LARGEST_BLOCK:
            raise InvalidArgumentError(f"blocks must have 1 to {LARGEST_BLOCK} rows and columns, not {block}")
        self._transposed = kind is SparseFormat.CSC
        self._store = structure.checked((cols, rows) if self._transposed else (rows, cols), block, indptr, indices, data)
        self.enable_simd = bool(enable_simd)

    @classmethod
    def _of(cls, store: Store, transposed: bool, enable_simd: bool) -> SparseMatrix:
        self = cls.__new__(cls)
        self._store, self._transposed, self.enable_simd = store, transposed, enable_simd
        return self

    # ---- What it is

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self._store.shape[::-1] if self._transposed else self._store.shape

    @property
    def format(self) -> SparseFormat:
        """The layout of the arrays."""
        if not isinstance(self._store, Rows):
            return SparseFormat.BSR
        return SparseFormat.CSC if self._transposed else SparseFormat.CSR

    @property
    def block_shape(self) -> tuple[int, int]:
        """Rows and columns of a block; (1, 1) unless BSR."""
        return self._store.block[::-1] if self._transposed else self._store.block

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32; int8 or uint8 (two to a byte) where values are quantized."""
        q = self._store.quantized
        return np.dtype(np.float32) if q is None else q.codes.dtype

    @property
    def nnz(self) -> int:
        """Number of stored values, those of blocks that are zero included."""
        return int(self._store.indices.size) * self._store.block[0] * self._store.block[1]

    @property
    def density(self) -> float:
        """Stored values as a share of all; 0 for an empty matrix."""
        return min(1.0, self.nnz / (self.shape[0] * self.shape[1])) if self.shape[0] and self.shape[1] else 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self._store.nbytes

    @property
    def indptr(self) -> NDArray[np.int32]:
        """Where rows (columns, rows of blocks) begin: a read-only view."""
        return _view(self._layout().indptr)

    @property
    def indices(self) -> NDArray[np.int32]:
        """Columns (rows, columns of blocks): a read-only view."""
        return _view(self._layout().indices)

    @property
    def data(self) -> NDArray[np.float32] | QuantizedTensor:
        """The values [n], or the blocks [n, height, width]: a read-only view, or the quantized tensor.

        Raises
        ------
        UnsupportedError
            For the transpose of quantized blocks whose scales do not turn with them: those of groups along rows.
        """
        values = self._layout().values
        return values if isinstance(values, QuantizedTensor) else _view(values)

    def _layout(self) -> Store:
        """The store whose arrays are those of the format: a transposed BSR has none until they are asked for."""
        turn = self._transposed and not isinstance(self._store, Rows)
        return self._store.turned(team_of(None)) if turn else self._store

    # ---- Other forms

    @property
    def T(self) -> SparseMatrix:
        """The transpose; shares the arrays (CSR becomes CSC and the reverse)."""
        return self._of(self._store, not self._transposed, self.enable_simd)

    def to_format(self, format: SparseFormat | str, block_size: int | None = None) -> SparseMatrix:
        """The matrix in another layout, or itself if it has that already.

        Parameters
        ----------
        format : SparseFormat or str
        block_size : int, optional
            Side of the blocks of BSR; by default what the matrix has, or 16. Blocks that hold no value are not stored; zeros
            inside blocks are no values of CSR and CSC.

        Raises
        ------
        UnsupportedError
            If there are too many values for 32 bits, or quantized ones of different scales would come to share one.

        Notes
        -----
        Quantized values keep their codes and are never quantized again. One scale for all goes with any layout; one for each
        block stays with blocks that are turned or cut into smaller ones; groups must come to lie on values that shared a
        scale before. Where blocks have places without a value, a code must stand for 0: always so if symmetric.
        """
        kind, team = format_of(format), team_of(None)
        if block_size is not None and kind is not SparseFormat.BSR:
            raise InvalidArgumentError(f"{kind.name} has no blocks, block_size was {block_size!r}")
        if kind is self.format and block_size is None:
            return self
        side = block_size_of(16 if block_size is None else block_size)
        if kind is self.format and self.block_shape == (side, side):
            return self
        store, by_columns, q = self._store, kind is SparseFormat.CSC, self._store.quantized
        if q is not None:  # conversions carry the places of the codes
            store = store.with_values(codes.places_of(q, drop_zeros=not isinstance(store, Rows)))
        if kind is SparseFormat.BSR:  # codes are turned here, as blocks of them may not turn later
            by_columns = self._transposed and not isinstance(store, Rows) and q is None
        rows = structure.to_rows(store, team)
        if by_columns != self._transposed:
            rows = rows.turned(team)  # type: ignore[assignment]
        store = structure.to_blocks(rows, (side, side), team) if kind is SparseFormat.BSR else rows
        if q is not None:
            store = store.with_values(codes.moved(q, store.values, team))
        return self._of(store, by_columns, self.enable_simd)

    def to_dense(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """All values as a float32 array of the matrix's shape, in `out` if given; quantized ones are expanded."""
        if out is None:
            out = arrays.new(self.shape, np.float32, "dense matrix")
        else:
            arrays.check_out(out, self.shape, self._store.arrays())
        structure.to_dense(self._store, out.T if self._transposed else out, team_of(None))
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a SparseMatrix becomes an array by expanding it: a copy cannot be avoided")
        return self.to_dense().astype(np.float32 if dtype is None else dtype, copy=False)

    def to_scipy(self) -> Any:
        """The matrix as SciPy's ``csr_array``, ``csc_array`` or ``bsr_array``, which shares the read-only arrays.

        Raises
        ------
        UnsupportedError
            If SciPy is not installed, values are quantized, or blocks reach past the matrix's edge (SciPy has no such).
        """
        from .interop import to_scipy

        return to_scipy(self)

    # ---- Quantized values

    def quantized(self, config: QuantizationConfig | None = None, *, threads: int | None = None) -> SparseMatrix:
        """The matrix with values of 8 or 4 bits, which products expand a piece at a time.

        Parameters
        ----------
        config : QuantizationConfig, optional
            By default 8 bits and one scale for each block (``axis=0``), or for 32 values that follow each other. Scales for all
            values, for each block, and for groups that divide the rows of a block will do.
        threads : int, optional

        Returns
        -------
        SparseMatrix
            With the same structure; its `data` is a :class:`hyperion.QuantizedTensor`.

        Raises
        ------
        InvalidArgumentError
            If a value is not finite.
        UnsupportedError
            If the values are quantized already, or values that share a scale would not follow each other.
        """
        store = self._store
        if store.quantized is not None:
            raise UnsupportedError("the values are quantized already: use dequantized() first, and lose what that loses")
        values = store.values
        if config is None:
            config = QuantizationConfig(group_size=32) if isinstance(store, Rows) else QuantizationConfig(axis=0)
        elif not isinstance(config, QuantizationConfig):
            raise InvalidArgumentError(f"config must be a QuantizationConfig, not {config!r}")
        q = quantize_tensor(values, config, threads=threads)
        result = type(store)(store.shape, store.block, store.indptr, store.indices, q, store.owned)
        result.raw()  # raises where scales do not suit
        return self._of(result, self._transposed, self.enable_simd)

    def dequantized(self) -> SparseMatrix:
        """The matrix with float32 values; itself if it has them already."""
        if self._store.quantized is None:
            return self
        return self._of(self._store.expanded(), self._transposed, self.enable_simd)

    # ---- Products

    def __matmul__(self, other: Any) -> Any:
        from .product import sparse_mat_mul

        return sparse_mat_mul(self, other)

    def __rmatmul__(self, other: ArrayLike) -> Any:
        from .product import sparse_mat_mul

        return sparse_mat_mul(other, self)

    __array_priority__ = 20.0  # NumPy leaves array @ matrix to __rmatmul__
    __array_ufunc__ = None

    # ---- Pictures

    def plot(self, path: str | PathLike[str] | None = None, cells: int = 256) -> Any:
        """Draw where the values are; see :func:`hyperion.plot_sparsity`."""
        from .plot import plot_sparsity

        return plot_sparsity(self, path, cells)

    def __repr__(self) -> str:
        values = "float32" if self._store.quantized is None else self._store.quantized.format
        block = f", blocks {self.block_shape[0]}x{self.block_shape[1]}" if self.format is SparseFormat.BSR else ""
        return f"SparseMatrix({self.shape}, {self.format.name}{block}, {self.nnz} values of {values}, density {self.density:.3g})"

    def __reduce__(self) -> tuple[Any, ...]:
        stored = self.T if self._transposed else self  # compressed rows or blocks, as they lie in memory
        arrays_ = (np.array(stored.indptr), np.array(stored.indices), stored._store.values)
        return _rebuild, (self._transposed, stored.shape, stored.format, *arrays_, self.enable_simd)


def _rebuild(transposed: bool, shape: tuple[int, int], format: SparseFormat, *rest: Any) -> SparseMatrix:
    matrix = SparseMatrix(shape, format, *rest[:-1], enable_simd=rest[-1])
    return matrix.T if transposed else matrix


def _view(array: Array) -> Array:
    return arrays.freeze(array.view())


def _shape(shape: Any) -> tuple[int, int]:
    try:
        rows, cols = (int(n) for n in shape)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"shape must be two integers, not {shape!r}") from None
    if rows < 0 or cols < 0:
        raise InvalidArgumentError(f"shape {shape} has a negative dimension")
    if max(rows, cols) > arrays.LARGEST:
        raise UnsupportedError(f"shape {shape}: sparse matrices are indexed with 32 bits")
    return rows, cols
