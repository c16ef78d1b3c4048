"""The memory ledger and what is allocated under it."""

from .budget import MemoryBudget, MemoryStats, Reservation, process_budget
from .machine import available_memory, total_memory
from .pool import (
    Block,
    MemoryConfig,
    MemoryPool,
    MemoryStrategy,
    alloc,
    allocate,
    create_pool,
    engine_pool,
    free,
    init_memory,
)
from .sizes import format_size, parse_size
from .tracking import enable_memory_tracking, generate_memory_report, get_memory_stats

__all__ = [
    "Block",
    "MemoryBudget",
    "MemoryConfig",
    "MemoryPool",
    "MemoryStats",
    "MemoryStrategy",
    "Reservation",
    "alloc",
    "allocate",
    "available_memory",
    "create_pool",
    "enable_memory_tracking",
    "engine_pool",
    "format_size",
    "free",
    "generate_memory_report",
    "get_memory_stats",
    "init_memory",
    "parse_size",
    "process_budget",
    "total_memory",
]
