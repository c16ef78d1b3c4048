"""Dense products, activations, norms and attention beside NumPy and torch, and what a model's kernel settings do.

Each round runs everything once, short work again and again for two milliseconds, so that threads are awake; ratios are medians of
the ratios within a round. Between two pieces of work with several threads there is a pause: OpenBLAS's threads go on spinning for a
while after a product and would take the next one's cores.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, report

PAUSE = 0.1
LEAST = 2e-3
SETTINGS_ROUNDS = 3
PROMPT = "prompt of 256 tokens"
Work = dict[str, Callable[[], object]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512, 1024, 2048], help="of square products")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", help="default: the model in the package")
    parser.add_argument("--out", type=Path, help="folder for dense.md and dense.json")


@contextlib.contextmanager
def peers_limited(threads: int) -> Iterator[None]:
    """NumPy's and torch's threads."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        if importlib.util.find_spec("torch"):
            import torch

            torch.set_num_threads(threads)
        yield


def products(size: int, threads: int) -> Work:
    """One square product by NumPy, by default settings, and by others."""
    from hyperion import CacheConfig, matmul

    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((size, size), dtype=np.float32) for _ in range(2))
    out = np.empty_like(a)
    settings = {
        "hyperion": CacheConfig(),
        "hyperion, block_size 256": CacheConfig(block_size=256),
        "hyperion, no prefetch": CacheConfig(enable_prefetch=False),
    }
    todo: Work = {"NumPy": lambda: np.matmul(a, b, out=out)}
    for name, config in settings.items():
        todo[name] = lambda config=config: matmul(a, b, out, cache=config, threads=threads)
    return todo


def activations(threads: int) -> dict[str, Work]:
    """A million values (they stay in the caches) by each function and its peers."""
    import hyperion

    x = np.random.default_rng(1).standard_normal(1 << 20, dtype=np.float32)
    out = np.empty_like(x)
    numpy: Work = {"tanh": lambda: np.tanh(x, out=out), "relu": lambda: np.maximum(x, 0, out=out)}
    todo: dict[str, Work] = {}
    for name in ("relu", "silu", "gelu", "tanh", "sigmoid", "softmax"):
        todo[name] = {"hyperion": lambda name=name: getattr(hyperion, name)(x, out, threads=threads)}
        if name in numpy:
            todo[name]["NumPy"] = numpy[name]
    if importlib.util.find_spec("torch"):
        import torch

        t = torch.from_numpy(x)
        functions = torch.nn.functional
        theirs: Work = {
            "relu": lambda: torch.relu(t), "silu": lambda: functions.silu(t), "gelu": lambda: functions.gelu(t),
            "tanh": lambda: torch.tanh(t), "sigmoid": lambda: torch.sigmoid(t), "softmax": lambda: torch.softmax(t, -1),
        }  # fmt: skip
        for name, work in theirs.items():
            todo[name]["torch"] = work
    return todo


def norms(threads: int) -> dict[str, Work]:
    """512 rows of 2048 values."""
    import hyperion

    rng = np.random.default_rng(4)
    x, weight, bias = (rng.standard_normal(shape, dtype=np.float32) for shape in ((512, 2048), 2048, 2048))
    out = np.empty_like(x)
    todo: dict[str, Work] = {
        "rms_norm": {"hyperion": lambda: hyperion.rms_norm(x, weight, out, threads=threads)},
        "layer_norm": {"hyperion": lambda: hyperion.layer_norm(x, weight, bias, out, threads=threads)},
    }
    if importlib.util.find_spec("torch"):
        import torch

        t, w, b = map(torch.from_numpy, (x, weight, bias))
        functions = torch.nn.functional
        todo["rms_norm"]["torch"] = lambda: functions.rms_norm(t, (2048,), w, 1e-5)
        todo["layer_norm"]["torch"] = lambda: functions.layer_norm(t, (2048,), w, b)
    return todo


def attention(threads: int) -> Work:
    """Causal attention of 512 queries, 8 heads over 2 KV heads of 128 dims."""
    from hyperion import scaled_dot_product_attention

    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((heads, 512, 128), dtype=np.float32) for heads in (8, 2, 2))
    todo: Work = {"hyperion": lambda: scaled_dot_product_attention(q, k, v, causal=True, threads=threads)}
    if importlib.util.find_spec("torch"):
        import torch

        tensors = [torch.from_numpy(array)[None] for array in (q, k, v)]
        attend = torch.nn.functional.scaled_dot_product_attention
        todo["torch"] = lambda: attend(*tensors, is_causal=True, enable_gqa=True)
    return todo


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


def measure(todo: Work, rounds: int, pause: float) -> dict[str, list[float]]:
    """Seconds of each piece of work, round by round; a first round warms up, and decides how often short work is repeated."""
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for turn in range(-1, rounds):
        for name, work in todo.items():
            time.sleep(pause)
            times, end = [], 0.0
            while not times or end - times[0] < LEAST:
                times.append(time.perf_counter())
                work()
                end = time.perf_counter()
            times.append(end)
            if turn >= 0:  # the first of several calls wakes threads
                seconds[name].append((end - times[1]) / (len(times) - 2) if len(times) > 2 else end - times[0])
    return seconds


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from hyperion import load_model
    from hyperion.cli.common import model_path

    groups: list[dict[str, Any]] = []

    def group(what: str, todo: Work, work: int, *, threads: int, rounds: int, pause: float, base: str = "hyperion") -> None:
        seconds = measure(todo, rounds, pause)
        groups.append({"what": what, "threads": threads, "base": base, "work": work, "seconds": seconds})

    for threads in args.threads:
        with model_path(args.model) as path, load_model(path, threads=threads, context_length=512) as model:
            rounds = min(args.rounds, SETTINGS_ROUNDS)
            group(PROMPT, settings_of(model), 256, threads=threads, rounds=rounds, pause=0.0, base="as opened")
        options = {"threads": threads, "rounds": args.rounds, "pause": PAUSE if threads > 1 else 0.0}
        with peers_limited(threads):
            for size in args.sizes:
                group(f"product {size}³", products(size, threads), 2 * size**3, base="NumPy", **options)
            for name, todo in {**activations(threads), **norms(threads)}.items():
                group(name, todo, 1 << 20, **options)
            group("attention", attention(threads), 4 * 128 * (8 * 512 * 513 // 2), **options)
    data = {"machine": machine.describe(), "groups": groups}
    report.write("dense", markdown(data), data, args.out)
    return 0


def markdown(data: dict[str, Any]) -> str:
    """The table of a run's data."""
    rows = []
    for group in data["groups"]:
        base = group["seconds"][group["base"]]
        for name, seconds in group["seconds"].items():
            rates = [group["work"] / s / (1 if group["what"] == PROMPT else 1e9) for s in seconds]
            ratio = report.number(report.paired_ratio(base, seconds)) + " ×"
            rows.append([group["what"], group["threads"], name, report.with_spread(rates), ratio if name != group["base"] else "1"])
    header = ["", "threads", "by", "10⁹ operations or values/s; tokens/s", "base's time / this time"]
    return "\n\n".join(
        [
            "## Dense kernels",
            machine.sentence(data["machine"]),
            report.markdown_table(header, rows),
            "The base is NumPy for products, hyperion for activations, norms and attention, the model as opened for prompts.",
        ]
    )
