"""GGUF's block formats by name."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperion._kernels import quantize as kernels
from hyperion._kernels.quant import BlockType
from hyperion._kernels.threads import Team
from hyperion.errors import InvalidArgumentError

from . import arrays

__all__ = ["data_shape", "dequantize", "minima", "quantize", "scales"]

Array = NDArray[Any]
_SCALE = {"q2_k": 80, "q3_k": 108, "q6_k": 208}  # byte of the f16 scale where it is not the first
_MINIMUM = {"q4_1": 2, "q5_1": 2, "q4_k": 2, "q5_k": 2, "q2_k": 82}


def data_shape(kind: BlockType, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a tensor's blocks as uint8: rows keep their dimensions."""
    if not shape:
        raise InvalidArgumentError(f"{kind.name} has blocks along the last axis: a tensor without dimensions has none")
    if shape[-1] % kind.block_len:
        raise InvalidArgumentError(f"{kind.name} needs a last axis in multiples of {kind.block_len}, not {shape[-1]}")
    return (*shape[:-1], shape[-1] // kind.block_len * kind.block_bytes)


def scales(kind: BlockType, data: Array) -> Array | None:
    """The f16 scales of the blocks (of the superblocks in K types): a view [..., blocks], None for float types."""
    return None if kind.block_len == 1 else _halves(kind, data, _SCALE.get(kind.name, 0))


def minima(kind: BlockType, data: Array) -> Array | None:
    """The f16 minima of the blocks, or the scale of the minima in K types: a view [..., blocks]; None where there are none."""
    return _halves(kind, data, _MINIMUM[kind.name]) if kind.name in _MINIMUM else None


def _halves(kind: BlockType, data: Array, at: int) -> Array:
    cut = data.reshape(*data.shape[:-1], data.shape[-1] // kind.block_bytes, kind.block_bytes)
    return cut[..., at : at + 2].view("<f2")[..., 0]


def quantize(values: Array, kind: BlockType, data: Array, team: Team, level: str | None) -> None:
    """Fill the blocks."""
    if values.size == 0:
        return
    with arrays.scratch(_copied(values)):
        cut = _rows(values)
        outcome = kernels.blocks_quantize(team, kind, cut, data, level=level)
        if outcome == "nonfinite":
            arrays.refuse(values, cut)
    if outcome is not None:
        _refuse_large(values, kind)


def _refuse_large(values: Array, kind: BlockType) -> None:
    floats = (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values
    ends = [np.unravel_index(place, values.shape) for place in (floats.argmax(), floats.argmin())]
    index = tuple(int(i) for i in max(ends, key=lambda i: abs(floats[i])))
    stored = "bfloat16" if kind.name == "bf16" else "float16" if kind.name == "f16" else "float16 scales"
    raise InvalidArgumentError(
        f"w{list(index)} is {float(floats[index]):g}: too large for {kind.name}, which has {stored}", index=index
    )


def dequantize(kind: BlockType, data: Array, out: Array, team: Team, level: str | None) -> None:
    """Fill `out`, of any strides and one of the kernels' dtypes, with the values."""
    if out.size == 0:
        return
    with arrays.scratch(_copied(out)):
        target = arrays.new(out.shape, out.dtype) if _copied(out) else out
        kernels.blocks_dequantize(team, kind, data, _rows(target), level=level)
        if target is not out:
            out[...] = target


def _copied(array: Array) -> int:
    """Bytes that :func:`_rows` copies, 0 where it makes a view."""
    return 0 if array.flags.c_contiguous or arrays.merges(array, 0, array.ndim - 1) else array.nbytes


def _rows(array: Array) -> Array:
    """The array as [1, rows, columns], a view where strides allow it."""
    return array.reshape(1, math.prod(array.shape[:-1]), array.shape[-1])
