"""NumPy oracles of the compiled kernels: the same definitions, written for reading and for float64, not for speed.

Types are named as in :data:`hyperion._kernels.quant.TYPES`. Block layouts are GGUF's; nothing here knows of panels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "activation_block",
    "attention",
    "dequantize",
    "gelu",
    "kv_cache_values",
    "linear",
    "quantize_activations",
    "rms_norm",
    "rope",
    "silu",
    "softmax",
]

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

#: weights and bytes of a block
BLOCKS = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q4_0": (32, 18),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q8_0": (32, 34),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
    "iq4_nl": (32, 18),
}
FLOATS = ("f32", "f16", "bf16")
IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
ACTIVATION_BLOCK = 32


def dequantize(kind: str, raw: ArrayLike, rows: int, cols: int) -> F32:
    """Weights of GGUF blocks.

    Parameters
    ----------
    kind : str
    raw : uint8 array of rows * cols / block_len * block_bytes bytes, row after row
    rows, cols : int

    Returns
    -------
    float32 array [rows, cols]
    """
    length, size = BLOCKS[kind]
    blocks = np.ascontiguousarray(raw, np.uint8).reshape(rows * cols // length, size)
    return _DEQUANTIZE[kind](blocks).reshape(rows, cols)


def _half(blocks: U8, at: int) -> F32:
    """The f16 at byte `at` of each block: float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def _nibbles(q: U8) -> U8:
    """16 bytes to 32 codes: the low nibbles, then the high ones."""
    return np.concatenate([q & 15, q >> 4], axis=1)


def _fifth(h: U8) -> U8:
    """4 bytes to the 32 fifth bits, each worth 16."""
    return np.unpackbits(h, axis=1, bitorder="little") << np.uint8(4)


def _k_scales(s: U8) -> tuple[F32, F32]:
    """12 bytes to 8 scales and 8 minima."""
    a, b, c = s[:, 0:4], s[:, 4:8], s[:, 8:12]
    scales = np.concatenate([a & 63, (c & 15) | (a >> 6 << 4)], axis=1)
    minima = np.concatenate([b & 63, (c >> 4) | (b >> 6 << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _fields(q: U8, run: int, shifts: tuple[int, ...], mask: int) -> U8:
    """Per `run` bytes, one run of codes a shift, in order: [blocks, len(shifts) * bytes]."""
    runs = q.reshape(len(q), -1, 1, run) >> np.array(shifts, np.uint8)[:, None]
    return (runs & np.uint8(mask)).reshape(len(q), -1)


def _f32(b: U8) -> F32:
    return b.view("<f4").astype(np.float32)


def _f16(b: U8) -> F32:
    return b.view("<f2").astype(np.float32)


def _bf16(b: U8) -> F32:
    return (b.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(b: U8) -> F32:
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.float32) - np.float32(8))


def _q4_1(b: U8) -> F32:
    return _half(b, 0) * _nibbles(b[:, 4:]).astype(np.float32) + _half(b, 2)


def _q5_0(b: U8) -> F32:
    q = _nibbles(b[:, 6:]) | _fifth(b[:, 2:6])
    return _half(b, 0) * (q.astype(np.float32) - np.float32(16))


def _q5_1(b: U8) -> F32:
    q = _nibbles(b[:, 8:]) | _fifth(b[:, 4:8])
    return _half(b, 0) * q.astype(np.float32) + _half(b, 2)


def _q8_0(b: U8) -> F32:
    return _half(b, 0) * b[:, 2:].view(np.int8).astype(np.float32)


def _iq4_nl(b: U8) -> F32:
    return _half(b, 0) * IQ4_NL[_nibbles(b[:, 2:])]


def _q2_k(b: U8) -> F32:
    q = _fields(b[:, 16:80], 32, (0, 2, 4, 6), 3).reshape(len(b), 16, 16).astype(np.float32)
    scale = _half(b, 80) * (b[:, :16] & 15).astype(np.float32)
    minimum = _half(b, 82) * (b[:, :16] >> 4).astype(np.float32)
    return scale[:, :, None] * q - minimum[:, :, None]


def _q3_k(b: U8) -> F32:
    low = _fields(b[:, 96:104], 8, (0, 4), 15)
    high = _fields(b[:, 104:108], 4, (0, 2, 4, 6), 3)
    scale = _half(b, 108) * ((low | high << 4).astype(np.float32) - np.float32(32))
    top = _fields(b[:, :32], 32, tuple(range(8)), 1) << 2
    q = (_fields(b[:, 32:96], 32, (0, 2, 4, 6), 3) | top).astype(np.float32) - np.float32(4)
    return scale[:, :, None] * q.reshape(len(b), 16, 16)


def _q4_k(b: U8) -> F32:
    scales, minima = _k_scales(b[:, 4:16])
    q = _fields(b[:, 16:], 32, (0, 4), 15).reshape(len(b), 8, 32).astype(np.float32)
    return (_half(b, 0) * scales)[:, :, None] * q - (_half(b, 2) * minima)[:, :, None]


def _q5_k(b: U8) -> F32:
    scales, minima = _k_scales(b[:, 4:16])
    top = _fields(b[:, 16:48], 32, tuple(range(8)), 1) << 4
    q = (_fields(b[:, 48:], 32, (0, 4), 15) | top).reshape(len(b), 8, 32).astype(np.float32)
    return (_half(b, 0) * scales)[:, :, None] * q - (_half(b, 2) * minima)[:, :, None]


def _q6_k(b: U8) -> F32:
    top = _fields(b[:, 128:192], 32, (0, 2, 4, 6), 3) << 4
    q = (_fields(b[:, :128], 64, (0, 4), 15) | top).astype(np.float32) - np.float32(32)
    scale = _half(b, 208) * np.ascontiguousarray(b[:, 192:208]).view(np.int8).astype(np.float32)
    return scale[:, :, None] * q.reshape(len(b), 16, 16)


_DEQUANTIZE: dict[str, Callable[[U8], F32]] = {
    "f32": _f32,
    "f16": _f16,
    "bf16": _bf16,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q8_0": _q8_0,
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
    "iq4_nl": _iq4_nl,
}


def activation_block(kind: str) -> int:
    """How many activations share a scale with weights of a quantized type: 32, with K types 128."""
    return min(BLOCKS[kind][0], 128)


def quantize_activations(x: ArrayLike, block: int = ACTIVATION_BLOCK) -> tuple[NDArray[np.int8], F32]:
    """Quantize activations to int8 by blocks, as the kernels do (c/common/panel.h).

    Parameters
    ----------
    x : float32 array [m, k], k a multiple of `block`
    block : int
        Activations that share a scale (:func:`activation_block`).

    Returns
    -------
    codes : int8 array [m, k]
        ``x / scale`` rounded to nearest even, -127 .. 127.
    scales : float32 array [m, k / block]
        absmax / 127; 0 where that is below the smallest normal float, NaN where the block is not finite, and the codes
        then are 0.
    """
    x = np.asarray(x, np.float32)
    blocks = x.reshape(x.shape[0], -1, block)
    with np.errstate(all="ignore"):
        absmax = np.abs(blocks).max(axis=2)  # NaN wins
        scales = (absmax / np.float32(127)).astype(np.float32)
        finite, normal = np.isfinite(absmax), scales >= np.finfo(np.float32).tiny
        codes = np.where((finite & normal)[:, :, None], np.rint(blocks / scales[:, :, None]), 0).astype(
            np.int8
        )
    scales[finite & ~normal] = 0
    scales[~finite] = np.nan
    return codes.reshape(x.shape), scales


def linear(kind: str, raw: ArrayLike, rows: int, cols: int, x: ArrayLike) -> tuple[F64, F64]:
    """``x @ W.T`` in float64 over the values that the kernels multiply, and the sum of the terms' magnitudes.

    Parameters
    ----------
    kind, raw, rows, cols
        As for :func:`dequantize`.
    x : float32 array [m, cols]
        Quantized first (:func:`quantize_activations`) unless the weights are floats.

    Returns
    -------
    product : float64 array [m, rows]
    magnitude : float64 array [m, rows]
        ``abs(x) @ abs(W).T`` with both parts of a weight, ``d * q`` and its minimum, counted by magnitude: a bound on the
        rounding error is a small multiple of float32's epsilon times it.
    """
    x = np.asarray(x, np.float32)
    w = dequantize(kind, raw, rows, cols).astype(np.float64)
    size = np.abs(w)
    if kind in FLOATS:
        values = x.astype(np.float64)
    else:
        block = activation_block(kind)
        codes, scales = quantize_activations(x, block)
        values = codes.astype(np.float64) * np.repeat(scales.astype(np.float64), block, axis=1)
        size = size + 2 * np.abs(_minimum(kind, raw, rows, cols))
    with np.errstate(invalid="ignore"):
        return values @ w.T, np.abs(values) @ size.T


def _minimum(kind: str, raw: ArrayLike, rows: int, cols: int) -> F64:
    """The part of each weight that does not depend on its code, where the type has one: [rows, cols] or [1, 1]."""
    size = BLOCKS[kind][1]
    b = np.ascontiguousarray(raw, np.uint8).reshape(-1, size)
    if kind in ("q4_1", "q5_1"):
        part = np.repeat(_half(b, 2), 32, axis=1)
    elif kind in ("q4_k", "q5_k"):
        part = np.repeat(_half(b, 2) * _k_scales(b[:, 4:16])[1], 32, axis=1)
    elif kind == "q2_k":
        part = np.repeat(_half(b, 82) * (b[:, :16] >> 4).astype(np.float32), 16, axis=1)
    else:
        return np.zeros((1, 1))
    return part.reshape(rows, cols).astype(np.float64)


def rms_norm(x: ArrayLike, weight: ArrayLike, eps: float) -> F64:
    """``x / sqrt(mean(x**2) + eps) * weight`` over the last axis (Zhang and Sennrich, arXiv 1910.07467)."""
    x = np.asarray(x, np.float64)
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * np.asarray(weight, np.float64)


def rope(x: ArrayLike, cos: ArrayLike, sin: ArrayLike, interleaved: bool) -> F64:
    """Rotary position embedding (Su et al., arXiv 2104.09864).

    Parameters
    ----------
    x : array [..., head_dim]
    cos, sin : array [..., rot / 2]
        Of the angles at x's position; rot <= head_dim. Dims from rot on stay as they are.
    interleaved : bool
        Pairs (2i, 2i + 1), else (i, i + rot / 2).
    """
    y = np.array(x, np.float64)
    c, s = np.asarray(cos, np.float64), np.asarray(sin, np.float64)
    half = c.shape[-1]
    first, second = (
        (slice(0, 2 * half, 2), slice(1, 2 * half, 2))
        if interleaved
        else (slice(half), slice(half, 2 * half))
    )
    a, b = y[..., first].copy(), y[..., second].copy()
    y[..., first], y[..., second] = a * c - b * s, a * s + b * c
    return y


def softmax(x: ArrayLike) -> F64:
    """``exp(x - max) / sum`` over the last axis."""
    x = np.asarray(x, np.float64)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, scale: float, lengths: ArrayLike | None = None
) -> F64:
    """Grouped-query softmax attention.

    Parameters
    ----------
    q : array [n, heads, head_dim]
    k, v : array [positions, kv_heads, head_dim]
        Query head h reads KV head ``h // (heads // kv_heads)``; pass the values that the cache holds (rounded to its type).
    scale : float
    lengths : int array [n], optional
        Visible positions of each query; the queries are the last n positions, causally, if None.

    Returns
    -------
    float64 array [n, heads, head_dim]
    """
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    n, heads, _ = q.shape
    positions, kv_heads, _ = k.shape
    visible = positions - n + 1 + np.arange(n) if lengths is None else np.asarray(lengths)
    k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)
    scores = np.einsum("nhd,phd->nhp", q, k) * scale
    scores[np.broadcast_to(np.arange(positions) >= visible[:, None, None], scores.shape)] = -np.inf
    return np.einsum("nhp,phd->nhd", softmax(scores), v)


def silu(x: ArrayLike) -> F64:
    """``x / (1 + exp(-x))``."""
    x = np.asarray(x, np.float64)
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-x))


def gelu(x: ArrayLike) -> F64:
    """The tanh approximation of GELU (Hendrycks and Gimpel, arXiv 1606.08415).

    ``x/2 (1 + tanh u)`` written as ``x / (1 + exp(-2u))``, which does not cancel in the negative tail.
    """
    x = np.asarray(x, np.float64)
    with np.errstate(over="ignore"):
        return x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def kv_cache_values(kind: str, x: ArrayLike) -> F64:
    """What a KV cache of type "f16", "q8_0" or "q4_0" holds of keys or values (c/common/table.h).

    Parameters
    ----------
    kind : str
    x : float32 array [positions, head_dim]

    Returns
    -------
    float64 array [positions, head_dim]
        Quantized by blocks of 32 dims: the scale, absmax / 127 or the value of largest magnitude / -8, is rounded to f16
        first, and codes are rounded to nearest even.
    """
    x = np.asarray(x, np.float32)
    if kind == "f16":
        return x.astype(np.float16).astype(np.float64)
    n, dims = x.shape
    blocks = np.zeros((n, (dims + 31) // 32 * 32), np.float32)
    blocks[:, :dims] = x
    blocks = blocks.reshape(n, -1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)
    scale = np.abs(largest) / np.float32(127) if kind == "q8_0" else largest / np.float32(-8)
    d = scale.clip(-65504, 65504).astype(np.float16)
    inverse = np.divide(np.float32(1), d.astype(np.float32), out=np.zeros_like(largest), where=d != 0)
    low, high = (-127, 127) if kind == "q8_0" else (-8, 7)
    codes = np.clip(np.rint(blocks * inverse), low, high)
    values: F64 = (codes.astype(np.float64) * d).reshape(n, -1)[:, :dims]
    return values
