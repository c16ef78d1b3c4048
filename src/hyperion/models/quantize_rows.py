"""From float32 rows to the blocks of a file."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperion.errors import UnsupportedError

__all__ = ["encode_rows"]

BLOCK = 32


def encode_rows(values: np.ndarray, type: str, method: str | None = None) -> np.ndarray:
    """Rows as blocks of a type, uint8.

    Parameters
    ----------
    values : ndarray of float32, [rows, cols]
        Finite; cols in whole blocks.
    type : str
        "f32", "f16", "bf16", or a block type; blocks of 32 are ggml's reference encoding, bit for bit.
    method : str, optional
        Only the type's own way is known here.

    Raises
    ------
    UnsupportedError
        For a type or method that there is no encoder of.
    """
    if type == "f32":
        return np.ascontiguousarray(values, "<f4").reshape(-1).view(np.uint8)
    if type == "f16":
        with np.errstate(over="ignore"):  # the caller looks for what does not fit
            return values.astype("<f2").reshape(-1).view(np.uint8)
    if type == "bf16":
        return _bfloat(values).reshape(-1).view(np.uint8)
    if type not in _ENCODERS:
        raise UnsupportedError(f"quantizing to {type} is not implemented; implemented: {', '.join(_ENCODERS)}, bf16, f16, f32")
    if method not in (None, "absmax"):
        raise UnsupportedError(f"quantization method {method!r:.40} is not implemented for {type}; implemented: 'absmax'")
    return _ENCODERS[type](values.reshape(-1, BLOCK)).reshape(-1)


def _bfloat(values: np.ndarray) -> np.ndarray:
    """Round to nearest even on the upper half of the bits; the values are finite."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def _inverse(d: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(d == 0, np.float32(0), np.float32(1) / d)


def _half(*scales: np.ndarray) -> list[np.ndarray]:
    with np.errstate(over="ignore"):
        return [s.astype("<f2").view(np.uint8) for s in scales]


def _nibbles(q: np.ndarray) -> np.ndarray:
    return (q[:, :16] & 15) | (q[:, 16:] & 15) << 4


def _fifth_bits(q: np.ndarray) -> np.ndarray:
    return np.packbits(q >> 4, axis=1, bitorder="little")


def _symmetric(blocks: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes from 0, where the weight that is largest in magnitude becomes the code 0: it has one step more than the others."""
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-steps)
    # double precision: ggml's compilers fuse the product and the sum, which this equals
    codes = np.trunc(blocks.astype(np.float64) * _inverse(d).astype(np.float64) + (steps + 0.5))
    return d, np.clip(codes, 0, 2 * steps - 1).astype(np.uint8)


def _affine(blocks: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
    d = (high - low) / np.float32(most)
    codes = np.trunc((blocks - low) * _inverse(d) + np.float32(0.5))
    return d, low, np.clip(codes, 0, most).astype(np.uint8)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    d, q = _symmetric(blocks, 8)
    return np.concatenate([*_half(d), _nibbles(q)], axis=1)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    d, low, q = _affine(blocks, 15)
    return np.concatenate([*_half(d, low), _nibbles(q)], axis=1)


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    d, q = _symmetric(blocks, 16)
    return np.concatenate([*_half(d), _fifth_bits(q), _nibbles(q)], axis=1)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    d, low, q = _affine(blocks, 31)
    return np.concatenate([*_half(d, low), _fifth_bits(q), _nibbles(q)], axis=1)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    d = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(d)
    away = np.trunc(scaled + np.copysign(np.float32(0.5), scaled))  # halves away from zero
    return np.concatenate([*_half(d), away.astype(np.int8).view(np.uint8)], axis=1)


_ENCODERS: dict[str, Any] = {"q4_0": _q4_0, "q4_1": _q4_1, "q5_0": _q5_0, "q5_1": _q5_1, "q8_0": _q8_0}
