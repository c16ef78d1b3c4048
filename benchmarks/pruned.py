"""A model of a real shape, dense and without 70% of its blocks: tokens a second with all of it in memory and with 40%."""

from __future__ import annotations

import argparse
import gc
import time
from pathlib import Path
from typing import Any

from benchmarks import compare, machine, report, synthetic
from benchmarks.peers.worker import token_ids

SHARE = 0.4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("--models", type=Path, default=compare.default_folder(), help="folder of the models, written where missing")
    parser.add_argument("--shape", choices=sorted(synthetic.SHAPES), default="1.1b")
    parser.add_argument("--type", choices=["q4_0", "q8_0"], default="q4_0")
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16, help="decoded tokens of a sample")
    parser.add_argument("--threads", type=int, help="by default the processors that the process may use")
    parser.add_argument("--prepare", action="store_true", help="write the models and measure nothing")
    parser.add_argument("--out", type=Path, help="folder for pruned.md and pruned.json")


def prepare(args: argparse.Namespace) -> dict[str, Path]:
    """The dense model and the pruned one, both as .hyperion files."""
    import hyperion
    from hyperion.models.convert import prune

    source = synthetic.cached_model(args.models, args.shape, args.type)
    dense = source.with_suffix(".hyperion")
    pruned = args.models / f"{source.stem}-pruned-{args.sparsity:g}-{args.block_size}.hyperion"
    if not dense.exists():
        hyperion.convert(source, dense)
    if not pruned.exists():
        prune(source, pruned, hyperion.PruneConfig(sparsity=args.sparsity, block_size=args.block_size))
    return {"dense": dense, "pruned": pruned}


def decode(model: Any, ids: list[int]) -> float:
    """Tokens a second, one by one."""
    with model.session() as session:
        session.eval(ids[:1])
        start = time.perf_counter()
        for token in ids[1:]:
            session.eval([token])
        return (len(ids) - 1) / (time.perf_counter() - start)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from hyperion import load_model

    paths = prepare(args)
    if args.prepare:
        return 0
    budgets = {"resident": None, f"{SHARE:.0%} of the dense file": int(SHARE * paths["dense"].stat().st_size)}
    results: dict[str, dict[str, Any]] = {}
    for name, budget in budgets.items():
        models = {k: load_model(p, memory_budget=budget, context_length=256, threads=args.threads) for k, p in paths.items()}
        ids = token_ids(args.tokens + 1, models["dense"].config.vocab_size)
        speeds: dict[str, list[float]] = {kind: [] for kind in models}
        for turn in range(-1, args.rounds):
            for kind, model in models.items():
                speed = decode(model, ids)
                if turn >= 0:
                    speeds[kind].append(speed)
        results[name] = {
            "budget": budget, "tokens_per_second": speeds,
            "weight_bytes": {k: m.plan.weight_bytes for k, m in models.items()},
            "read_bytes": {k: m.plan.streamed_bytes for k, m in models.items()},
        }  # fmt: skip
        for model in models.values():
            model.close()
        del models, model
        gc.collect()
    data = {"machine": machine.describe(), "files": {k: p.stat().st_size for k, p in paths.items()}, "results": results,
            "sparsity": args.sparsity, "block_size": args.block_size}  # fmt: skip
    report.write("pruned", markdown(data), data, args.out)
    return 0


def markdown(data: dict[str, Any]) -> str:
    """The table of a run's data."""
    rows = []
    for name, r in data["results"].items():
        dense, pruned = r["tokens_per_second"]["dense"], r["tokens_per_second"]["pruned"]
        megabytes = [f"{r['weight_bytes'][k] / 1e6:.0f} ({r['read_bytes'][k] / 1e6:.0f} read)" for k in ("dense", "pruned")]
        rows.append([name, *megabytes, report.with_spread(dense), report.with_spread(pruned), report.number(report.paired_ratio(pruned, dense)) + " ×"])
    size = f"{data['sparsity']:.0%} of the blocks of {data['block_size']} × {data['block_size']} pruned"
    header = ["", "dense, MB a token", "pruned, MB a token", "dense, tokens/s", "pruned, tokens/s", "pruned / dense"]
    return "\n\n".join([f"## {size}", machine.sentence(data["machine"]), report.markdown_table(header, rows)])
