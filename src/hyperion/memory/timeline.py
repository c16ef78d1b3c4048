"""The picture of a memory report: who held how much over time, under which limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UnsupportedError
from .sizes import format_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes  # type: ignore[import-not-found,unused-ignore]
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    from .tracking import MemoryTracker

__all__ = ["draw_timeline"]

MOST_OWNERS = 10
MOST_PANELS = 8


def draw_timeline(tracker: MemoryTracker) -> Figure:
    """All that the ledger held, stacked by owner under its limit; below it a panel for each budget, if there are several.

    A single budget's limit is a line in the panel of the ledger, unless something lies beside it.

    Raises
    ------
    UnsupportedError
        If Matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import (  # type: ignore[import-not-found,unused-ignore]
            FigureCanvasAgg,
        )
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            'a .png report is drawn by Matplotlib, which is not installed: pip install "hyperion-lm[plot]"'
        ) from error
    limits, peaks = tracker.limits, tracker.peaks
    budgets = sorted((path for path in limits if path), key=lambda path: -sum(peaks[o] for o in peaks if _below(o, path)))
    alone = len(budgets) == 1 and all(_below(owner, budgets[0]) for owner in peaks)
    panels = ["", *([] if alone else budgets[: MOST_PANELS - 1])]
    figure = Figure(figsize=(10, 5 + 2.6 * (len(panels) - 1)), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=[5, *[2.6] * (len(panels) - 1)])[:, 0]
    end = tracker.seconds
    left_out = len(budgets) + 1 - len(panels)
    for axes, path in zip(rows, panels, strict=True):
        _panel(tracker, axes, path, [path, budgets[0]] if alone else [path], end)
    rows[0].set_title("Memory by owner" + (f" ({left_out} smaller budgets have no panel)" if left_out and not alone else ""))
    rows[-1].set_xlabel("seconds")
    if tracker.events and not tracker.base:  # nothing was held before the first change
        rows[-1].set_xlim(left=tracker.events[0][0])
    return figure


def _below(owner: str, path: str) -> bool:
    return not path or owner.startswith(path + "/")


def _panel(tracker: MemoryTracker, axes: Axes, path: str, limited: list[str], end: float) -> None:
    """What lies below a budget's path, under the limits of these paths."""
    labels, times, levels = _bands(tracker, path, end)
    colors = [f"C{i % 10}" for i in range(MOST_OWNERS)]
    shown = [label[len(path) + 1 :] if path else label for label in labels]
    if len(levels) > len(labels):
        shown, colors = [*shown, "others"], [*colors[: len(labels)], "0.6"]
    axes.stackplot(times, levels, labels=shown, colors=colors[: len(shown)], step="post", linewidth=0)
    top = levels.sum(axis=0).max(initial=0.0)
    for name in limited:
        _limit(axes, tracker.limits.get(name, []), end, name or "the process", top)
    axes.margins(x=0)
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])  # room for the words above a limit
    axes.set_ylabel("reserved, MB")
    if path:
        axes.set_title(path, fontsize=9, loc="left")
    if shown:
        handles, names = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], names[::-1], loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)


def _bands(tracker: MemoryTracker, path: str, end: float) -> tuple[list[str], NDArray[Any], NDArray[Any]]:
    """The largest owners below a path, times, and MB of each owner from each time on; the others together, if there are any."""
    events = [event for event in tracker.events if _below(event[1], path)]
    peaks = {owner: peak for owner, peak in tracker.peaks.items() if _below(owner, path)}
    largest = sorted(peaks, key=lambda name: -peaks[name])[:MOST_OWNERS]
    row = {name: i for i, name in enumerate(largest)}
    times = np.array([0.0, *(when for when, _, _ in events), end])
    change = np.zeros((len(largest) + 1, len(times)))
    for name, nbytes in tracker.base.items():
        if _below(name, path):
            change[row.get(name, -1), 0] += nbytes
    for i, (_, name, delta) in enumerate(events, 1):
        change[row.get(name, -1), i] += delta
    levels = change.cumsum(axis=1) / 1e6
    return largest, times, levels if levels[-1].any() else levels[:-1]


def _limit(axes: Axes, steps: list[tuple[float, int]], end: float, name: str, top: float) -> None:
    """A dashed line from when a limit stood to when it did not; those far above would press all the rest to the floor."""
    near = [(when, limit / 1e6) for when, limit in steps]
    if not near or max(limit for _, limit in near) > 4 * top:
        return
    times = [when for when, _ in near] + [end]
    heights = [limit or np.nan for _, limit in near]
    axes.step(times, [*heights, heights[-1]], where="post", color="black", linestyle="--", linewidth=1)
    stood = [limit for _, limit in steps if limit]
    words = " → ".join(format_size(limit) for limit in stood[-4:])
    axes.annotate(f"budget of {name}: {words}", (0.01, max(stood) / 1e6), xycoords=("axes fraction", "data"),
                  xytext=(0, 3), textcoords="offset points", fontsize=8)  # fmt: skip
