"""Sparse products beside SciPy's and NumPy's, in one run.

Each round runs everything once, one after another; ratios are medians of the ratios within a round. SciPy runs on one thread (it has no
more); NumPy's matrix product runs on as many threads as ours, which the environment variables of its library set. Matrices are
square, float32, random; SciPy multiplies the very arrays that Hyperion does.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report

WARM = 4  # rounds before the first that counts: an owned matrix has its tiles then
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
CASES = ("csr", "csc", "bsr")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--size", type=int, default=4096, help="rows and columns")
    parser.add_argument("--densities", type=float, nargs="+", default=[0.1, 0.3])
    parser.add_argument("--columns", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--block", type=int, default=16)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, help="folder for sparse.md and sparse.json")


def random_dense(rng: np.random.Generator, size: int, density: float, block: int) -> np.ndarray:
    """Values kept at random, singly or in blocks."""
    cells = -(-size // block)
    kept = rng.random((cells, cells)) < density
    mask = np.repeat(np.repeat(kept, block, 0), block, 1)[:size, :size]
    return rng.standard_normal((size, size), dtype=np.float32) * mask


def work(dense: np.ndarray, x: np.ndarray, kind: str, block: int, threads: int) -> dict[str, Callable[[], object]]:
    """One product by each library."""
    from scipy import sparse

    from hyperion import SparseConfig, convert_to_sparse, sparse_mat_mul

    ours = convert_to_sparse(dense, SparseConfig(format=kind, block_size=block))
    theirs = {"csr": sparse.csr_array, "csc": sparse.csc_array}.get(kind)
    peer = sparse.bsr_array(dense, blocksize=(block, block)) if theirs is None else theirs(dense)
    out = np.zeros((len(dense), *x.shape[1:]), np.float32)
    expected = dense.astype(np.float64) @ x
    error = np.abs(sparse_mat_mul(ours, x, threads=threads) - expected).max() / np.abs(expected).max()
    if not error < 1e-4:
        raise AssertionError(f"{kind}: results differ by {error:.2g} of the greatest")
    return {
        "hyperion": lambda: sparse_mat_mul(ours, x, out, threads=threads),
        "scipy": lambda: peer @ x,
        "numpy dense": lambda: np.matmul(dense, x, out=out),
    }


def first_product(dense: np.ndarray, x: np.ndarray, kind: str, block: int, threads: int) -> list[float]:
    """Seconds of the conversion and of each of the first products, which also make what later ones use."""
    from hyperion import SparseConfig, convert_to_sparse, sparse_mat_mul

    stamps = [time.perf_counter()]
    ours = convert_to_sparse(dense, SparseConfig(format=kind, block_size=block), threads=threads)
    stamps.append(time.perf_counter())
    for _ in range(WARM):
        sparse_mat_mul(ours, x, threads=threads)
        stamps.append(time.perf_counter())
    return [b - a for a, b in itertools.pairwise(stamps)]


def measure(args: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """All cases with one number of threads, in this process."""
    results = []
    for density in args.densities:
        for kind in CASES:
            rng = np.random.default_rng(0)
            dense = random_dense(rng, args.size, density, args.block if kind == "bsr" else 1)
            for columns in args.columns:
                shape = (args.size, columns) if columns > 1 else (args.size,)
                x = rng.standard_normal(shape, dtype=np.float32)
                todo = work(dense, x, kind, args.block, threads)
                seconds: dict[str, list[float]] = {name: [] for name in todo}
                for turn in range(-WARM, args.rounds):
                    for name, once in todo.items():
                        start = time.perf_counter()
                        once()
                        if turn >= 0:
                            seconds[name].append(time.perf_counter() - start)
                results.append({
                    "format": kind, "density": density, "columns": columns, "threads": threads, "seconds": seconds,
                    "stored": int(np.count_nonzero(dense)), "first": first_product(dense, x, kind, args.block, threads),
                })  # fmt: skip
    return results


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for.

    Each number of threads has a process of its own, as NumPy's library reads its number once.
    """
    if os.environ.get("HYPERION_BENCH_SPARSE"):
        report_data = measure(args, args.threads[0])
        sys.stdout.write(json.dumps(report_data))
        return 0
    results = []
    for threads in args.threads:
        environment = {**os.environ, "HYPERION_BENCH_SPARSE": "1", **dict.fromkeys(BLAS_THREADS, str(threads))}
        options = ["--size", args.size, "--block", args.block, "--rounds", args.rounds, "--threads", threads]
        options += ["--densities", *args.densities, "--columns", *args.columns]
        command = [sys.executable, "-m", "benchmarks", "sparse", *map(str, options)]
        results += json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    data = {"machine": machine.describe(), "scipy": machine.package_version("scipy"), "size": args.size, "block": args.block,
            "results": results}  # fmt: skip
    report.write("sparse", markdown(data), data, args.out)
    return 0


def markdown(data: dict[str, Any]) -> str:
    """The tables of a run's data."""
    rows, first_rows = [], []
    for r in data["results"]:
        seconds, name = r["seconds"], f"{r['format'].upper()} × {r['columns']}"
        flops = [2 * r["stored"] * r["columns"] / s / 1e9 for s in seconds["hyperion"]]
        ratios = [report.number(report.paired_ratio(seconds[peer], seconds["hyperion"])) + " ×" for peer in ("scipy", "numpy dense")]
        milliseconds = [report.number(1e3 * report.median(seconds[peer])) for peer in ("hyperion", "scipy", "numpy dense")]
        rows.append([name, r["density"], r["threads"], report.with_spread(flops), *milliseconds, *ratios])
        first_rows.append([name, r["density"], r["threads"], *(report.number(1e3 * s) for s in r["first"])])
    header = ["", "density", "threads", "GFLOP/s", "ms", "SciPy ms", "dense NumPy ms", "SciPy / this", "dense NumPy / this"]
    first = ["", "density", "threads", "convert, ms", *(f"product {i + 1}, ms" for i in range(WARM))]
    return "\n\n".join([
        f"## Sparse products, {data['size']} × {data['size']} float32, blocks of {data['block']}",
        machine.sentence(data["machine"]) + f", SciPy {data['scipy']} (one thread)",
        report.markdown_table(header, rows),
        "What comes before: converting a dense array, and the first products, one of which also makes what later ones use:",
        report.markdown_table(first, first_rows),
    ])  # fmt: skip
