"""Sparse products beside SciPy's and NumPy's.

Each library has a process of its own; rounds interleave them, with one at work at a time. Ratios are medians of the ratios within
a round. SciPy has one thread; NumPy's product of the dense array has as many as ours. Matrices are square, float32, random.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report
from benchmarks.peers.sparse_worker import WARM
from benchmarks.peers.worker import IDLE_SECONDS, Worker

LIBRARIES = ("hyperion", "scipy", "numpy")
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
BLAS_SLEEPS = {"OPENBLAS_THREAD_TIMEOUT": "20"}  # 2^20 ticks; by default its threads spin into the next library's turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--size", type=int, default=4096, help="rows and columns")
    parser.add_argument("--formats", nargs="+", choices=("csr", "csc", "bsr"), default=["csr", "csc", "bsr"])
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for sparse.md and sparse.json")


def measure(workers: dict[str, Worker], case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Samples of one case, whose results must agree."""
    ready = {name: worker.ask("prepare", library=name, **case) for name, worker in workers.items()}
    results = {name: np.array(r["results"]) for name, r in ready.items()}
    for name, values in results.items():
        error = np.abs(values - results["numpy"]).max() / np.abs(results["numpy"]).max()
        if not error < 1e-4:
            raise AssertionError(f"{case}: {name} differs from NumPy by {error:.2g} of the greatest result")
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            time.sleep(IDLE_SECONDS)
            seconds[name].append(worker.ask("product"))
    return {**case, "seconds": seconds, "stored": ready["hyperion"]["stored"], "first": ready["hyperion"]["first"]}


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    results = []
    for threads in args.threads:
        environment = {**dict.fromkeys(BLAS_THREADS, str(threads)), **BLAS_SLEEPS}
        workers = {name: Worker("benchmarks.peers.sparse_worker", env=environment) for name in LIBRARIES}
        try:
            for kind in args.formats:
                for density in args.densities:
                    for columns in args.columns:
                        case = {"kind": kind, "density": density, "columns": columns, "size": args.size, "block": args.block, "threads": threads}
                        results.append(measure(workers, case, args.rounds))
        finally:
            for worker in workers.values():
                worker.close()
    data = {"machine": machine.describe(), "scipy": machine.package_version("scipy"), "results": results}
    report.write("sparse", markdown(data), data, args.out)
    return 0


def markdown(data: dict[str, Any]) -> str:
    """The tables of a run's data."""
    rows, first_rows = [], []
    for r in data["results"]:
        seconds, case = r["seconds"], [f"{r['kind'].upper()} × {r['columns']}", r["density"], r["threads"]]
        speed = [2 * r["stored"] * r["columns"] / s / 1e9 for s in seconds["hyperion"]]
        milliseconds = [report.number(1e3 * report.median(seconds[name])) for name in LIBRARIES]
        ratios = [report.number(report.paired_ratio(seconds[name], seconds["hyperion"])) + " ×" for name in LIBRARIES[1:]]
        rows.append([*case, report.with_spread(speed), *milliseconds, *ratios])
        first_rows.append([*case, *(report.number(1e3 * s) for s in r["first"])])
    header = ["", "density", "threads", "GFLOP/s", "ms", "SciPy ms", "dense NumPy ms", "SciPy / this", "dense NumPy / this"]
    first = ["", "density", "threads", "convert", *(f"product {i + 1}" for i in range(WARM))]
    size, block = (data["results"][0][name] for name in ("size", "block"))
    return "\n\n".join([
        f"## Sparse products, {size} × {size} float32, blocks of {block}",
        machine.sentence(data["machine"]) + f", SciPy {data['scipy']} (one thread)",
        report.markdown_table(header, rows),
        "Before that, in milliseconds: the conversion of a dense array, and the first products, which also make what later ones use:",
        report.markdown_table(first, first_rows),
    ])  # fmt: skip
