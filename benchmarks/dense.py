"""Dense products, activations, norms, convolutions and attention beside NumPy and torch, and a model's kernel settings.

Each library has a process of its own; rounds interleave them, with one at work at a time. Short work is repeated for some
milliseconds. Ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report
from benchmarks.peers.worker import IDLE_SECONDS, Worker
from benchmarks.sparse import BLAS_SLEEPS, BLAS_THREADS

LIBRARIES = ("hyperion", "numpy", "torch")
PARTS = ("products", "activations", "norms", "convolutions", "attention", "settings")
SETTINGS_ROUNDS = 3
PROMPT = "prompt of 256 tokens"
NOTES = (
    "Hyperion and NumPy write into memory that is there, torch's activations and norms into new memory. Decode is one block of "
    "Hyperion's engine with its cache beside torch's attention over float32 keys and values, whatever the cache's type; its "
    "results are not compared, those of all other rows are."
)
Case = dict[str, Any]
Work = dict[str, Callable[[], object]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024, 2048], help="of square products")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", help="default: the model in the package")
    parser.add_argument("--out", type=Path, help="folder for dense.md and dense.json")


# ---- What is measured --------------------------------------------------------------------------------------


def case(what: str, kind: str, work: float, shapes: list[tuple[int, ...]], tolerance: float = 1e-4, **arguments: Any) -> Case:
    """One row: `work` counts operations or values; results differ by at most `tolerance` of the greatest."""
    return {"what": what, "kind": kind, "work": work, "shapes": shapes, "tolerance": tolerance, "arguments": arguments}


def products(sizes: list[int]) -> list[Case]:
    """Square products, one with other settings, and shapes that are not square."""
    shapes = [(n, n, n) for n in sizes]
    shapes += [(1, 4096, 1024), (4096, 4096, 1), (8, 1024, 1024), (4096, 64, 64), (64, 4096, 64), (97, 131, 201)]
    cases = [case(" × ".join(map(str, mkn)), "matmul", 2 * math.prod(mkn), [mkn[:2], mkn[1:]]) for mkn in shapes]
    for name, settings in {"block_size 256": {"block_size": 256}, "no prefetch": {"enable_prefetch": False}}.items():
        n = max(sizes)
        cases.append(case(f"{n}³, {name}", "matmul", 2 * n**3, [(n, n), (n, n)], **settings))
    return cases


def activations() -> list[Case]:
    """A million values, which stay in the caches."""
    names = ("relu", "silu", "gelu", "tanh", "sigmoid", "softmax")
    return [case(name, name, 1 << 20, [(1 << 20,)]) for name in names] + [
        case("gelu, tanh form", "gelu", 1 << 20, [(1 << 20,)], approximate="tanh")
    ]


def norms() -> list[Case]:
    """512 rows of 2048 values."""
    shapes = {"rms_norm": [(512, 2048), (2048,)], "layer_norm": [(512, 2048), (2048,), (2048,)]}
    return [case(name, name, 1 << 20, of) for name, of in shapes.items()]


def convolutions() -> list[Case]:
    """Whisper's first two layers, layers of ResNet and MobileNet."""
    return [
        case("conv1d 80→384 of 3000, k3", "conv1d", 2 * 384 * 3000 * 80 * 3, [(1, 80, 3000), (384, 80, 3)], padding=1),
        case("conv1d 384→384 of 3000, k3 s2", "conv1d", 2 * 384 * 1500 * 384 * 3, [(1, 384, 3000), (384, 384, 3)], padding=1, stride=2),
        case("conv2d 3→64 of 224², k7 s2", "conv2d", 2 * 64 * 112**2 * 3 * 49, [(1, 3, 224, 224), (64, 3, 7, 7)], padding=3, stride=2),
        case("conv2d 64→64 of 56², k3", "conv2d", 2 * 64 * 56**2 * 64 * 9, [(1, 64, 56, 56), (64, 64, 3, 3)], padding=1),
        case("conv2d 256→64 of 56², k1", "conv2d", 2 * 64 * 56**2 * 256, [(1, 256, 56, 56), (64, 256, 1, 1)]),
        case("conv2d 144 of 56², k3 depthwise", "conv2d", 2 * 144 * 56**2 * 9, [(1, 144, 56, 56), (144, 1, 3, 3)], padding=1, groups=144),
    ]  # fmt: skip


def attention() -> list[Case]:
    """8 heads over 2 KV heads of 128 dims: prompts, and one more token; torch's keys and values are float32."""
    cases = []
    for n in (512, 2048):
        shapes = [(heads, n, 128) for heads in (8, 2, 2)]
        cases.append(case(f"attention to {n}, causal", "attention", 4 * 128 * 8 * n * (n + 1) // 2, shapes, 3e-3))
    for kv in ("f16", "q8_0", "q4_0"):
        shapes = [(8, 1, 128), (2, 2048, 128), (2, 2048, 128)]
        cases.append(case(f"decode at 2048, {kv}", "decode", 4 * 128 * 8 * 2048, shapes, kv_type=kv))
    return cases


def cases_of(args: argparse.Namespace) -> list[Case]:
    """All rows that were asked for."""
    makers = {"activations": activations, "norms": norms, "convolutions": convolutions, "attention": attention}
    found = products(args.sizes) if "products" in args.parts else []
    for name, make in makers.items():
        found += make() if name in args.parts else []
    return found


def settings_of(model: Any) -> Work:
    """A prompt of 256 tokens with a model's settings changed one at a time."""
    from hyperion import CacheConfig, SIMDOpType
    from hyperion.cpu import simd_levels

    ids = list(np.random.default_rng(3).integers(5, 1000, 256))

    def without(op: SIMDOpType) -> None:
        model.enable_simd(op, False)
        model.logits(ids)
        model.enable_simd(op, True)

    def level(name: str) -> None:
        model.set_simd_level(name)
        model.logits(ids)
        model.set_simd_level(None)

    def cut(config: CacheConfig) -> None:
        model.configure_cache(config)
        model.logits(ids)
        model.configure_cache(None)

    todo: Work = {"as opened": lambda: model.logits(ids)}
    for op in (SIMDOpType.MATRIX_MUL, SIMDOpType.ACTIVATION, SIMDOpType.ATTENTION):
        todo[f"{op.name} off"] = lambda op=op: without(op)
    for name in simd_levels()[:-1]:
        todo[f"level {name}"] = lambda name=name: level(name)
    for rows in (16, 256):
        todo[f"block_size {rows}"] = lambda rows=rows: cut(CacheConfig(block_size=rows))
    return todo


# ---- Measuring ---------------------------------------------------------------------------------------------


def compare_results(what: str, results: dict[str, list[float]], tolerance: float) -> None:
    """Raise where a peer's results are not ours."""
    ours = np.array(results["hyperion"])
    for name, values in results.items():
        if values and ours.size and not np.abs(ours - values).max() <= tolerance * np.abs(ours).max():
            raise AssertionError(f"{what}: {name}'s results are others than Hyperion's")


def measure(workers: dict[str, Worker], of: Case, threads: int, rounds: int) -> dict[str, Any]:
    """Samples of one case; a library that lacks it is left out."""
    results = {name: worker.ask("prepare", library=name, case=of, threads=threads) for name, worker in workers.items()}
    present = {name: values for name, values in results.items() if values is not None}
    compare_results(of["what"], present, of["tolerance"])
    seconds: dict[str, list[float]] = {name: [] for name in present}
    for turn in range(rounds):
        shift = turn % len(present)
        for name in [*present][shift:] + [*present][:shift]:
            if threads > 1:
                time.sleep(IDLE_SECONDS)
            seconds[name].append(workers[name].ask("sample"))
    return {**of, "threads": threads, "seconds": seconds}


def beside_peers(args: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """All cases with a number of threads."""
    environment = {**dict.fromkeys(BLAS_THREADS, str(threads)), **BLAS_SLEEPS}
    workers = {name: Worker("benchmarks.peers.dense_worker", env=environment) for name in LIBRARIES}
    try:
        if machine.package_version("torch") is None:
            workers.pop("torch").close()
        return [measure(workers, of, threads, args.rounds) for of in cases_of(args)]
    finally:
        for worker in workers.values():
            worker.close()


def with_settings(args: argparse.Namespace, threads: int) -> dict[str, Any]:
    """Seconds of a prompt with each setting of a model's kernels; a first round warms up."""
    from hyperion import load_model
    from hyperion.cli.common import model_path

    rounds = min(args.rounds, SETTINGS_ROUNDS)
    with model_path(args.model) as path, load_model(path, threads=threads, context_length=512) as model:
        todo = settings_of(model)
        seconds: dict[str, list[float]] = {name: [] for name in todo}
        for turn in range(-1, rounds):
            for name, work in todo.items():
                start = time.perf_counter()
                work()
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - start)
    return {"threads": threads, "seconds": seconds}


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    results: list[dict[str, Any]] = []
    settings: list[dict[str, Any]] = []
    for threads in args.threads:
        results += beside_peers(args, threads)
        if "settings" in args.parts:
            settings.append(with_settings(args, threads))
    versions = {name: machine.package_version(name) for name in LIBRARIES[1:]}
    data = {"machine": machine.describe(), "versions": versions, "results": results, "settings": settings}
    report.write("dense", markdown(data), data, args.out)
    return 0


# ---- The report --------------------------------------------------------------------------------------------


def microseconds(samples: list[float] | None) -> str:
    return report.number(1e6 * report.median(samples)) if samples else "–"


def row(result: dict[str, Any]) -> list[Any]:
    """One line of the table of peers."""
    seconds = result["seconds"]
    line = [result["what"], result["threads"], report.with_spread([result["work"] / s / 1e9 for s in seconds["hyperion"]])]
    line += [microseconds(seconds.get(name)) for name in LIBRARIES]
    for name in LIBRARIES[1:]:
        line.append(report.number(report.paired_ratio(seconds[name], seconds["hyperion"])) + " ×" if name in seconds else "–")
    return line


def markdown(data: dict[str, Any]) -> str:
    """The tables of a run's data."""
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items() if version)
    parts = ["## Dense kernels", f"{machine.sentence(data['machine'])}; {versions}"]
    if data["results"]:
        header = ["", "threads", "10⁹ operations or values/s", "µs", "NumPy µs", "torch µs", "NumPy / this", "torch / this"]
        parts.append(report.markdown_table(header, map(row, data["results"])))
        parts.append(NOTES)
    if data["settings"]:
        rows = []
        for group in data["settings"]:
            base = group["seconds"]["as opened"]
            for name, seconds in group["seconds"].items():
                ratio = report.number(report.paired_ratio(base, seconds)) + " ×"
                rows.append([name, group["threads"], report.with_spread([256 / s for s in seconds]), ratio])
        parts += [f"A model's kernel settings, {PROMPT}:", report.markdown_table(["", "threads", "tokens/s", "as opened / this"], rows)]
    return "\n\n".join(parts)
