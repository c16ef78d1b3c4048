"""Sparse matrices from NumPy: convert, multiply, quantize the values."""

import numpy as np

import hyperion

rng = np.random.default_rng(1)
w = rng.standard_normal((512, 768), np.float32)
w[rng.random(w.shape) < 0.9] = 0  # nine weights of ten are zero
x = rng.standard_normal((768, 8), np.float32)

for fmt in hyperion.SparseFormat:
    s = hyperion.convert_to_sparse(w, hyperion.SparseConfig(format=fmt, block_size=4, enable_simd=True))
    y = hyperion.sparse_mat_mul(s, x)  # s @ x, float32 [512, 8]
    np.testing.assert_allclose(y, w @ x, rtol=1e-4, atol=1e-3)
    print(f"{fmt.name}: {s.nnz:,} values, {s.nbytes:,} bytes of {w.nbytes:,}")

q = hyperion.convert_to_sparse(w, hyperion.SparseConfig(format="CSR")).quantized(hyperion.QuantizationConfig(bits=8))
print(f"8-bit values: {q.nbytes:,} bytes, product off by {np.abs(q @ x - w @ x).max():.3f} at most")
