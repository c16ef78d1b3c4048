"""The ledger: sizes, the tree of budgets, refusals, threads, and allocation under it."""

import gc
import os
import pickle
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import hyperion
from hyperion._kernels import system
from hyperion._kernels.pool import PAGE_SIZE, fail_allocation
from hyperion.errors import HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError
from hyperion.memory import (
    MemoryBudget,
    allocate,
    available_memory,
    format_size,
    parse_size,
    process_budget,
    total_memory,
)


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (0, 0),
        (17, 17),
        (np.int64(5), 5),
        ("0", 0),
        ("4096", 4096),
        ("17B", 17),
        ("512MB", 512 * 10**6),
        ("512mb", 512 * 10**6),
        ("512MiB", 512 * 2**20),
        ("2GiB", 2**31),
        (" 1.5 GB ", 1_500_000_000),
        (".5KiB", 512),
        ("0.1KiB", 102),
        ("1.1GiB", 1181116006),
        ("3TB", 3 * 10**12),
        ("1 PiB", 2**50),
        ("0.000000001GB", 1),
    ],
)
def test_parse_size(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize(
    "bad",
    ["", "MB", "1.5", "1.B", "-1", "-1MB", "1e9", "512M", "512Mi", "5iB", "1 2MB", "1,5GB", "0x10", "\u0663MB", "nan", "9EB",
     "8388608TiB", -1, 2**63, 1.5, float("nan"), None, True, b"1MB", [1]],
)  # fmt: skip
def test_parse_size_refuses(bad):
    with pytest.raises(InvalidArgumentError, match="size"):
        parse_size(bad)


def test_a_unit_without_its_b_is_explained():
    with pytest.raises(InvalidArgumentError, match=r'not \'1.5g\' \("1.5GB" counts in 1000s, "1.5GiB" in 1024s\)'):
        parse_size("1.5g")
    with pytest.raises(InvalidArgumentError, match="not '512X'") as error:
        parse_size("512X")
    assert "counts in" not in str(error.value)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda v: hyperion.MemoryConfig(strategy=v), r"MemoryConfig.strategy is .*STATIC, POOLED, DYNAMIC, HYBRID"),
        (lambda v: hyperion.TensorMemoryConfig(strategy=v), r"TensorMemoryConfig.strategy is .*STATIC, POOLED, STREAMING"),
        (lambda v: hyperion.SparseConfig(format=v), r"sparse format is .*CSR, CSC, BSR"),
        (lambda v: hyperion.MixedPrecisionConfig(ffn_precision=v), r"ffn_precision is .*a Precision: FP32, FP16, INT8, INT4"),
    ],
)
def test_members_of_enumerations_go_by_name_in_any_case(make, names):
    first = names.rpartition(" ")[2].lower()
    assert make(first) == make(first.upper())
    for bad in ("none such", None, 1.5):
        with pytest.raises(InvalidArgumentError, match=names):
            make(bad)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 KB"), (9994, "9.99 KB"), (9995, "10.0 KB"), (99949, "99.9 KB"),
     (99950, "100 KB"), (999499, "999 KB"), (999500, "1.00 MB"), (620_000_000, "620 MB"), (1_500_000_000, "1.50 GB"),
     (2**63 - 1, "9.22 EB"), (-1500, "-1.50 KB")],
)  # fmt: skip
def test_format_size(nbytes, text):
    assert format_size(nbytes) == text


@given(st.integers(0, 2**62))
def test_format_size_is_close(nbytes):
    text = format_size(nbytes)
    if not text.endswith("EB"):
        assert abs(parse_size(text) - nbytes) <= nbytes / 190


def test_counts_in_all_ancestors():
    root = MemoryBudget(1000, name="root")
    model = root.child("model", 600)
    session = model.child("session")
    weights = model.reserve("weights", 400)
    cache = session.reserve("cache", 100)
    assert (root.used, model.used, session.used) == (500, 500, 100)
    assert (root.available, model.available, session.available) == (500, 100, 100)
    assert session.limit is None
    assert root.by_owner() == {"model/weights": 400, "model/session/cache": 100}
    assert list(root.by_owner()) == ["model/weights", "model/session/cache"]
    assert session.by_owner() == {"cache": 100}
    cache.resize(150)
    weights.release()
    weights.release()
    assert (root.used, root.peak, root.total_reserved, root.reservation_count) == (150, 550, 550, 2)
    cache.resize("0B")
    assert root.by_owner() == {}
    cache.resize(7)
    assert root.by_owner() == {"model/session/cache": 7}
    stats = root.stats()
    assert (stats.current_usage, stats.peak_usage, stats.total_allocated, stats.allocation_count) == (
        7,
        550,
        557,
        2,
    )
    assert stats.by_owner == {"model/session/cache": 7}
    assert stats.fragmentation_ratio == 0.0


def test_refusal_names_everything():
    root = MemoryBudget("1MB", name="root")
    model = root.child("model", 300_000)
    model.reserve("weights", 200_000)  # dropped at once: must not count
    kept = model.reserve("weights", 250_000)
    with pytest.raises(MemoryBudgetError) as caught:
        model.reserve("kv cache", 60_001)
    error = caught.value
    assert isinstance(error, MemoryError)
    assert error.context["required"] == 310_001
    assert (error.context["limit"], error.context["asked"], error.context["used"]) == (
        300_000,
        60_001,
        250_000,
    )
    assert error.context["by_owner"] == {"weights": 250_000}
    for part in (
        "'model'",
        "300,000",
        "60.0 KB",
        "kv cache",
        "weights",
        "250,000",
        "60,001",
        "310,001",
        "311KB",
    ):
        assert part in str(error)
    assert (model.used, root.used, model.reservation_count) == (250_000, 250_000, 2)
    model.set_limit(error.context["required"])
    model.reserve("kv cache", 60_001).release()
    model.set_limit("311KB")
    with pytest.raises(MemoryBudgetError, match="61,001"):
        kept.resize(250_000 + 61_001)
    assert kept.nbytes == 250_000
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_ancestor_refuses():
    root = MemoryBudget(1000, name="root")
    a, b = root.child("a", 900), root.child("b")
    held = a.reserve("x", 700)
    with pytest.raises(MemoryBudgetError, match="'root'") as caught:
        b.reserve("y", 301)
    assert caught.value.context["items"] == {"b/y": 301}
    assert (root.used, b.used, b.available) == (700, 0, 300)
    held.release()
    assert b.available == 1000


def test_all_or_none():
    budget = MemoryBudget(100)
    with pytest.raises(MemoryBudgetError) as caught:
        budget.reserve_all({"a": 60, "b": 41})
    assert caught.value.context["required"] == 101
    assert budget.used == budget.reservation_count == 0
    with pytest.raises(MemoryBudgetError):
        budget.check({"a": 60, "b": 41})
    budget.check({"a": 60, "b": 40})
    held = budget.reserve_all({"a": 60, "b": 40})
    assert budget.by_owner() == {"a": 60, "b": 40}
    held["a"].release()
    assert budget.used == 40


def test_limit_cannot_fall_below_use():
    budget = MemoryBudget(100, name="model")
    with budget.reserve("a", 60) as held:
        with pytest.raises(MemoryBudgetError, match="shrink") as caught:
            budget.set_limit(59)
        assert caught.value.context["required"] == 60
        assert budget.limit == 100
        budget.set_limit(60)
        assert budget.available == 0
        assert not held.released
    assert budget.available == 60
    assert held.released


def test_closed():
    root = MemoryBudget(100)
    child = root.child("c")
    with child:
        held = child.reserve("a", 10)
    for use in (lambda: child.reserve("a", 1), lambda: child.child("d"), lambda: child.check({"a": 1})):
        with pytest.raises(HyperionRuntimeError, match="closed"):
            use()
    assert root.used == 10
    held.release()
    assert root.used == 0
    with pytest.raises(HyperionRuntimeError, match="released"):
        held.resize(1)


def test_dropped_reservations_come_back():
    budget = MemoryBudget(100)
    cycle = [budget.reserve("a", 100)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert budget.used == 0


def test_collection_inside_the_ledger():
    """What the collector releases in the middle of other changes is neither lost nor counted twice."""
    budget = MemoryBudget(10**9)
    thresholds = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        for i in range(300):
            cycle = [budget.reserve("a", 10 + i % 3)]
            cycle.append(cycle)
    finally:
        gc.set_threshold(*thresholds)
    del cycle
    gc.collect()
    assert budget.used == 0
    assert budget.by_owner() == {}
    assert budget.reservation_count == 300


@pytest.mark.parametrize("bad", ["lots", -1, 1.5])
def test_bad_arguments(bad):
    budget = MemoryBudget(100)
    held = budget.reserve("a", 1)
    for use in (MemoryBudget, lambda x: budget.reserve("b", x), budget.set_limit, held.resize):
        with pytest.raises(InvalidArgumentError):
            use(bad)
    with pytest.raises(InvalidArgumentError, match="parent"):
        MemoryBudget(1, parent="root")
    assert budget.used == 1


def test_threads():
    root = MemoryBudget(1000)
    refused = []

    def use(name):
        budget = root.child(name)
        for i in range(300):
            try:
                with budget.reserve("x", 200 + i % 7) as held:
                    held.resize(300)
            except MemoryBudgetError:
                refused.append(name)
            assert root.used <= 1000

    threads = [threading.Thread(target=use, args=(str(i),)) for i in range(6)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert root.used == 0
    assert root.by_owner() == {}
    assert root.peak <= 1000


class Ledger(RuleBasedStateMachine):
    """A tree of three budgets against a list of what is reserved."""

    def __init__(self):
        super().__init__()
        self.root = MemoryBudget(1000, name="root")
        self.budgets = [self.root, self.root.child("a", 600)]
        self.budgets.append(self.budgets[1].child("b"))
        self.held = []
        self.peak = 0

    def sums(self):
        own = [sum(r.nbytes for r, where in self.held if where >= i) for i in range(3)]
        return own

    def fits(self, where, more):
        used = self.sums()
        return used[0] + more <= 1000 and (where == 0 or used[1] + more <= 600)

    @rule(where=st.integers(0, 2), nbytes=st.integers(0, 400), owner=st.sampled_from("xyz"))
    def reserve(self, where, nbytes, owner):
        if self.fits(where, nbytes):
            self.held.append((self.budgets[where].reserve(owner, nbytes), where))
        else:
            with pytest.raises(MemoryBudgetError):
                self.budgets[where].reserve(owner, nbytes)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), nbytes=st.integers(0, 500))
    def resize(self, data, nbytes):
        reservation, where = data.draw(st.sampled_from(self.held))
        if self.fits(where, nbytes - reservation.nbytes) or nbytes <= reservation.nbytes:
            reservation.resize(nbytes)
        else:
            with pytest.raises(MemoryBudgetError):
                reservation.resize(nbytes)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data):
        self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))[0].release()

    @invariant()
    def agrees(self):
        self.peak = max(self.peak, self.sums()[0])
        assert [b.used for b in self.budgets] == self.sums()
        assert all(sum(b.by_owner().values()) == b.used for b in self.budgets)
        assert self.root.peak == self.peak


Ledger.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLedger = Ledger.TestCase


# ---- The machine -------------------------------------------------------------------------------------------


def test_machine():
    assert 0 < available_memory() <= total_memory()
    assert process_budget() is process_budget()
    assert process_budget().limit <= total_memory()
    root = MemoryBudget()
    assert 0 < root.limit <= total_memory()


def machine(root, cgroup, mountinfo, files, meminfo="MemTotal: 1000 kB\nMemAvailable: 800 kB\n"):
    files = {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, "proc/meminfo": meminfo, **files}
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


V1 = "31 23 0:28 / /cg/{0} rw - cgroup cgroup rw,{0}\n"
V2 = "40 31 0:38 {0} /cg rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_cgroup_v2_counts_every_level_and_the_page_cache(tmp_path):
    root = machine(
        tmp_path,
        "0::/outer/inner\n",
        V2.format("/"),
        {
            "cg/outer/memory.max": "500000\n",
            "cg/outer/memory.current": "300000\n",
            "cg/outer/memory.stat": "anon 100000\nfile 190000\ninactive_file 120000\nactive_file 50000\nshmem 20000\n",
            "cg/outer/inner/memory.max": "max\n",
            "cg/outer/inner/memory.high": "450000\n",
            "cg/outer/inner/memory.current": "90000\n",
            "cg/outer/inner/memory.stat": "inactive_file 1000\n",
            "cg/outer/cpu.max": "150000 100000\n",
            "cg/outer/inner/cpu.max": "max 100000\n",
        },
    )
    assert sorted(system.memory_groups(root)) == [(450000, 89000), (500000, 130000)]
    assert system.cpu_quota(root) == 1.5


def test_cgroup_v1(tmp_path):
    root = machine(
        tmp_path,
        "5:cpu,cpuacct:/job\n4:memory:/job\n0::/\n",
        V1.format("memory") + V1.format("cpu,cpuacct") + V2.format("/"),
        {
            "cg/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cg/memory/memory.usage_in_bytes": "999999999\n",
            "cg/memory/job/memory.limit_in_bytes": "400000\n",
            "cg/memory/job/memory.usage_in_bytes": "390000\n",
            "cg/memory/job/memory.stat": "inactive_file 7\ntotal_inactive_file 200000\ntotal_active_file 100000\n",
            "cg/cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n",
            "cg/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            "cg/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "cg/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
    )
    assert system.memory_groups(root) == [(400000, 90000)]
    assert system.cpu_quota(root) == 0.5


def test_cgroup_in_a_container_that_sees_only_its_own_subtree(tmp_path):
    files = {
        "cg/memory.max": "7000",
        "cg/memory.current": "1000",
        "cg/memory.stat": "",
        "cg/cpu.max": "300000 100000",
    }
    for i, (own, mounted) in enumerate(
        [("/", "/"), ("/docker/x", "/docker/x"), ("/docker/x/y", "/docker/x"), ("/../z", "/")]
    ):
        root = machine(tmp_path / str(i), f"0::{own}\n", V2.format(mounted), files)
        assert system.memory_groups(root) == [(7000, 1000)]
        assert system.cpu_quota(root) == 3.0


@pytest.mark.parametrize(
    ("cgroup", "mountinfo"),
    [
        ("", ""),
        ("0::/\n", ""),
        ("garbage\n:::\n", "a b c\n - \n1 2 3 4 5 - cgroup2\n"),
        ("0::/\n", V2.format("/")),
    ],
)
def test_no_cgroup_no_limit(tmp_path, cgroup, mountinfo):
    root = machine(tmp_path, cgroup, mountinfo, {"cg/memory.max": "nonsense", "cg/memory.current": ""})
    assert system.memory_groups(root) == []
    assert system.cpu_quota(root) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's meminfo")
def test_meminfo(tmp_path):
    assert system.machine_memory(machine(tmp_path / "a", "", "", {})) == (1024000, 819200)
    old = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 30 kB\nDirty:\n"
    assert system.machine_memory(machine(tmp_path / "b", "", "", {}, old)) == (1024000, 153600)
    total, available = system.machine_memory(tmp_path / "nothing")
    assert 0 < available <= total


# ---- Allocation --------------------------------------------------------------------------------------------


def test_allocate_counts_pages_until_the_last_view_is_gone():
    budget = MemoryBudget(4 * PAGE_SIZE)
    told = []
    buffer = allocate(budget, "weights", PAGE_SIZE + 1, on_release=lambda: told.append(budget.used))
    assert buffer.nbytes == PAGE_SIZE + 1
    assert budget.by_owner() == {"weights": 2 * PAGE_SIZE}
    with pytest.raises(MemoryBudgetError):
        allocate(budget, "more", 2 * PAGE_SIZE + 1)
    array = np.frombuffer(buffer, np.uint8)
    buffer.close()
    assert budget.used == 2 * PAGE_SIZE
    array[:] = 1
    del array
    gc.collect()
    assert budget.used == 0
    assert told == [0]
    allocate(budget, "dropped", 1)
    gc.collect()
    assert budget.used == 0


def test_failed_allocation_reserves_nothing():
    budget = MemoryBudget(2**60)
    fail_allocation(1)
    with pytest.raises(HyperionMemoryError) as caught:
        allocate(budget, "weights", 100)
    assert not isinstance(caught.value, MemoryBudgetError)
    assert budget.used == 0
    with pytest.raises(HyperionMemoryError):
        allocate(budget, "weights", 2**59)
    assert budget.used == 0
    allocate(budget, "weights", 100).close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork_while_the_ledger_is_in_use():
    root = MemoryBudget(10**6)
    stop = threading.Event()

    def use():
        while not stop.is_set():
            root.reserve("other", 10).release()

    other = threading.Thread(target=use)
    other.start()
    try:
        for _ in range(30):
            child = os.fork()
            if not child:
                root.reserve("child", 10).release()
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        other.join()


def test_a_reservation_gives_back_no_more_than_it_has():
    budget = MemoryBudget(10_000, name="b")
    kept, given = budget.reserve("kept", 1000), budget.reserve("given", 500)
    given.shrink(400)
    assert (given.nbytes, budget.used) == (100, 1100)
    given.shrink(400)
    assert (given.nbytes, budget.used, budget.by_owner()) == (0, 1000, {"kept": 1000})
    given.release()
    kept.release()
    assert budget.used == 0


def test_idle_bytes_are_a_share_while_they_are_held():
    root = MemoryBudget(100_000, name="root")
    child = root.child("child")
    assert root.stats().fragmentation_ratio == 0
    full, rounded = child.reserve("full", 4096), child.reserve("rounded", 4096, idle=1024)
    assert root.stats().fragmentation_ratio == child.stats().fragmentation_ratio == 1024 / 8192
    rounded.release()
    assert root.stats().fragmentation_ratio == child.stats().fragmentation_ratio == 0
    full.release()
