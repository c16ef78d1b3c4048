"""Norms of rows with the kernels that the engine runs, on several threads where there is much to do.

Both take

x : ndarray
    float32 [..., n], any strides, n at least 1.
weight, bias : ndarray
    float32 [n].
out : ndarray, optional
    float32 of x's shape, any strides; `x` itself works in place. A new array by default.
eps : float
    Added to the mean square or the variance; finite and at least 0.
threads : int, optional
    By default as many as suit this process. A row's bits depend on that row alone.
simd : str, optional
    Level of the kernels, one of :func:`hyperion.cpu.simd_levels`; by default the highest.

and raise InvalidArgumentError for other dtypes or shapes, an `out` that is read-only or shares memory with an input without being
`x`, and MemoryBudgetError if the process's limit leaves no room for the buffer through which rows go that are not contiguous in
`x` and `out`: at most 1 MiB or one row a thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperion import cpu
from hyperion._kernels import dense as kernels
from hyperion.errors import InvalidArgumentError

from . import arrays
from .arrays import Float32

__all__ = ["layer_norm", "rms_norm"]


def rms_norm(
    x: Float32,
    weight: Float32,
    out: Float32 | None = None,
    *,
    eps: float = 1e-5,
    threads: int | None = None,
    simd: str | None = None,
) -> Float32:
    """x / sqrt(mean(x**2) + eps) * weight along the last axis (arXiv 1910.07467), within 4 * 2**-24 of the result.

    Parameters and errors are those of :mod:`hyperion.dense.norms`.
    """
    source, number = arrays.float32("x", x), _epsilon(eps)
    factors = _of_row("weight", weight, source)
    target = _output(out, source, weight=weight)
    if target.size:
        team = cpu.shared_team(threads)
        with arrays.scratch("rms_norm", kernels.rows_buffer_bytes(team, source, target)) as buffer:
            kernels.rms_norm(team, source, factors, number, target, buffer, simd)
    return target


def layer_norm(
    x: Float32,
    weight: Float32 | None = None,
    bias: Float32 | None = None,
    out: Float32 | None = None,
    *,
    eps: float = 1e-5,
    threads: int | None = None,
    simd: str | None = None,
) -> Float32:
    """(x - mean) / sqrt(variance + eps) * weight + bias along the last axis (arXiv 1607.06450).

    The variance is the mean square of the differences from the mean; both are kept in float64. With z the normalized value and
    u = 2**-24, within ``(5 |weight z| + |result| + |weight| / 256) u``. A row with NaN or infinity gives NaN. Without `weight`
    it is 1, without `bias` 0.

    Parameters and errors are those of :mod:`hyperion.dense.norms`.
    """
    source, number = arrays.float32("x", x), _epsilon(eps)
    factors = None if weight is None else _of_row("weight", weight, source)
    terms = None if bias is None else _of_row("bias", bias, source)
    target = _output(out, source, weight=weight, bias=bias)
    if target.size:
        team = cpu.shared_team(threads)
        with arrays.scratch("layer_norm", kernels.rows_buffer_bytes(team, source, target)) as buffer:
            kernels.layer_norm(team, source, factors, terms, number, target, buffer, simd)
    return target


def _epsilon(eps: Any) -> float:
    if isinstance(eps, bool) or not isinstance(eps, (int, float, np.floating)) or not 0 <= eps <= float(np.finfo(np.float32).max):
        raise InvalidArgumentError(f"eps must be a number of at least 0 that float32 holds, not {eps!r}")
    return float(eps)


def _of_row(name: str, value: Any, x: Float32) -> Float32:
    """float32 with one contiguous value for each of a row of x."""
    array = arrays.float32(name, value)
    if x.ndim == 0 or x.shape[-1] == 0 or array.shape != x.shape[-1:]:
        raise InvalidArgumentError(f"{name} must have one value for each of the last axis of x {x.shape}, not shape {array.shape}")
    return np.require(array, requirements=["C", "A"])


def _output(out: Any, x: Float32, **others: Any) -> Float32:
    if x.ndim == 0 or x.shape[-1] == 0:
        raise InvalidArgumentError(f"the last axis of x {x.shape} has no values")
    target = arrays.output(out, x.shape)
    arrays.apart(target, "x", x, same=True)
    for name, array in others.items():
        if array is not None:
            arrays.apart(target, name, array)
    return target
