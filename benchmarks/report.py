"""Samples to medians, ratios, Markdown and JSON."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def spread(samples: Sequence[float]) -> float:
    """Half the distance between the quartiles, as a share of the median: 0.02 means ± 2 %."""
    if len(samples) < 2:
        return 0.0
    low, _, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / 2 / median(samples)


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of samples that were taken next to each other; drift of the machine cancels."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])


def correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Near 1 where two peers computed the same thing."""
    return float(np.corrcoef(a, b)[0, 1])


def number(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_spread(samples: Sequence[float]) -> str:
    """The median and the spread of several samples; one sample alone has no spread."""
    if len(samples) < 2:
        return number(median(samples))
    return f"{number(median(samples))} ± {spread(samples):.0%}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first column is left and the others right aligned."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def write(name: str, markdown: str, data: dict[str, Any], folder: Path | None) -> None:
    """Print the Markdown; with a folder, also write NAME.md and NAME.json there."""
    sys.stdout.write(markdown + "\n")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.md").write_text(markdown + "\n", encoding="utf-8")
        (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def pyplot() -> Any:
    """matplotlib's pyplot, drawing without a screen; None without matplotlib, and a line says what to install."""
    try:
        import matplotlib
    except ImportError:
        sys.stderr.write('no picture without matplotlib: pip install "hyperion-lm[plot]"\n')
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt
