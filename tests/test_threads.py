"""The thread team: every item exactly once, whatever the sizes, signals, forks and other callers do."""

import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from hyperion._kernels.threads import Team, probe_busy, probe_count, probe_sum
from hyperion.errors import InvalidArgumentError
from waiting import settles

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")


def native_threads():
    return set(os.listdir("/proc/self/task"))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("grain", [0, 1, 7, 64, 1000, 10**9])
def test_every_item_once(threads, grain):
    team = Team(threads)
    for n in [0, 1, 2, 7, 31, 33, 97, 1000, 1001]:
        hits = np.zeros(n, np.int32)
        for _ in range(20):
            probe_count(team, hits, grain)
        assert (hits == 20).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_worker_numbers_are_distinct(threads):
    """Each worker adds into its own slot without atomics: a number used twice would lose additions."""
    values = np.arange(4096.0)
    team = Team(threads)
    assert all(probe_sum(team, values, 3) == values.sum() for _ in range(300))


def test_workers_take_part():
    assert probe_busy(Team(2), 200, 1_000_000) > 0
    assert probe_busy(Team(1), 20, 1_000) == 0


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs threads that can be kept on a core")
def test_workers_on_the_callers_core():
    """They give way in short regions and take part in a long one; both are whole."""
    found = []

    def use():
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # this thread, and those that it starts
        team, hits = Team(3), np.zeros(101, np.int32)
        for _ in range(300):
            probe_count(team, hits, 2)
        found.extend([(hits == 300).all(), probe_busy(team, 300, 1_000_000) > 0])

    caller = threading.Thread(target=use)
    caller.start()
    caller.join()
    assert found == [True, True]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_region_in_a_region_is_serial(threads):
    team = Team(threads)
    hits = np.zeros(997, np.int32)
    for _ in range(50):
        probe_count(team, hits, 50, nested=7)
    assert (hits == 50).all()


def test_callers_share_a_team():
    team = Team(2)
    arrays = [np.zeros(1009, np.int32) for _ in range(4)]

    def use(hits):
        for _ in range(300):
            probe_count(team, hits, 11)

    callers = [threading.Thread(target=use, args=(hits,)) for hits in arrays]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((hits == 300).all() for hits in arrays)


class Interrupted(Exception):
    pass


@pytest.fixture
def alarm():
    """Deliver SIGALRM after 50 ms; its handler raises."""

    def handler(signum, frame):
        raise Interrupted

    if not hasattr(signal, "setitimer"):
        pytest.skip("the platform has no interval timers")
    previous = signal.signal(signal.SIGALRM, handler)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.05)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("chunks", "nanoseconds"), [(1_000_000, 100_000), (20_000_000, 5_000), (5_000, 20_000_000)]
)
def test_signal_ends_a_long_region(alarm, threads, chunks, nanoseconds):
    """Each region would take 100 s of processor time; chunks from 5 us to 20 ms."""
    team = Team(threads)
    alarm()
    with pytest.raises(Interrupted):
        probe_busy(team, chunks, nanoseconds)
    hits = np.zeros(101, np.int32)
    probe_count(team, hits, 1)
    assert (hits == 1).all()


def test_signal_reaches_a_caller_that_waits_for_workers(alarm):
    """One chunk each: the poll is asked while the caller has nothing left to do, and all of it ends."""
    team = Team(2)
    probe_busy(team, 2, 1)
    alarm()
    with pytest.raises(Interrupted):
        probe_busy(team, 2, 300_000_000)
    assert probe_sum(team, np.ones(100), 1) == 100


def test_signal_reaches_a_caller_while_another_has_the_workers(alarm):
    team = Team(2)
    ended = []

    def hold():
        probe_busy(team, 20, 100_000_000)
        ended.append(True)

    other = threading.Thread(target=hold)
    other.start()
    time.sleep(0.01)
    alarm()
    with pytest.raises(Interrupted):
        probe_busy(team, 1_000_000, 100_000)
    assert not ended
    other.join()
    assert ended
    assert probe_sum(team, np.ones(100), 1) == 100


def test_ctrl_c():
    team = Team(2)
    timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        probe_busy(team, 1_000_000, 100_000)
    timer.join()


def _child(team, result):
    hits = np.zeros(1009, np.int32)
    for _ in range(50):
        probe_count(team, hits, 3)
    result.put(((hits == 50).all().item(), probe_busy(team, 50, 1_000_000)))


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("used", [False, True])
def test_child_of_fork_starts_its_own_threads(used):
    team = Team(3)
    if used:
        probe_busy(team, 30, 100_000)
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    child = context.Process(target=_child, args=(team, result))
    child.start()
    right, others = result.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    assert right
    assert others > 0
    assert probe_sum(team, np.ones(100), 1) == 100


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_while_another_thread_runs_regions():
    team = Team(2)
    stop = threading.Event()

    def use():
        hits = np.zeros(1009, np.int32)
        while not stop.is_set():
            probe_count(team, hits, 1)

    other = threading.Thread(target=use)
    other.start()
    try:
        for _ in range(20):
            child = os.fork()
            if not child:
                hits = np.zeros(101, np.int32)
                probe_count(team, hits, 1)
                os._exit(0 if (hits == 1).all() else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        other.join()


@needs_proc
def test_threads_start_late_and_end_with_the_team():
    before = native_threads()
    team = Team(4)
    assert native_threads() <= before
    probe_sum(team, np.ones(100), 1)
    assert len(native_threads() - before) == 3
    del team
    assert settles(lambda: native_threads() <= before)


@needs_proc
def test_create_and_destroy_leave_nothing():
    before = native_threads()
    for i in range(200):
        assert probe_sum(Team(1 + i % 4), np.ones(64), 1) == 64
    assert settles(lambda: native_threads() <= before)


@pytest.mark.parametrize("threads", [0, -1, 4097, 2**70, 1.5, "2", None, True])
def test_bad_thread_count(threads):
    with pytest.raises(InvalidArgumentError, match="threads must be an integer"):
        Team(threads)
