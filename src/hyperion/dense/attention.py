"""Attention with the kernels that the engine runs."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np

from hyperion import cpu
from hyperion._kernels import dense as kernels
from hyperion.errors import InvalidArgumentError

from . import arrays
from .arrays import Float32

__all__ = ["scaled_dot_product_attention"]

_SMALL_WORK = 1 << 17
"""Multiplications below which a second thread brings nothing."""


def scaled_dot_product_attention(
    q: Float32,
    k: Float32,
    v: Float32,
    out: Float32 | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    kv_type: str = "f16",
    threads: int | None = None,
    simd: str | None = None,
) -> Float32:
    """softmax(scale q k^T) v, head by head, by online softmax over tiles of 64 positions (arXiv 2205.14135).

    Keys and values go through the engine's cache and are rounded to its type; scores never exist for more than one tile, so
    that memory grows with the number of positions and not with its square. A query's bits depend on no other query, and not on
    the number of threads.

    Parameters
    ----------
    q : ndarray
        float32 [..., heads, queries, head_dim].
    k, v : ndarray
        float32 [..., kv_heads, positions, head_dim]; heads is a multiple of kv_heads, and head h reads h * kv_heads // heads
        (grouped queries, arXiv 2305.13245). Leading dimensions equal those of `q`.
    out : ndarray, optional
        float32 of q's shape that overlaps no input.
    causal : bool
        Whether the queries are the last positions, and see nothing after themselves: query i sees the first
        positions - queries + i + 1 ones. By default every query sees all.
    scale : float, optional
        head_dim ** -0.5 by default.
    kv_type : {"f16", "q8_0", "q4_0"}
        Type of the cache.
    threads : int, optional
        By default as many as suit this process.
    simd : str, optional
        Level of the kernels; by default the highest.

    Returns
    -------
    ndarray
        float32 of q's shape.

    Raises
    ------
    InvalidArgumentError
        If dtypes or shapes do not fit, there is no position, or a causal query would see none.
    MemoryBudgetError
        If the process's limit leaves no room for the caches that stand together (at most 16 MiB, or those of one head) and the
        threads' scratch. Inputs and `out` whose last dimension is not contiguous go through a copy, which counts too.
    """
    query, key, value = arrays.float32("q", q), arrays.float32("k", k), arrays.float32("v", v)
    _check_shapes(query, key, value, causal)
    if kv_type not in kernels.KV_TYPES:
        raise InvalidArgumentError(f"kv_type must be one of {', '.join(kernels.KV_TYPES)}, not {kv_type!r}")
    if scale is not None and (
        isinstance(scale, bool) or not isinstance(scale, (int, float)) or not abs(scale) <= float(np.finfo(np.float32).max)
    ):
        raise InvalidArgumentError(f"scale must be a number that float32 holds, not {scale!r}")
    result = arrays.output(out, query.shape)
    for name, array in (("q", query), ("k", key), ("v", value)):
        arrays.apart(result, name, array)
    if result.size == 0:
        return result
    *batch, heads, queries, dim = query.shape
    kv_heads, positions = key.shape[-3:-1]
    group = heads // kv_heads
    work = query.size * positions
    team = cpu.shared_team(1 if threads is None and work < _SMALL_WORK else threads)
    count = kv_heads * math.prod(batch)
    nbytes = kernels.attention_buffer_bytes(team, count, group, queries, positions, dim, kv_type)
    with contextlib.ExitStack() as stack:
        buffer = stack.enter_context(arrays.scratch("attention", nbytes))
        query, key, value = (_rows(stack, array, array) for array in (query, key, value))
        target = _rows(stack, result, None)
        grouped, found = (array.reshape(*batch, kv_heads, group, queries, dim) for array in (query, target))  # views
        first = (0,) * (len(batch) + 1)
        places = arrays.places(
            (*batch, kv_heads), grouped[..., 0, 0, 0], key[..., 0, 0], value[..., 0, 0], found[..., 0, 0, 0]
        )
        kernels.attention(
            team, grouped[first], key[first], value[first], found[first], places, causal=causal,
            scale=dim**-0.5 if scale is None else scale, kv=kv_type, buffer=buffer, level=simd,
        )  # fmt: skip
        if target is not result:
            result[...] = target
    return result


def _rows(stack: contextlib.ExitStack, array: Float32, content: Float32 | None) -> Float32:
    """`array` itself if its last dimension is contiguous and aligned, else a buffer of its shape that is, with `content`."""
    if (array.strides[-1] == 4 or array.shape[-1] == 1) and array.flags.aligned:
        return array
    copy: Float32 = stack.enter_context(arrays.scratch("attention", array.nbytes)).view(np.float32).reshape(array.shape)
    if content is not None:
        np.copyto(copy, content)
    return copy


def _check_shapes(q: Float32, k: Float32, v: Float32, causal: Any) -> None:
    shapes = f"q {q.shape}, k {k.shape} and v {v.shape}"
    if min(q.ndim, k.ndim) < 3 or k.shape != v.shape or q.shape[:-3] != k.shape[:-3] or q.shape[-1] != k.shape[-1]:
        raise InvalidArgumentError(
            f"{shapes}: expected q [..., heads, queries, head_dim] and k, v [..., kv_heads, positions, head_dim]"
        )
    if not isinstance(causal, bool):
        raise InvalidArgumentError(f"causal must be a bool, not {causal!r}")
    if 0 in k.shape[-3:] or q.shape[-3] % k.shape[-3]:
        raise InvalidArgumentError(f"{shapes}: there must be a position, and heads a multiple of kv_heads")
    if causal and q.shape[-2] > k.shape[-2]:
        raise InvalidArgumentError(f"{shapes}: the first causal queries would see no position")
