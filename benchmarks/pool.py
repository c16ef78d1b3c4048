"""Blocks of a pool against malloc and free as Python can have them, and what memory tracking costs.

A sample takes blocks and frees them from Python; the peers do the same in turn, so that drift of the machine cancels:

* ``malloc, same handle``: the C library behind an extension type with a pool block's contract (`peers/malloc.pyx`;
  needs Cython and a compiler),
* ``no memory, same handle``: those calls and handles without an allocator, which is what the interpreter itself takes,
* ``malloc, ctypes``: the C library called from Python,
* ``bytearray`` and ``numpy.empty``: the usual ways to have bytes (the first zeroes them).

"1 live" frees each block before the next is taken; "256 live" takes 256 and then frees them, the last
one first. Nobody touches the memory.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report
from hyperion.memory import MemoryBudget, MemoryConfig, MemoryPool, enable_memory_tracking, process_budget

SIZES = (64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 1 << 20)
LIVE = (1, 256)
OURS = "pool"
COMPILED = ("malloc, same handle", "no memory, same handle")
MOST = 64 << 20
"""Bytes of a sample's blocks together: bytearray touches them all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--calls", type=int, default=20_000, help="blocks of a sample")
    parser.add_argument("--out", type=Path, help="folder for pool.md and pool.json")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = compiled_peers(Path(folder))
        results = [measure(size, live, compiled, args) for size in SIZES for live in LIVE]
    data: dict[str, Any] = {"machine": machine.describe(), "nanoseconds": results, "tracking": tracking(args)}
    peers = [name for name in results[0]["samples"] if name != OURS]
    rows = [
        [f"{r['bytes']:,} B, {r['live']} live", report.with_spread(r["samples"][OURS])]
        + [ratio(r["samples"], peer) for peer in peers]
        for r in results
    ]
    cost = [
        [name, report.with_spread(s["off"]), report.with_spread(s["on"])]
        for name, s in data["tracking"].items()
        if isinstance(s, dict)
    ]
    parts = [
        "## Pools",
        machine.sentence(data["machine"]),
        "Nanoseconds for one block taken and freed; the peers as multiples of that.",
        report.markdown_table(["block", "pool (ns)", *peers], rows),
        "Memory tracking, nanoseconds. While it is off, a change of a ledger compares one variable with None, in"
        + f" {report.number(report.median(data['tracking']['comparison']))} ns.",
        report.markdown_table(["", "off", "on"], cost),
    ]
    report.write("pool", "\n\n".join(parts), data, args.out)
    return 0


def ratio(samples: dict[str, list[float]], peer: str) -> str:
    return f"{report.number(report.paired_ratio(samples[peer], samples[OURS]))} ×" if samples[peer] else "–"


def compiled_peers(folder: Path) -> dict[str, Any]:
    """The C library's allocator behind a pool's contract, and nothing behind it; None where they cannot be built."""
    shutil.copy(Path(__file__).parent / "peers" / "malloc.pyx", folder / "hyperion_bench_malloc.pyx")
    build = [sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-q", "hyperion_bench_malloc.pyx"]
    try:
        subprocess.run(build, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"without the compiled peer: {error}\n")
        return dict.fromkeys(COMPILED)
    sys.path.insert(0, str(folder))
    try:
        from hyperion_bench_malloc import Malloc, Nothing  # type: ignore[import-not-found,unused-ignore]
    finally:
        sys.path.remove(str(folder))
    return dict(zip(COMPILED, (Malloc(), Nothing()), strict=True))


def ctypes_malloc() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    try:
        library = ctypes.CDLL(None)
        take, give = library.malloc, library.free
    except (AttributeError, OSError, TypeError):  # Windows
        return None
    take.restype, take.argtypes, give.restype, give.argtypes = ctypes.c_void_p, [ctypes.c_size_t], None, [ctypes.c_void_p]
    return take, give


def forget(block: object) -> None:
    """Free what goes with its last reference, through a call as the others have it."""


def measure(size: int, live: int, compiled: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Samples of one size in nanoseconds a block, the peers in turn."""
    config = MemoryConfig(initial_pool_size=size * max(LIVE), block_size=size, strategy="POOLED")
    with MemoryPool(config, budget=MemoryBudget(4 * size * max(LIVE) + (1 << 22))) as pool:
        empty, byte = np.empty, np.uint8
        pairs: dict[str, tuple[Callable[..., Any], Callable[..., Any]] | None] = {
            OURS: (pool.alloc, pool.free),
            **{name: (peer.alloc, peer.free) if peer else None for name, peer in compiled.items()},
            "malloc, ctypes": ctypes_malloc(),
            "bytearray": (bytearray, forget),
            "numpy.empty": (lambda n: empty(n, byte), forget),
        }
        samples: dict[str, list[float]] = {name: [] for name in pairs}
        calls = max(live, min(args.calls, MOST // size))
        for turn in range(-1, args.rounds):  # round -1 warms up
            for name, pair in pairs.items():
                if pair is None:
                    continue
                value = sample(*pair, size, live, calls)
                if turn >= 0:
                    samples[name].append(value)
    return {"bytes": size, "live": live, "samples": samples}


def sample(alloc: Callable[..., Any], free: Callable[..., Any], size: int, live: int, calls: int) -> float:
    names = {"alloc": alloc, "free": free, "size": size, "live": range(live)}
    if live == 1:
        return timeit.timeit("free(alloc(size))", number=calls, globals=names) / calls * 1e9
    turns = max(1, calls // live)
    code = "held = [alloc(size) for _ in live]\nwhile held: free(held.pop())"
    return timeit.timeit(code, number=turns, globals=names) / turns / live * 1e9


def tracking(args: argparse.Namespace) -> dict[str, Any]:
    """The same with memory tracking off and on."""
    from hyperion.memory import budget

    pool = MemoryPool(MemoryConfig(initial_pool_size="1MiB", strategy="POOLED"))
    names = {"alloc": pool.alloc, "free": pool.free, "reserve": process_budget().reserve, "ledger": budget}
    statements = {
        "a block taken and freed": "free(alloc(100))",
        "a reservation made and released": "reserve('benchmark', 100).release()",
    }
    result: dict[str, Any] = {name: {"off": [], "on": []} for name in statements}
    result["comparison"] = []
    calls = max(1, args.calls // 4)
    for _ in range(args.rounds):
        for state in ("off", "on"):
            enable_memory_tracking(state == "on")
            for name, statement in statements.items():
                result[name][state].append(timeit.timeit(statement, number=calls, globals=names) / calls * 1e9)
        enable_memory_tracking(False)
        check = timeit.timeit("if x is not None: pass", number=calls, globals={"x": None})
        nothing = timeit.timeit("pass", number=calls)
        result["comparison"].append(max(0.0, check - nothing) / calls * 1e9)
    pool.close()
    return result
