"""Where sleeping workers wake up: off the caller's core, with their own affinity back before they work."""

import multiprocessing
import os
import platform
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from hyperion._kernels.threads import Team, probe_busy, probe_count
from waiting import settles

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or sys.maxsize < 2**32 or len(os.sched_getaffinity(0)) < 2,
    reason="needs a 64-bit Linux and two cores",
)

SETAFFINITY = {"x86_64": 203, "aarch64": 122}


def natives():
    return {int(name) for name in os.listdir("/proc/self/task")}


def started(threads):
    """A team, and the system's numbers of its workers."""
    before = natives()
    team = Team(threads)
    probe_count(team, np.zeros(8, np.int32), 1)
    return team, sorted(natives() - before)


def cores_of(workers):
    return [os.sched_getaffinity(worker) for worker in workers]


class Caller:
    """Whoever runs regions, on one core: this thread."""

    def __init__(self):
        self.all = os.sched_getaffinity(0)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.sched_setaffinity(0, self.all)

    def moves(self, core):
        os.sched_setaffinity(0, {core})


def region(team):
    hits = np.zeros(64, np.int32)
    probe_count(team, hits, 1)
    assert (hits == 1).all()


def works(team, workers, expected):
    """Whether all workers have that affinity at one moment while a region runs."""
    other = threading.Thread(target=probe_busy, args=(team, 4000, 200_000))
    other.start()
    found = False
    while other.is_alive() and not found:
        found = cores_of(workers) == [expected] * len(workers)
        time.sleep(0.001)
    other.join()
    return found


def sleeps_and_works():
    """Asleep they are kept off the caller's core, wherever that is; awake they are not."""
    with Caller() as caller:
        team, workers = started(3)
        for core in sorted(caller.all)[:2] * 2:
            caller.moves(core)
            region(team)
            if not settles(lambda core=core: cores_of(workers) == [caller.all - {core}] * 2):
                return False
    return works(team, workers, caller.all)


def test_asleep_off_the_callers_core():
    assert sleeps_and_works()


def _child(result):
    result.put(sleeps_and_works())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_in_the_child_of_a_fork():
    team, workers = started(2)
    whole = os.sched_getaffinity(0)
    assert settles(lambda: cores_of(workers) != [whole])  # the child is made while one sleeps
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    child = context.Process(target=_child, args=(result,))
    child.start()
    assert result.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    region(team)


def test_who_is_told_to_stay_on_a_core_stays():
    """Also if that is the caller's, and if it is told in its sleep."""
    with Caller() as caller:
        team, workers = started(2)
        caller.moves(min(caller.all))
        region(team)
        assert settles(lambda: cores_of(workers) == [caller.all - {min(caller.all)}])
        own = {min(caller.all)}
        os.sched_setaffinity(workers[0], own)
        for _ in range(5):
            region(team)
            time.sleep(0.01)
            assert cores_of(workers) == [own]
    assert works(team, workers, own)


def test_a_caller_that_moves_leaves_alone_who_was_told_in_its_sleep():
    with Caller() as caller:
        first, second = sorted(caller.all)[:2]
        team, workers = started(2)
        caller.moves(first)
        region(team)
        assert settles(lambda: cores_of(workers) == [caller.all - {first}])
        own = {first}
        os.sched_setaffinity(workers[0], own)
        caller.moves(second)
        region(team)
        time.sleep(0.01)
        assert cores_of(workers) == [own]
    assert works(team, workers, own)


def test_who_is_confined_stays_confined():
    with Caller() as caller:
        if len(caller.all) < 3:
            pytest.skip("needs three cores")
        first, *others = sorted(caller.all)
        team, workers = started(2)
        own = {first, others[0]}
        os.sched_setaffinity(workers[0], own)
        caller.moves(first)
        for _ in range(5):
            region(team)
            assert settles(lambda: cores_of(workers) == [{others[0]}])
    assert works(team, workers, own)


def test_pauses_of_any_length():
    """From less than a worker spins to sound sleep: its affinity must be its own in the end."""
    rng = np.random.default_rng(5)
    team, workers = started(3)
    for pause in 10 ** rng.uniform(-6, -2.5, 600):
        time.sleep(pause)
        region(team)
    assert works(team, workers, os.sched_getaffinity(0))


REFUSED = """
import ctypes, os, struct, sys, time
import numpy as np
number = int(sys.argv[1])
code = b"".join(struct.pack("HBBI", *line) for line in [
    (0x20, 0, 0, 0),                 # load the number of the system call
    (0x15, 0, 1, number),            # that one?
    (0x06, 0, 0, 0x00050000 | 1),    # EPERM
    (0x06, 0, 0, 0x7FFF0000),        # let it pass
])
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
libc = ctypes.CDLL(None)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    print("no filters")
    sys.exit()
try:
    os.sched_setaffinity(0, os.sched_getaffinity(0))
except PermissionError:
    print("refused")
from hyperion._kernels.threads import Team, probe_busy
team = Team(2)
for _ in range(10):
    assert probe_busy(team, 20, 1_000_000) >= 0
    time.sleep(0.01)
whole = os.sched_getaffinity(0)
assert all(os.sched_getaffinity(int(name)) == whole for name in os.listdir("/proc/self/task"))
"""


@pytest.mark.skipif(platform.machine() not in SETAFFINITY, reason="the system call's number is not known")
def test_a_system_that_refuses():
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(SETAFFINITY[platform.machine()])],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    if "no filters" in done.stdout:
        pytest.skip("the system allows no filters")
    assert "refused" in done.stdout
