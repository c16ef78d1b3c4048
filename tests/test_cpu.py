"""Processors, caches and names, on machines made of files."""

import os
import struct
import sys

import pytest

from hyperion import cpu
from hyperion._kernels.threads import Team, probe_busy

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads Linux's pseudo files")


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_machine():
    threads = cpu.default_threads()
    assert 1 <= threads <= (os.cpu_count() or 1)
    probe_busy(Team(threads), 10, 1000)
    assert list(cpu.cache_sizes()) == ["L1d", "L2", "L3"]
    assert all(size is None or size >= 4096 for size in cpu.cache_sizes().values())
    assert cpu.processor_name().strip()


@linux
def test_affinity():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cpu.default_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@linux
@pytest.mark.parametrize(
    ("quota", "threads"),
    [("max", 4), ("800000", 4), ("400000", 4), ("350000", 4), ("250000", 3), ("140000", 1), ("10000", 1)],
)
def test_quota(tmp_path, monkeypatch, quota, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    files = {
        "proc/self/cgroup": "0::/job\n",
        "proc/self/mountinfo": "40 31 0:38 / /cg rw - cgroup2 cgroup2 rw\n",
        "cg/job/cpu.max": f"{quota} 100000\n",
    }
    assert cpu.default_threads(write(tmp_path, files)) == threads


@linux
def test_one_thread_a_core(tmp_path, monkeypatch):
    """Eight processors on four cores, of which the process may use five: cores 0, 1 (both halves) and 2."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5, 6})
    topology = "sys/devices/system/cpu/cpu{}/topology/{}"
    files = {topology.format(i, "core_cpus_list"): f"{i % 4},{i % 4 + 4}\n" for i in range(8)}
    assert cpu.default_threads(write(tmp_path / "new", files)) == 3
    files = {topology.format(i, "thread_siblings_list"): f"{i % 4},{i % 4 + 4}\n" for i in range(8)}
    assert cpu.default_threads(write(tmp_path / "old", files)) == 3
    assert cpu.default_threads(write(tmp_path / "silent", {})) == 5


@linux
def test_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3})
    cache = "sys/devices/system/cpu/cpu2/cache/index{}/{}"
    levels = [("1", "Data", "48K"), ("1", "Instruction", "64K"), ("2", "Unified", "2M"), ("3", "Unified", "")]
    files = {
        cache.format(i, name): text + "\n"
        for i, values in enumerate(levels)
        for name, text in zip(("level", "type", "size"), values, strict=True)
    }
    assert cpu.cache_sizes(write(tmp_path, files)) == {"L1d": 48 << 10, "L2": 2 << 20, "L3": None}
    assert cpu.cache_sizes(tmp_path / "nothing") == {"L1d": None, "L2": None, "L3": None}


@linux
def test_name(tmp_path):
    text = "processor : 0\nmodel\t\t: 106\nmodel name\t: A: fast one\nprocessor : 1\nmodel name : Another\n"
    assert cpu.processor_name(write(tmp_path, {"proc/cpuinfo": text})) == "A: fast one"
    assert cpu.processor_name(tmp_path / "nothing")


def test_windows_records():
    def record(mask, relation, *cache):
        return struct.pack("<Qi4x", mask, relation) + (
            struct.pack("<BBHIi4x", *cache) if cache else bytes(16)
        )

    records = [
        record(3, 0),
        record(12, 0),
        record(3, 2, 1, 8, 64, 48 << 10, 2),
        record(3, 2, 1, 8, 64, 32 << 10, 1),
        record(3, 2, 2, 8, 64, 1 << 20, 0),
        record(15, 1),
        record(15, 3),
        record(15, 2, 3, 16, 64, 30 << 20, 0),
    ]
    cores, caches = cpu._parse_processors(b"".join(records))
    assert cores == [3, 12]
    assert cpu._named(caches) == {"L1d": 48 << 10, "L2": 1 << 20, "L3": 30 << 20}
