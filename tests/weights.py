"""Random weights in GGUF's blocks, for tests."""

import numpy as np

from hyperion._kernels.quant import TYPES

FLOATS = ("f32", "f16", "bf16")
QUANTIZED = tuple(name for name in TYPES if name not in FLOATS)
_SCALES = {  # where a block's f16 scale and minimum are
    "q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2), "q5_k": (0, 2), "q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,),
}  # fmt: skip


def scales_at(kind):
    """Byte offsets of the f16 values in a block of a quantized type."""
    return _SCALES.get(kind, (0,))


def with_scales(kind, blocks, values):
    """Write `values` (one a block) over the f16 scale and minimum of uint8 blocks [n, block_bytes]."""
    for at in scales_at(kind):
        blocks[:, at : at + 2] = np.asarray(values).astype("<f2").reshape(-1, 1).view(np.uint8)
    return blocks


def random_raw(rng, kind, rows, cols):
    """Blocks of every bit pattern with scales of either sign around 0.01; floats normally distributed."""
    t = TYPES[kind]
    n = rows * cols // t.block_len
    if kind == "f32":
        return rng.standard_normal(n).astype("<f4").view(np.uint8)
    if kind == "f16":
        return rng.standard_normal(n).astype("<f2").view(np.uint8)
    if kind == "bf16":
        return (rng.standard_normal(n).astype("<f4").view(np.uint32) >> 16).astype("<u2").view(np.uint8)
    blocks = rng.integers(0, 256, (n, t.block_bytes), dtype=np.uint8)
    for at in scales_at(kind):
        blocks[:, at : at + 2] = rng.normal(0, 0.01, (n, 1)).astype("<f2").view(np.uint8)
    return blocks.ravel()
