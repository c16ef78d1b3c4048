"""Pools: settings, blocks that do not overlap, exact counts, views, misuse, size classes."""

import gc
import itertools
import random

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hyperion._kernels.blocks import DIRECT_FROM, Block
from hyperion._kernels.pool import PAGE_SIZE
from hyperion.errors import HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError
from hyperion.memory import (
    MemoryBudget,
    MemoryConfig,
    MemoryPool,
    MemoryStrategy,
    create_pool,
    free,
    process_budget,
)
from pools import KIB, MIB, STRATEGIES, fill, linux, make, resident

# ---- Settings ----------------------------------------------------------------------------------------------


def test_config_takes_sizes_and_names():
    config = MemoryConfig(initial_pool_size="1GiB", max_pool_size="2GiB", strategy="pooled", block_size="4KB")
    assert (config.initial_pool_size, config.max_pool_size, config.block_size) == (2**30, 2**31, 4000)
    assert config.strategy is MemoryStrategy.POOLED
    config.max_pool_size = None
    config.initial_pool_size = "4MiB"
    assert config.initial_pool_size == 4 * MIB
    assert MemoryConfig() == MemoryConfig(strategy=MemoryStrategy.HYBRID, initial_pool_size=MIB)


@pytest.mark.parametrize(
    "bad",
    [{"initial_pool_size": "lots"}, {"initial_pool_size": -1}, {"max_pool_size": 1.5}, {"block_size": 0},
     {"strategy": "fast"}, {"strategy": 1}, {"track_allocations": 1}, {"enable_optimization": None},
     {"initial_pool_size": 10, "max_pool_size": 9}],
)  # fmt: skip
def test_config_refuses(bad):
    with pytest.raises(InvalidArgumentError):
        MemoryConfig(**bad)
    config = MemoryConfig(max_pool_size=MIB)
    before = dict(vars(config))
    with pytest.raises(InvalidArgumentError):
        for name, value in bad.items():
            setattr(config, name, value)
        config.max_pool_size = 0
    assert vars(config).keys() == before.keys()
    with pytest.raises(InvalidArgumentError, match="no field 'pool_size'"):
        config.pool_size = 1
    with pytest.raises(TypeError):
        MemoryConfig(pool_size=1)


def test_a_pool_copies_its_config():
    config = MemoryConfig()
    pool = MemoryPool(config, budget=MemoryBudget(10 * MIB))
    config.block_size = 7
    pool.config.block_size = 9
    assert pool.config.block_size == 4096


@pytest.mark.parametrize("total", [0, 1, 63, 100, 127])
def test_a_pool_that_could_hold_nothing_is_refused(total):
    before = process_budget().used
    with pytest.raises(InvalidArgumentError, match="cannot hold a block"):
        create_pool(total, 100)
    assert process_budget().used == before


# ---- Blocks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 1000, 1024])
def test_a_block_is_aligned_and_writable(strategy, nbytes):
    with make(strategy) as pool:
        block = pool.alloc(nbytes)
        assert isinstance(block, Block)
        assert block.address % 64 == 0
        assert block.nbytes == len(block) == nbytes
        assert block.pool is pool
        view = memoryview(block)
        assert (view.format, view.itemsize, view.ndim, view.nbytes, view.readonly) == ("B", 1, 1, nbytes, False)
        view[:] = b"\xab" * nbytes
        assert bytes(block) == b"\xab" * nbytes
        assert pool.views == 1
        view.release()
        assert not block.freed
        pool.free(block)
        assert block.freed
        assert block.released


@pytest.mark.parametrize("strategy", [MemoryStrategy.STATIC, MemoryStrategy.DYNAMIC, MemoryStrategy.HYBRID])
@pytest.mark.parametrize(
    "nbytes", [2048, 32 * KIB - 1, 32 * KIB, 32 * KIB + 1, 100_001, DIRECT_FROM - 1, DIRECT_FROM, 3 * MIB + 5]
)
def test_large_blocks(strategy, nbytes):
    with make(strategy, "16MiB") as pool:
        held = [pool.alloc(nbytes) for _ in range(3)]
        for i, block in enumerate(held):
            assert block.address % 64 == 0
            fill(block, i)
        assert [set(bytes(block)) for block in held] == [{0}, {1}, {2}]
        for block in held:
            block.free()
        assert pool.stats().current_usage == 0


def test_pooled_blocks():
    pool = make(MemoryStrategy.POOLED, 10 * 1024, block_size=1000)
    assert pool.block_size == 1024
    held = [pool.alloc() for _ in range(10)]
    assert {block.nbytes for block in held} == {1024}
    with pytest.raises(HyperionMemoryError, match="10 blocks"):
        pool.alloc()
    with pytest.raises(InvalidArgumentError, match="1024 bytes, not 1025"):
        pool.alloc(1025)
    address = held[3].address
    held.pop(3).free()
    assert pool.alloc(5).address == address  # the last one freed is warm in the cache


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bad", [-1, 1.5, "many", True, b"1", 2**63, 2**200])
def test_bad_sizes(strategy, bad):
    pool = make(strategy)
    with pytest.raises((InvalidArgumentError, HyperionMemoryError)):
        pool.alloc(bad)
    if strategy is not MemoryStrategy.POOLED:
        with pytest.raises(InvalidArgumentError, match="how many"):
            pool.alloc()
        with pytest.raises(HyperionMemoryError):
            pool.alloc(2**62)
        assert pool.alloc("1KiB").nbytes == 1024
    assert pool.alloc(np.int64(7)).nbytes == 7
    assert pool.stats().current_usage == 0


def test_blocks_cannot_be_made_or_copied():
    pool = make(MemoryStrategy.DYNAMIC)
    with pytest.raises(TypeError):
        Block()
    import copy
    import pickle

    for use in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError):
            use(pool.alloc(1))
    assert pool.stats().current_usage == 0


# ---- Misuse ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_double_free(strategy):
    pool = make(strategy)
    kept, block = pool.alloc(100), pool.alloc(100)
    pool.free(block)
    for use in (lambda: pool.free(block), block.free, lambda: free(block)):
        with pytest.raises(HyperionRuntimeError, match="double free"):
            use()
    again = pool.alloc(100)  # most likely at the same address: the old handle must not free it
    with pytest.raises(HyperionRuntimeError, match="double free"):
        pool.free(block)
    assert not again.freed
    assert not kept.freed
    assert pool.stats().current_usage == 200


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_foreign_blocks(strategy):
    pool, other = make(strategy, name="mine"), make(strategy, name="theirs")
    block = other.alloc(100)
    with pytest.raises(InvalidArgumentError, match="'theirs', not from pool 'mine'"):
        pool.free(block)
    for bad in (block.address, None, memoryview(block), bytearray(100), np.frombuffer(block, np.uint8)):
        with pytest.raises(InvalidArgumentError):
            pool.free(bad)
        with pytest.raises(InvalidArgumentError):
            free(bad)
    assert not block.freed


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("nbytes", [1000, 300_000])
def test_a_view_keeps_the_block(strategy, nbytes):
    pool = make(strategy, "4MiB", block_size=max(1024, nbytes))
    block = pool.alloc(nbytes)
    array = np.frombuffer(block, np.uint8)
    part = array[10:20]
    part[:] = 7
    pool.free(block)
    assert block.freed
    assert not block.released
    assert pool.stats().current_usage == nbytes
    for use in (lambda: block.address, lambda: memoryview(block), block.__enter__):
        with pytest.raises(HyperionRuntimeError, match="was freed"):
            use()
    with pytest.raises(HyperionRuntimeError, match="double free"):
        pool.free(block)
    other = pool.alloc(nbytes)
    fill(other, 9)
    assert part.tolist() == [7] * 10
    del array
    gc.collect()
    assert not block.released
    del part
    assert block.released
    assert pool.stats().current_usage == nbytes  # the other one


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_view_outlives_block_and_pool(strategy):
    budget = MemoryBudget("1GiB")
    array = np.frombuffer(make(strategy, budget=budget, block_size=4096).alloc(4096), np.float32)
    array[:] = 1
    gc.collect()
    assert array.sum() == 1024
    assert budget.used > 0
    del array
    gc.collect()
    assert budget.used == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dropping_a_block_frees_it(strategy):
    pool = make(strategy)
    for _ in range(3000):  # more than the pool holds
        pool.alloc(1000)
    with pool.alloc(10) as block:
        assert not block.freed
    assert block.freed
    with pool.alloc(10) as block:
        block.free()
    assert pool.stats().current_usage == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("nbytes", [1000, 300_000])
def test_close_frees_all_blocks(strategy, nbytes):
    budget = MemoryBudget("1GiB")
    pool = make(strategy, "4MiB", budget=budget, block_size=nbytes)
    held = [pool.alloc(nbytes) for _ in range(5)]
    view = memoryview(held[2])
    pool.close()
    pool.close()
    assert pool.closed
    view[5] = 5  # memory that a view uses is still there
    assert view[5] == 5
    for use in (pool.alloc, pool.__enter__, pool.reset, pool.open):
        with pytest.raises(HyperionRuntimeError, match="closed"):
            use(1) if use == pool.alloc else use()
    for block in held:
        assert block.freed
        with pytest.raises(HyperionRuntimeError, match="was freed"):
            memoryview(block)
        with pytest.raises(HyperionRuntimeError, match="double free"):
            pool.free(block)
    assert budget.used > 0
    view.release()
    assert budget.used == 0
    assert pool.stats().current_usage == 0
    assert pool.stats().held == 0
    assert pool.account[4] == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reset(strategy):
    pool = make(strategy, "4MiB")
    held = [pool.alloc(1000) for _ in range(500)]
    view = memoryview(held[0])
    with pytest.raises(HyperionRuntimeError, match="1 views"):
        pool.reset()
    assert not held[0].freed
    view.release()
    pool.reset()
    assert all(block.freed for block in held)
    assert pool.stats().current_usage == 0
    with pytest.raises(HyperionRuntimeError, match="double free: .* together"):
        held[0].free()
    fresh = [pool.alloc(1000) for _ in range(500)]
    del held  # old handles must not touch new blocks
    assert pool.stats().current_usage == 500_000
    assert len({b.address for b in fresh}) == 500


def test_static_memory_is_reused_when_the_last_block_is_freed():
    pool = make(MemoryStrategy.STATIC, "64KiB")
    first = [pool.alloc(1000) for _ in range(64)]
    address = first[0].address
    with pytest.raises(HyperionMemoryError):
        pool.alloc(1000)
    for block in first[1:]:
        block.free()
    with pytest.raises(HyperionMemoryError):
        pool.alloc(1000)
    first[0].free()
    assert pool.alloc(1000).address == address


# ---- The model: random use against a list ------------------------------------------------------------------


class Machine(RuleBasedStateMachine):
    """Allocations and frees against a list of (block, content): no overlap, no lost content, exact counts."""

    strategy = MemoryStrategy.DYNAMIC
    optimization = False
    largest = 600_000

    def __init__(self):
        super().__init__()
        self.budget = MemoryBudget("64MiB")
        self.pool = make(
            self.strategy, "1MiB", "8MiB", budget=self.budget, block_size=3000, enable_optimization=self.optimization
        )
        self.held = []
        self.peak = self.total = self.count = self.stamp = 0

    @rule(data=st.data(), times=st.integers(1, 30))
    def alloc(self, data, times):
        if self.strategy is MemoryStrategy.POOLED:
            nbytes = data.draw(st.integers(0, 3000))
        else:
            nbytes = data.draw(st.one_of(st.integers(0, 5000), st.integers(0, 70_000), st.integers(0, self.largest)))
        for _ in range(times):
            try:
                block = self.pool.alloc(nbytes)
            except HyperionMemoryError:
                # nothing is refused while half of the region is free (save to fragmentation, which STATIC has most of)
                assert self.usage() + nbytes > 2 * MIB or self.strategy is MemoryStrategy.STATIC
                return
            self.stamp = (self.stamp + 1) % 256
            if nbytes:
                view = memoryview(block)
                view[0] = view[-1] = self.stamp
                view.release()
            self.held.append((block, self.stamp))
            self.total += nbytes
            self.count += 1
            self.peak = max(self.peak, self.usage())

    @precondition(lambda self: self.held)
    @rule(data=st.data(), times=st.integers(1, 40))
    def free(self, data, times):
        order = random.Random(data.draw(st.integers(0, 2**32)))
        for _ in range(min(times, len(self.held))):
            block, stamp = self.held.pop(order.randrange(len(self.held)))
            if block.nbytes:
                view = memoryview(block)
                assert view[0] == view[-1] == stamp
                view.release()
            self.pool.free(block)

    @rule()
    def trim(self):
        before = self.pool.stats().held
        assert self.pool.trim() == before - self.pool.stats().held

    @precondition(lambda self: len(self.held) > 50)
    @rule()
    def reset(self):
        self.pool.reset()
        self.held.clear()

    def usage(self):
        return sum(block.nbytes for block, _ in self.held)

    @invariant()
    def agrees(self):
        stats = self.pool.stats()
        assert stats.current_usage == self.usage()
        assert (stats.peak_usage, stats.total_allocated, stats.allocation_count) == (self.peak, self.total, self.count)
        assert self.pool.account[4] == len(self.held)
        assert stats.held >= stats.current_usage
        assert 0 <= stats.fragmentation_ratio <= 1
        assert self.budget.used == self.pool.reserved >= stats.held
        assert self.pool.idle == stats.held - stats.current_usage
        ranges = sorted((b.address, b.address + max(1, b.nbytes)) for b, _ in self.held)
        assert all(start % 64 == 0 for start, _ in ranges)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))

    def teardown(self):
        for block, stamp in self.held:
            assert not block.nbytes or bytes(block)[-1] == stamp
            block.free()
        self.pool.trim()
        assert self.pool.stats().held <= 200 * KIB  # tables
        self.pool.close()
        assert self.budget.used == 0


def machine(name, **attributes):
    case = type(name, (Machine,), attributes).TestCase
    case.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
    return case


TestStatic = machine("Static", strategy=MemoryStrategy.STATIC)
TestPooled = machine("Pooled", strategy=MemoryStrategy.POOLED)
TestDynamic = machine("Dynamic", strategy=MemoryStrategy.DYNAMIC)
TestHybrid = machine("Hybrid", strategy=MemoryStrategy.HYBRID)
TestOptimized = machine("Optimized", strategy=MemoryStrategy.DYNAMIC, optimization=True)


@pytest.mark.parametrize("optimization", [False, True])
@pytest.mark.parametrize("maximum", ["2MiB", "64MiB"])  # pages of their own; huge pages
def test_long_random_use(maximum, optimization):
    """Every size, a nearly full pool: content stays, and all of it comes back as one run."""
    pool = make(MemoryStrategy.DYNAMIC, maximum, maximum, enable_optimization=optimization)
    draw, held, refused = random.Random(1), [], 0
    sizes = [40, 72, 100, 1000, 4097, 33_000, 70_000, 200_000]
    for step in range(30_000):
        if draw.random() < 0.52 + 0.2 * (step % 8000 < 2000):
            try:
                block = pool.alloc(draw.choice(sizes) + draw.randrange(30))
            except HyperionMemoryError:
                refused += 1
            else:
                stamp = step % 251
                memoryview(block)[-1] = stamp
                held.append((block, stamp))
        elif held:
            i = draw.randrange(len(held))
            held[i], held[-1] = held[-1], held[i]
            block, stamp = held.pop()
            assert memoryview(block)[-1] == stamp
            block.free()
    assert refused or maximum == "64MiB"
    if optimization:
        assert pool.tunings
    assert pool.stats().current_usage == sum(block.nbytes for block, _ in held)
    for block, stamp in held:
        assert memoryview(block)[-1] == stamp
        block.free()
    pool.trim()
    whole = pool.alloc(pool.capacity)
    fill(whole, 1)
    whole.free()
    pool.close()
    assert pool.budget.used == 0


# ---- Size classes, fragmentation, pages --------------------------------------------------------------------


def test_size_classes_waste_a_fifth_at_most():
    pool = make(MemoryStrategy.DYNAMIC)
    for nbytes in range(513, 32 * KIB, 37):
        assert nbytes <= pool.class_size(nbytes) <= 1.25 * nbytes + 64
    for nbytes in range(1, 513):
        assert pool.class_size(nbytes) == -(-nbytes // 64) * 64
    assert pool.class_size(32 * KIB + 1) == -(-(32 * KIB + 1) // PAGE_SIZE) * PAGE_SIZE


def test_optimization_chooses_classes_from_demand():
    def held(optimize):
        pool = make(MemoryStrategy.DYNAMIC, 0, "64MiB", enable_optimization=optimize, huge=False)
        blocks = [pool.alloc(n) for _ in range(2000) for n in (1030, 2600)]
        assert pool.class_size(100) == 128
        size, pages = pool.class_size(1030), pool.stats().held
        del blocks
        for _ in range(5):
            later = [pool.alloc(n) for _ in range(4000) for n in (640, 700)]  # demand changes
            del later
        assert pool.alloc(1030).nbytes == 1030
        assert pool.trim() > 0
        return size, pages

    (plain, plain_bytes), (tuned, tuned_bytes) = held(False), held(True)
    assert (plain, tuned) == (1280, 1088)
    assert tuned_bytes < plain_bytes - 500_000


def test_fragmentation_ratio():
    pool = make(MemoryStrategy.POOLED, 64 * KIB, block_size=1024)
    assert pool.stats().fragmentation_ratio == 0.0
    held = [pool.alloc() for _ in range(64)]
    stats = pool.stats()
    assert stats.held == 64 * KIB + PAGE_SIZE  # and the list of free blocks
    assert stats.fragmentation_ratio == pytest.approx(1 - 64 * KIB / stats.held)
    del held[::2]
    assert pool.stats().fragmentation_ratio == pytest.approx(1 - 32 * KIB / stats.held)
    held.clear()
    assert pool.stats().fragmentation_ratio == 1.0
    pool.trim()
    assert pool.stats().fragmentation_ratio == 0.0


def test_neighbours_are_joined():
    pool = make(MemoryStrategy.DYNAMIC, "4MiB", "4MiB")
    held = [pool.alloc(100_000) for _ in range(40)]
    for block in held[::2]:
        block.free()
    with pytest.raises(HyperionMemoryError, match="longest free run"):
        pool.alloc(2 * MIB)
    for block in held[1::2]:
        block.free()
    assert pool.alloc(4 * MIB).nbytes == 4 * MIB


@linux
@pytest.mark.parametrize("strategy", [MemoryStrategy.DYNAMIC, MemoryStrategy.HYBRID])
def test_pages_go_back(strategy):
    budget = MemoryBudget("1GiB")
    pool = make(strategy, 0, "512MiB", budget=budget, reserve=False)
    before = resident()
    held = [pool.alloc(200_000) for _ in range(300)]
    for block in held:
        fill(block, 1)
    assert resident() - before > 55 * MIB
    assert budget.used > 60_000_000
    held.clear()
    block = None
    assert resident() - before < 8 * MIB
    assert budget.used < 8 * MIB
    pool.trim()
    assert budget.used < MIB
    whole = pool.alloc(400 * MIB)
    assert budget.used >= 400 * MIB
    assert not np.frombuffer(whole, np.uint8, 100 * MIB)[:: MIB].any()  # fresh from the system
    del whole
    assert budget.used < 8 * MIB


@linux
def test_what_is_held_is_what_may_be_resident():
    """Also with huge pages: a block's neighbours in the same huge page count."""
    pool = make(MemoryStrategy.DYNAMIC, "64MiB", "256MiB")
    before = resident()
    held = []
    for _ in range(200):
        held.append(pool.alloc(100_000))
        fill(held[-1], 1)
        assert resident() - before <= pool.stats().held + MIB
    del held[::2]
    assert pool.stats().held >= 10_000_000
