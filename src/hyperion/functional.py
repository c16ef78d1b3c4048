"""The documented procedures, one name each; what they do is in the modules that they come from."""

from .memory import (
    Block,
    MemoryPool,
    alloc,
    create_pool,
    enable_memory_tracking,
    free,
    generate_memory_report,
    get_memory_stats,
    init_memory,
)
from .quantization import dequantize_tensor, quantize_tensor

__all__ = [
    "alloc",
    "create_pool",
    "dequantize_tensor",
    "enable_memory_tracking",
    "free",
    "generate_memory_report",
    "get_memory_stats",
    "init_memory",
    "pool_alloc",
    "pool_free",
    "quantize_tensor",
]


def pool_alloc(pool: MemoryPool, size: int | str | None = None) -> Block:
    """Return a block of `size` bytes from a pool; see :meth:`hyperion.MemoryPool.alloc`."""
    return pool.alloc(size)


def pool_free(pool: MemoryPool, block: Block) -> None:
    """Give a block back to its pool; see :meth:`hyperion.MemoryPool.free`."""
    pool.free(block)
