"""What a matrix and its transpose share: compressed rows, or rows of blocks, and what was derived from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import sparse as kernels
from .._kernels.threads import Team
from ..errors import InvalidArgumentError, MemoryBudgetError
from ..quantization import QuantizedTensor
from . import codes
from .arrays import freeze, new

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Blocks", "Rows", "Store"]

Array = NDArray[Any]
Values = Any  # a float32 array or a QuantizedTensor

# Tiles cost what they save in a product with about so many columns.
WORTH_TILES = 256
WORTH_TILES_ONCE = 1024
LEAST_A_TILE = 3  # values of a row in a tile
LEAST_COLUMNS = 32


class Store:
    """Arrays of a canonical structure: indices rise within a row and none comes twice.

    Owned arrays are read-only, so that what is derived from them (the transpose's rows, tiles) can be kept. Those of others may be
    written by them: they are looked at again before each product, and nothing is kept.
    """

    def __init__(
        self, shape: tuple[int, int], block: tuple[int, int], indptr: Array, indices: Array, values: Values, owned: bool
    ) -> None:
        self.shape, self.block, self.owned = shape, block, owned
        self.indptr, self.indices, self.values = indptr, indices, values
        self._turned: Store | None = None
        if owned:
            for array in self.arrays():
                freeze(array)

    @property
    def major(self) -> int:
        """Rows, or rows of blocks."""
        return -(-self.shape[0] // self.block[0])

    @property
    def minor(self) -> int:
        """Columns, or columns of blocks."""
        return -(-self.shape[1] // self.block[1])

    @property
    def quantized(self) -> QuantizedTensor | None:
        """The values where they are codes."""
        return self.values if isinstance(self.values, QuantizedTensor) else None

    def arrays(self) -> list[Array]:
        """All arrays that it consists of."""
        q = self.quantized
        values = [self.values] if q is None else [a for a in (q.codes, q.scales, q.zero_points) if a is not None]
        return [self.indptr, self.indices, *values]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for array in self.arrays())

    def raw(self) -> tuple[Any, ...]:
        """What the kernels take."""
        q = self.quantized
        if q is None:
            return self.shape, self.block, self.indptr, self.indices, self.values, None
        zeros = None if q.zero_points is None else q.zero_points.reshape(-1)
        stored = q.codes, 4 if q.format == "int4" else 8, codes.flat_group(q), q.scales.reshape(-1), zeros  # type: ignore[union-attr]
        return self.shape, self.block, self.indptr, self.indices, None, stored

    def guard(self) -> None:
        """Raise if others changed the structure so that it no longer is one."""
        if not self.owned and not kernels.is_safe(self.indptr, self.indices, self.major, self.minor):
            raise InvalidArgumentError("the arrays that this sparse matrix shares were changed: indices are out of range")

    def with_values(self, values: Values) -> Self:
        """The same structure with other values."""
        return type(self)(self.shape, self.block, self.indptr, self.indices, values, self.owned)

    def expanded(self) -> Self:
        """This with float32 values; itself if it has them."""
        q = self.quantized
        return self if q is None else self.with_values(q.dequantize(new(q.shape, np.float32)))

    def turned(self, team: Team) -> Store:
        """The transpose stored by its own rows; kept if this is owned.

        Raises
        ------
        UnsupportedError
            If codes of different scales would have to share one.
        """
        if self._turned is not None:
            return self._turned
        self.guard()
        q = self.quantized
        if q is None:
            turned = self._turn(team)
        else:
            turned = self.with_values(codes.places_of(q))._turn(team)
            turned = turned.with_values(codes.moved(q, turned.values, team))
        if self.owned:
            self._turned = turned
        return turned

    def _turn(self, team: Team) -> Store:
        """The transpose of values of four bytes."""
        raise NotImplementedError

    def tiles(self, columns: int, team: Team) -> tuple[Any, ...] | None:
        """What a product with so many columns is faster with, if there is such a thing."""
        return None


class Rows(Store):
    """Compressed rows."""

    _seen = 0
    _tiles: tuple[Any, ...] | None = None

    def _turn(self, team: Team) -> Rows:
        values = self.values
        indptr, indices, data = new((self.shape[1] + 1,), np.int32), new(self.indices.shape, np.int32), new(values.shape, np.float32)
        kernels.transpose(team, self.indptr, self.indices, values, self.shape[1], indptr, indices, data)
        return Rows(self.shape[::-1], (1, 1), indptr, indices, data, True)

    def tiles(self, columns: int, team: Team) -> tuple[Any, ...] | None:
        """The values in the order in which blocked products use them, once that pays; results have the same bits."""
        dense_enough = self.indices.size >= LEAST_A_TILE * self.shape[0] * -(-self.shape[1] // kernels.TILE) > 0
        if self.quantized is not None or not dense_enough or columns < LEAST_COLUMNS or self._tiles is not None:
            return self._tiles if columns >= LEAST_COLUMNS else None
        self._seen += columns
        if columns < WORTH_TILES_ONCE and not (self.owned and self._seen >= WORTH_TILES):
            return None
        try:
            tiles = self._cut(team)
        except MemoryBudgetError:
            return None
        if self.owned:
            self._tiles = tiles
        return tiles

    def _cut(self, team: Team) -> tuple[Any, ...]:
        owner = "tiles of a sparse matrix"
        raw = self.raw()
        cuts = kernels.tiles_cut(raw)
        kernels.tiles_fill(team, raw, cuts)
        for column in (1, 2):
            cuts[:, column] = np.concatenate(([0], np.cumsum(cuts[:-1, column])))
        cuts[:, 3] = self.indptr[cuts[:, 0]]
        tiles = new((int(cuts[-1, 1]), 2), np.uint32, owner)
        visits = new((int(cuts[-1, 2]), 2), np.uint16, owner)
        offsets, values = new(self.indices.shape, np.uint8, owner), new(self.indices.shape, np.float32, owner)
        kernels.tiles_fill(team, raw, cuts, tiles, visits, offsets, values)
        return self.shape, cuts, tiles, visits, offsets, values


class Blocks(Store):
    """Rows of blocks; values are [blocks, height, width], zero past the matrix's edge."""

    def _turn(self, team: Team) -> Blocks:
        values = self.values
        indptr, indices = new((self.minor + 1,), np.int32), new(self.indices.shape, np.int32)
        order, origin = np.arange(self.indices.size, dtype=np.int32), new(self.indices.shape, np.int32)
        kernels.transpose(team, self.indptr, self.indices, order, self.minor, indptr, indices, origin)
        data = new((values.shape[0], *self.block[::-1]), np.float32)
        kernels.blocks_transpose(team, values, origin, data)
        return Blocks(self.shape[::-1], self.block[::-1], indptr, indices, data, True)
