"""The smallest memory cgroup, interpreter included, in which a model far larger than it still generates."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmarks import cgroup, machine, report
from benchmarks.compare import default_folder
from benchmarks.streaming import merge
from benchmarks.synthetic import cached_model

STEP = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", default="7b")
    parser.add_argument("--type", default="q4_0")
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=3)
    parser.add_argument("--deadline", type=float, default=300.0, help="seconds for one run")
    parser.add_argument("--models", type=Path, default=default_folder())
    parser.add_argument("--out", type=Path)


def run(args: argparse.Namespace) -> int:
    """Halve the interval of group sizes until it is known to a megabyte."""
    if not cgroup.available():
        sys.stderr.write("this benchmark needs root and a memory cgroup\n")
        return 2
    import hyperion

    model = cached_model(args.models, args.shape, args.type)
    with hyperion.load_model(model, context_length=args.context, memory_budget="1GB") as opened:
        budget = opened.smallest_budget

    def attempt(limit: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.peers.stream_job", "hyperion", str(model), "--budget", str(budget),
                   "--context", str(args.context), "--prompt", "1", "--tokens", str(args.tokens), "--alone"]  # fmt: skip
        outcome = cgroup.run(command, limit, deadline=args.deadline)
        return merge(outcome.output) | {"limit": limit, "kills": outcome.kills}

    low, high, runs = budget // 2, budget + 100_000_000, []
    while high - low > STEP:
        middle = (low + high) // 2
        runs.append(attempt(middle))
        if "seconds" in runs[-1]:
            high = middle
        else:
            low = middle
    worked = [r for r in runs if "seconds" in r]
    facts = machine.describe()
    rows = [
        [f"{r['limit'] / 1e6:.0f} MB", report.number(1 / r["seconds"]) if "seconds" in r else "killed" if r["kills"] else "failed"]
        for r in sorted(runs, key=lambda r: -r["limit"])
    ]
    smallest = min((r["limit"] for r in worked), default=0)
    text = (
        f"## {model.name}, {model.stat().st_size / 1e6:.0f} MB, context {args.context}, in ever smaller groups\n\n"
        f"{machine.sentence(facts)}\n\n{report.markdown_table(['group', 'tokens/s'], rows)}\n\n"
        f"Smallest budget {budget / 1e6:.1f} MB; smallest group in which it generates, Python in it: {smallest / 1e6:.0f} MB.\n"
    )
    report.write("floor", text, {"machine": facts, "budget": budget, "smallest_group": smallest, "runs": runs}, args.out)
    return 0 if worked else 1
