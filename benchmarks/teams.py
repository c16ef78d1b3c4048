"""What a parallel region costs, and decoding with two threads while another process burns one of the cores.

A sample of decoding lasts some seconds' worth of the scheduler's time slices: shorter ones say what the last few slices
happened to be.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from benchmarks import report, synthetic
from benchmarks.compare import MODULES, OURS
from benchmarks.peers.worker import IDLE_SECONDS, Worker, WorkerError

HOT = 20_000
IDLE = 0.020
DECODED = 8
SAMPLE_SECONDS = 1.5
CASES = {
    "1 thread": (1, False),
    "2 threads": (2, False),
    "1 thread, one core busy": (1, True),
    "2 threads, one core busy": (2, True),
}
"""Threads, and whether another process burns a core."""
BURN = "import os, sys\nif hasattr(os, 'sched_setaffinity'): os.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"


@contextmanager
def busy_core() -> Iterator[None]:
    """Another process that never leaves the last core."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    burner = subprocess.Popen([sys.executable, "-c", BURN, str(cores[-1])])
    try:
        time.sleep(0.3)
        yield
    finally:
        burner.kill()
        burner.wait()


def regions(rounds: int) -> dict[str, list[float]]:
    """Nanoseconds of a region of two threads, in turn without a pause and after one."""
    worker = Worker("benchmarks.peers.hyperion_products")
    try:
        found: dict[str, list[float]] = {"hot": [], "idle": []}
        for _ in range(rounds):
            found["hot"].append(worker.ask("regions", threads=2, count=HOT, idle=0))
            found["idle"] += [worker.ask("regions", threads=2, count=1, idle=IDLE) for _ in range(5)]
    finally:
        worker.close()
    return found


def decoding(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of both peers in all cases."""
    path = str(synthetic.cached_model(args.models, "1.1b", "q4_0"))
    found: dict[str, Any] = {}
    for name, module in MODULES.items():
        speeds: dict[str, list[float]] = {case: [] for case in CASES}
        workers: dict[int, Worker] = {}
        try:
            for threads in (1, 2):
                workers[threads] = Worker(module, python=None if name == OURS else args.llama_python)
                options = {} if name == OURS else {"repack": True}
                workers[threads].ask("load", path=path, threads=threads, context_length=128, **options)
            for turn in range(-1, args.rounds):
                for case, (threads, busy) in CASES.items():
                    time.sleep(IDLE_SECONDS)
                    with busy_core() if busy else nullcontext():
                        speed = decode(workers[threads], SAMPLE_SECONDS if turn >= 0 else 0)
                    if turn >= 0:
                        speeds[case].append(speed)
            found[name] = speeds
        except WorkerError as error:
            found[name] = str(error)
        finally:
            for worker in workers.values():
                worker.close()
    return found


def decode(worker: Worker, at_least: float) -> float:
    """Tokens a second over so many seconds."""
    tokens, seconds = 0, 0.0
    while not tokens or seconds < at_least:
        seconds += worker.ask("decode", context=8, tokens=DECODED)
        tokens += DECODED
    return tokens / seconds


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of the thread team."""
    print("threads", file=sys.stderr)
    return {"regions": regions(args.rounds), "decode": decoding(args)}


def text(data: dict[str, Any]) -> str:
    """Its part of the report."""
    hot, idle = data["regions"]["hot"], data["regions"]["idle"]
    rows = []
    for name, speeds in data["decode"].items():
        if isinstance(speeds, str):
            rows.append([name, "failed", *["–"] * (len(CASES) + 1)])
            continue
        one, _, one_busy, two_busy = speeds.values()
        ratios = [f"{report.paired_ratio(two_busy, base):.2f}" for base in (one, one_busy)]
        rows.append([name, *map(report.with_spread, speeds.values()), *ratios])
    return "\n\n".join(
        [
            f"A parallel region of two threads: {report.with_spread([t / 1e3 for t in hot])} µs hot,"
            + f" {report.with_spread([t / 1e3 for t in idle])} µs after {IDLE * 1e3:.0f} ms without one.",
            "Decoding, 1.1b shape in Q4_0, tokens a second (llama.cpp repacked); “busy”: another process burns one of"
            + " the cores. The last two columns: two threads then, as a share of one thread's speed without and with it.",
            report.markdown_table(["", *CASES, "of 1 thread's", "of 1 thread's, busy"], rows),
        ]
    )
