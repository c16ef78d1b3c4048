"""From one layout to another, and from what users hand in to the canonical structure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import sparse as kernels
from .._kernels.threads import Team
from ..cpu import shared_team
from ..errors import InvalidArgumentError, UnsupportedError
from . import codes
from .arrays import integers, new, starts_of
from .stores import Blocks, Rows, Store

__all__ = ["checked", "from_dense", "to_blocks", "to_dense", "to_rows"]

Array = NDArray[Any]


def from_dense(x: Array, team: Team) -> Rows:
    """The values of x [rows, columns] that are not zero, by rows."""
    counts = np.zeros(x.shape[0], np.int32)
    kernels.dense_count(team, x, counts)
    indptr = starts_of(counts)
    indices, values = new((int(indptr[-1]),), np.int32), new((int(indptr[-1]),), np.float32)
    kernels.dense_fill(team, x, indptr, indices, values)
    return Rows(x.shape, (1, 1), indptr, indices, values, True)


def to_dense(store: Store, out: Array, team: Team) -> None:
    """Write all of a matrix to an array."""
    store.guard()
    out[...] = 0
    kernels.to_dense(team, store.expanded().raw(), out)


def to_rows(store: Store, team: Team) -> Rows:
    """Compressed rows of the stored values that are not zero in blocks, or the rows themselves."""
    if isinstance(store, Rows):
        return store
    store.guard()
    raw, counts = store.raw(), np.zeros(store.shape[0], np.int32)
    kernels.from_blocks(team, raw, counts)
    indptr = starts_of(counts)
    indices, values = new((int(indptr[-1]),), np.int32), new((int(indptr[-1]),), np.float32)
    kernels.from_blocks(team, raw, counts, indptr, indices, values)
    return Rows(store.shape, (1, 1), indptr, indices, values, True)


def to_blocks(rows: Rows, block: tuple[int, int], team: Team) -> Blocks:
    """Rows of those blocks in which a value is stored."""
    height, width = block
    rows.guard()
    raw, cursors = rows.raw(), np.zeros(rows.shape[0], np.int32)
    kernels.to_blocks(team, raw, height, width, cursors)
    indptr = starts_of(cursors[::height], "blocks")
    n = int(indptr[-1])
    indices, values = new((n,), np.int32), new((n, height, width), np.float32)
    kernels.to_blocks(team, raw, height, width, cursors, indptr, indices, values)
    return Blocks(rows.shape, block, indptr, indices, values, True)


# ---- What users hand in --------------------------------------------------------------------------------------

_WRONG = {
    "start": "indptr[0] is {value}, expected 0",
    "falls": "indptr[{where}] is {value}, less than the entry before it",
    "end": "indptr[{where}] is {value}; there are {n} indices",
    "range": "indices[{where}] is {value}, expected 0 to {last}",
}


def checked(shape: tuple[int, int], block: tuple[int, int], indptr: Any, indices: Any, values: Any) -> Store:
    """A store of the given arrays: they themselves if they are canonical, or sorted copies with duplicates added up.

    Raises
    ------
    InvalidArgumentError
        If they are no structure of this shape; the message names the entry.
    UnsupportedError
        If indices do not fit 32 bits, or quantized values would have to be added up, or sorted so that scales are mixed.
    """
    starts, places = integers("indptr", indptr), integers("indices", indices)
    kind = Rows if block == (1, 1) and values.ndim == 1 else Blocks
    probe = kind(shape, block, starts, places, values, False)
    if starts.size != probe.major + 1:
        raise InvalidArgumentError(f"indptr must have {probe.major + 1} entries for shape {shape}, not {starts.size}")
    wanted = (places.size,) if kind is Rows else (places.size, *block)
    if values.shape != wanted:
        raise InvalidArgumentError(f"data must have shape {wanted} for {places.size} indices, not {values.shape}")
    found, where = kernels.check(starts, places, probe.major, probe.minor)
    if found in _WRONG:
        value = int((places if found == "range" else starts)[where])
        raise InvalidArgumentError(_WRONG[found].format(value=value, where=where, n=places.size, last=probe.minor - 1))
    if found == "canonical":
        probe.raw()  # raises where codes do not suit
        return probe
    return kind(shape, block, *_sorted(probe), True)


def _sorted(store: Store) -> tuple[Array, Array, Any]:
    """The structure with rising indices; what has the same place is added in the order in which it was stored."""
    q = store.quantized
    values = store.values if q is None else codes.places_of(q)
    rows = np.repeat(np.arange(store.major, dtype=np.int32), np.diff(store.indptr))
    order = np.lexsort((store.indices, rows))
    rows, places = rows[order], store.indices[order]
    first = np.ones(rows.size, bool)
    first[1:] = (rows[1:] != rows[:-1]) | (places[1:] != places[:-1])
    at = np.flatnonzero(first)
    if q is not None and at.size < rows.size:
        raise UnsupportedError(f"{rows.size - at.size} quantized values lie where another one does: codes cannot be added up")
    indptr = starts_of(np.bincount(rows[at], minlength=store.major))
    indices, data = new(at.shape, np.int32), new((at.size, *values.shape[1:]), np.float32)
    np.copyto(indices, places[at])
    if q is not None:
        np.copyto(data, values[order])
        return indptr, indices, codes.moved(q, data, shared_team(None))
    np.add.reduceat(values[order], at, axis=0, out=data)
    return indptr, indices, data
