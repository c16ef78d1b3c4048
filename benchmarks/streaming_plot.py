"""Picture of `python -m benchmarks streaming`: speed against memory, with the disk's limit and llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import report


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the picture; without matplotlib a line says what to install."""
    plt = report.pyplot()
    if plt is None:
        return
    from matplotlib.ticker import ScalarFormatter

    size = data["file_bytes"]
    rows = [r for r in data["budgets"] if "seconds" in r]
    pairs = [(r["limit"], r["hyperion"], r["llama"]) for r in data["beside"]]
    ours = sorted([(r["limit"], r) for r in rows] + [(limit, r) for limit, r, _ in pairs if "seconds" in r], key=lambda point: point[0])
    figure, axis = plt.subplots(figsize=(8, 4.5))
    axis.axvline(size / 1e6, color="0.75", linewidth=1)
    axis.annotate("the file", (size / 1e6, 0.02), xycoords=("data", "axes fraction"), xytext=(3, 0), textcoords="offset points", color="0.45")
    x = [limit / 1e6 for limit, _ in ours]
    ideal = [r["eta"] and 1 / (r["eta"] * r["seconds"]) for _, r in ours]
    axis.plot(x, ideal, color="0.6", linestyle=":", label="limit: the disk's best plain reading, or the kernels")
    axis.plot(x, [1 / r["seconds"] for _, r in ours], marker="o", color="C0", label="Hyperion")
    finished = [(limit / 1e6, 1 / theirs["seconds"]) for limit, _, theirs in pairs if "seconds" in theirs]
    if finished:
        axis.plot(*zip(*finished, strict=True), marker="s", color="C1", label="llama.cpp, the better of two settings")
    axis.set(xscale="log", yscale="log", xlabel="memory of the cgroup, with Python in it: MB", ylabel="tokens/s")
    for a, ticks in ((axis.xaxis, [50, 100, 200, 400, 800]), (axis.yaxis, [1, 2, 5, 10, 20, 50, 100])):
        low, high = a.get_view_interval()
        a.set_ticks([t for t in ticks if low <= t <= high])
        a.set_minor_locator(plt.NullLocator())
        a.set_major_formatter(ScalarFormatter())
    axis.set_title(f"decoding, {data['model']} ({size / 1e6:.0f} MB), cold cache", fontsize="medium")
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small", loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
