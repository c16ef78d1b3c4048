"""Whole models beside llama.cpp: decode and prefill, interleaved, on synthetic weights of a real shape.

Each peer lives in a process of its own and only one works at a time. In every round each peer does each kind of work
once, the order turning from round to round; a ratio is the median over rounds of the quotient of neighbouring samples. llama.cpp
runs with and without its extra buffer types (weight repacking), and Hyperion is compared with the better of the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import machine, report, synthetic
from benchmarks.peers.worker import IDLE_SECONDS, Worker, WorkerError

OURS = "hyperion"
MODULES = {OURS: "benchmarks.peers.hyperion_worker", "llama.cpp": "benchmarks.peers.llama"}


@dataclasses.dataclass(frozen=True)
class Peer:
    """A column of the table."""

    name: str
    kind: str
    options: dict[str, object]


PEERS = [
    Peer(OURS, OURS, {}),
    Peer("llama.cpp", "llama.cpp", {"repack": False}),
    Peer("llama.cpp repacked", "llama.cpp", {"repack": True}),
]


def default_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return Path(cache or tempfile.gettempdir()) / "hyperion-benchmarks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--shape", choices=synthetic.SHAPES, default="1.1b")
    parser.add_argument("--types", nargs="+", choices=synthetic.TYPES, default=["q4_0", "q8_0", "f16"], metavar="TYPE")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--prefill", type=int, default=256, help="tokens of the prompt")
    parser.add_argument("--decode", type=int, default=16, help="tokens of one decode sample")
    parser.add_argument("--context", type=int, default=32, help="tokens before the decoded ones")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=[p.name for p in PEERS], default=[p.name for p in PEERS])
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python")
    parser.add_argument("--models", type=Path, default=default_folder(), help="folder of the synthetic models")
    parser.add_argument("--out", type=Path, help="folder for compare.md and compare.json")


class Contest:
    """All peers on one model file with one thread count."""

    def __init__(self, args: argparse.Namespace, path: Path, threads: int) -> None:
        self.args, self.path, self.threads = args, path, threads
        self.workers: dict[str, Worker] = {}
        self.failures: dict[str, str] = {}
        self.loaded: dict[str, dict] = {}

    def attempt(self, name: str, op: str, **arguments: object):
        """Ask one peer; one that fails is left out from then on and its failure goes into the report."""
        time.sleep(IDLE_SECONDS)
        try:
            return self.workers[name].ask(op, **arguments)
        except WorkerError as error:
            self.failures[name] = str(error)
            self.workers.pop(name).close()
            print(f"{self.path.name}, {self.threads} threads: {error}", file=sys.stderr)
            return None

    def load(self) -> None:
        context = max(self.args.prefill, self.args.context + self.args.decode) + 32
        for peer in (p for p in PEERS if p.name in self.args.peers):
            python = self.args.llama_python if peer.kind == "llama.cpp" else None
            self.workers[peer.name] = Worker(MODULES[peer.kind], python=python)
            self.loaded[peer.name] = self.attempt(
                peer.name, "load", path=str(self.path), threads=self.threads, context_length=context, **peer.options
            )

    def agreement(self) -> dict[str, float]:
        """Correlation of every peer's logits with ours: near 1 if the same model was computed."""
        rows = {name: self.attempt(name, "logits", tokens=24) for name in list(self.workers)}
        ours = rows.get(OURS)
        return {n: report.correlation(ours, row) for n, row in rows.items() if row and ours and n != OURS}

    def samples(self) -> dict[str, dict[str, list[float]]]:
        """Tokens a second, by kind of work and peer, in rounds."""
        work = {
            "decode": (self.args.decode, {"context": self.args.context, "tokens": self.args.decode}),
            "prefill": (self.args.prefill, {"tokens": self.args.prefill}),
        }
        speeds: dict[str, dict[str, list[float]]] = {op: {} for op in work}
        for turn in range(-1, self.args.rounds):  # round -1 warms up
            names = list(self.workers)
            shift = turn % len(names) if names else 0
            for op, (tokens, arguments) in work.items():
                for name in names[shift:] + names[:shift]:
                    if name not in self.workers:
                        continue
                    seconds = self.attempt(name, op, **arguments)
                    if seconds is not None and turn >= 0:
                        speeds[op].setdefault(name, []).append(tokens / seconds)
        return {op: {n: s for n, s in by.items() if n in self.workers} for op, by in speeds.items()}

    def run(self) -> dict:
        try:
            self.load()
            agreement, speeds = self.agreement(), self.samples()
            memory = {name: self.attempt(name, "memory") for name in list(self.workers)}
        finally:
            for worker in self.workers.values():
                worker.close()
        return {
            "model": self.path.name,
            "bytes": self.path.stat().st_size,
            "threads": self.threads,
            "loaded": self.loaded,
            "agreement": agreement,
            "tokens_per_second": speeds,
            "peak_memory": memory,
            "failures": self.failures,
        }


def verdict(speeds: dict[str, list[float]]) -> str:
    """Our speed as a multiple of the better peer's."""
    theirs = {name: s for name, s in speeds.items() if name != OURS}
    if OURS not in speeds or not theirs:
        return "–"
    better = max(theirs.values(), key=report.median)
    return f"{report.paired_ratio(speeds[OURS], better):.2f} ×"


def table(results: list[dict], names: list[str]) -> str:
    rows = []
    for result in results:
        for op, speeds in result["tokens_per_second"].items():
            cells = [
                report.with_spread(speeds[n]) if n in speeds else "failed" if n in result["failures"] else "–" for n in names
            ]
            rows.append([f"{result['type']} {op}", result["threads"], *cells, verdict(speeds)])
    return report.markdown_table(["work", "threads", *names, "hyperion / better"], rows)


def memory_table(results: list[dict], names: list[str]) -> str:
    rows = [
        [r["type"], r["threads"], f"{r['bytes'] / 1e6:,.0f}"]
        + [f"{m / 1e6:,.0f}" if (m := r["peak_memory"].get(n)) else "–" for n in names]
        for r in results
    ]
    return report.markdown_table(["model", "threads", "file, MB", *(f"{n}, MB" for n in names)], rows)


def text(data: dict, names: list[str]) -> str:
    results, settings = data["results"], data["settings"]
    details = {n: info for r in results for n, info in r["loaded"].items() if info}
    failures = sorted({f"{r['type']}, {r['threads']} threads: {f}" for r in results for f in r["failures"].values()})
    low = min((a for r in results for a in r["agreement"].values()), default=None)
    parts = [
        f"## Whole-model speed, {settings['shape']} shape: tokens per second, median ± half the interquartile range",
        machine.sentence(data["machine"]),
        table(results, names),
        (
            f"Prefill of {settings['prefill']} tokens; decode of {settings['decode']} after {settings['context']}; "
            f"{settings['rounds']} interleaved rounds. Ratios are medians of paired samples."
        ),
        "Growth of the process's peak resident memory while loading and running:",
        memory_table(results, names),
        "\n".join(f"- {n} {info['version']}: {info['details']}" for n, info in details.items()),
    ]
    if low is not None:
        parts.append(f"Lowest correlation between Hyperion's logits and a peer's: {low:.5f}")
    if failures:
        parts.append("Failed:\n" + "\n".join(f"- {f}" for f in failures))
    return "\n\n".join(parts)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    names = [p.name for p in PEERS if p.name in args.peers]
    data: dict[str, Any] = {
        "machine": machine.describe(),
        "settings": {k: getattr(args, k) for k in ("shape", "types", "threads", "prefill", "decode", "context", "rounds")},
        "results": [],
    }
    for weight_type in args.types:
        path = synthetic.cached_model(args.models, args.shape, weight_type)
        for threads in args.threads:
            print(f"{path.name}, {threads} threads", file=sys.stderr)
            data["results"].append({"type": weight_type, **Contest(args, path, threads).run()})
    report.write("compare", text(data, names), data, args.out)
    return 0 if any(r["tokens_per_second"]["decode"] for r in data["results"]) else 1
