"""Pictures of `python -m benchmarks variants`: the cost of size, and errors of quantization layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import report

BINS = np.linspace(-0.4, 0.4, 81)
"""Errors over the standard deviation of the matrix that they are in."""


def draw(data: dict[str, Any], folder: Path) -> None:
    """Write variants.png and variants-errors.png; without matplotlib a line says what to install."""
    plt = report.pyplot()
    if plt is None:
        return

    _save(_draw_variants(data["rows"], plt), folder / "variants.png", plt)

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


def _draw_variants(rows: list[dict[str, Any]], plt: Any) -> Any:
    """Size against perplexity, the colour is the speed: whole models on the left, pruned ones, which cost more, on the right."""
    pruned = [r for r in rows if "pruned" in r["name"]]
    groups = [g for g in ([r for r in rows if r not in pruned], pruned) if g]
    figure, axes = plt.subplots(1, len(groups), figsize=(7.5 * len(groups), 7), squeeze=False)
    speeds = [report.median(r["tokens_per_second"]) for r in rows]
    for axis, group in zip(axes[0], groups, strict=True):
        x, y = [r["file_bytes"] / 1e6 for r in group], [r["perplexity"] for r in group]
        speed = [report.median(r["tokens_per_second"]) for r in group]
        points = axis.scatter(x, y, c=speed, s=60, cmap="viridis", vmin=min(speeds), vmax=max(speeds))
        for i, (r, at) in enumerate(zip(group, zip(x, y, strict=True), strict=True), 1):  # numbers: the names would overlap
            axis.annotate(str(i), at, xytext=(4, 4), textcoords="offset points", fontsize=8)
            axis.scatter([], [], label=f"{i}  {r['name']}", s=0)
        axis.set(xlabel="file, MB", ylabel="perplexity", yscale="log" if group is pruned else "linear")
        axis.grid(alpha=0.3, which="both")
        axis.legend(fontsize="small", loc="upper right", handlelength=0, handletextpad=0)
    figure.colorbar(points, ax=axes[0][-1], label="tokens/s")
    return figure
