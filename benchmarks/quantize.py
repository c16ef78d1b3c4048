"""Quantizing and dequantizing against a copy of the weights, and against the gguf package.

Each round runs everything once, one after another, short work again and again for two milliseconds, so that threads are awake;
ratios are medians of the ratios within a round. Everything but gguf's functions, which return new arrays, writes to memory that is
there: a new array costs the time in which the system clears its pages.

The bytes of a piece of work are those of the weights and codes, each once. One scale for all weights, or one for each column, is
known only when the last row has been read: such work reads the weights twice, and with all bytes counted once it cannot come near
a copy's bandwidth where they are more than the caches hold. A column of its own counts both readings.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report

LEAST = 2e-3  # seconds for which short work is repeated
LEGACY = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
SEARCHED = ("iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k")
TWICE = ("one scale", "columns")  # what needs all rows before the first code
PEER_WEIGHTS = 1 << 20  # gguf and llama.cpp are timed on a part


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=64, help="of float32 weights, 10^6 each")
    parser.add_argument("--threads", type=int, help="default: as many as suit this process")
    parser.add_argument("--out", type=Path, help="folder for quantize.md and quantize.json")


def integers() -> dict[str, Any]:
    """The configs of absmax that are measured, by a name for the table."""
    from hyperion import QuantizationConfig

    return {
        "int8, one scale": QuantizationConfig(),
        "int8, rows": QuantizationConfig(axis=0),
        "int8, columns": QuantizationConfig(axis=1),
        "int8, groups of 32": QuantizationConfig(group_size=32),
        "int4, one scale": QuantizationConfig(bits=4),
        "int4, rows": QuantizationConfig(bits=4, axis=0),
        "int4, columns": QuantizationConfig(bits=4, axis=1),
        "int4, groups of 32": QuantizationConfig(bits=4, group_size=32),
        "int4, groups of 32, zero points": QuantizationConfig(bits=4, group_size=32, symmetric=False),
        "int4, groups of 128": QuantizationConfig(bits=4, group_size=128),
    }


def copier(source: np.ndarray, target: np.ndarray, pool: ThreadPoolExecutor, threads: int) -> Callable[[], object]:
    """A copy of the weights by as many threads."""
    cuts = [slice(i * len(source) // threads, (i + 1) * len(source) // threads) for i in range(threads)]
    return lambda: list(pool.map(lambda cut: np.copyto(target[cut], source[cut]), cuts))


def work(w: np.ndarray, target: np.ndarray, threads: int) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """What is timed on all weights, and the bytes that each reads and writes."""
    from hyperion import dequantize_tensor, quantize_tensor

    todo: dict[str, Callable[[], object]] = {}
    moved: dict[str, int] = {}
    for name, config in {**integers(), **{kind: kind for kind in LEGACY}}.items():
        q = quantize_tensor(w, config, threads=threads)
        todo[f"quantize {name}"] = lambda config=config, q=q: quantize_tensor(w, config, out=q, threads=threads)
        todo[f"dequantize {name}"] = lambda q=q: dequantize_tensor(q, out=target, threads=threads)
        moved[f"quantize {name}"] = moved[f"dequantize {name}"] = w.nbytes + q.nbytes
    return todo, moved


def searches() -> dict[str, Any]:
    """Integer configs whose params are searched for, by a name for the table."""
    from hyperion import QuantizationConfig

    cuts = {"groups of 32": {"group_size": 32}, "groups of 128": {"group_size": 128}, "rows": {"axis": 0}, "columns": {"axis": -1}}
    return {
        f"int4, {name}, {method}": QuantizationConfig(bits=4, symmetric=False, method=method, **cut)
        for method in ("mse", "hqq")
        for name, cut in cuts.items()
    }


def peers(part: np.ndarray, threads: int) -> dict[str, Callable[[], object]]:
    """gguf's NumPy and the same work here, and what is searched, on a part of the weights."""
    from hyperion import quantize_tensor

    todo: dict[str, Callable[[], object]] = {}
    for name, config in {**{kind: kind for kind in (*LEGACY, *SEARCHED)}, **searches()}.items():
        q = quantize_tensor(part, config, threads=threads)
        todo[f"part {name}"] = lambda config=config, q=q: quantize_tensor(part, config, out=q, threads=threads)
    if importlib.util.find_spec("gguf"):
        import gguf

        for kind in LEGACY:
            number = gguf.GGMLQuantizationType[kind.upper()]
            todo[f"gguf {kind}"] = lambda number=number: gguf.quants.quantize(part, number)
    return todo


def measure(todo: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each piece of work, round by round; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for turn in range(-1, rounds):
        for name, do in todo.items():
            times, end = [], 0.0
            while not times or end - times[0] < LEAST:
                times.append(time.perf_counter())
                do()
                end = time.perf_counter()
            times.append(end)
            if turn >= 0:  # the first of several calls wakes threads
                seconds[name].append((end - times[1]) / (len(times) - 2) if len(times) > 2 else end - times[0])
    return seconds


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from hyperion import cpu

    threads = args.threads or cpu.default_threads()
    cols = 4096
    rows = max(threads, args.megabytes * 1_000_000 // 4 // cols)
    w = np.random.default_rng(0).standard_normal((rows, cols), dtype=np.float32)
    target = np.zeros_like(w)
    with ThreadPoolExecutor(threads) as pool:
        todo, moved = work(w, target, threads)
        seconds = measure({"copy": copier(w, target, pool, threads), **todo}, args.rounds)
    moved["copy"] = 2 * w.nbytes
    twice = {name: size + w.nbytes * name.startswith("quantize") for name, size in moved.items() if name.endswith(TWICE)}
    seconds |= measure(peers(w[: max(1, PEER_WEIGHTS // cols)], threads), args.rounds)
    data = {"machine": machine.describe(), "threads": threads, "bytes": moved, "all_bytes": moved | twice, "part": PEER_WEIGHTS, "seconds": seconds}
    report.write("quantize", markdown(data), data, args.out)
    return 0


def markdown(data: dict[str, Any]) -> str:
    """The tables of a run's data."""
    seconds, moved = data["seconds"], data["bytes"]
    rows = []
    for name, size in moved.items():
        speeds = [size / s / 1e9 for s in seconds[name]]
        copy = [moved["copy"] / s / 1e9 for s in seconds["copy"]]
        times = report.number(report.paired_ratio(seconds["copy"], seconds[name]))
        share = report.paired_ratio(speeds, copy)
        counted = share * data["all_bytes"][name] / size
        rows.append([name, report.with_spread(speeds), *(report.number(n) + " ×" for n in (share, counted)), times + " ×"])
    rows.sort(key=lambda row: row[0] != "copy")
    header = ["", "GB/s read and written", "of the copy's bandwidth", "all readings counted", "the copy's time / this time"]
    peer_rows = []
    for name in (n for n in seconds if n.startswith("part ")):
        kind, other = name.removeprefix("part "), seconds.get("gguf " + name.removeprefix("part "))
        rate = [data["part"] / s / 1e6 for s in seconds[name]]
        faster = report.number(report.paired_ratio(other, seconds[name])) + " ×" if other else "–"
        peer_rows.append([kind, report.with_spread(rate), faster])
    parts = [
        "## Quantizing",
        machine.sentence(data["machine"]) + f", {data['threads']} threads",
        report.markdown_table(header, rows),
        "Quantizing a million weights at a time into what is there (gguf makes new arrays; those without a figure of gguf's are searched):",
        report.markdown_table(["", "million weights/s", "gguf's time / this time"], peer_rows),
    ]
    return "\n\n".join(parts)
