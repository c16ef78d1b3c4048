"""Matrix products of every weight type beside ggml's and beside the machine's limits, and the thread team.

In every round everything is done once, neighbours in time: the limit (a plain read of memory, or a loop of arithmetic
in registers), Hyperion at each of its levels, ggml with plain and with repacked weights. Ratios are medians of quotients
of neighbouring samples. Each peer has weights of at least `--megabytes` and goes through all of them in turn, so that no
cache holds them; both sides pack or quantize the activations in every product.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import machine, report, roofline, synthetic, teams
from benchmarks.compare import default_folder
from benchmarks.peers.worker import IDLE_SECONDS, Worker, WorkerError

FLOATS = ("f32", "f16", "bf16")
PARTS = ("decode", "prefill", "threads")
SETTINGS = ("types", "threads", "tokens", "parts", "rounds", "megabytes", "decode_shape", "prefill_shape")
GGML = {"ggml": False, "ggml repacked": True}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--types", nargs="+", choices=synthetic.TYPES, default=list(synthetic.TYPES), metavar="TYPE")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--levels", nargs="+", help="default: this machine's, and AVX2 where there is more")
    parser.add_argument("--tokens", nargs="+", type=int, default=[8, 512], help="of the products in prefill")
    parser.add_argument("--decode-shape", nargs=2, type=int, default=[14336, 4096], metavar=("ROWS", "COLS"))
    parser.add_argument("--prefill-shape", nargs=2, type=int, default=[4096, 4096], metavar=("ROWS", "COLS"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--megabytes", type=int, default=512, help="of weights and of memory read, 2^20 bytes each")
    parser.add_argument("--llama-python", default=sys.executable, help="interpreter that has llama-cpp-python")
    parser.add_argument("--models", type=Path, default=default_folder(), help="folder of the synthetic model")
    parser.add_argument("--out", type=Path, help="folder for kernels.md, kernels.json and roofline.png")


@dataclasses.dataclass(frozen=True)
class Work:
    """One row of a table: products of one type with `tokens` tokens."""

    kind: str
    shape: tuple[int, int]
    tokens: int
    threads: int

    @property
    def nbytes(self) -> int:
        t = synthetic.TYPES[self.kind]
        return self.shape[0] * self.shape[1] // t.weights * t.size

    @property
    def operations(self) -> int:
        return 2 * self.shape[0] * self.shape[1] * self.tokens

    @property
    def limit(self) -> str:
        """What bounds it: reading the weights, or arithmetic of their kind."""
        return "read" if self.tokens == 1 else "fma" if self.kind in FLOATS else "vnni"

    @property
    def amount(self) -> int:
        """What its rate counts: bytes of weights or operations."""
        return self.nbytes if self.tokens == 1 else self.operations


class Contest:
    """All workers; one that fails is left out of what it failed in, and the failure is reported."""

    def __init__(self, args: argparse.Namespace, levels: list[str]) -> None:
        self.args, self.levels = args, levels
        self.limits, self.ours = Worker("benchmarks.peers.limits"), Worker("benchmarks.peers.hyperion_products")
        self.ggml = {name: Worker("benchmarks.peers.ggml", python=args.llama_python) for name in GGML}
        self.failures: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.compiler = "no compiler for the limits"
        try:
            self.compiler = self.limits.ask("load", nbytes=args.megabytes << 20, rounds=1_000_000)["compiler"]
        except WorkerError as error:
            self.failures["limits"] = str(error)

    def close(self) -> None:
        for worker in (self.limits, self.ours, *self.ggml.values()):
            worker.close()

    def load(self, kind: str, shape: tuple[int, int]) -> list[str]:
        """Give every worker its weights; the names of those that have them."""
        weights = {"kind": kind, "rows": shape[0], "cols": shape[1], "nbytes": self.args.megabytes << 20}
        self.versions["hyperion"] = self.ours.ask("load", **weights)["version"]
        names = [f"hyperion {level}" for level in self.levels]
        for name, repack in GGML.items():
            try:
                loaded = self.ggml[name].ask("load", repack=repack, **weights)
            except WorkerError as error:
                self.failures[f"{kind} {name}"] = str(error)
                continue
            if loaded is not None:  # this type is repacked
                self.versions["llama-cpp-python"] = loaded["version"]
                names.append(name)
        return names

    def seconds(self, name: str, work: Work) -> float | None:
        """Seconds a product of one peer, or None after it failed in this work."""
        time.sleep(IDLE_SECONDS)
        arguments = {"tokens": work.tokens, "threads": work.threads, "turns": 2 if work.tokens == 1 else 1}
        if name not in self.ggml:
            return self.ours.ask("seconds", level=name.removeprefix("hyperion "), **arguments)
        failure = f"{work.kind} {name}"
        try:
            return None if failure in self.failures else self.ggml[name].ask("seconds", **arguments)
        except WorkerError as error:
            self.failures[failure] = str(error)
            return None

    def limit(self, work: Work) -> float:
        """What bounds this work, a second; 0 where it cannot be measured."""
        if "limits" in self.failures:
            return 0.0
        time.sleep(IDLE_SECONDS)
        if work.limit == "read":
            return self.limits.ask("read", threads=work.threads)
        return self.limits.ask("peak", kind=work.limit, threads=work.threads)

    def agreement(self, names: list[str], tokens: int) -> float | None:
        """Correlation of ggml's products with ours, the lowest."""
        ours = self.ours.ask("result", tokens=tokens, level=self.levels[0])
        rows = [self.ggml[n].ask("result", tokens=tokens) for n in names if n in self.ggml]
        return min((report.correlation(ours, row) for row in rows), default=None)

    def measure(self, work: Work, names: list[str]) -> dict[str, Any]:
        """Rates of the limit and of every peer, in rounds."""
        rates: dict[str, list[float]] = {name: [] for name in ("limit", *names)}
        for turn in range(-1, self.args.rounds):  # round -1 warms up
            shift = turn % len(names)
            bound = self.limit(work)
            if bound and turn >= 0:
                rates["limit"].append(bound)
            for name in names[shift:] + names[:shift]:
                seconds = self.seconds(name, work)
                if seconds and turn >= 0:
                    rates[name].append(work.amount / seconds)
        result = dataclasses.asdict(work) | {"nbytes": work.nbytes, "operations": work.operations, "limit": work.limit}
        ran = [name for name in names if rates[name]]
        return result | {"rates": rates, "agreement": self.agreement(ran, work.tokens)}


def ceilings(contest: Contest) -> dict[str, dict[int, list[float]]]:
    """Every limit by its name and threads; empty where they cannot be measured."""
    if "limits" in contest.failures:
        return {}
    kinds = {"read": ("read", {})} | {kind: ("peak", {"kind": kind}) for kind in ("vnni", "avx2", "fma")}
    found: dict[str, dict[int, list[float]]] = {kind: {t: [] for t in contest.args.threads} for kind in kinds}
    for _ in range(contest.args.rounds):
        for kind, (op, arguments) in kinds.items():
            for threads in contest.args.threads:
                found[kind][threads].append(contest.limits.ask(op, threads=threads, **arguments))
    return found


def products(contest: Contest, parts: list[str]) -> list[dict[str, Any]]:
    """All rows of the tables of products."""
    args, results = contest.args, []
    shapes = {"decode": (tuple(args.decode_shape), [1]), "prefill": (tuple(args.prefill_shape), args.tokens)}
    for kind in args.types:
        for part in (p for p in parts if p in shapes):
            shape, counts = shapes[part]
            print(f"{kind} {part}", file=sys.stderr)
            names = contest.load(kind, shape)
            works = [Work(kind, shape, tokens, threads) for tokens in counts for threads in args.threads]
            results += [contest.measure(work, names) for work in works]
    return results


def levels_of(args: argparse.Namespace) -> list[str]:
    """The levels that are measured: first the best."""
    from hyperion._kernels import dispatch

    best = dispatch.default_level()
    return args.levels or [best] + [level for level in ("avx2",) if level in dispatch.levels() and level != best]


def better(rates: dict[str, list[float]]) -> list[float] | None:
    theirs = [s for name, s in rates.items() if name in GGML and s]
    return max(theirs, key=report.median, default=None)


def row(result: dict[str, Any], names: list[str]) -> list[str]:
    """One line: for each of our levels the rate, its share of the limit, its multiple of ggml's better rate."""
    rates, theirs = result["rates"], better(result["rates"])
    line = [f"{result['kind']}, {result['tokens']} tok" if result["tokens"] > 1 else result["kind"], result["threads"]]
    line.append(billions(rates["limit"]))
    for name in names:
        line.append(billions(rates.get(name, [])))
        if name not in GGML:
            line.append(f"{report.paired_ratio(rates[name], rates['limit']):.2f}" if rates["limit"] else "–")
            line.append(f"{report.paired_ratio(rates[name], theirs):.2f} ×" if theirs else "–")
    return line


def billions(samples: list[float]) -> str:
    return report.with_spread([s / 1e9 for s in samples]) if samples else "–"


def table(results: list[dict[str, Any]], names: list[str], limit: str) -> str:
    header = ["", "threads", limit]
    for name in names:
        header += [name] if name in GGML else [name, "of the limit", "/ better ggml"]
    return report.markdown_table(header, [row(r, names) for r in results])


def shape(dims: list[int]) -> str:
    return f"{dims[0]} × {dims[1]}"


def threads_named(count: int) -> str:
    return f"{count} thread" if count == 1 else f"{count} threads"


def text(data: dict[str, Any]) -> str:
    """The report of a run's data."""
    names, settings = [f"hyperion {level}" for level in data["levels"]] + list(GGML), data["settings"]
    decode = [r for r in data["products"] if r["tokens"] == 1]
    prefill = [r for r in data["products"] if r["tokens"] > 1]
    limits = [
        [name, *(billions(data["ceilings"][key][t]) for t in settings["threads"])]
        for name, key in roofline.CEILINGS.items()
        if key in data["ceilings"]
    ]
    parts = [
        "## Kernels",
        machine.sentence(data["machine"]),
        "; ".join(f"{name} {version}" for name, version in data["versions"].items()) + f"; {data['compiler']}",
        f"Medians ± half the interquartile range of {settings['rounds']} interleaved rounds.",
        report.markdown_table(["limit, 10⁹ a second", *map(threads_named, settings["threads"])], limits),
    ]
    if decode:
        parts += [
            f"One token, weights of {shape(settings['decode_shape'])}: GB of weights a second; the limit is reading memory.",
            table(decode, names, "read"),
        ]
    if prefill:
        parts += [
            f"Many tokens, weights of {shape(settings['prefill_shape'])}: 10⁹ operations a second; the limit is"
            + " vpdpbusd in registers, for float weights fma.",
            table(prefill, names, "peak"),
        ]
    agreement = min((r["agreement"] for r in data["products"] if r["agreement"] is not None), default=None)
    if agreement is not None:
        parts.append(f"Lowest correlation between Hyperion's products and ggml's: {agreement:.5f}")
    if "teams" in data:
        parts.append(teams.text(data["teams"]))
    if data["failures"]:
        parts.append("Failed:\n" + "\n".join(f"- {name}: {error}" for name, error in data["failures"].items()))
    return "\n\n".join(parts)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    levels = levels_of(args)
    contest = Contest(args, levels)
    try:
        data: dict[str, Any] = {
            "machine": machine.describe(),
            "settings": {name: getattr(args, name) for name in SETTINGS},
            "levels": levels,
            "compiler": contest.compiler,
            "ceilings": ceilings(contest),
            "products": products(contest, args.parts),
        }
        data |= {"versions": contest.versions, "failures": contest.failures}
    finally:
        contest.close()
    if "threads" in args.parts:
        data["teams"] = teams.measure(args)
    report.write("kernels", text(data), data, args.out)
    if args.out is not None and data["products"] and data["ceilings"]:
        roofline.draw(data, args.out / "roofline.png")
    return 0
