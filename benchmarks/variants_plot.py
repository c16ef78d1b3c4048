"""Pictures of `python -m benchmarks variants`: the cost of size, and errors of quantization layer by layer."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report

BINS = np.linspace(-0.4, 0.4, 81)
"""Errors over the standard deviation of the matrix that they are in."""


def draw(data: dict[str, Any], folder: Path) -> None:
    """Write variants.png and variants-errors.png; without matplotlib a line says what to install."""
    try:
        import matplotlib
    except ImportError:
        sys.stderr.write('no pictures without matplotlib: pip install "hyperion-lm[plot]"\n')
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(10, 7))
    rows = data["rows"]
    speed = [report.median(r["tokens_per_second"]) for r in rows]
    points = axis.scatter([r["file_bytes"] / 1e6 for r in rows], [r["perplexity"] for r in rows], c=speed, s=60, cmap="viridis")
    for r in rows:
        axis.annotate(r["name"], (r["file_bytes"] / 1e6, r["perplexity"]), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axis.set(xlabel="file, MB", ylabel="perplexity", yscale="log")
    axis.grid(alpha=0.3, which="both")
    figure.colorbar(points, label="tokens/s")
    _save(figure, folder / "variants.png", plt)

    errors = data["errors"]
    figure, axes = plt.subplots(1, len(errors), figsize=(3.2 * len(errors), 5), sharey=True, squeeze=False)
    for axis, (kind, layers) in zip(axes[0], errors.items(), strict=True):
        image = np.array(layers)
        axis.imshow(np.sqrt(image), aspect="auto", extent=(BINS[0], BINS[-1], len(layers) - 0.5, -0.5), cmap="magma")
        axis.set(title=kind, xlabel="error / std of the weights")
    axes[0][0].set_ylabel("layer")
    figure.suptitle("Histogram of quantization errors, a row a layer (square root of the share)")
    _save(figure, folder / "variants-errors.png", plt)


def _save(figure: Any, path: Path, plt: Any) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
