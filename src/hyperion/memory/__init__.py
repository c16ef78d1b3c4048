"""The memory ledger and what is allocated under it."""

from .budget import (
    MemoryBudget,
    MemoryStats,
    Reservation,
    allocate,
    available_memory,
    format_size,
    parse_size,
    process_budget,
    total_memory,
)

__all__ = [
    "MemoryBudget",
    "MemoryStats",
    "Reservation",
    "allocate",
    "available_memory",
    "format_size",
    "parse_size",
    "process_budget",
    "total_memory",
]
