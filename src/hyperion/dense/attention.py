"""Attention and root-mean-square norms with the kernels that the engine runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hyperion._kernels import ops
from hyperion.errors import InvalidArgumentError
from hyperion.memory import process_budget

from . import arrays
from .arrays import Float32

__all__ = ["rms_norm", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    q: Float32,
    k: Float32,
    v: Float32,
    out: Float32 | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    kv_type: str = "f16",
    simd: str | None = None,
) -> Float32:
    """softmax(scale q k^T) v, head by head, by online softmax over tiles of 64 positions (arXiv 2205.14135).

    Keys and values go through the engine's cache and are rounded to its type; scores never exist for more than one tile, so
    that memory grows with the number of positions and not with its square. A query's bits depend on no other query. The work
    is done in the calling thread, without the GIL.

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
        If the process's limit leaves no room for one head's cache and scratch.
    """
    query, key, value = arrays.float32("q", q), arrays.float32("k", k), arrays.float32("v", v)
    _check_shapes(query, key, value, causal)
    if kv_type not in ops.KV_TYPES:
        raise InvalidArgumentError(f"kv_type must be one of {', '.join(ops.KV_TYPES)}, not {kv_type!r}")
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale)):
        raise InvalidArgumentError(f"scale must be a finite number, not {scale!r}")
    result = arrays.output(out, query.shape)
    for name, array in (("q", query), ("k", key), ("v", value)):
        arrays.apart(result, name, array)
    *batch, heads, queries, dim = query.shape
    kv_heads, positions = key.shape[-3:-1]
    group = heads // kv_heads
    seen = np.arange(positions - queries + 1, positions + 1) if causal else np.full(queries, positions)
    lens = np.tile(seen, group)
    # the cache, and queries, keys, values and results of one head as contiguous arrays
    with process_budget().reserve(
        "attention", ops.kv_bytes(kv_type, dim, positions) + 8 * dim * (positions + group * queries) + 8 * lens.size
    ):
        for place in np.ndindex(*batch, kv_heads):
            *outer, h = place
            own = (*outer, slice(h * group, (h + 1) * group))
            found = ops.attention(
                query[own].reshape(-1, dim), key[place], value[place], lens, scale=scale, kv=kv_type, level=simd
            )
            result[own] = found.reshape(group, queries, dim)
    return result


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


def rms_norm(x: Float32, weight: Float32, out: Float32 | None = None, *, eps: float = 1e-5, simd: str | None = None) -> Float32:
    """x / sqrt(mean(x**2) + eps) * weight along the last axis (arXiv 1910.07467), within 4 * 2**-24 of the result.

    Parameters
    ----------
    x : ndarray
        float32 [..., n], any strides.
    weight : ndarray
        float32 [n].
    out : ndarray, optional
        float32 of x's shape; `x` itself works in place.
    eps : float
        At least 0.
    simd : str, optional
        Level of the kernels; by default the highest.

    Raises
    ------
    InvalidArgumentError
        If dtypes or shapes do not fit.
    """
    source, factors = arrays.float32("x", x), arrays.float32("weight", weight)
    result = arrays.output(out, source.shape)
    arrays.apart(result, "x", source, same=True)
    arrays.apart(result, "weight", factors)
    if result.flags.c_contiguous and result.flags.aligned:
        return ops.rms_norm(source, factors, eps, out=result, level=simd)
    result[...] = ops.rms_norm(source, factors, eps, level=simd)
    return result
