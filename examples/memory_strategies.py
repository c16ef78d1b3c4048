"""The four ways in which a pool hands out memory."""

import hyperion

STRATEGIES = {
    "static": hyperion.MemoryConfig(strategy=hyperion.MemoryStrategy.STATIC, initial_pool_size=1024 * 1024),
    "pooled": hyperion.MemoryConfig(
        strategy=hyperion.MemoryStrategy.POOLED, initial_pool_size=2 * 1024 * 1024, block_size=4096
    ),
    "dynamic": hyperion.MemoryConfig(strategy=hyperion.MemoryStrategy.DYNAMIC, track_allocations=True),
    "hybrid": hyperion.MemoryConfig(
        strategy=hyperion.MemoryStrategy.HYBRID, initial_pool_size=1024 * 1024, enable_optimization=True
    ),
}

for name, config in STRATEGIES.items():
    with hyperion.MemoryPool(config) as pool:
        block = pool.alloc(4096)
        memoryview(block)[:5] = b"bytes"  # a block is a buffer: NumPy takes it without a copy
        print(f"{name}: {pool.stats().current_usage:,} bytes in use")
        del block
