"""Dense products, activations and attention beside NumPy and torch, and what a model's kernel settings do.

Each round runs everything once; ratios are medians of the ratios within a round. Between two pieces of work with several threads
there is a pause: OpenBLAS's threads go on spinning for a while after a product and would take the next one's cores.
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

PAUSE = 0.15
Work = dict[str, Callable[[], object]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024, 2048], help="of square products")
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


def attention() -> Work:
    """Causal attention of 512 queries, 8 heads over 2 KV heads of 128 dims; hyperion's runs in one thread."""
    from hyperion import scaled_dot_product_attention

    rng = np.random.default_rng(2)
    q, k, v = (rng.standard_normal((heads, 512, 128), dtype=np.float32) for heads in (8, 2, 2))
    todo: Work = {"hyperion": lambda: scaled_dot_product_attention(q, k, v, causal=True)}
    if importlib.util.find_spec("torch"):
        import torch

        tensors = [torch.from_numpy(array)[None] for array in (q, k, v)]
        attend = torch.nn.functional.scaled_dot_product_attention
        todo["torch"] = lambda: attend(*tensors, is_causal=True, enable_gqa=True)
    return todo


def settings_of(model: Any) -> Work:
    """A prompt of 256 tokens with a model's settings changed one at a time."""
    from hyperion import CacheConfig, SIMDOpType

    ids = list(np.random.default_rng(3).integers(5, 1000, 256))

    def without(op: SIMDOpType) -> None:
        model.enable_simd(op, False)
        model.logits(ids)
        model.enable_simd(op, True)

    def cut(config: CacheConfig) -> None:
        model.configure_cache(config)
        model.logits(ids)
        model.configure_cache(None)

    todo: Work = {"as opened": lambda: model.logits(ids)}
    for op in (SIMDOpType.MATRIX_MUL, SIMDOpType.ACTIVATION, SIMDOpType.ATTENTION):
        todo[f"{op.name} off"] = lambda op=op: without(op)
    for rows in (16, 256):
        todo[f"block_size {rows}"] = lambda rows=rows: cut(CacheConfig(block_size=rows))
    return todo


def measure(todo: Work, rounds: int, pause: float) -> dict[str, list[float]]:
    """Seconds of each piece of work, round by round; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in todo}
    for turn in range(-1, rounds):
        for name, work in todo.items():
            time.sleep(pause)
            start = time.perf_counter()
            work()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from hyperion import load_model
    from hyperion.cli.common import model_path

    groups: list[dict[str, Any]] = []
    for threads in args.threads:
        pause = PAUSE if threads > 1 else 0.0
        with peers_limited(threads):
            for size in args.sizes:
                seconds = measure(products(size, threads), args.rounds, pause)
                groups.append({"what": f"product {size}³", "threads": threads, "base": "NumPy", "work": 2 * size**3, "seconds": seconds})
            for name, todo in activations(threads).items():
                seconds = measure(todo, args.rounds, pause)
                groups.append({"what": name, "threads": threads, "base": "hyperion", "work": 1 << 20, "seconds": seconds})
            if threads == 1:
                seconds = measure(attention(), args.rounds, pause)
                pairs = 8 * 512 * 513 // 2
                groups.append(
                    {"what": "attention", "threads": 1, "base": "hyperion", "work": 4 * 128 * pairs, "seconds": seconds}
                )
        with model_path(args.model) as path, load_model(path, threads=threads, context_length=512) as model:
            seconds = measure(settings_of(model), args.rounds, 0.0)
        groups.append({"what": "prompt of 256 tokens", "threads": threads, "base": "as opened", "work": 256, "seconds": seconds})
    data = {"machine": machine.describe(), "groups": groups}
    report.write("dense", markdown(data), data, args.out)
    return 0


def markdown(data: dict[str, Any]) -> str:
    """The table of a run's data."""
    rows = []
    for group in data["groups"]:
        base = group["seconds"][group["base"]]
        for name, seconds in group["seconds"].items():
            rates = [group["work"] / s / 1e9 if group["work"] > 256 else group["work"] / s for s in seconds]
            ratio = report.number(report.paired_ratio(base, seconds)) + " ×"
            rows.append([group["what"], group["threads"], name, report.with_spread(rates), ratio if name != group["base"] else "1"])
    header = ["", "threads", "by", "10⁹ operations or values/s; tokens/s", "base's time / this time"]
    return "\n\n".join(
        [
            "## Dense kernels",
            machine.sentence(data["machine"]),
            report.markdown_table(header, rows),
            "The base is NumPy for products, hyperion for activations and attention, the model as opened for prompts.",
        ]
    )
