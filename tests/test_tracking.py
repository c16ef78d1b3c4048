"""Tracking: the timeline of the ledger, allocation sites, and the reports in their three forms."""

import gc
import importlib.util
import inspect
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

import hyperion
from hyperion._kernels import blocks
from hyperion.errors import HyperionIOError, HyperionRuntimeError, InvalidArgumentError, UnsupportedError
from hyperion.memory import (
    MemoryBudget,
    MemoryConfig,
    MemoryPool,
    alloc,
    allocate,
    budget,
    enable_memory_tracking,
    engine_pool,
    generate_memory_report,
    init_memory,
    process_budget,
    tracking,
)
from hyperion.memory.timeline import draw_timeline
from hyperion.memory.tracking import MemoryTracker


@pytest.fixture
def tracked():
    """Tracking is on, with an empty timeline; off afterwards."""
    gc.collect()
    enable_memory_tracking(False)
    enable_memory_tracking(True)
    yield
    enable_memory_tracking(False)


@pytest.fixture
def untracked(monkeypatch):
    """As in a process in which tracking was never on."""
    enable_memory_tracking(False)
    monkeypatch.setattr(tracking, "_tracker", None)
    blocks.forget_sites()


def here():
    """The line that calls this."""
    return inspect.currentframe().f_back.f_lineno


def report(path):
    generate_memory_report(path)
    return json.loads(path.read_text())


def live_sites(data, kind):
    return {s["line"]: s for s in data["sites"] if s["kind"] == kind and s["live_bytes"] and s["filename"] == __file__}


# ---- On and off --------------------------------------------------------------------------------------------


def test_off_costs_one_comparison_and_records_nothing(untracked, tmp_path):
    assert budget.observer() is None
    with process_budget().reserve("quiet", 1000):
        block = alloc(100)
    assert blocks.all_sites() == []
    data = report(tmp_path / "r.json")
    assert data["timeline"] is None
    assert data["sites"] == []
    assert any(o["owner"] == "pool" and o["peak_bytes"] is None for o in data["owners"])
    generate_memory_report(tmp_path / "r.txt")
    assert "Tracking was not on" in (tmp_path / "r.txt").read_text()
    block.free()


def test_turning_on_twice_goes_on(tracked):
    process_budget().reserve("x", 10).release()
    first = tracking._tracker
    enable_memory_tracking()
    assert tracking._tracker is first
    enable_memory_tracking(False)
    enable_memory_tracking(False)
    count = len(first.events)
    process_budget().reserve("x", 10).release()
    assert len(first.events) == count == 2
    seconds = first.seconds
    assert first.seconds == seconds  # stopped
    enable_memory_tracking(True)
    assert tracking._tracker is not first
    with pytest.raises(InvalidArgumentError):
        enable_memory_tracking("yes")


# ---- The timeline ------------------------------------------------------------------------------------------


def test_timeline(tracked):
    root = process_budget()
    before = root.by_owner()
    model = root.child("model.gguf", 5000)
    weights, cache = model.reserve("weights", 3000), model.reserve("kv cache", 100)
    cache.resize(400)
    cache.resize(50)
    weights.release()
    cache.release()
    MemoryBudget(100).reserve("elsewhere", 10).release()  # not the process's ledger
    tracker = tracking._tracker
    assert tracker.base == before
    assert [(owner, delta) for _, owner, delta in tracker.events] == [
        ("model.gguf/weights", 3000),
        ("model.gguf/kv cache", 100),
        ("model.gguf/kv cache", 300),
        ("model.gguf/kv cache", -350),
        ("model.gguf/weights", -3000),
        ("model.gguf/kv cache", -50),
    ]
    times = [when for when, _, _ in tracker.events]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= tracker.seconds
    assert tracker.peaks["model.gguf/kv cache"] == 400
    assert [limit for _, limit in tracker.limits["model.gguf"]] == [5000, 0]


def test_a_long_timeline_is_bounded_and_still_sums_up():
    root = MemoryBudget(10**9)
    kept = root.reserve("before", 5)
    tracker = MemoryTracker(root, limit=100)
    held = []
    for i in range(2000):
        nbytes = 10 + i % 7
        tracker.record(root, f"owner {i % 3}", nbytes)
        tracker.record(root, f"once {i}", 1)
        tracker.record(root, f"once {i}", -1)
        held.append(nbytes)
    assert len(tracker.events) == 100
    assert tracker.folded == 6000 - 100
    assert len(tracker.peaks) <= 200
    assert len(tracker.base) <= 5
    total = sum(tracker.base.values()) + sum(delta for _, _, delta in tracker.events)
    assert total == 5 + sum(held)
    assert sum(tracker.peaks[f"owner {i}"] for i in range(3)) == sum(held)
    kept.release()


def test_threads_record_every_change(tracked):
    root = process_budget()

    def use(name):
        for _ in range(200):
            root.reserve(name, 7).release()

    threads = [threading.Thread(target=use, args=(f"thread {i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = [e for e in tracking._tracker.events if e[1].startswith("thread")]
    assert len(events) == 4 * 200 * 2
    assert sum(delta for _, _, delta in events) == 0


# ---- Allocation sites --------------------------------------------------------------------------------------


def test_leaks_by_line(tracked, tmp_path):
    pool = MemoryPool(MemoryConfig(initial_pool_size="1MiB"), name="mine")
    pool_line = here() - 1
    leaked = [pool.alloc(100 + i) for i in range(5)]
    leak_line = here() - 1
    for _ in range(3):
        pool.alloc(50).free()
    freed_line = here() - 1
    pool.alloc(60)
    dropped_line = here() - 1
    large = pool.alloc(300_000)
    large_line = here() - 1
    buffer = allocate(process_budget(), "weights", 10_000)
    buffer_line = here() - 1

    data = report(tmp_path / "r.json")
    live = live_sites(data, "block")
    assert set(live) == {leak_line, large_line}
    assert live[leak_line]["live_count"] == live[leak_line]["count"] == 5
    assert live[leak_line]["live_bytes"] == 510
    assert live[leak_line]["function"] == "<listcomp>" if sys.version_info < (3, 12) else True
    assert live[large_line]["live_bytes"] == 300_000
    sites = {s["line"]: s for s in data["sites"] if s["filename"] == __file__ and s["kind"] == "block"}
    assert (sites[freed_line]["count"], sites[freed_line]["live_count"], sites[freed_line]["dropped"]) == (3, 0, 0)
    assert (sites[dropped_line]["count"], sites[dropped_line]["dropped"]) == (1, 1)
    reservations = live_sites(data, "reservation")
    assert set(reservations) == {pool_line, buffer_line}
    assert reservations[pool_line]["live_bytes"] == pool.reserved
    assert reservations[buffer_line]["live_bytes"] >= 10_000

    text = tmp_path / "r.txt"
    generate_memory_report(text)
    lines = text.read_text().splitlines()
    assert any(f"{__file__}:{leak_line} " in line and "510" in line for line in lines)
    assert any(line.strip().startswith("weights") for line in lines)
    assert any(f"{__file__}:{dropped_line} " in line for line in lines[lines.index("Blocks that were collected without having been freed") :])

    for block in [*leaked, large]:
        block.free()
    buffer.close()
    pool.close()
    data = report(tmp_path / "r.json")
    assert live_sites(data, "block") == live_sites(data, "reservation") == {}
    ended = {s["line"]: s["live_count"] for s in data["sites"] if s["kind"] == "reservation"}
    assert ended[pool_line] == ended[buffer_line] == 0


def test_blocks_outlive_tracking(tracked, tmp_path):
    """What was allocated while it was on leaves the list when it is freed afterwards, and the other way round."""
    pool = MemoryPool(MemoryConfig(initial_pool_size="1MiB"))
    during = pool.alloc(10)
    reservation = process_budget().reserve("x", 5)
    enable_memory_tracking(False)
    after = pool.alloc(20)
    assert sum(s.live_bytes for s in blocks.all_sites() if s.kind == "block") == 10
    during.free()
    after.free()
    reservation.release()
    assert sum(s.live_count for s in blocks.all_sites() if s.kind == "block") == 0


@pytest.mark.parametrize("end", ["reset", "close"])
def test_a_pool_s_end_ends_its_blocks(tracked, end):
    pool = MemoryPool(MemoryConfig(initial_pool_size="4MiB"))
    held = [pool.alloc(n) for n in (100, 5000, 400_000)]
    assert sum(s.live_count for s in blocks.all_sites() if s.kind == "block") == 3
    getattr(pool, end)()
    assert sum(s.live_count for s in blocks.all_sites() if s.kind == "block") == 0
    assert sum(s.live_bytes for s in blocks.all_sites() if s.kind == "block") == 0
    del held
    assert all(s.live_count == s.dropped == 0 for s in blocks.all_sites() if s.kind == "block")


def test_one_pool_can_be_tracked(untracked):
    quiet = MemoryPool(MemoryConfig(initial_pool_size="1MiB"))
    pool = MemoryPool(MemoryConfig(initial_pool_size="1MiB", track_allocations=True))
    kept = [quiet.alloc(7), pool.alloc(9)]
    line = here() - 1
    assert [(s.filename, s.line, s.live_bytes) for s in blocks.all_sites()] == [(__file__, line, 9)]
    assert budget.observer() is None
    assert "1 blocks, 9 bytes" in repr(blocks.all_sites()[0])
    del kept


def test_init_memory_turns_tracking_on(untracked):
    limit = process_budget().limit
    try:
        init_memory(MemoryConfig(track_allocations=True))
        assert budget.observer() is not None
    finally:
        enable_memory_tracking(False)
        engine_pool().close()
        process_budget().set_limit(limit)


def test_the_line_of_a_model_is_the_user_s(tracked, tmp_path):
    from hyperion.cli.common import model_path

    with model_path(None) as path:
        model = hyperion.load_model(path, memory_budget="64MB")
        line = here() - 1
        model.generate("ROMEO:", max_length=2, temperature=0.0)
        data = report(tmp_path / "r.json")
        sites = live_sites(data, "reservation")
        assert sites[line]["live_bytes"] > 1_000_000
        owners = {o["owner"]: o for o in data["owners"]}
        weights = [o for name, o in owners.items() if name.endswith("/weights")]
        assert weights
        assert weights[0]["bytes"] > 0
        assert weights[0]["peak_bytes"] >= weights[0]["bytes"]
        assert 64_000_000 in [limit for steps in data["timeline"]["limits"].values() for _, limit in steps]
        model.close()
    gc.collect()
    assert live_sites(report(tmp_path / "r.json"), "reservation") == {}


# ---- Reports -----------------------------------------------------------------------------------------------


def test_json_holds_everything(tracked, tmp_path):
    root = process_budget()
    with root.reserve("a", 1000), root.reserve("b", 2000):
        data = report(tmp_path / "report.JSON")
    assert data["ledger"]["used"] == sum(o["bytes"] for o in data["owners"])
    assert data["ledger"]["limit"] == root.limit
    assert {o["owner"]: o["bytes"] for o in data["owners"]}.items() >= {"a": 1000, "b": 2000}.items()
    pools = data["pools"]
    assert pools["peak_usage"] >= pools["current_usage"]
    assert 0 <= pools["fragmentation_ratio"] <= 1
    timeline = data["timeline"]
    assert [e[1:] for e in timeline["events"]] == [["a", 1000], ["b", 2000]]
    assert sum(timeline["base"].values()) + 3000 == data["ledger"]["used"]


def test_text_is_readable(tracked, tmp_path):
    root = process_budget()
    held = [root.reserve("kv cache", 1_234_567)]
    for i in range(200):
        held.append(root.reserve("small", i + 1))
    for name in ("r.txt", "r.log", "r.md", "report"):
        generate_memory_report(str(tmp_path / name))
        text = (tmp_path / name).read_text()
        assert "1,234,567" in text
        assert "kv cache" in text
        assert max(map(len, text.splitlines())) < 300
        assert len(text.splitlines()) < 150
    for reservation in held:
        reservation.release()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_bad_paths(tracked, tmp_path, monkeypatch):
    with pytest.raises(InvalidArgumentError, match=r"\.csv"):
        generate_memory_report(tmp_path / "r.csv")
    with pytest.raises(HyperionIOError, match="cannot create"):
        generate_memory_report(tmp_path / "no" / "r.txt")
    (tmp_path / "dir.txt").mkdir()
    with pytest.raises(HyperionIOError):
        generate_memory_report(tmp_path / "dir.txt")
    target = tmp_path / "r.txt"
    target.write_text("old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(tracking.os, "replace", fail)
    with pytest.raises(HyperionIOError, match="disk full"):
        generate_memory_report(target)
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.txt", "r.txt"]


def test_png_without_matplotlib(tracked, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(UnsupportedError, match=r"hyperion-lm\[plot\]"):
        generate_memory_report(tmp_path / "r.png")
    assert list(tmp_path.iterdir()) == []


def test_png_without_a_timeline(untracked, tmp_path):
    with pytest.raises(HyperionRuntimeError, match="enable_memory_tracking"):
        generate_memory_report(tmp_path / "r.png")


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs Matplotlib")
def test_png(tracked, tmp_path):
    root = process_budget()
    model = root.child("model.gguf", 4_000_000)
    held = [model.reserve(f"part {i}", 100_000 + 20_000 * i) for i in range(14)]
    for reservation in held[::2]:
        reservation.release()
    generate_memory_report(tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    panels = draw_timeline(tracking._tracker).get_axes()
    bands = [p.get_label() for p in panels[0].collections]
    assert len([b for b in bands if b.startswith("model.gguf/part")]) >= 8
    assert bands[-1] == "others"
    assert any("budget of model.gguf" in t.get_text() for axes in panels for t in axes.texts)
    for reservation in held:
        reservation.release()


def test_limits_are_kept_from_when_to_when(tracked):
    root, tracker = process_budget(), tracking._tracker
    assert tracker.limits[""] == [(0.0, root.limit)]
    first, second = root.child("first", "4 MB"), root.child("second", "9 MB")
    inner = first.child("inner", "1 MB")
    a, b, c = first.reserve("a", 1000), second.reserve("b", 2000), inner.reserve("c", 3000)
    first.set_limit("3 MB")
    a.resize(1500)
    with root.child("second", "5 MB").reserve("b", 10):  # a name that is there already: both together
        pass
    b.release()
    steps = {path: [limit for _, limit in steps] for path, steps in tracker.limits.items() if path}
    assert steps == {
        "first": [4_000_000, 3_000_000],
        "second": [9_000_000, 14_000_000, 9_000_000, 0],
        "first/inner": [1_000_000],
    }
    times = [when for when, _ in tracker.limits["second"]]
    assert times == sorted(times)
    assert times[0] > 0
    a.release()
    c.release()
    assert tracker.limits["first"][-1][1] == 0
    assert not [budget for budget in tracker._holding if budget is not root]


@pytest.mark.skipif(not importlib.util.find_spec("matplotlib"), reason="needs Matplotlib")
def test_png_of_several_budgets(tracked):
    root, tracker = process_budget(), tracking._tracker
    budgets = {name: root.child(name, limit) for name, limit in (("one.gguf", 2_000_000), ("two.gguf", 3_000_000))}
    held = [budget.reserve("weights", budget.limit // 2) for budget in budgets.values()]
    budgets["one.gguf"].set_limit(1_500_000)
    held.append(budgets["one.gguf"].reserve("cache", 100_000))
    whole, *panels = draw_timeline(tracker).get_axes()
    assert {"one.gguf/weights", "two.gguf/weights", "one.gguf/cache"} <= {band.get_label() for band in whole.collections}
    assert [axes.get_title(loc="left") for axes in panels] == ["two.gguf", "one.gguf"]
    assert [band.get_label() for band in panels[1].collections] == ["weights", "cache"]
    for axes, limits in zip(panels, ([3.0, 3.0], [2.0, 1.5, 1.5]), strict=True):
        assert axes.lines[0].get_ydata().tolist() == pytest.approx(limits)
        assert "budget of" in axes.texts[0].get_text()
        assert axes.get_ylim()[1] >= max(limits)
    for reservation in held:
        reservation.release()
    assert not np.isfinite(draw_timeline(tracker).get_axes()[1].lines[0].get_ydata()[-1])


def test_procedures(tracked, tmp_path):
    hyperion.enable_memory_tracking(True)
    hyperion.generate_memory_report(tmp_path / "r.txt")
    assert "Owners" in (tmp_path / "r.txt").read_text()
    hyperion.enable_memory_tracking(False)
    assert budget.observer() is None


def test_the_process_s_pool_is_no_leak_of_whoever_used_it_first(tmp_path):
    code = """
import sys, hyperion
hyperion.enable_memory_tracking()
kept = [
    hyperion.alloc(5000),
    hyperion.Tensor(100_000),
    hyperion.Tensor(100_000, "float32", hyperion.TensorMemoryConfig(strategy="POOLED")),
]
hyperion.generate_memory_report(sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "r.json")], check=True)
    sites = json.loads((tmp_path / "r.json").read_text())["sites"]
    live = {(s["kind"], s["line"]): s["live_bytes"] for s in sites if s["live_bytes"]}
    assert live.keys() == {("block", 5), ("reservation", 6), ("block", 7)}
    assert (live["block", 5], live["block", 7]) == (5000, 400_000)
