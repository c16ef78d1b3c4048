"""Pools under the ledger: limits, failure, threads, fork, and the process's own pool."""

import gc
import os
import random
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hyperion
from hyperion._kernels.blocks import Pool
from hyperion._kernels.pool import PAGE_SIZE, fail_allocation
from hyperion.errors import HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError
from hyperion.memory import (
    MemoryBudget,
    MemoryConfig,
    MemoryPool,
    MemoryStrategy,
    alloc,
    allocate,
    engine_pool,
    free,
    get_memory_stats,
    init_memory,
    process_budget,
)
from pools import KIB, MIB, STRATEGIES, fill, linux, make, resident


@pytest.fixture
def process_memory():
    """Leaves the process's ledger and pool as they were."""
    limit = process_budget().limit
    yield
    engine_pool().close()
    process_budget().set_limit(limit)


# ---- The ledger --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_initial_size_is_reserved_and_never_refused(strategy):
    budget = MemoryBudget("1GiB")
    pool = make(strategy, "1MiB", budget=budget)
    promised = budget.used
    assert MIB <= promised < 1.1 * MIB
    assert budget.by_owner() == {"pool": promised}
    budget.set_limit(promised)
    held = [pool.alloc(1024) for _ in range(900)]
    assert budget.used == promised
    assert pool.stats().held <= promised
    held.clear()
    pool.close()
    assert budget.used == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_ledger_that_is_full_refuses(strategy):
    budget = MemoryBudget("600KiB")
    pool = make(strategy, 0, "16MiB", budget=budget, reserve=False)
    assert budget.used == 0
    held = []
    with pytest.raises(MemoryBudgetError, match="smallest"):
        for _ in range(2000):
            held.append(pool.alloc(1024))
    assert 300 < len(held) < 600
    assert budget.used == pool.reserved <= 600 * KIB
    assert pool.stats().current_usage == 1024 * len(held)
    count = len(held)
    with pytest.raises(MemoryBudgetError):
        pool.alloc(1024)
    assert pool.stats().allocation_count == count
    budget.set_limit("8MiB")
    held.append(pool.alloc(1024))
    with pytest.raises(MemoryBudgetError):
        make(strategy, "16MiB", budget=budget)
    del held
    pool.close()
    assert budget.used == 0


def test_idle_memory_goes_back_before_a_ledger_refuses():
    budget = MemoryBudget("2MiB")
    pool = make(MemoryStrategy.DYNAMIC, 0, "64MiB", budget=budget, reserve=False, huge=False)
    small = [pool.alloc(100) for _ in range(8000)]
    del small  # kept for reuse, and 1.8 MiB do not fit beside it
    block = pool.alloc(1_800_000)
    assert block.nbytes == 1_800_000


def test_the_maximum_is_held():
    pool = make(MemoryStrategy.HYBRID, "1MiB", "4MiB")
    large = pool.alloc(3 * MIB)
    with pytest.raises(HyperionMemoryError, match="cannot hold"):
        pool.alloc(2 * MIB)
    small = [pool.alloc(10_000) for _ in range(80)]
    with pytest.raises(HyperionMemoryError, match="cannot hold"):
        for _ in range(80):
            small.append(pool.alloc(10_000))
    large.free()
    small.append(pool.alloc(2 * MIB))
    with pytest.raises(HyperionMemoryError):
        pool.alloc(5 * MIB)


def test_a_ledger_s_fragmentation_is_that_of_what_it_holds():
    root = MemoryBudget("1GiB")
    child = root.child("model")
    assert root.stats().fragmentation_ratio == 0.0
    reservation = child.reserve("tokenizer", 10 * PAGE_SIZE)
    buffer = allocate(child, "weights", 1)
    assert child.stats().fragmentation_ratio == pytest.approx((PAGE_SIZE - 1) / (11 * PAGE_SIZE))
    pool = make(MemoryStrategy.POOLED, 16 * PAGE_SIZE, block_size=PAGE_SIZE, budget=root)
    block = pool.alloc(1)
    stats = root.stats()
    idle = PAGE_SIZE - 1 + pool.stats().held - 1
    assert stats.fragmentation_ratio == pytest.approx(idle / root.used)
    assert stats.held == stats.current_usage == root.used
    buffer.close()
    del block, pool
    reservation.release()
    assert child.stats().fragmentation_ratio == 0.0
    assert root.stats().fragmentation_ratio == 0.0
    assert root.used == 0


# ---- Failure -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("nbytes", [1000, 300_000])
def test_injected_failures_lose_nothing(strategy, nbytes):
    budget = MemoryBudget("1GiB")
    for nth in (1, 2, 3, 4):
        pool = make(strategy, 0, "8MiB", budget=budget, block_size=nbytes, reserve=False)
        held = []
        fail_allocation(nth)
        for _ in range(7):
            try:
                held.append(pool.alloc(nbytes))
            except HyperionMemoryError as error:
                assert not isinstance(error, MemoryBudgetError)
        fail_allocation(0)
        held.append(pool.alloc(nbytes))
        for i, block in enumerate(held):
            fill(block, i)
        assert pool.stats().current_usage == nbytes * len(held)
        assert budget.used == pool.reserved
        del block
        held.clear()
        pool.close()
        assert budget.used == 0
    fail_allocation(1)
    with pytest.raises(HyperionMemoryError, match="address space"):
        make(strategy, "1MiB", "8MiB", budget=budget)
    assert budget.used == 0


def test_impossible_address_space():
    budget = MemoryBudget(2**62)
    with pytest.raises(HyperionMemoryError, match="address space"):
        make(MemoryStrategy.STATIC, 2**60, budget=budget)
    assert budget.used == 0
    pool = make(MemoryStrategy.HYBRID, 0, budget=budget, reserve=False)  # takes what there is
    assert pool.alloc(100).nbytes == 100
    assert 64 * MIB <= pool.capacity < 2**62


def test_a_pool_is_set_up_once():
    pool = make(MemoryStrategy.POOLED)
    block = pool.alloc()
    with pytest.raises(HyperionRuntimeError, match="set up"):
        pool.__init__(MemoryConfig(), budget=MemoryBudget(MIB * 2))
    assert not block.freed
    bare = Pool.__new__(Pool)
    with pytest.raises(HyperionMemoryError):
        bare.alloc(1)


# ---- Threads, collection, fork -----------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [MemoryStrategy.POOLED, MemoryStrategy.DYNAMIC, MemoryStrategy.HYBRID])
def test_threads(strategy):
    budget = MemoryBudget("1GiB")
    pool = make(strategy, 0, "64MiB", budget=budget, block_size=4096, reserve=False)
    errors = []

    def use(seed):
        draw, held = random.Random(seed), []
        try:
            for step in range(2500):
                if draw.random() < 0.55:
                    large = strategy is not MemoryStrategy.POOLED and step % 50 == 0
                    block = pool.alloc(300_000 if large else draw.randrange(1, 4096))
                    view = memoryview(block)
                    view[0] = view[-1] = seed
                    held.append((block, view))
                elif held:
                    block, view = held.pop(draw.randrange(len(held)))
                    assert view[0] == view[-1] == seed
                    block.free()
                    del view
        except Exception as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(5)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    gc.collect()
    assert not errors
    assert pool.stats().current_usage == pool.account[4] == pool.views == 0
    assert budget.used == pool.reserved
    pool.close()
    assert budget.used == 0


def test_collection_in_the_middle_of_growth():
    """Blocks that the collector frees while the pool reserves: nothing is lost or counted twice."""
    budget = MemoryBudget("1GiB")
    pool = make(MemoryStrategy.HYBRID, 0, "256MiB", budget=budget, reserve=False, huge=False)
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for i in range(300):
            cycle = [pool.alloc(300_000 + i), pool.alloc(50_000 + 100 * i)]
            cycle.append(cycle)
    finally:
        gc.set_threshold(*thresholds)
    del cycle
    gc.collect()
    assert pool.stats().current_usage == 0
    assert budget.used == pool.reserved
    pool.close()
    assert budget.used == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork():
    pool = make(MemoryStrategy.DYNAMIC, 0, "64MiB", reserve=False)
    kept = pool.alloc(1000)
    fill(kept, 3)
    stop = threading.Event()

    def use():
        while not stop.is_set():
            pool.alloc(100_000).free()
            pool.trim()

    other = threading.Thread(target=use)
    other.start()
    try:
        for _ in range(20):
            child = os.fork()
            if not child:
                ok = set(bytes(kept)) == {3}
                fill(kept, 4)
                kept.free()
                pool.alloc(200_000).free()
                pool.trim()
                os._exit(0 if ok else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        other.join()
    assert set(bytes(kept)) == {3}


@linux
def test_soak():
    def figures():
        gc.collect()
        with open("/proc/self/maps") as f:
            return resident(), len(f.readlines()), len(os.listdir("/proc/self/fd"))

    def cycle(i):
        pool = make(STRATEGIES[i % 4], "1MiB", "64MiB", block_size=5000)
        held = [pool.alloc(j * 7 % 5000) for j in range(150)]
        view = np.frombuffer(held[3], np.uint8)
        if i % 3:
            pool.close()
        del held, view

    for i in range(20):
        cycle(i)
    before = figures()
    for i in range(400):
        cycle(i)
    after = figures()
    assert after[0] - before[0] < 3 * MIB
    assert after[1] <= before[1] + 4
    assert after[2] == before[2]


# ---- The process's pool ------------------------------------------------------------------------------------


def test_alloc_and_free(process_memory):
    before = get_memory_stats()
    block = alloc("1MiB")
    assert block.nbytes == MIB
    assert block.pool is engine_pool()
    during = get_memory_stats()
    assert during.current_usage - before.current_usage == MIB
    assert during.allocation_count - before.allocation_count == 1
    assert during.total_allocated - before.total_allocated == MIB
    assert during.peak_usage >= during.current_usage
    assert during.held >= during.current_usage
    free(block)
    assert get_memory_stats().current_usage == before.current_usage
    with pytest.raises(HyperionRuntimeError, match="double free"):
        free(block)
    with pytest.raises(InvalidArgumentError, match="Block"):
        free(7)


@linux
def test_init_memory_touches_nothing(process_memory):
    budget = process_budget()
    used, before = budget.used, resident()
    old = alloc(100)
    fill(old, 1)
    reserved = budget.used
    pool = init_memory(MemoryConfig(initial_pool_size="256MiB", max_pool_size="512MiB", strategy="dynamic"))
    assert engine_pool() is pool
    assert resident() - before < 8 * MIB
    assert budget.used <= reserved
    assert budget.limit == 512 * MIB
    assert bytes(old) == b"\x01" * 100
    free(old)
    assert old.released
    del old
    assert budget.used <= used
    block = alloc("100MiB")
    assert pool.stats().current_usage == 100 * MIB
    assert budget.used >= 100 * MIB
    with pytest.raises(MemoryBudgetError) as caught:
        init_memory(MemoryConfig(max_pool_size="64MiB"))
    assert caught.value.context["required"] >= 100 * MIB
    assert engine_pool() is pool
    assert budget.limit == 512 * MIB
    with pytest.raises(HyperionMemoryError):
        alloc("600MiB")
    free(block)
    fail_allocation(1)
    with pytest.raises(HyperionMemoryError):
        init_memory(MemoryConfig(max_pool_size="128MiB"))
    assert budget.limit == 512 * MIB


def test_the_engine_s_buffers_show_in_the_pool(process_memory):
    pool, budget = engine_pool(), MemoryBudget("1GiB")
    before = pool.stats()
    buffer = allocate(budget, "weights", 5 * PAGE_SIZE + 1)
    during = pool.stats()
    assert during.current_usage - before.current_usage == 5 * PAGE_SIZE + 1
    assert during.held - before.held == 6 * PAGE_SIZE
    assert during.allocation_count - before.allocation_count == 1
    assert pool.reserved == 0  # it counts in its own ledger
    assert budget.by_owner() == {"weights": 6 * PAGE_SIZE}
    assert get_memory_stats().current_usage >= 5 * PAGE_SIZE + 1
    view = np.frombuffer(buffer, np.uint8)
    buffer.close()
    assert pool.stats().current_usage == during.current_usage
    del view
    assert pool.stats().current_usage == before.current_usage
    assert pool.stats().held == before.held
    fail_allocation(1)
    with pytest.raises(HyperionMemoryError):
        allocate(budget, "weights", 1)
    assert pool.stats().current_usage == before.current_usage
    assert budget.used == 0


def test_a_model_s_buffers_come_from_the_pool(process_memory):
    from hyperion.cli.common import model_path

    init_memory(MemoryConfig(max_pool_size=process_budget().limit))
    with model_path(None) as path, hyperion.load_model(path, memory_budget="64MB") as model:
        model.generate("ROMEO:", max_length=2, temperature=0.0)
        stats = engine_pool().stats()
        assert stats.allocation_count >= 3
        assert stats.current_usage > 1_000_000
        assert stats.held <= model.memory_stats.current_usage
        assert 0 < model.memory_stats.fragmentation_ratio < 0.1
    gc.collect()
    assert engine_pool().stats().current_usage == 0


# ---- The documented procedures -----------------------------------------------------------------------------


def test_procedures(process_memory):
    pool = hyperion.create_pool("1MiB", 4096)
    assert isinstance(pool, hyperion.MemoryPool)
    block = hyperion.pool_alloc(pool, 4000)
    assert block.nbytes == 4000
    assert hyperion.pool_alloc(pool).nbytes == 4096
    hyperion.pool_free(pool, block)
    assert pool.stats().current_usage == 0
    made = hyperion.init_memory(hyperion.MemoryConfig(initial_pool_size="1MiB", max_pool_size="1GiB"))
    block = hyperion.alloc(1000)
    assert made.stats().current_usage == 1000
    assert isinstance(hyperion.get_memory_stats(), hyperion.MemoryStats)
    hyperion.free(block)
    assert made.stats().current_usage == 0
    assert "1 GiB" not in repr(made)
    assert "HYBRID" in repr(made)


@given(st.integers(1, 200), st.integers(1, 5000))
@settings(max_examples=50, deadline=None)
def test_a_pool_of_fixed_blocks_holds_as_many_as_fit(blocks, size):
    slot = -(-size // 64) * 64
    pool = MemoryPool(
        MemoryConfig(initial_pool_size=blocks * slot, block_size=size, strategy="POOLED"), budget=MemoryBudget("1GiB")
    )
    held = [pool.alloc() for _ in range(blocks)]
    with pytest.raises(HyperionMemoryError):
        pool.alloc()
    assert len({block.address for block in held}) == blocks
