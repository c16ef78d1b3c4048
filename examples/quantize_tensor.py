"""Quantize a matrix from NumPy, get it back, and multiply with it."""

import numpy as np

import hyperion

rng = np.random.default_rng(1)
w = rng.standard_normal((512, 1024), np.float32)
x = rng.standard_normal((8, 1024), np.float32)

for config in (
    hyperion.QuantizationConfig(bits=4, symmetric=True, group_size=32),
    hyperion.QuantizationConfig(bits=8, symmetric=True),
    hyperion.QuantizationConfig(bits=8, symmetric=False),
):
    q = hyperion.quantize_tensor(w, config)
    back = hyperion.dequantize_tensor(q)
    print(f"{q.format}: {q.bits_per_weight:.2f} bits a weight, largest error {np.abs(back - w).max():.4f}")

out = np.empty_like(w)
hyperion.dequantize_tensor(q, out=out)  # into an array of one's own
np.testing.assert_array_equal(out, back)

exact = x @ w.T
for name in ("q8_0", "q4_k", "q4_0"):  # the block formats of GGUF files multiply as they are
    q = hyperion.quantize_tensor(w, name)
    y = q.linear(x)  # x @ w.T, float32 [8, 512]; the float matrix is never made
    error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
    print(f"{name}: {q.bits_per_weight:.2f} bits a weight, product off by {error:.2%}")
