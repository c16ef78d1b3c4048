from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperion._kernels.threads import Team

_F32: TypeAlias = NDArray[np.float32]
_I32: TypeAlias = NDArray[np.int32]
_Matrix: TypeAlias = tuple[Any, ...]
"""(shape, block, indptr, indices, values, codes); codes is None or (codes, bits, group, scales, zeros), and values then None."""
_Allocate: TypeAlias = Callable[[int], Any]

TILE: int
"""Columns of a sparse matrix in one tile."""
FOUND: dict[int, str]

def check(indptr: _I32, indices: _I32, major: int, minor: int) -> tuple[str, int]:
    """What is wrong with a structure and where: "canonical", "unsorted", "duplicate", "start", "falls", "end" or "range"."""

def is_safe(indptr: _I32, indices: _I32, major: int, minor: int) -> bool:
    """Whether products with a structure stay inside its arrays."""

def dense_count(team: Team, x: _F32, counts: _I32) -> None:
    """Numbers of values in each row of x that are not zero."""

def dense_fill(team: Team, x: _F32, indptr: _I32, indices: _I32, values: _F32) -> None:
    """The values of x that are not zero, from indptr[row] on."""

def to_dense(team: Team, matrix: _Matrix, out: _F32) -> None:
    """The stored values to a zeroed array of any strides."""

def transpose(
    team: Team, indptr: _I32, indices: _I32, values: NDArray[Any], minor: int, new_indptr: _I32, new_indices: _I32, new_values: NDArray[Any]
) -> None:
    """Compressed rows of the transpose; values have four bytes."""

def blocks_transpose(team: Team, values: _F32, origin: _I32, out: _F32) -> None:
    """Each block transposed; block i of `out` is block origin[i]."""

def to_blocks(
    team: Team,
    matrix: _Matrix,
    height: int,
    width: int,
    cursors: _I32,
    indptr: _I32 | None = None,
    indices: _I32 | None = None,
    values: _F32 | None = None,
) -> None:
    """Without indptr: block row i's number of blocks to cursors[i * height]. With it: the blocks, to zeroed values."""

def from_blocks(
    team: Team, matrix: _Matrix, counts: _I32, indptr: _I32 | None = None, indices: _I32 | None = None, values: _F32 | None = None
) -> None:
    """Without indptr: each row's number of values that are not zero. With it: these values."""

def tiles_cut(matrix: _Matrix) -> NDArray[np.int64]:
    """Parts of the rows: [parts + 1, 4], the first row of each in column 0."""

def tiles_fill(
    team: Team,
    matrix: _Matrix,
    cuts: NDArray[np.int64],
    tiles: NDArray[np.uint32] | None = None,
    visits: NDArray[np.uint16] | None = None,
    offsets: NDArray[np.uint8] | None = None,
    values: _F32 | None = None,
) -> None:
    """Without tiles: each part's tiles and visits to columns 1 and 2. With them: everything, from where cuts say."""

def multiply(
    team: Team, matrix: _Matrix, tiles: tuple[Any, ...] | None, b: _F32, out: _F32, allocate: _Allocate, level: str | None = None
) -> None:
    """out = matrix @ b; arrays [rows, columns] of any strides. `tiles` replace the matrix if given."""

def scatter(team: Team, matrix: _Matrix, x: _F32, out: _F32, allocate: _Allocate, level: str | None = None) -> None:
    """out = matrix.T @ x for compressed rows, column by column."""

def sparse_sparse(
    team: Team,
    a: _Matrix,
    b: _Matrix,
    allocate: _Allocate,
    counts: _I32,
    indptr: _I32 | None = None,
    indices: _I32 | None = None,
    values: _F32 | None = None,
) -> None:
    """Compressed rows of a @ b: without indptr their numbers of values, with it the values."""
