from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

_F32: TypeAlias = NDArray[np.float32]

KV_TYPES: tuple[str, ...]
"""Names of the KV cache's types; a type's number is its index."""

def silu(x: ArrayLike, *, out: _F32 | None = None, level: str | None = None) -> _F32:
    """x * sigmoid(x), within 4 * 2**-24 of the result (1e-36 absolute below x = -87)."""

def gelu(x: ArrayLike, *, out: _F32 | None = None, level: str | None = None) -> _F32:
    """GELU by its tanh approximation (arXiv 1606.08415), within 4 * 2**-24 of that formula's value."""

def silu_mul(gate: ArrayLike, up: ArrayLike, *, out: _F32 | None = None, level: str | None = None) -> _F32:
    """silu(gate) * up (SwiGLU, arXiv 2002.05202)."""

def gelu_mul(gate: ArrayLike, up: ArrayLike, *, out: _F32 | None = None, level: str | None = None) -> _F32:
    """gelu(gate) * up (GeGLU, arXiv 2002.05202)."""

def add(x: ArrayLike, y: ArrayLike, *, out: _F32 | None = None, level: str | None = None) -> _F32:
    """x + y."""

def softmax(x: ArrayLike, *, out: _F32 | None = None, level: str | None = None) -> _F32:
    """Softmax along the last axis."""

def rms_norm(
    x: ArrayLike, weight: ArrayLike, eps: float = 1e-5, *, out: _F32 | None = None, level: str | None = None
) -> _F32:
    """x / sqrt(mean(x**2) + eps) * weight along the last axis (arXiv 1910.07467)."""

def rope(
    x: ArrayLike, cos: ArrayLike, sin: ArrayLike, *, interleaved: bool = False, level: str | None = None
) -> _F32:
    """Rotate heads x[heads, head_dim] by cos and sin of shape (rot/2,) (arXiv 2104.09864).

    Pairs are (2i, 2i+1) when interleaved and (i, i + rot/2) otherwise; dims from rot on stay.
    """

def kv_bytes(kv: str, head_dim: int, positions: int) -> int:
    """Bytes that the keys and values of one head take over `positions` positions."""

def attention(
    q: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    lens: Any,
    *,
    scale: float | None = None,
    kv: str = "f16",
    level: str | None = None,
) -> _F32:
    """Attention of q[nq, head_dim] over one head's k, v[n, head_dim], through a KV cache of type `kv`.

    Query j sees positions 0 .. lens[j]-1; `scale` defaults to head_dim**-0.5. Every call builds the cache anew: it is
    the engine's kernel for tests and measurements, not the engine's way of calling it.
    """
