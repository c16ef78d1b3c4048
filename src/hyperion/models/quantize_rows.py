"""From float32 rows to the blocks of a file."""

from __future__ import annotations

import numpy as np

from hyperion.errors import InvalidArgumentError, UnsupportedError
from hyperion.quantization import QuantizationConfig, quantize_tensor

__all__ = ["check_method", "encode_rows"]

BLOCK = 32
WAYS = {
    "q4_0": ("absmax", "mse"), "q4_1": ("absmax", "mse", "hqq"), "q5_0": ("absmax",), "q5_1": ("absmax",),
    "q8_0": ("absmax", "mse"),
}  # fmt: skip
"""The methods of :class:`QuantizationConfig` that end in blocks of a type; "absmax" is what ggml does."""


def check_method(type: str, method: str | None) -> None:
    """Refuse a method that there is not, or not for a type.

    Raises
    ------
    InvalidArgumentError
        If no type has it.
    UnsupportedError
        If others have it.
    """
    if method is None or method in WAYS.get(type, ()):
        return
    known = sorted({m for ways in WAYS.values() for m in ways})
    if method not in known:
        raise InvalidArgumentError(f"method is {method!r:.40}, expected one of {', '.join(known)}")
    types = ", ".join(t for t, ways in WAYS.items() if method in ways)
    raise UnsupportedError(f"method {method!r} does not make {type} blocks; it makes {types}")


def encode_rows(values: np.ndarray, type: str, method: str | None = None) -> np.ndarray:
    """Rows as blocks of a type, uint8.

    Parameters
    ----------
    values : ndarray of float32, [rows, cols]
        Finite; cols in whole blocks.
    type : str
        As :func:`hyperion.quantization.quantize_tensor` has them.
    method : str, optional
        How scales (and minima) are found, see :class:`hyperion.quantization.QuantizationConfig`; by default the type's own
        way: ggml's, bit for bit, for blocks of 32, a search for the least squared error for K types.

    Raises
    ------
    InvalidArgumentError
        If a scale does not fit the type's f16.
    """
    check_method(type, method)
    if method in (None, "absmax"):
        return quantize_tensor(values, type).codes.reshape(-1)
    symmetric = type != "q4_1"
    config = QuantizationConfig(bits=8 if type == "q8_0" else 4, symmetric=symmetric, group_size=BLOCK, method=method)
    # Codes reach from -8 to 7: a block whose largest weight is positive is turned over, and its scale becomes negative.
    sign = _signs(values) if type == "q4_0" else np.ones((1, 1), np.float32)
    q = quantize_tensor((values.reshape(-1, BLOCK) * sign).reshape(values.shape), config)
    assert q.scales is not None
    scale = q.scales.reshape(-1, 1) * sign
    columns = [scale]
    codes = q.unpacked().reshape(-1, BLOCK)
    if not symmetric:  # (code - zero) * scale = scale * (code + 8) - (8 + zero) * scale
        assert q.zero_points is not None
        columns.append(-(8 + q.zero_points.reshape(-1, 1)) * scale)
    if type == "q8_0":
        return np.concatenate([*_halves(columns), codes.view(np.uint8)], axis=1).reshape(-1)
    nibbles = (codes + 8).astype(np.uint8)
    return np.concatenate([*_halves(columns), nibbles[:, :16] | nibbles[:, 16:] << 4], axis=1).reshape(-1)


def _signs(values: np.ndarray) -> np.ndarray:
    """-1 for the blocks whose weight of largest magnitude is positive, 1 for the others."""
    blocks = values.reshape(-1, BLOCK)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1, keepdims=True), axis=1)
    return np.where(largest > 0, np.float32(-1), np.float32(1))


def _halves(columns: list[np.ndarray]) -> list[np.ndarray]:
    with np.errstate(over="ignore"):
        halves = [c.astype("<f2") for c in columns]
    if not all(np.isfinite(h).all() for h in halves):
        raise InvalidArgumentError("a block holds values too large for its f16 scale")
    return [h.view(np.uint8) for h in halves]
