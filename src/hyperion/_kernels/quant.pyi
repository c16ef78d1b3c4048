from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer, disjoint_base

class BlockType(NamedTuple):
    """A numeric type of weights: blocks of `block_len` weights in `block_bytes` bytes, numbered as in GGUF."""

    id: int
    name: str
    block_len: int
    block_bytes: int

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row of `cols` weights; InvalidArgumentError unless they are whole blocks."""

    def panel_bytes(self, cols: int) -> int:
        """Bytes of a packed panel of 16 rows."""

    def packed_bytes(self, rows: int, cols: int) -> int:
        """Bytes of a packed matrix: whole panels, the last one padded."""

    @property
    def can_be_sparse(self) -> bool:
        """Whether panels of this type may leave out blocks that are zero."""

PANEL: int
"""Rows in a panel."""

TYPES: dict[str, BlockType]
"""The supported types by name, in lower case."""

def block_type(type: str | int | BlockType) -> BlockType:
    """The type of a name (in any case) or of GGUF's number.

    Raises
    ------
    UnsupportedError
        If the type is not among :data:`TYPES`.
    """

@disjoint_base
class PackedMatrix:
    """A matrix [rows, cols] of packed panels in memory that something else owns.

    Parameters
    ----------
    type : str, int or BlockType
    rows, cols : int
        Both positive; cols in whole blocks.
    data : buffer
        Contiguous; kept alive, not copied.
    offset : int
        First byte of the panels in `data`.
    offsets : array of uint64, [panels + 1], optional
        Of block-sparse panels (see c/common/panel.h): where each panel and their end are, counted from any place.

    Raises
    ------
    InvalidArgumentError
        If a size is invalid, the buffer too small, or sparse panels are not sound.
    UnsupportedError
        If the type is unknown.
    """

    owner: object
    offset: int
    nbytes: int
    offsets: NDArray[np.uint64] | None

    def __init__(
        self,
        type: str | int | BlockType,
        rows: int,
        cols: int,
        data: Buffer,
        offset: int = 0,
        offsets: NDArray[np.uint64] | None = None,
    ) -> None: ...
    @property
    def sparse(self) -> bool:
        """Whether the panels leave out blocks."""

    def kept_blocks(self) -> NDArray[np.bool_]:
        """Which blocks of 16 rows and 32 columns sparse panels have: [panels, cols / 32]."""

    def expand(self, out: Buffer | None = None) -> PackedMatrix:
        """Sparse panels as dense ones; the blocks that are not there have scale 0."""

    @property
    def type(self) -> BlockType: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def panels(self) -> memoryview:
        """The panels' bytes, read-only."""

    def unpack(self, out: Buffer | None = None) -> Buffer:
        """The matrix as GGUF blocks again: uint8 [rows * row_bytes], the bytes that were packed.

        `out` must be writable, of that size, and apart from the panels.
        """

    def dequantize(self, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """All weights: float32 [rows, cols]."""

    def dequantize_row(self, row: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """One row's weights: float32 [cols]."""

    def dequantize_rows(
        self, indices: Sequence[int] | NDArray[np.integer], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Chosen rows in the order given, repeats allowed: float32 [len(indices), cols].

        Raises
        ------
        InvalidArgumentError
            If an index is negative or past the last row, or `out` is no C-contiguous float32 array of that shape.
        """

def pack(
    type: str | int | BlockType, raw: Buffer, rows: int, cols: int, out: Buffer | None = None
) -> PackedMatrix:
    """Pack GGUF blocks (row after row) into panels, in `out` if given (``packed_bytes`` long, apart from `raw`).

    Raises
    ------
    InvalidArgumentError
        If a size or a buffer does not fit.
    UnsupportedError
        If the type is unknown.
    """

def check_offsets(type: str | int | BlockType, rows: int, cols: int, offsets: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The offsets of sparse panels as a contiguous array; InvalidArgumentError where they cannot be that."""

def sparse_offsets(type: str | int | BlockType, counts: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Where sparse panels that have so many blocks stand, and where they end: uint64 [len(counts) + 1]."""

def sparsify(packed: PackedMatrix, keep: NDArray[np.generic], out: Buffer | None = None) -> PackedMatrix:
    """A copy without the blocks of 16 rows and 32 columns for which `keep` [panels, cols / 32] is zero.

    Raises
    ------
    InvalidArgumentError
        If the type cannot be sparse, or a shape or buffer does not fit.
    """

def dequantize(
    type: str | int | BlockType, raw: Buffer, rows: int, cols: int, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """The weights of GGUF blocks: float32 [rows, cols], bit for bit as GGUF defines them.

    Raises
    ------
    InvalidArgumentError
        If a size or a buffer does not fit.
    UnsupportedError
        If the type is unknown.
    """

def find_nonfinite(type: str | int | BlockType, raw: Buffer) -> int:
    """Index of the first GGUF block whose scale, minimum or (float types) value is NaN or infinite, or -1.

    Raises
    ------
    InvalidArgumentError
        If `raw` is no whole number of blocks.
    UnsupportedError
        If the type is unknown.
    """
