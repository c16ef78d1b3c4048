"""Time to import Hyperion over NumPy's own, and to load the demo model, each sample in a new process."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks import machine, report

TIMED = {
    "import hyperion, after NumPy (ms)": "import numpy; t = time.perf_counter(); import hyperion",
    "load_model of the demo model (ms)": (
        "from hyperion import load_model; from hyperion.cli.common import model_path\n"
        "with model_path(None) as path: t = time.perf_counter(); load_model(path)"
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path, help="folder for startup.md and startup.json")


def sample(statement: str) -> float:
    code = f"import time\n{statement}\nprint(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout) * 1e3


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    samples: dict[str, list[float]] = {name: [] for name in TIMED}
    for turn in range(-1, args.rounds):  # round -1 fills the page cache
        for name, statement in TIMED.items():
            value = sample(statement)
            if turn >= 0:
                samples[name].append(value)
    data = {"machine": machine.describe(), "milliseconds": samples}
    rows = [[name, report.with_spread(values), report.number(min(values))] for name, values in samples.items()]
    parts = ["## Start-up", machine.sentence(data["machine"]), report.markdown_table(["", "median", "least"], rows)]
    report.write("startup", "\n\n".join(parts), data, args.out)
    return 0
