"""What a parallel region costs, and decoding with two threads while another process burns one of the cores."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import report, synthetic
from benchmarks.compare import MODULES, OURS
from benchmarks.peers.worker import IDLE_SECONDS, Worker, WorkerError

HOT = 20_000
IDLE = 0.020
DECODED = 8
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
    """Tokens a second of both peers with one thread, with two, and with two while a core is busy."""
    path = str(synthetic.cached_model(args.models, "1.1b", "q4_0"))
    found: dict[str, Any] = {}
    for name, module in MODULES.items():
        speeds: dict[str, list[float]] = {"1 thread": [], "2 threads": [], "2 threads, one core busy": []}
        workers: dict[int, Worker] = {}
        try:
            for threads in (1, 2):
                workers[threads] = Worker(module, python=None if name == OURS else args.llama_python)
                options = {} if name == OURS else {"repack": True}
                workers[threads].ask("load", path=path, threads=threads, context_length=128, **options)
            for turn in range(-1, args.rounds):
                for case, samples in speeds.items():
                    time.sleep(IDLE_SECONDS)
                    seconds = decode(workers[1 if case == "1 thread" else 2], "busy" in case)
                    if turn >= 0:
                        samples.append(DECODED / seconds)
            found[name] = speeds
        except WorkerError as error:
            found[name] = str(error)
        finally:
            for worker in workers.values():
                worker.close()
    return found


def decode(worker: Worker, busy: bool) -> float:
    if not busy:
        return worker.ask("decode", context=8, tokens=DECODED)
    with busy_core():
        return worker.ask("decode", context=8, tokens=DECODED)


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
            rows.append([name, "failed", "–", "–", "–"])
            continue
        one, two, busy = speeds.values()
        rows.append([name, *map(report.with_spread, (one, two, busy)), f"{report.paired_ratio(busy, one):.2f}"])
    return "\n\n".join(
        [
            f"A parallel region of two threads: {report.with_spread([t / 1e3 for t in hot])} µs hot,"
            + f" {report.with_spread([t / 1e3 for t in idle])} µs after {IDLE * 1e3:.0f} ms without one.",
            "Decoding, 1.1b shape in Q4_0, tokens a second (llama.cpp repacked):",
            report.markdown_table(
                ["", "1 thread", "2 threads", "2 threads, another process on one of the cores", "of 1 thread's"], rows
            ),
        ]
    )
