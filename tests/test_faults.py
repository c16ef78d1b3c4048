"""Allocation failures, interrupts and many cycles: everything is given back, and the next call works."""

import gc
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import hyperion
from hyperion._kernels.pool import fail_allocation
from hyperion.memory import process_budget

IDS = list(range(5, 45))


@pytest.mark.parametrize("budget", ["64MB", "16MB"])
def test_every_failed_allocation_gives_everything_back(path, budget):
    """The nth page allocation of load, session and generate fails, for every n until none is left to fail."""
    used = process_budget().used
    with hyperion.load_model(path, memory_budget=budget, context_length=64) as model:
        expected = model.logits(IDS)
    failures = 0
    for nth in range(1, 200):
        fail_allocation(nth)
        try:
            with hyperion.load_model(path, memory_budget=budget, context_length=64) as model:
                logits = model.logits(IDS)
        except hyperion.HyperionMemoryError:
            failures += 1
            logits = None
        finally:
            fail_allocation(0)
        if logits is None:
            assert process_budget().used == used
            continue
        np.testing.assert_array_equal(logits, expected)
        break
    else:
        pytest.fail("an allocation failed every time")
    assert failures >= 4
    assert process_budget().used == used


def test_a_failed_session_leaves_the_model_usable(path):
    with hyperion.load_model(path, context_length=64) as model:
        expected = model.logits(IDS)
        fail_allocation(1)
        with pytest.raises(hyperion.HyperionMemoryError):
            model.session()
        fail_allocation(0)
        np.testing.assert_array_equal(model.logits(IDS), expected)


SCRIPT = """
    import signal
    import sys
    import hyperion
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts its children without
    model = hyperion.load_model(sys.argv[1], memory_budget=sys.argv[2], context_length=512, threads=2)
    ids = [(7 * i) % 2000 + 3 for i in range(500)]
    print("ready", flush=True)
    try:
        while True:
            with model.session() as session:
                session.eval(ids)
    except KeyboardInterrupt:
        print("caught", flush=True)
    with model.session() as session:
        print(len(session.eval(ids[:5])), flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
@pytest.mark.parametrize("budget", ["64MB", "16MB"])
def test_control_c_stops_a_prefill_and_the_model_lives_on(path, budget):
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(path), budget]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "caught\n"
        assert process.stdout.readline() == "2048\n"
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.stdout.close()


def resources():
    """(threads, descriptors, resident KiB) of this process."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), resident


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="resources are counted in /proc")
def test_cycles_over_random_budgets_leave_nothing_behind(path):
    cycles = int(os.environ.get("HYPERION_SOAK", "30"))
    rng = random.Random(0)
    used = process_budget().used

    def cycle():
        with hyperion.load_model(path, memory_budget=rng.randrange(14_500_000, 24_000_000), context_length=64) as model:
            model.generate([1, 2, 3], max_length=3, ignore_end=True)
            model.replan(rng.randrange(14_500_000, 24_000_000))
            model.generate([1, 2, 3], max_length=2, ignore_end=True)

    for _ in range(25):  # the allocator's own pools settle
        cycle()
    threads, files, resident = resources()
    for _ in range(cycles):
        cycle()
    after = resources()
    assert after[0] <= threads and after[1] <= files
    assert after[2] <= resident + 8_000, "the allocator's free pages come and go; no cycle adds to them"
    assert process_budget().used == used
