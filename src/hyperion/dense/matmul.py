"""Products of float32 matrices: cache-blocked, packed, register-tiled."""

from __future__ import annotations

import math

import numpy as np

from hyperion import cpu
from hyperion._kernels import dense as kernels
from hyperion._kernels.threads import Team
from hyperion.errors import InvalidArgumentError

from . import arrays
from .arrays import Float32
from .cache import CacheConfig, blocks

__all__ = ["matmul", "multiply"]

_SMALL_WORK = 1 << 19
"""Multiplications below which a second thread brings nothing."""

_ALONE = cpu.shared_team(1)


def matmul(
    a: Float32,
    b: Float32,
    out: Float32 | None = None,
    *,
    cache: CacheConfig | None = None,
    threads: int | None = None,
    simd: str | None = None,
) -> Float32:
    """Matrix product of two float32 arrays, with the shapes of :func:`numpy.matmul`.

    Every element is one chain of fused multiply-adds (at the generic level multiplications and additions) over k in rising
    order: its bits do not depend on `cache`, the number of threads, strides, or the other rows and columns. Its error is
    at most k 2**-24 times the sum of the products' magnitudes.

    Parameters
    ----------
    a : ndarray
        float32 [..., m, k] or [k], any strides.
    b : ndarray
        float32 [..., k, n] or [k], any strides. Leading dimensions are broadcast.
    out : ndarray, optional
        float32 of the result's shape, any strides; it must not overlap `a` or `b`.
    cache : CacheConfig, optional
        Blocking and prefetching; by default chosen from this machine's caches.
    threads : int, optional
        By default as many as suit this process.
    simd : str, optional
        Level of the kernels; by default the highest.

    Returns
    -------
    ndarray
        float32 [..., m, n]; without m or n where `a` or `b` has one dimension.

    Raises
    ------
    InvalidArgumentError
        If dtypes or shapes do not fit, or `out` overlaps an input.
    MemoryBudgetError
        If the process's limit leaves no room for the packed blocks: at most half of the last cache's size and 256 KiB, and
        never more than about `a` and `b` take. Up to 256 KiB of a usual product are not counted. Operands whose strides are no
        whole floats are copied first, and a result in which neither rows nor columns are contiguous last: copies count too.
    """
    if cache is None and simd is None:  # checks below take longer than a small product
        small = _SMALL_WORK if threads is None else 0
        cut = blocks(None, cpu.default_simd_level())
        result = kernels.plain_product(a, b, out, _ALONE, cpu.shared_team, threads, small, cut)
        if result is not None:
            return result
    left, right = arrays.float32("a", a), arrays.float32("b", b)
    if cache is not None and not isinstance(cache, CacheConfig):
        raise InvalidArgumentError(f"cache must be a CacheConfig, not {type(cache).__name__}")
    if left.ndim == 0 or right.ndim == 0:
        raise InvalidArgumentError(f"a and b must have at least one dimension, not shapes {left.shape} and {right.shape}")
    left2 = left[np.newaxis] if left.ndim == 1 else left
    right2 = right[:, np.newaxis] if right.ndim == 1 else right
    batch = _batch(left2, right2)
    if batch is None or left2.shape[-1] != right2.shape[-2]:
        raise InvalidArgumentError(
            f"matmul of shapes {left.shape} and {right.shape}: the last dimension of a must be the last but one of b, and the"
            " dimensions before them broadcast"
        )
    m, n = left2.shape[-2], right2.shape[-1]
    shape = (*batch, *(() if left.ndim == 1 else (m,)), *(() if right.ndim == 1 else (n,)))
    result = arrays.output(out, shape)
    arrays.apart(result, "a", left)
    arrays.apart(result, "b", right)
    target = result[..., np.newaxis] if right.ndim == 1 else result
    target = target[..., np.newaxis, :] if left.ndim == 1 else target
    work = math.prod(batch) * m * n * left2.shape[-1]
    team = cpu.shared_team(1 if threads is None and work < _SMALL_WORK else threads)
    level = cpu.default_simd_level() if simd is None else simd  # asked once
    multiply(left2, right2, target, blocks(cache, level), team)
    return result


def _batch(a: Float32, b: Float32) -> tuple[int, ...] | None:
    if a.ndim == b.ndim == 2:
        return ()
    try:
        return np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        return None


def multiply(a: Float32, b: Float32, out: Float32, cut: kernels.Blocks, team: Team) -> None:
    """out = a b for checked arrays [..., m, k], [..., k, n] and [..., m, n]."""
    if out.size == 0:
        return
    if a.shape[-1] == 0:
        out[...] = 0
        return
    if not _rows_contiguous(out):
        if _rows_contiguous(out.swapaxes(-1, -2)):  # the transposed product is the same chains of additions
            a, b, out = b.swapaxes(-1, -2), a.swapaxes(-1, -2), out.swapaxes(-1, -2)
        else:
            with arrays.room("matmul", out.shape) as result:
                multiply(a, b, result, cut, team)
                out[...] = result
            return
    if not (arrays.whole_floats(a) and arrays.whole_floats(b)):
        odd = b if arrays.whole_floats(a) else a
        with arrays.room("matmul", odd.shape) as copy:
            copy[...] = odd
            multiply(copy if odd is a else a, b if odd is a else copy, out, cut, team)
        return
    first = a[_first(a)], b[_first(b)], out[_first(out)]
    nbytes = kernels.gemm_buffer_bytes(*first, cut)
    places = arrays.places(out.shape[:-2], a[..., 0, 0], b[..., 0, 0], out[..., 0, 0])
    with arrays.scratch("matmul", nbytes) as buffer:
        kernels.gemm(team, *first, places, cut, buffer)


def _rows_contiguous(out: Float32) -> bool:
    return (out.strides[-1] == 4 or out.shape[-1] == 1) and arrays.whole_floats(out)


def _first(array: Float32) -> tuple[int, ...]:
    return (0,) * (array.ndim - 2)
