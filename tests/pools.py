"""Pools for the tests of pools."""

import sys

import numpy as np
import pytest

from hyperion._kernels.pool import PAGE_SIZE
from hyperion.memory import MemoryBudget, MemoryConfig, MemoryPool, MemoryStrategy

KIB, MIB = 1 << 10, 1 << 20
STRATEGIES = list(MemoryStrategy)
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def make(strategy, initial="1MiB", maximum=None, **options):
    config = MemoryConfig(
        initial_pool_size=initial, max_pool_size=maximum, strategy=strategy, block_size=options.pop("block_size", 1024),
        enable_optimization=options.pop("enable_optimization", False),
    )  # fmt: skip
    return MemoryPool(config, budget=options.pop("budget", None) or MemoryBudget("1GiB"), **options)


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * PAGE_SIZE


def fill(block, value):
    np.frombuffer(block, np.uint8)[:] = value
