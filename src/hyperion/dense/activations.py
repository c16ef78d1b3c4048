"""Activation functions over float32 arrays: vectorised, on several threads where there is much to do, in place if asked.

Errors are in units of u = 2**-24 relative to the exact result, wherever that is a normal float; they hold at every SIMD level
and are tested against float64. A value's result depends on that value (softmax: on its row) alone: not on its place, the
strides, or the number of threads. NaN gives NaN.

All of them take

x : ndarray
    float32, any shape and strides.
out : ndarray, optional
    float32 of x's shape, any strides; `x` itself works in place. A new array by default.
threads : int, optional
    By default as many as suit this process.
simd : str, optional
    Level of the kernels, one of :func:`hyperion.cpu.simd_levels`; by default the highest.

and raise InvalidArgumentError for other dtypes, an `out` of another shape, one that is read-only, or one that overlaps `x`
without being the same array.
"""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex

import numpy as np

from hyperion import cpu
from hyperion._kernels import dense as kernels
from hyperion.errors import InvalidArgumentError

from . import arrays
from .arrays import Float32

__all__ = ["gelu", "relu", "sigmoid", "silu", "softmax", "tanh"]


def _apply(name: str, x: Any, out: Any, threads: int | None, simd: str | None) -> Float32:
    source = arrays.float32("x", x)
    target = arrays.output(out, source.shape)
    arrays.apart(target, "x", source, same=True)
    team = cpu.shared_team(threads)
    kernels.apply(team, name, source, target, simd)
    return target


def relu(x: Float32, out: Float32 | None = None, *, threads: int | None = None, simd: str | None = None) -> Float32:
    """Rectify: x where x > 0, else 0 (-0 stays -0). Exact.

    Parameters and errors are those of :mod:`hyperion.dense.activations`.
    """
    return _apply("relu", x, out, threads, simd)


def silu(x: Float32, out: Float32 | None = None, *, threads: int | None = None, simd: str | None = None) -> Float32:
    """SiLU: x * sigmoid(x) (arXiv 1702.03118).

    Within 4 u; below x = -87, where the result leaves the normal floats, within 1e-36. Infinity gives infinity, -infinity -0.
    Parameters and errors are those of :mod:`hyperion.dense.activations`.
    """
    return _apply("silu", x, out, threads, simd)


def gelu(
    x: Float32,
    out: Float32 | None = None,
    *,
    approximate: str = "none",
    threads: int | None = None,
    simd: str | None = None,
) -> Float32:
    """GELU: x * Phi(x), Phi the distribution function of the normal distribution (arXiv 1606.08415).

    Parameters and errors are those of :mod:`hyperion.dense.activations`, and:

    Parameters
    ----------
    approximate : {"none", "tanh"}
        ``"none"``, the default, is the exact form with erf: within 8 u, below x = -13 within 1e-36. ``"tanh"`` is the
        approximation x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))): within 4 u of that formula's value, below x = -10 within
        1e-36. In both infinity gives infinity and -infinity -0.
    """
    if approximate not in ("none", "tanh"):
        raise InvalidArgumentError(f"approximate must be 'none' or 'tanh', not {approximate!r}")
    return _apply("gelu_erf" if approximate == "none" else "gelu", x, out, threads, simd)


def tanh(x: Float32, out: Float32 | None = None, *, threads: int | None = None, simd: str | None = None) -> Float32:
    """Hyperbolic tangent, within 6 u.

    Parameters and errors are those of :mod:`hyperion.dense.activations`.
    """
    return _apply("tanh", x, out, threads, simd)


def sigmoid(x: Float32, out: Float32 | None = None, *, threads: int | None = None, simd: str | None = None) -> Float32:
    """Logistic function 1 / (1 + exp(-x)), within 4 u; below x = -87 within 2e-38.

    Parameters and errors are those of :mod:`hyperion.dense.activations`.
    """
    return _apply("sigmoid", x, out, threads, simd)


def softmax(
    x: Float32,
    out: Float32 | None = None,
    *,
    axis: SupportsIndex = -1,
    threads: int | None = None,
    simd: str | None = None,
) -> Float32:
    """exp(x) / sum(exp(x)) along an axis; the sum is kept in float64.

    Within ``(5 + |x - max|) u``, max the greatest value of the row; results below 1e-37 within 1e-37. A row with NaN or +infinity,
    or with -infinity alone, gives NaN.
    Parameters and errors are those of :mod:`hyperion.dense.activations`, and:

    Parameters
    ----------
    axis : int
        Along which the results sum up to 1; it has at least one value. Rows that are not contiguous in `x` and `out` go through
        a buffer in the ledger, at most 1 MiB or one row a thread.
    """
    source = arrays.float32("x", x)
    try:
        place = operator.index(axis)
    except TypeError:
        raise InvalidArgumentError(f"axis must be an integer, not {axis!r}") from None
    if not -source.ndim <= place < source.ndim or source.shape[place] == 0:
        raise InvalidArgumentError(f"axis {place} of an array of shape {source.shape} has no values")
    target = arrays.output(out, source.shape)
    arrays.apart(target, "x", source, same=True)
    if target.size == 0:
        return target
    rows, results = np.moveaxis(source, place, -1), np.moveaxis(target, place, -1)
    team = cpu.shared_team(threads)
    with arrays.scratch("softmax", kernels.rows_buffer_bytes(team, rows, results)) as buffer:
        kernels.softmax(team, rows, results, buffer, simd)
    return target
