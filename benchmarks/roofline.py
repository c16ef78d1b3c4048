"""The roofline plot of `python -m benchmarks kernels`: what the machine allows, and where the kernels are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import report

CEILINGS = {
    "memory read (bytes)": "read",
    "vpdpbusd (operations)": "vnni",
    "AVX2 vpmaddubsw + vpmaddwd (operations)": "avx2",
    "float32 fma (operations)": "fma",
}
MARKERS = {1: "o", 8: "s"}
STYLES = {"vnni": "-", "avx2": "--", "fma": ":"}


def draw(data: dict[str, Any], path: Path) -> None:
    """One panel a thread count: operations a byte of weights against operations a second.

    Filled marks are Hyperion's kernels (first level), hollow ones ggml's better.
    """
    plt = report.pyplot()
    if plt is None:
        return

    counts = data["settings"]["threads"]
    figure, axes = plt.subplots(1, len(counts), figsize=(8 * len(counts), 7), squeeze=False, sharey=True)
    kinds = list(dict.fromkeys(r["kind"] for r in data["products"]))
    colors = {kind: plt.get_cmap("tab20")(i % 20) for i, kind in enumerate(kinds)}
    for axis, threads in zip(axes[0], counts, strict=True):
        roofs(axis, {key: report.median(by[threads]) for key, by in data["ceilings"].items()})
        for result in (r for r in data["products"] if r["threads"] == threads):
            points(axis, result, data["levels"][0], colors[result["kind"]])
        axis.set(xscale="log", yscale="log", xlabel="operations a byte of weights", title=f"{threads} threads")
        axis.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("10⁹ operations a second")
    marks = [plt.Line2D([], [], color=c, marker="o", linestyle="", label=k) for k, c in colors.items()]
    marks += [
        plt.Line2D([], [], color="k", marker=m, linestyle="", label=label)
        for m, label in (("o", "1 token"), ("s", "8 tokens"), ("^", "more tokens"))
    ]
    marks += [plt.Line2D([], [], color="k", marker="o", fillstyle="none", linestyle="", label="ggml's better")]
    figure.legend(handles=marks, loc="center right", fontsize="small")
    figure.suptitle(data["machine"]["processor"])
    figure.tight_layout(rect=(0, 0, 0.9, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def roofs(axis: Any, limits: dict[str, float]) -> None:
    """The memory's slope up to each arithmetic peak."""
    x = [2.0**i for i in range(-2, 13)]
    for name, key in CEILINGS.items():
        if key != "read" and limits[key] > 0:
            y = [min(limits["read"] * i, limits[key]) / 1e9 for i in x]
            axis.plot(x, y, color="0.4", linestyle=STYLES[key], linewidth=1.2)
            axis.annotate(name.split(" (")[0], (x[-1], y[-1]), ha="right", va="bottom", fontsize="small", color="0.3")


def points(axis: Any, result: dict[str, Any], level: str, color: Any) -> None:
    """One kernel and ggml's better one at the same place of the axis."""
    intensity = result["operations"] / result["nbytes"]
    per_amount = intensity if result["limit"] == "read" else 1.0
    marker = MARKERS.get(result["tokens"], "^")
    rates = result["rates"]
    ggml = [report.median(s) for name, s in rates.items() if name.startswith("ggml") and s]
    ours = report.median(rates[f"hyperion {level}"]) * per_amount / 1e9
    axis.plot([intensity], [ours], marker=marker, color=color, markersize=7)
    if ggml:
        axis.plot([intensity], [max(ggml) * per_amount / 1e9], marker=marker, color=color, fillstyle="none", markersize=7)
