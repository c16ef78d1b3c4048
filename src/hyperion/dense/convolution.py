"""Convolutions over float32 arrays, as products of the filters and bounded tiles of the input's windows."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from hyperion import cpu
from hyperion.errors import InvalidArgumentError

from . import arrays
from .arrays import Float32
from .cache import CacheConfig, blocks
from .matmul import multiply

__all__ = ["conv1d", "conv2d"]

TILE_BYTES = 4 << 20
"""Windows that are laid out at a time, unless one row of results needs more."""

Sizes = SupportsIndex | Sequence[SupportsIndex]


def conv2d(
    x: Float32,
    weight: Float32,
    bias: Float32 | None = None,
    out: Float32 | None = None,
    *,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    cache: CacheConfig | None = None,
    threads: int | None = None,
    simd: str | None = None,
) -> Float32:
    """Cross-correlation in two dimensions, as neural networks have it.

    ``out[n, o, i, j] = bias[o] + sum over c, a, b of weight[o, c, a, b] * x[n, c', i*stride - padding + a*dilation, ...]``, zero
    outside of x; channel c' is c of the group of o. Every sum is one chain over (c, a, b) as in :func:`hyperion.matmul`, so that
    its bits depend neither on threads nor on `cache`; the bias is added last.

    Parameters
    ----------
    x : ndarray
        float32 [n, channels, height, width], any strides.
    weight : ndarray
        float32 [filters, channels / groups, kernel height, kernel width].
    bias : ndarray, optional
        float32 [filters].
    out : ndarray, optional
        float32 [n, filters, out height, out width] that overlaps no input.
    stride, padding, dilation : int or pair of int
        For height and width; padding is with zeros, on both sides.
    groups : int
        Parts into which channels and filters are cut; each part of the filters sees its own channels.
    cache, threads, simd
        As for :func:`hyperion.matmul`.

    Returns
    -------
    ndarray
        float32 [n, filters, out height, out width].

    Raises
    ------
    InvalidArgumentError
        If dtypes, shapes or sizes do not fit.
    MemoryBudgetError
        If the process's limit leaves no room for a tile of windows (4 MiB, or what one row of results needs), one padded image
        and the product's packed blocks.
    """
    image, filters = arrays.float32("x", x), arrays.float32("weight", weight)
    if image.ndim != 4 or filters.ndim != 4:
        raise InvalidArgumentError(f"x and weight must have four dimensions, not shapes {image.shape} and {filters.shape}")
    steps, pads, gaps = _pair("stride", stride, 1), _pair("padding", padding, 0), _pair("dilation", dilation, 1)
    parts = _pair("groups", groups, 1)[0]
    (count, channels, *size), (number, depth, *kernel) = image.shape, filters.shape
    if channels != depth * parts or number % parts or 0 in filters.shape:
        raise InvalidArgumentError(f"weight {filters.shape} in {parts} groups does not fit x {image.shape}")
    spans = [(k - 1) * g + 1 for k, g in zip(kernel, gaps, strict=True)]
    height, width = ((n + 2 * p - span) // s + 1 for n, p, span, s in zip(size, pads, spans, steps, strict=True))
    if height < 1 or width < 1:
        raise InvalidArgumentError(f"windows of {spans} are larger than x {image.shape} with padding {pads}")
    result = arrays.output(out, (count, number, height, width))
    arrays.apart(result, "x", image)
    arrays.apart(result, "weight", filters)
    if bias is not None:
        bias = arrays.float32("bias", bias)
        if bias.shape != (number,):
            raise InvalidArgumentError(f"bias must have shape ({number},), not {bias.shape}")
        arrays.apart(result, "bias", bias)
    if cache is not None and not isinstance(cache, CacheConfig):
        raise InvalidArgumentError(f"cache must be a CacheConfig, not {type(cache).__name__}")
    cut, team = blocks(cache, simd), cpu.shared_team(threads)
    terms, each = depth * kernel[0] * kernel[1], number // parts
    rows = max(1, min(height, TILE_BYTES // (4 * terms * width)))
    matrices = filters.reshape(parts, each, terms)
    padded_bytes = 4 * channels * (size[0] + 2 * pads[0]) * (size[1] + 2 * pads[1]) if any(pads) else 0
    with arrays.scratch("convolution", 4 * terms * rows * width) as tile, arrays.scratch("convolution", padded_bytes) as border:
        for n in range(count):
            windows = _windows(_padded(image[n], pads, border), kernel, steps, gaps, (height, width))
            for g in range(parts):
                for first in range(0, height, rows):
                    last = min(first + rows, height)
                    places = (last - first) * width
                    columns = tile[: 4 * terms * places].view(np.float32)
                    np.copyto(columns.reshape(depth, *kernel, last - first, width), windows[g * depth : (g + 1) * depth, :, :, first:last])
                    target = result[n, g * each : (g + 1) * each, first:last]
                    product = target.reshape(each, places)  # a copy where rows of results are apart
                    multiply(matrices[g], columns.reshape(terms, places), product, cut, team)
                    if not np.may_share_memory(product, target):
                        target[...] = product.reshape(target.shape)
    if bias is not None:
        result += bias[:, np.newaxis, np.newaxis]
    return result


def conv1d(
    x: Float32,
    weight: Float32,
    bias: Float32 | None = None,
    out: Float32 | None = None,
    *,
    stride: SupportsIndex = 1,
    padding: SupportsIndex = 0,
    dilation: SupportsIndex = 1,
    groups: int = 1,
    cache: CacheConfig | None = None,
    threads: int | None = None,
    simd: str | None = None,
) -> Float32:
    """Cross-correlation in one dimension: :func:`hyperion.conv2d` without a height.

    Parameters
    ----------
    x : ndarray
        float32 [n, channels, width].
    weight : ndarray
        float32 [filters, channels / groups, kernel width].
    bias, out, stride, padding, dilation, groups, cache, threads, simd
        As for :func:`hyperion.conv2d`; sizes are single integers.

    Returns
    -------
    ndarray
        float32 [n, filters, out width].
    """
    line, filters = arrays.float32("x", x), arrays.float32("weight", weight)
    if line.ndim != 3 or filters.ndim != 3:
        raise InvalidArgumentError(f"x and weight must have three dimensions, not shapes {line.shape} and {filters.shape}")
    if out is not None and (not isinstance(out, np.ndarray) or out.ndim != 3):
        raise InvalidArgumentError(f"out must be a float32 array of three dimensions, not {arrays.describe(out)}")
    sizes = {"stride": (1, stride), "padding": (0, padding), "dilation": (1, dilation)}
    result = conv2d(
        line[:, :, np.newaxis], filters[:, :, np.newaxis], bias, None if out is None else out[:, :, np.newaxis], groups=groups,
        cache=cache, threads=threads, simd=simd, **sizes,
    )  # fmt: skip
    return result[:, :, 0] if out is None else out


def _pair(name: str, value: Any, least: int) -> tuple[int, int]:
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value, value)
    try:
        if len(values) != 2 or any(isinstance(v, bool) for v in values):
            raise TypeError
        first, second = (operator.index(v) for v in values)
    except TypeError:
        raise InvalidArgumentError(f"{name} must be an integer or two, not {value!r}") from None
    if not least <= min(first, second) or max(first, second) > 1 << 31:
        raise InvalidArgumentError(f"{name} must be at least {least} and at most 2**31, not {value!r}")
    return first, second


def _padded(image: Float32, pads: tuple[int, int], border: Any) -> Float32:
    """[channels, height, width] with zeros around, in a buffer; the image itself where there are none."""
    if border is None:
        return image
    channels, height, width = image.shape
    whole: Float32 = border.view(np.float32).reshape(channels, height + 2 * pads[0], width + 2 * pads[1])
    whole[...] = 0
    whole[:, pads[0] : pads[0] + height, pads[1] : pads[1] + width] = image
    return whole


def _windows(
    image: Float32, kernel: Sequence[int], steps: tuple[int, int], gaps: tuple[int, int], places: tuple[int, int]
) -> Float32:
    """A view [channels, kernel height, kernel width, out height, out width]."""
    channel, row, col = image.strides
    shape = (image.shape[0], *kernel, *places)
    strides = (channel, row * gaps[0], col * gaps[1], row * steps[0], col * steps[1])
    return np.lib.stride_tricks.as_strided(image, shape, strides, writeable=False)
