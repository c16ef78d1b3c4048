"""Convolutions over float32 arrays, as products of the filters and rows of the image, shifted."""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np

from hyperion import cpu
from hyperion._kernels import dense as kernels
from hyperion.errors import InvalidArgumentError

from . import arrays
from .arrays import Float32
from .cache import CacheConfig, blocks

__all__ = ["conv1d", "conv2d"]

_SMALL_WORK = 1 << 19
"""Multiplications below which a second thread brings nothing."""

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
        If the process's limit leaves no room for a copy of one padded image (where there is no padding and no stride, and images
        are contiguous, they are read where they lie; where each filter has small channels of its own, those of one filter a thread)
        and of the filters; where strides are odd (no whole floats) also for a copy of one image and of one image's results.
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
    if not count:
        return result
    work = result.size * math.prod(filters.shape[1:])
    team = cpu.shared_team(1 if threads is None and work < _SMALL_WORK else threads)
    dims = zip((height, width), kernel, gaps, steps, strict=True)
    most = 4 * channels * math.prod((n + (k - 1) * gap // step) * min(k, step) for n, k, gap, step in dims)
    with contextlib.ExitStack() as stack:
        convolution = kernels.Convolution(
            _contiguous(filters, stack), None if bias is None else _contiguous(bias, stack), size, steps, pads, gaps, parts,
            blocks(cache, simd),
        )  # fmt: skip
        copy = None if arrays.whole_floats(image) else stack.enter_context(arrays.room("convolution", image.shape[1:]))
        direct = result.strides[-1] == 4 and arrays.whole_floats(result)
        target = None if direct else stack.enter_context(arrays.room("convolution", result.shape[1:]))
        first = image[0] if copy is None else copy, result[0] if target is None else target
        nbytes = min(most, 1 << 62) if most >> 60 else convolution.buffer_bytes(team, *first)  # what C cannot count fits nowhere
        buffer = stack.enter_context(arrays.scratch("convolution", nbytes))
        for n in range(count):
            if copy is not None:
                copy[...] = image[n]
            convolution.run(team, image[n] if copy is None else copy, result[n] if target is None else target, buffer)
            if target is not None:
                result[n] = target
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


def _contiguous(array: Float32, stack: contextlib.ExitStack) -> Float32:
    """The array itself if it lies as the kernels read it, or a copy that is in the ledger until the stack ends."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    copy = stack.enter_context(arrays.room("convolution", array.shape))
    copy[...] = array
    return copy
