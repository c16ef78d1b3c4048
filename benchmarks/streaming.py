"""Models larger than their memory: budgets in cgroups with a cold cache, llama.cpp beside Hyperion in groups of the same size.

Every measurement is a process of its own in a fresh memory cgroup. Hyperion's group is its budget and what the interpreter
had before loading; llama.cpp's is of the same size. η is the ideal time ÷ the measured one, where the ideal is the larger of
streamed bytes ÷ the best raw read rate just before and after, and the time of a token when everything is resident. A disk's rate
can move by half within seconds, so decoding goes in turns of a few tokens with readings in between. The first token of a turn does
not count, as the reader went on during the readings; the rate is the better one of the readings before and after the turn; tokens/s
and η are medians of the turns. "Of the best" is that median token against the one best of all readings of the whole file before
loading and after closing. A llama.cpp run that gives no token before its deadline counts as one token in that time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks import cgroup, machine, report, streaming_plot
from benchmarks.compare import default_folder
from benchmarks.synthetic import SHAPES, cached_model

MARGIN = 8_000_000
"""Kernel memory of a process, which a group counts and no process sees."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", default="1.1b")
    parser.add_argument("--type", default="q4_0")
    parser.add_argument("--budgets", nargs="+", default=["900MB", "500MB", "300MB", "160MB", "floor"])
    parser.add_argument("--shares", nargs="*", type=float, default=[0.85, 0.7, 0.5], help="groups, as shares of the file, for llama.cpp")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every streamed budget; the one with the median η counts")
    parser.add_argument("--long", type=int, default=515, help="tokens of the prompt whose logits are compared between budgets; 0 for none")
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--prompt", type=int, default=16)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--amortise", type=float, default=300, help="budget in MB for the prompt, batch and draft figures; 0 for none")
    parser.add_argument("--deadline", type=float, default=120.0, help="seconds for a llama.cpp run")
    parser.add_argument("--llama-python", help="interpreter that has llama-cpp-python")
    parser.add_argument("--models", type=Path, default=default_folder())
    parser.add_argument("--out", type=Path, help="folder for streaming.md, streaming.json and streaming.png")


def merge(output: str) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for line in output.splitlines():
        if line.startswith("{"):
            figures.update(json.loads(line))
    return figures


class Bench:
    """All runs on one model."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.model = cached_model(args.models, args.shape, args.type)
        self.base = 0
        self.resident: float | None = None

    def job(self, peer: str, limit: int, *options: str, deadline: float = 600.0, python: str | None = None) -> dict[str, Any]:
        args = self.args
        command = [python or sys.executable, "-m", "benchmarks.peers.stream_job", peer, str(self.model),
                   "--context", str(args.context), "--prompt", str(args.prompt), "--tokens", str(args.tokens),
                   "--vocab", str(SHAPES[args.shape].vocab), *options]  # fmt: skip
        outcome = cgroup.run(command, limit, deadline=deadline)
        figures = merge(outcome.output) | {"limit": limit, "peak": outcome.peak, "kills": outcome.kills, "status": outcome.status}
        if outcome.status not in (0, None) and not outcome.kills:
            figures["error"] = outcome.errors.strip().splitlines()[-1:] or ["?"]
        return figures

    def floor(self) -> int:
        """The smallest budget, as the plan of a running model says."""
        import hyperion

        with hyperion.load_model(self.model, context_length=max(self.args.context, self.args.long + 32)) as model:
            return model.smallest_budget

    def hyperion(self, budget: int) -> dict[str, Any]:
        """The run with the median η of several, all of which must have given the same bits."""
        if not self.base:
            self.base = self.job("hyperion", 0, "--budget", "4GB")["base"]
        runs = [self.once(budget)]
        while "seconds" in runs[0] and runs[0]["streamed"] and len(runs) < self.args.rounds:
            runs.append(self.once(budget))
        if any("seconds" not in r or r["digest"] != runs[0]["digest"] for r in runs):
            return next((r for r in runs if "seconds" not in r), runs[0] | {"digest": "several"})
        chosen = sorted(runs, key=lambda r: r["eta"])[len(runs) // 2]
        errors = sorted(abs(r["predicted"] * r["seconds"] - 1) for r in runs)
        worst = {name: max(r[name] for r in runs) for name in ("growth", "kills", "peak")}
        return chosen | worst | {"prediction_error": errors[len(errors) // 2], "etas": [r["eta"] for r in runs]}

    def long(self, budget: int) -> dict[str, Any]:
        """A long prompt and a few tokens after it: growth and bits."""
        options = ("--budget", str(budget), "--context", str(self.args.long + 32), "--prompt", str(self.args.long), "--tokens", "4", "--alone")
        return self.job("hyperion", budget + self.base + MARGIN, *options)

    def once(self, budget: int) -> dict[str, Any]:
        figures = self.job("hyperion", budget + self.base + MARGIN, "--budget", str(budget))
        if "seconds" in figures:
            if figures["streamed"] == 0:
                self.resident = min(self.resident or figures["seconds"], figures["seconds"])
            beside = figures["beside"] or [figures["disk"]] * len(figures["turns"])
            etas = [self.ideal(figures["streamed"], rate) / t for rate, t in zip(beside, figures["turns"], strict=True)]
            figures["eta"] = report.median(etas)
            figures["eta_best"] = self.ideal(figures["streamed"], figures["disk"]) / figures["seconds"]
        return figures | {"budget": budget}

    def ideal(self, streamed: int, rate: float) -> float:
        """Seconds of a token where nothing but reading, or nothing but computing, takes time."""
        return max(streamed / rate, self.resident or 0.0)

    def amortise(self, budget: int) -> dict[str, Any]:
        """A prompt of 512 tokens, a batch of 16, and drafts, in one budget."""
        return self.job("amortise", 0, "--budget", str(budget), "--context", "600")

    def llama(self, limit: int) -> dict[str, Any]:
        runs = []
        for repack in (False, True):
            options = ["--repack"] if repack else []
            runs.append(self.job("llama", limit, *options, deadline=self.args.deadline, python=self.args.llama_python))
        return min(runs, key=lambda r: r.get("seconds", self.args.deadline))


def table(rows: list[dict[str, Any]]) -> str:
    header = ["budget", "pinned", "read a token", "α", "tokens/s", "predicted", "off by", "η", "of the best", "growth", "kills", "same bits"]
    digest, long = rows[0].get("digest"), rows[0].get("long", {}).get("digest")
    lines = []
    for r in rows:
        if "seconds" not in r:
            lines.append([f"{r['budget'] / 1e6:.0f} MB", *["failed"] * 11])
            continue
        after = r.get("long", {})
        alpha = f"{r['read'] / r['streamed']:.3f}" if r["streamed"] else "-"
        lines.append(
            [f"{r['budget'] / 1e6:.0f} MB", f"{r['pinned'] / r['budget']:.0%}", f"{r['read'] / 1e6:.0f} MB", alpha,
             report.number(1 / r["seconds"]), report.number(r["predicted"]), f"{r['prediction_error']:.0%}",
             f"{r['eta']:.2f} ({min(r['etas']):.2f}-{max(r['etas']):.2f})", f"{r['eta_best']:.2f}",
             f"{max(r['growth'], after.get('growth', 0)) / 1e6:.0f} MB", r["kills"] + after.get("kills", 0),
             "yes" if r["digest"] == digest and after.get("digest") == long else "NO"]
        )  # fmt: skip
    return report.markdown_table(header, lines)


def peer_table(rows: list[dict[str, Any]], deadline: float) -> str:
    header = ["group", "Hyperion tokens/s", "llama.cpp tokens/s", "ratio"]
    lines = []
    for r in rows:
        theirs = 1 / r["llama"].get("seconds", deadline)
        ours = 1 / r["hyperion"]["seconds"] if "seconds" in r["hyperion"] else float("nan")
        lines.append([f"{r['limit'] / 1e6:.0f} MB ({r['share']:.0%})", report.number(ours), report.number(theirs), f"{ours / theirs:.1f} x"])
    return report.markdown_table(header, lines)


def run(args: argparse.Namespace) -> int:
    """Run everything and print the tables."""
    if not cgroup.available():
        sys.stderr.write("this benchmark needs root and a memory cgroup\n")
        return 2
    bench = Bench(args)
    size = bench.model.stat().st_size
    floor = bench.floor()
    budgets = [floor if b == "floor" else int(float(b.removesuffix("MB")) * 1e6) for b in args.budgets]
    rows = [bench.hyperion(b) for b in budgets]
    if args.long:
        rows = [r | {"long": bench.long(r["budget"])} for r in rows]
    beside = []
    for share in args.shares:
        limit = int(size * share)
        ours = bench.hyperion(limit - bench.base - MARGIN)
        beside.append({"share": share, "limit": limit, "hyperion": ours, "llama": bench.llama(limit)})
    served = bench.amortise(int(args.amortise * 1e6)) if args.amortise else {}
    facts = machine.describe()
    text = (
        f"## {bench.model.name}, {size / 1e6:.0f} MB, {args.tokens} tokens after {args.prompt}, context {args.context}; "
        f"bits compared there and after a prompt of {args.long}\n\n"
        f"{machine.sentence(facts)}\n\n{table(rows)}\n"
    )
    if beside:
        text += f"\nIn a group of the same size, the better of llama.cpp's settings:\n\n{peer_table(beside, args.deadline)}\n"
    if "lookup_tokens_per_pass" in served:
        text += (
            f"\nAt {args.amortise:.0f} MB and a context of 600: a prompt of {served['prompt_tokens']} tokens takes "
            f"{served['prompt_passes']} passes of up to {served['chunk']} tokens; a batch of 16 gives "
            f"{served['batch'] / served['single']:.1f} x the tokens/s of one sequence; on a text that repeats itself prompt lookup "
            f"evaluates {served['lookup_tokens_per_pass']:.1f} tokens a pass.\n"
        )
    data = {"machine": facts, "model": bench.model.name, "file_bytes": size, "budgets": rows, "beside": beside, "served": served}
    report.write("streaming", text, data, args.out)
    if args.out:
        streaming_plot.draw(data, args.out / "streaming.png")
    return 0
