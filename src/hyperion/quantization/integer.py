"""Codes of 4 and 8 bits with one scale a tensor, an index of an axis, or a group."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hyperion._kernels import quantize as kernels
from hyperion._kernels.threads import Team
from hyperion.errors import InvalidArgumentError

from . import arrays
from .config import QuantizationConfig

__all__ = ["Layout", "dequantize", "quantize", "unpack"]

Array = NDArray[Any]


class Layout(NamedTuple):
    """Where the params of a tensor apply."""

    shape: tuple[int, ...]
    bits: int
    group_size: int | None
    axis: int | None

    @classmethod
    def of(cls, shape: tuple[int, ...], config: QuantizationConfig) -> Layout:
        """The layout of a shape under a config; raises where an axis is missing."""
        axis = config.axis
        if axis is not None:
            if not -len(shape) <= axis < len(shape):
                raise InvalidArgumentError(f"axis {axis} is not in a tensor of {len(shape)} dimensions")
            axis %= len(shape)
        if config.group_size is not None and not shape:
            raise InvalidArgumentError("a tensor without dimensions has no groups")
        return cls(shape, config.bits, config.group_size, axis)

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def params_shape(self) -> tuple[int, ...]:
        """Shape of the scales and zero points."""
        if self.group_size is not None:
            return (*self.shape[:-1], -(-self.shape[-1] // self.group_size))
        return () if self.axis is None else (self.shape[self.axis],)

    @property
    def codes_shape(self) -> tuple[int, ...]:
        """Shape of the stored codes: of the tensor, or of the packed nibbles of all its codes in C order."""
        return self.shape if self.bits == 8 else ((self.size + 1) // 2,)

    def cut(self, array: Array) -> tuple[Array, int]:
        """An array of this shape as [n0, n1, n2], a view where strides allow it, and the group along n2."""
        if self.axis is not None:
            before, count, after = self.shape[: self.axis], self.shape[self.axis], self.shape[self.axis + 1 :]
            cut = array.reshape(math.prod(before), count, math.prod(after))
            return cut, cut.shape[2]
        if self.group_size is not None:
            return array.reshape(1, -1, self.shape[-1]), min(self.group_size, self.shape[-1])
        cut = array.reshape(1, 1, -1) if array.flags.c_contiguous or not array.ndim else array.reshape(-1, 1, self.shape[-1])
        return cut, cut.shape[2]

    def copied(self, array: Array) -> int:
        """Bytes that :meth:`cut` copies, 0 where it makes a view."""
        n = array.ndim
        if self.axis is not None:
            view = arrays.merges(array, 0, self.axis) and arrays.merges(array, self.axis + 1, n)
        else:
            view = array.flags.c_contiguous or arrays.merges(array, 0, n - 1)
        return 0 if view else array.nbytes

    def packs_directly(self, cut: Array, group: int) -> bool:
        """Whether every row and group begins a byte of packed nibbles."""
        length = cut.shape[1] if cut.shape[2] == 1 else cut.shape[2]
        return (self.size == length or length % 2 == 0) and (group >= cut.shape[2] or group % 2 == 0)


def quantize(
    values: Array,
    config: QuantizationConfig,
    layout: Layout,
    codes: Array,
    scales: Array,
    zeros: Array | None,
    team: Team,
    level: str | None,
) -> None:
    """Fill codes (int8, or packed nibbles), scales and zero points (None where symmetric)."""
    for name, given, params in (("scale", config.scale, scales), ("zero_point", config.zero_point, zeros)):
        if given is not None and params is not None:
            try:
                params[...] = given
            except ValueError:
                shape = np.shape(given)
                raise InvalidArgumentError(f"{name} of shape {shape} does not fit params of shape {params.shape}") from None
    if layout.size == 0:
        if config.scale is None:
            scales[...] = 0
        if zeros is not None and config.zero_point is None:
            zeros[...] = 0
        return
    with arrays.scratch(layout.copied(values)):
        _quantize(values, config, layout, codes, scales, zeros, team, level)


def _quantize(
    values: Array, config: QuantizationConfig, layout: Layout, codes: Array, scales: Array, zeros: Array | None, team: Team, level: str | None
) -> None:
    cut, group = layout.cut(values)
    direct = layout.bits == 8 or layout.packs_directly(cut, group)
    with arrays.scratch(0 if direct else layout.size):  # rows that begin within a byte: packed when all are known
        target = codes if direct else arrays.new((layout.size,), np.int8)
        outcome = kernels.affine_quantize(
            team, cut, group=group, bits=layout.bits, method=config.method, find_scale=config.scale is None,
            find_zero=config.zero_point is None, codes=target, scales=scales, zeros=zeros, level=level,
        )  # fmt: skip
        if outcome is not None:
            arrays.refuse(values, cut)
        if not direct:
            kernels.pack_nibbles(team, target, codes, level=level)


def dequantize(
    layout: Layout, codes: Array, scales: Array, zeros: Array | None, out: Array, team: Team, level: str | None
) -> None:
    """Fill `out`, of any strides and one of the kernels' dtypes, with the values."""
    if layout.size == 0:
        return
    if layout.copied(out):  # strides that do not merge: through an array that can be written in one go
        with arrays.scratch(out.nbytes):
            whole = arrays.new(layout.shape, out.dtype)
            dequantize(layout, codes, scales, zeros, whole, team, level)
            out[...] = whole
        return
    cut, group = layout.cut(out)
    direct = layout.bits == 8 or layout.packs_directly(cut, group)
    with arrays.scratch(0 if direct else layout.size):
        source = codes if direct else unpack(layout, codes, None, team, level)
        kernels.affine_dequantize(team, cut, group=group, bits=layout.bits, codes=source, scales=scales, zeros=zeros, level=level)


def unpack(layout: Layout, codes: Array, out: Array | None, team: Team, level: str | None) -> Array:
    """Codes as int8 of the tensor's shape."""
    if out is None:
        out = arrays.new(layout.shape, np.int8)
    if layout.bits == 8:
        out[...] = codes
    elif layout.size:
        kernels.unpack_nibbles(team, codes, out, level=level)
    return out
