"""What the machine, or the control group of this process, has."""

from __future__ import annotations

from .._kernels import system


def available_memory() -> int:
    """Return the bytes that this process can still take without swapping.

    The least of what the machine has available and what each control group (version 1 or 2) leaves, page
    cache that can be reclaimed counted as free.
    """
    available = system.machine_memory()[1]
    return min([available, *(max(0, limit - used) for limit, used in system.memory_groups())])


def total_memory() -> int:
    """Return the bytes that this process could ever have: the machine's, or its control group's limit."""
    return min([system.machine_memory()[0], *(limit for limit, _ in system.memory_groups())])
