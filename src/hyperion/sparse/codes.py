"""Quantized values under another structure: codes move as they are, where the new layout has a scale for each."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._kernels import quantize as kernels
from .._kernels.threads import Team
from ..errors import UnsupportedError
from ..memory import process_budget
from ..quantization import QuantizationConfig, QuantizedTensor
from .arrays import LARGEST, new

__all__ = ["flat_group", "moved", "places_of"]

Array = NDArray[Any]
PIECE = 1 << 18  # values moved at a time
A_VALUE, A_GROUP = 48, 72  # bytes that NumPy needs on the way for a value of a piece, and for a scale (sorting them takes most)


def flat_group(q: QuantizedTensor) -> int:
    """How many values that follow each other share a scale.

    Raises
    ------
    UnsupportedError
        If those that share one do not follow each other, or the values are no integer codes.
    """
    if q.format not in ("int4", "int8"):
        raise UnsupportedError(f"sparse values are quantized to int4 or int8, not to {q.format}")
    if q.axis == 0 and q.ndim > 1:
        return max(1, int(np.prod(q.shape[1:], dtype=np.int64)))
    if q.axis is not None:
        raise UnsupportedError(f"scales along axis {q.axis} of sparse values: give group_size, axis=0 for blocks, or neither")
    if q.group_size is None:
        return max(1, q.size)
    group = min(q.group_size, q.shape[-1]) if q.ndim > 1 else q.group_size
    if q.ndim > 1 and q.shape[-1] % group:
        raise UnsupportedError(f"groups of {group} do not divide the rows of a block, which have {q.shape[-1]} values")
    return max(1, group)


def places_of(q: QuantizedTensor, drop_zeros: bool = False) -> Array:
    """Each value's place, counted from 1, as the bits of float32 in q's shape: conversions carry it as they carry values.

    With `drop_zeros` a value that is 0 has place 0, so that what leaves out zeros leaves it out.
    """
    if q.size > LARGEST:
        raise UnsupportedError(f"{q.size} quantized values: their places are counted with 32 bits")
    places = new(q.shape, np.int32)
    flat = places.reshape(-1)
    flat[...] = 1
    np.cumsum(flat, out=flat)
    if drop_zeros:
        values = q.dequantize(new(q.shape, np.float32)).reshape(-1)
        for first in range(0, flat.size, PIECE):
            flat[first : first + PIECE] *= values[first : first + PIECE] != 0
    return places.view(np.float32)


def moved(q: QuantizedTensor, places: Array, team: Team) -> QuantizedTensor:
    """The values of the given places (see `places_of`; 0 where there is none) as a tensor of the places' shape, codes unchanged.

    Raises
    ------
    UnsupportedError
        If values of different scales would have to share one, or no code means 0 where there is no value.
    """
    taken = places.reshape(-1).view(np.int32)
    groups = np.size(q.scales)  # type: ignore[arg-type]
    longest = min(taken.size, max(PIECE, taken.size // max(1, groups)))
    with process_budget().reserve("sparse codes on the move", A_VALUE * longest + A_GROUP * groups):
        return _moved(q, places.shape, taken, team)


def _moved(q: QuantizedTensor, shape: tuple[int, ...], taken: Array, team: Team) -> QuantizedTensor:
    scales, zeros = np.ravel(q.scales), None if q.zero_points is None else np.ravel(q.zero_points)  # type: ignore[arg-type]
    same, group = _same(scales, zeros), flat_group(q)
    for size, layout in _layouts(q, shape):
        chosen = _chosen(taken, same, group, size) if layout else np.zeros(1, np.int64)
        if chosen is not None:
            break
    else:
        raise UnsupportedError(
            f"values of different scales would share one as {shape}: quantize with one scale for all values "
            "(QuantizationConfig()) or for each block (axis=0), or use dequantized() and quantize anew"
        )
    config = QuantizationConfig(bits=4 if q.format == "int4" else 8, symmetric=zeros is None, **layout)
    new_codes = new(shape, np.int8)
    stored = new_codes if config.bits == 8 else new(((new_codes.size + 1) // 2,), np.uint8)
    result = QuantizedTensor(shape, config, stored, *_params(scales, zeros, chosen, shape, config))
    if taken.size:
        _take(q.unpacked(new(q.shape, np.int8)).reshape(-1), taken, result, size, new_codes.reshape(-1))
        if config.bits == 4:
            kernels.pack_nibbles(team, new_codes.reshape(-1), stored)
    return result


def _same(scales: Array, zeros: Array | None) -> Array:
    """For each group the first one that has the same scale and zero point."""
    both = scales[:, np.newaxis] if zeros is None else np.stack([scales, zeros], -1)
    _, first, back = np.unique(both, axis=0, return_index=True, return_inverse=True)
    return first[back.reshape(-1)]


def _layouts(q: QuantizedTensor, shape: tuple[int, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
    """How scales may lie in a tensor of the shape, those of q first: how many values share one, and the config's words for it."""
    blocks = len(shape) > 1
    if q.axis is None and q.group_size is None:
        yield max(1, math.prod(shape)), {}
        return
    if q.axis is not None and blocks:
        yield math.prod(shape[1:]), {"axis": 0}
    run = q.shape[-1] if q.group_size is None else flat_group(q)
    group = math.gcd(run, shape[-1]) if blocks else run
    if group > 1 or run == 1 or not math.prod(shape):  # a scale for each value is more than the value
        yield group, {"group_size": group}


def _chosen(taken: Array, same: Array, group: int, size: int) -> Array | None:
    """The old group whose scale each `size` values share, -1 where there are none; None if some have different ones."""
    chosen = new((-(-taken.size // size),), np.int64)
    step = max(1, PIECE // size)
    for first in range(0, chosen.size, step):
        piece = taken[first * size : (first + step) * size] - 1
        held = same[np.maximum(piece, 0) // group]
        starts = np.arange(0, piece.size, size)
        most = np.maximum.reduceat(np.where(piece < 0, -1, held), starts)
        least = np.minimum.reduceat(np.where(piece < 0, LARGEST, held), starts)
        if ((most >= 0) & (least != most)).any():
            return None
        chosen[first : first + step] = most
    return chosen


def _take(codes: Array, taken: Array, result: QuantizedTensor, size: int, out: Array) -> None:
    """Fill `out` with the codes of the taken places, and those that mean 0."""
    for first in range(0, taken.size, PIECE):
        piece = taken[first : first + PIECE] - 1
        part = codes[np.maximum(piece, 0)]
        absent = np.flatnonzero(piece < 0)
        if absent.size:
            part[absent] = _codes_of_zero(result, (first + absent) // size)
        out[first : first + PIECE] = part


def _params(
    scales: Array, zeros: Array | None, chosen: Array, shape: tuple[int, ...], config: QuantizationConfig
) -> tuple[Array, Array | None]:
    """The chosen scales and zero points in the config's shape; 0 for groups without values."""
    if config.group_size is not None:
        wanted = (*shape[:-1], -(-shape[-1] // config.group_size))
    else:
        wanted = () if config.axis is None else (shape[0],)
    return _param(scales, chosen, wanted), None if zeros is None else _param(zeros, chosen, wanted)


def _param(params: Array, chosen: Array, shape: tuple[int, ...]) -> Array:
    out = new(shape, np.float32)
    flat = out.reshape(-1)
    for first in range(0, flat.size, PIECE):
        piece = chosen[first : first + PIECE]
        flat[first : first + PIECE] = np.where(piece < 0, np.float32(0), params[piece])
    return out


def _codes_of_zero(q: QuantizedTensor, groups: Array) -> Array:
    """The code that means 0 in each of the groups."""
    if q.zero_points is None:
        return np.zeros(groups.size, np.int8)
    zeros, half = np.ravel(q.zero_points)[groups], 8 if q.format == "int4" else 128
    wrong = np.flatnonzero((zeros != np.rint(zeros)) | (zeros < -half) | (zeros >= half))
    if wrong.size:
        raise UnsupportedError(
            f"no code means 0 where blocks have no value: the zero point is {zeros[wrong[0]]:g}. Quantize symmetrically, "
            "or use dequantized() and quantize anew"
        )
    return zeros.astype(np.int8)
