"""Performance analysis: what is measured, what it is compared with, and what the figures advise."""

import builtins
import json
import math
import mmap
import os
import re
import struct
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import hyperion
from hyperion import InvalidArgumentError, PerformanceConfig, PerformanceMetrics, cpu_counters
from hyperion.cli.common import model_path
from hyperion.performance import Bound, analysis
from hyperion.performance.advice import diagnose, recommend

PROC = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the system does not tell the resident set")


def times(*milliseconds):
    found = hyperion.create_performance_analysis()
    for ms in milliseconds:
        hyperion.record_metrics(found, PerformanceMetrics(execution_time_ms=ms))
    return found


# ---- figures -------------------------------------------------------------------------------------------------


def test_settings_and_figures_are_checked():
    with pytest.raises(TypeError, match="unexpected keyword argument 'track_cpu'"):
        PerformanceConfig(track_cpu=True)
    with pytest.raises(InvalidArgumentError, match="track_cpu_usage is 1, expected a bool"):
        PerformanceConfig(track_cpu_usage=1)
    config = PerformanceConfig()
    with pytest.raises(InvalidArgumentError, match="no field"):
        config.track_gpu = True
    metrics = PerformanceMetrics(execution_time_ms=np.float32(1.5), cache_hits=np.int64(3))
    assert (metrics.execution_time_ms, metrics.cache_hits) == (1.5, 3)
    for name, bad in (("execution_time_ms", -1), ("execution_time_ms", math.nan), ("execution_time_ms", "3"), ("cache_misses", 1.5),
                      ("cache_misses", -1), ("cpu_usage_percent", math.inf), ("threads", True), ("label", None), ("cache_hit", 1)):  # fmt: skip
        with pytest.raises(InvalidArgumentError, match=name):
            setattr(metrics, name, bad)
    for bad in (None, {}, 3):
        with pytest.raises(InvalidArgumentError):
            hyperion.PerformanceAnalysis().record_metrics(bad)
    with pytest.raises(InvalidArgumentError):
        hyperion.PerformanceAnalysis({})


def test_records_are_copies_of_what_is_tracked():
    found = hyperion.create_performance_analysis(PerformanceConfig(track_cache_usage=False, track_cpu_usage=False))
    metrics = PerformanceMetrics(execution_time_ms=5, cpu_usage_percent=50, cache_misses=3, cache_hits=4, memory_usage_bytes=6)
    hyperion.record_metrics(found, metrics)
    metrics.execution_time_ms = 7
    assert found.records == [PerformanceMetrics(execution_time_ms=5, memory_usage_bytes=6)]


def test_time_and_cpu_of_a_block():
    found = hyperion.PerformanceAnalysis()
    with found.measure("sleep") as asleep:
        time.sleep(0.1)
    with found.measure("work") as awake:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
    assert asleep.execution_time_ms >= 100
    assert awake.cpu_usage_percent * awake.execution_time_ms / 100 >= 50
    assert asleep.cpu_usage_percent * asleep.execution_time_ms / 100 < 100
    assert [r.label for r in found.records] == ["sleep", "work"]
    assert found.records[0] == asleep


@PROC
def test_memory_of_a_block_at_its_highest():
    found = hyperion.PerformanceAnalysis()
    with found.measure() as metrics:
        array = np.ones(64 << 20, np.uint8)
        time.sleep(0.05)
        del array
    assert metrics.memory_usage_bytes >= 48 << 20  # other memory may go back to the system meanwhile
    assert (metrics.disk_bytes is None) != os.access("/proc/self/io", os.R_OK)


def test_what_is_not_tracked_is_not_measured(monkeypatch):
    monkeypatch.setattr(analysis, "MemorySampler", None)
    monkeypatch.setattr(analysis, "CacheCounters", None)
    config = PerformanceConfig(track_execution_time=False, track_memory_usage=False, track_cpu_usage=False, track_cache_usage=False)
    with hyperion.PerformanceAnalysis(config).measure() as metrics:
        pass
    assert metrics == PerformanceMetrics(disk_bytes=metrics.disk_bytes)


def test_a_block_that_raises_is_not_recorded_and_leaves_no_thread():
    found = hyperion.PerformanceAnalysis()
    before = threading.active_count()
    with pytest.raises(KeyError), found.measure():
        raise KeyError
    assert found.records == []
    assert threading.active_count() == before


def test_a_model_adds_what_its_passes_read():
    found = hyperion.PerformanceAnalysis()
    with model_path(None) as path, hyperion.load_model(path, memory_budget="64MB", context_length=64, threads=1) as model:
        with found.measure("ROMEO", model=model) as metrics:
            model.generate("ROMEO:", max_length=5, temperature=0)
        assert metrics.threads == 1
        assert metrics.disk_wait_ms == 0
        assert metrics.weight_bytes >= 5 * model.plan.weight_bytes
        assert metrics.weight_bytes % model.plan.weight_bytes == 0


# ---- counters of the processor -------------------------------------------------------------------------------


def touch_new_pages():
    """Fault in pages that no allocator has kept from before."""
    with mmap.mmap(-1, 8 << 20) as pages:
        for at in range(0, len(pages), mmap.PAGESIZE):
            pages[at] = 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="perf_event_open is Linux's")
def test_events_of_all_threads_are_counted():
    page_faults = cpu_counters.CacheCounters(((1, 2), (1, 2)))
    if not page_faults.available:
        pytest.skip("the kernel refuses even software events here")
    touch_new_pages()
    own, _ = page_faults.read()
    assert own > 0
    thread = threading.Thread(target=touch_new_pages)
    thread.start()
    thread.join()
    both, _ = page_faults.read()
    assert both > own
    page_faults.close()
    assert page_faults.read() is None
    page_faults.close()


def events(monkeypatch, *readings):
    """Let the kernel's counters be pipes that give these readings: (value, enabled, running) in the order of opening."""
    left = iter(readings)

    def open_event(kind, config, thread):
        reading = next(left)
        if reading is None:
            return -1
        out, into = os.pipe()
        os.write(into, struct.pack("<QQQ", *reading))
        os.close(into)
        return out

    monkeypatch.setattr(cpu_counters, "_open_event", open_event)
    monkeypatch.setattr(cpu_counters.os, "listdir", lambda path: ["1", "2"])
    monkeypatch.setattr(cpu_counters.sys, "platform", "linux")
    monkeypatch.setattr(cpu_counters.platform, "machine", lambda: "x86_64")


def test_hits_are_accesses_that_did_not_miss(monkeypatch):
    events(monkeypatch, (1000, 8, 8), (500, 8, 4), (300, 8, 8), (0, 0, 0))  # the second had a counter half of the time
    with hyperion.PerformanceAnalysis().measure() as metrics:
        pass
    assert (metrics.cache_misses, metrics.cache_hits) == (300, 1700)


@pytest.mark.parametrize("readings", [[None] * 4, [(1, 8, 8), (1, 8, 8), None, None], [(1, 8, 8), (1, 8, 0), (1, 8, 8), (1, 8, 8)]])
def test_counters_that_are_not_there_give_no_numbers(monkeypatch, readings):
    events(monkeypatch, *readings)
    with hyperion.PerformanceAnalysis().measure() as metrics:
        pass
    assert metrics.cache_misses is None
    assert metrics.cache_hits is None
    assert metrics.execution_time_ms > 0


# ---- what bounds a run ---------------------------------------------------------------------------------------

SECOND = {"execution_time_ms": 1000.0, "threads": 2}


@pytest.mark.parametrize(
    ("figures", "bound", "evidence"),
    [
        ({}, Bound.UNKNOWN, "time"), (SECOND, Bound.UNKNOWN, "CPU"),
        ({**SECOND, "disk_wait_ms": 400, "disk_bytes": 10**9, "cpu_usage_percent": 190}, Bound.DISK, "40%.*1.00 GB/s"),
        ({**SECOND, "disk_wait_ms": 10, "cpu_usage_percent": 190}, Bound.COMPUTE, "190 % CPU of 200 %"),
        ({**SECOND, "weight_bytes": 15 * 10**9, "cpu_usage_percent": 190}, Bound.MEMORY, "15.0 GB/s of weights is 75%"),
        ({**SECOND, "weight_bytes": 5 * 10**9, "cpu_usage_percent": 190}, Bound.COMPUTE, "190"),
        ({**SECOND, "cache_misses": 250 * 10**6, "cpu_usage_percent": 20}, Bound.MEMORY, "16.0 GB/s of cache lines is 80%"),
        ({**SECOND, "cpu_usage_percent": 40}, Bound.WAITING, "40 % CPU of 200 %"),
    ],
)  # fmt: skip
def test_the_bound_of_a_run(figures, bound, evidence):
    metrics = PerformanceMetrics(**figures)
    found = diagnose(metrics, 2, 20e9)
    assert found.bound is bound
    assert re.search(evidence, found.evidence)
    advice = recommend(found, metrics, 2, 2)
    assert found.evidence in advice[0]
    assert all(advice)


def test_advice_follows_the_bound():
    said = {}
    for bound in Bound:
        found = type(diagnose(PerformanceMetrics(), 1, None))(bound, "because")
        said[bound] = "\n".join(recommend(found, PerformanceMetrics(cpu_usage_percent=20, threads=4), 4, 2))
    assert "larger memory budget" in said[Bound.DISK]
    assert "smaller weights" in said[Bound.MEMORY]
    assert "2 threads, not 4" in said[Bound.WAITING]
    one = diagnose(PerformanceMetrics(execution_time_ms=10, cpu_usage_percent=99, threads=4), 4, None)
    assert "one thread" in recommend(one, PerformanceMetrics(cpu_usage_percent=99, threads=4), 4, 4)[1]
    busy = diagnose(PerformanceMetrics(execution_time_ms=10, cpu_usage_percent=99, threads=1), 1, None)
    assert "8 threads, not 1" in recommend(busy, PerformanceMetrics(threads=1), 1, 8)[1]


def test_the_bandwidth_is_measured_and_given_back():
    from hyperion.memory import process_budget

    analysis.memory_bandwidth.cache_clear()
    used = process_budget().used
    rate = analysis.memory_bandwidth(2)
    assert rate is not None
    assert rate > 1e8
    assert process_budget().used == used
    assert analysis.memory_bandwidth(2) == rate


# ---- impact --------------------------------------------------------------------------------------------------


def test_the_impact_of_a_change():
    found = hyperion.create_performance_analysis()
    baseline = PerformanceMetrics(execution_time_ms=200, memory_usage_bytes=1000, cpu_usage_percent=100, threads=2)
    current = PerformanceMetrics(execution_time_ms=100, memory_usage_bytes=250, cpu_usage_percent=190, threads=2)
    impact = hyperion.analyze_optimization_impact(found, baseline, current)
    assert impact.speedup_factor == 2
    assert impact.memory_reduction == 75
    assert impact.cpu_efficiency == pytest.approx(5)
    assert impact.bound == "compute"
    assert "190 % CPU" in impact.recommendations
    assert found.impacts == [impact]
    back = found.analyze_optimization_impact(current, baseline)
    assert back.speedup_factor == 0.5
    assert "2.00 times as long" in back.recommendations
    assert "750 B more memory and is not faster" in back.recommendations
    same = found.analyze_optimization_impact(baseline, baseline)
    assert "did not reach what bounds it" in same.recommendations
    for bad in ((None, current), (baseline, {})):
        with pytest.raises(InvalidArgumentError):
            found.analyze_optimization_impact(*bad)


def test_what_is_not_known_is_not_invented():
    impact = hyperion.PerformanceAnalysis().analyze_optimization_impact(PerformanceMetrics(), PerformanceMetrics(execution_time_ms=3))
    assert (impact.speedup_factor, impact.memory_reduction, impact.cpu_efficiency) == (None, None, None)
    assert impact.bound == "unknown"
    zero = PerformanceMetrics(execution_time_ms=0, memory_usage_bytes=0, cpu_usage_percent=0)
    impact = hyperion.PerformanceAnalysis().analyze_optimization_impact(zero, zero)
    assert (impact.speedup_factor, impact.memory_reduction, impact.cpu_efficiency) == (None, None, None)
    quiet = hyperion.PerformanceAnalysis(PerformanceConfig(enable_optimization=False))
    assert quiet.analyze_optimization_impact(zero, zero).recommendations == ""


# ---- trends --------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 1e6), min_size=2, max_size=40))
def test_the_trend_is_theil_and_sen_s(values):
    expected = stats.theilslopes(values, np.arange(len(values))).slope / np.median(values)
    assert hyperion.get_performance_trend(times(*values)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_trend_with_outliers_and_gaps():
    values = [100 * (1 + 0.02 * n) for n in range(41)]
    assert hyperion.get_performance_trend(times(*values)) == pytest.approx(0.02 * 100 / np.median(values))
    for n in range(0, 40, 5):
        values[n] = 1e5
    assert hyperion.get_performance_trend(times(*values)) == pytest.approx(0.02 * 100 / np.median(values), rel=0.1)
    found = times(10, None, 30)
    assert found.get_trend() == pytest.approx(10 / 20)
    assert math.isnan(times(5).get_trend())
    assert math.isnan(found.get_trend("cache_misses"))
    assert math.isnan(times(0, 0).get_trend())
    for bad in ("label", "speed", None):
        with pytest.raises(InvalidArgumentError):
            found.get_trend(bad)


def test_long_histories_stay_quick_and_bounded(monkeypatch):
    monkeypatch.setattr(analysis, "KEPT", 3000)
    found = times(*range(1, 5001))
    assert len(found.records) == 3000
    assert found.get_trend() == pytest.approx(1 / np.median(range(5001 - analysis.TREND, 5001)))


# ---- reports -------------------------------------------------------------------------------------------------


@pytest.fixture
def filled():
    found = times(100, 110, 121)
    found.record_metrics(PerformanceMetrics(execution_time_ms=50, memory_usage_bytes=5 * 10**6, cpu_usage_percent=180, label="a | b", threads=2))
    found.analyze_optimization_impact(found.records[0], found.records[3])
    return found


def without_matplotlib(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_reports_say_what_was_found(filled, tmp_path, monkeypatch):
    without_matplotlib(monkeypatch)
    hyperion.generate_performance_report(filled, tmp_path / "r.txt")
    text = (tmp_path / "r.txt").read_text()
    for part in ("- bound by compute", "a | b", "121 ms", "5 MB", "compute: 180 % CPU of 200 %", "2 times as fast"):
        assert part in text
    hyperion.generate_performance_report(filled, str(tmp_path / "r.md"))
    lines = (tmp_path / "r.md").read_text().splitlines()
    (row,) = [line for line in lines if "180 %" in line and line.startswith("|") and "a " in line]
    assert row.startswith(r"| a \| b |")
    columns = [line.replace(r"\|", "").count("|") - 1 for line in lines if line.startswith("|")]
    assert sorted(set(columns)) == [5, 6]  # run, time, memory, CPU, bound; the summary has six
    hyperion.generate_performance_report(filled, tmp_path / "r.json")
    data = json.loads((tmp_path / "r.json").read_text())
    assert [r["execution_time_ms"] for r in data["records"]] == [100, 110, 121, 50]
    assert data["records"][3]["bound"] == "compute"
    assert data["summary"]["execution_time_ms"]["median"] == 105
    assert data["summary"]["execution_time_ms"]["trend"] == pytest.approx(filled.get_trend())
    assert data["summary"]["memory_usage_bytes"]["trend"] is None
    assert data["advice"] == filled.recommend(filled.records[-1])
    assert data["impacts"][0]["speedup_factor"] == 2
    assert data["picture"] is None
    assert sorted(hyperion.list_dir(tmp_path)) == ["r.json", "r.md", "r.txt"]
    with pytest.raises(hyperion.UnsupportedError, match="plot"):
        hyperion.generate_performance_report(filled, tmp_path / "r.png")


def test_the_picture_is_beside_the_report(filled, tmp_path):
    pytest.importorskip("matplotlib")
    hyperion.generate_performance_report(filled, tmp_path / "r.md")
    assert "![the records](r.png)" in (tmp_path / "r.md").read_text()
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    hyperion.generate_performance_report(filled, tmp_path / "alone.png")
    assert (tmp_path / "alone.png").read_bytes() == (tmp_path / "r.png").read_bytes()


def test_reports_that_cannot_be(filled, tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"\.csv"):
        filled.generate_report(tmp_path / "r.csv")
    with pytest.raises(hyperion.HyperionIOError):
        filled.generate_report(tmp_path / "no" / "r.txt")
    with pytest.raises(hyperion.HyperionRuntimeError, match="nothing was recorded"):
        hyperion.PerformanceAnalysis().generate_report(tmp_path / "r.txt")
    assert hyperion.list_dir(tmp_path) == []


def test_many_records_are_a_table_of_the_latest(tmp_path, monkeypatch):
    without_matplotlib(monkeypatch)
    found = times(*range(1, 201))
    found.generate_report(tmp_path / "r.txt")
    text = (tmp_path / "r.txt").read_text()
    assert "the latest 40 of 200" in text
    assert len(text.splitlines()) < 60
