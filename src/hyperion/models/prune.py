"""Pruning by magnitude: which blocks of a matrix go, chosen in bounded memory, and how what is left is stored."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from hyperion.errors import InvalidArgumentError

__all__ = ["PruneConfig", "PruneMethod", "PrunedTensor", "Selection", "block_norms", "init_prune_config", "occupied_tiles", "spread"]

PANEL, TILE = 16, 32
MOST_BLOCK_SIZE = 256
BITS = 16
"""A norm is found by its upper bits, then by its lower ones, so that no more than a table of 2^16 counts is held."""


class PruneMethod(enum.IntEnum):
    """By what weights are chosen: MAGNITUDE takes the blocks of least L2 norm in each matrix."""

    MAGNITUDE = 0


def _sparsity(value: Any) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise InvalidArgumentError(f"PruneConfig.sparsity is {value!r}, expected a number from 0 to less than 1")
    return float(value)


def _block_size(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_BLOCK_SIZE or value & (value - 1):
        raise InvalidArgumentError(f"PruneConfig.block_size is {value!r}, expected a power of two from 1 to {MOST_BLOCK_SIZE}")
    return value


def _method(value: Any) -> PruneMethod:
    if not isinstance(value, PruneMethod):
        raise InvalidArgumentError(f"PruneConfig.method is {value!r:.40}, expected a PruneMethod")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {"method": _method, "sparsity": _sparsity, "block_size": _block_size}


@dataclasses.dataclass(kw_only=True)
class PruneConfig:
    """How a model's weights are thinned out; fields are checked when they are set.

    Parameters
    ----------
    method : PruneMethod
        By what blocks are chosen.
    sparsity : float
        Share of the blocks of each matrix that become zero, from 0 to less than 1; at least one block stays.
    block_size : int
        Blocks have so many rows and as many columns: a power of two from 1 (single weights) to 256. Those at the end of a
        matrix are smaller. From 32 on the kernels skip what is pruned and the file leaves it out; smaller blocks seldom
        empty a whole tile of 16 rows and 32 columns, so that only the quality shows them.

    Raises
    ------
    InvalidArgumentError
        For a value out of range, or an unknown field.
    """

    method: PruneMethod = PruneMethod.MAGNITUDE
    sparsity: float = 0.5
    block_size: int = 32

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _CHECKS:
            raise InvalidArgumentError(f"PruneConfig has no field {name!r}; it has {', '.join(_CHECKS)}")
        object.__setattr__(self, name, _CHECKS[name](value))

    def copy(self) -> PruneConfig:
        """A copy that later changes do not reach."""
        return dataclasses.replace(self)


def init_prune_config() -> PruneConfig:
    """The default: half of the blocks of 32 x 32 weights, by magnitude."""
    return PruneConfig()


@dataclasses.dataclass(frozen=True)
class PrunedTensor:
    """What became of one matrix.

    Attributes
    ----------
    name, type : str
    storage : {"dense", "sparse"}
        Dense panels, or panels without the tiles of 16 rows and 32 columns that are zero: whichever takes fewer bytes and
        so runs faster.
    sparsity : float
        Share of the weights that were set to zero.
    empty_tiles : float
        Share of the tiles that are zero throughout.
    nbytes, dense_bytes, sparse_bytes : int
        As it is stored, and as it would be in each way; sparse_bytes is 0 for a type that has no sparse panels.
    """

    name: str
    type: str
    storage: str
    sparsity: float
    empty_tiles: float
    nbytes: int
    dense_bytes: int
    sparse_bytes: int


def block_norms(values: np.ndarray, size: int) -> np.ndarray:
    """L2 norm of each block of size x size weights: float32 [ceil(rows / size), ceil(cols / size)]."""
    if size == 1:
        return np.abs(values)
    squares = values.astype(np.float64)
    np.multiply(squares, squares, out=squares)
    rows, cols = values.shape
    sums = np.add.reduceat(squares, np.arange(0, cols, size), axis=1)
    return np.sqrt(np.add.reduceat(sums, np.arange(0, rows, size), axis=0)).astype(np.float32)


def spread(kept: np.ndarray, size: int, rows: int, cols: int) -> np.ndarray:
    """From a bool for each block to one for each weight, [rows, cols]."""
    if size == 1:
        return kept
    return np.repeat(np.repeat(kept, size, axis=0)[:rows], size, axis=1)[:, :cols]


def occupied_tiles(weights: np.ndarray) -> np.ndarray:
    """Which tiles of 16 rows and 32 columns have a weight that stays: bool [panels, cols / 32]."""
    rows, cols = weights.shape
    tiles = np.logical_or.reduceat(weights, np.arange(0, rows, PANEL), axis=0)
    return np.logical_or.reduce(tiles.reshape(len(tiles), cols // TILE, TILE), axis=2)


class Selection:
    """The blocks of least norm, without holding the norms.

    The norms pass by twice, in the same order: their bits order as integers, so a count of the upper and then of the lower
    ones finds the norm at which the wanted number is reached. Of blocks with that very norm the first ones go.

    Parameters
    ----------
    norms : callable
        Returns an iterator over arrays of norms (float32, not negative).
    prune : int
        How many blocks go.
    """

    def __init__(self, norms: Callable[[], Iterator[np.ndarray]], prune: int) -> None:
        upper, before = self._bin((_bits(n) >> BITS for n in norms()), prune)
        at_upper = (bits[bits >> BITS == upper] & ((1 << BITS) - 1) for bits in map(_bits, norms()))
        lower, less = self._bin(at_upper, prune - before)
        self.threshold = upper << BITS | lower
        self.ties = prune - before - less

    @staticmethod
    def _bin(numbers: Iterator[np.ndarray], prune: int) -> tuple[int, int]:
        """(the bin in which the wanted number is reached, how many are in those before it)."""
        counts = np.zeros(1 << BITS, np.int64)
        for n in numbers:
            counts += np.bincount(n, minlength=1 << BITS)
        sums = np.cumsum(counts)
        found = min(int(np.searchsorted(sums, prune)), len(counts) - 1)
        return found, int(sums[found] - counts[found])

    def pass_over(self) -> Callable[[np.ndarray], np.ndarray]:
        """A function from arrays of norms, in their order, to a bool for each that says whether the block stays."""
        ties = self.ties

        def keep(norms: np.ndarray) -> np.ndarray:
            nonlocal ties
            bits = _bits(norms)
            kept = bits >= self.threshold
            if ties:
                equal = np.flatnonzero(bits == self.threshold)[:ties]
                kept[equal] = False
                ties -= len(equal)
            return kept.reshape(norms.shape)

        return keep


def _bits(norms: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(norms, np.float32).reshape(-1).view(np.uint32)
