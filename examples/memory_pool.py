"""A pool of equal blocks."""

import numpy as np

import hyperion

pool = hyperion.create_pool(1024 * 1024, 4096)  # 1 MiB in blocks of 4 KiB

data = hyperion.pool_alloc(pool, 4000)
array = np.frombuffer(data, np.uint8)  # a view; the block lives as long as it does
array[:] = 7
print(int(array.sum()), "from", len(data), "bytes")
del array
hyperion.pool_free(pool, data)

for _ in range(1000):  # the same block, a thousand times: nothing is asked of the system
    block = hyperion.pool_alloc(pool, 4096)
    hyperion.pool_free(pool, block)

stats = pool.stats()
print(f"{stats.allocation_count} allocations, peak {stats.peak_usage:,} bytes, fragmentation {stats.fragmentation_ratio:.2f}")
pool.close()
