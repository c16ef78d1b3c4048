"""What the peers of `benchmarks/kernels.py` multiply."""

from __future__ import annotations

import numpy as np

from benchmarks import synthetic


def copies(kind: str, rows: int, cols: int, nbytes: int) -> int:
    """How many matrices have `nbytes` together."""
    t = synthetic.TYPES[kind]
    size = rows * cols // t.weights * t.size
    return -(-nbytes // size)


def at_hand(count: int, tokens: int) -> int:
    """How many of the matrices one turn multiplies: with many tokens few, as every output takes memory."""
    return count if tokens <= 64 else min(count, 4)


def raw_weights(kind: str, rows: int, cols: int) -> np.ndarray:
    """A matrix of random blocks, as in a GGUF file: uint8. It keeps the norm of what it multiplies."""
    t = synthetic.TYPES[kind]
    return np.ascontiguousarray(t.draw(np.random.default_rng(0), rows * cols // t.weights, cols**-0.5)).reshape(-1)


def activations(tokens: int, cols: int) -> np.ndarray:
    """float32 [tokens, cols], normally distributed."""
    return np.random.default_rng(tokens).standard_normal((tokens, cols), dtype=np.float32)
