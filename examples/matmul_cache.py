"""Matrix products of NumPy arrays, and their tiling."""

import numpy as np

import hyperion

rng = np.random.default_rng(1)
a = rng.standard_normal((300, 500), np.float32)
b = rng.standard_normal((500, 200), np.float32)

config = hyperion.CacheConfig(block_size=64, cache_line_size=64, enable_prefetch=True, prefetch_distance=8)
c = hyperion.matmul(a, b, cache=config)
np.testing.assert_allclose(c, a @ b, rtol=1e-4, atol=1e-3)
np.testing.assert_array_equal(c, hyperion.matmul(a, b))  # tiles change the speed, never a bit
np.testing.assert_array_equal(c[:7], hyperion.matmul(a[:7], b))  # nor does how the work is cut
print(c.shape, hyperion.relu(c).mean())
