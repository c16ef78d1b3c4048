"""Reports of an analysis: text, Markdown, data, and a picture of the records."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import math
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperion import cpu
from hyperion.errors import InvalidArgumentError, UnsupportedError
from hyperion.io import write_file

from .config import PerformanceMetrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

    from .analysis import PerformanceAnalysis

__all__ = ["kind_of", "write"]

_FIGURES = {  # field: (name, factor, unit)
    "execution_time_ms": ("time", 1.0, "ms"),
    "memory_usage_bytes": ("memory", 1e-6, "MB"),
    "cpu_usage_percent": ("CPU", 1.0, "%"),
    "cache_misses": ("cache misses", 1.0, ""),
    "cache_hits": ("cache hits", 1.0, ""),
    "disk_bytes": ("from disk", 1e-6, "MB"),
    "disk_wait_ms": ("disk wait", 1.0, "ms"),
    "weight_bytes": ("weights", 1e-6, "MB"),
}
_ROWS = 40
"""Records that a table lists: the latest."""


def kind_of(path: str | os.PathLike[str]) -> str:
    """What a report's suffix asks for: "text", "markdown", "json" or "png".

    Raises
    ------
    InvalidArgumentError
        If it is another one.
    """
    suffix = Path(path).suffix.lower()
    kind = {".txt": "text", ".log": "text", "": "text", ".md": "markdown", ".json": "json", ".png": "png"}.get(suffix)
    if kind is None:
        raise InvalidArgumentError(f"a performance report is .txt, .log, .md, .json or .png, not {suffix!r}: {os.fspath(path)}")
    return kind


def write(analysis: PerformanceAnalysis, path: str | os.PathLike[str]) -> None:
    """Write a report of the kind that the suffix says, and the picture beside it where it can be drawn."""
    target, kind = Path(path), kind_of(path)
    if kind == "png":
        write_file(target, _picture(analysis.records))
        return
    picture: str | None = None
    try:
        drawn = _picture(analysis.records)
    except UnsupportedError:  # without the extra the report is whole, but for the picture
        pass
    else:
        picture = target.with_suffix(".png").name
        write_file(target.with_suffix(".png"), drawn)
    content = _content(analysis, picture)
    write_file(target, json.dumps(content, indent=1) + "\n" if kind == "json" else _text(content, kind == "markdown"))


# ---- Content -----------------------------------------------------------------------------------------------


def _content(analysis: PerformanceAnalysis, picture: str | None) -> dict[str, Any]:
    records = analysis.records
    runs = []
    for number, record in enumerate(records):
        run: dict[str, Any] = {"number": number, **dataclasses.asdict(record)}
        if analysis.config.enable_optimization and len(records) - number <= _ROWS:
            diagnosis = analysis.diagnose(record)
            run |= {"bound": diagnosis.bound.value, "evidence": diagnosis.evidence}
        runs.append(run)
    return {
        "report": "hyperion performance",
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "processor": cpu.processor_name(),
        "threads": cpu.default_threads(),
        "records": runs,
        "summary": {name: _summary(analysis, name) for name in _FIGURES if any(getattr(r, name) is not None for r in records)},
        "advice": analysis.recommend(records[-1]) if analysis.config.enable_optimization else [],
        "impacts": [dataclasses.asdict(impact) for impact in analysis.impacts],
        "picture": picture,
    }


def _summary(analysis: PerformanceAnalysis, name: str) -> dict[str, Any]:
    found = [getattr(r, name) for r in analysis.records if getattr(r, name) is not None]
    trend = analysis.get_trend(name)
    return {
        "count": len(found),
        "least": min(found),
        "median": statistics.median(found),
        "most": max(found),
        "trend": None if math.isnan(trend) else trend,
    }


def _shown(name: str, value: float | None) -> str:
    """A figure in its unit."""
    if value is None:
        return "-"
    _, factor, unit = _FIGURES[name]
    scaled = value * factor
    number = f"{scaled:,.0f}" if abs(scaled) >= 1000 or not unit else f"{scaled:.4g}"
    return f"{number} {unit}".rstrip()


# ---- Text --------------------------------------------------------------------------------------------------


def _text(content: dict[str, Any], markdown: bool) -> str:
    table, title = (_markdown_table, "## {}") if markdown else (_plain_table, "{}")
    heading = "# Performance" if markdown else "Performance"
    lines = [heading, "", f"{content['processor']}, {content['threads']} threads, {content['time']}", "", title.format("Summary"), ""]
    lines += table(("figure", "records", "least", "median", "most", "trend a record"), _summary_rows(content["summary"]))
    shown = content["records"][-_ROWS:]
    omitted = len(content["records"]) - len(shown)
    lines += ["", title.format("Records" if not omitted else f"Records (the latest {len(shown)} of {len(content['records'])})"), ""]
    lines += table(*_record_rows(shown))
    if content["advice"]:
        lines += ["", title.format("The latest record"), "", *(f"- {line}" for line in content["advice"])]
    if content["impacts"]:
        lines += ["", title.format("Changes"), ""]
        for number, impact in enumerate(content["impacts"], 1):
            lines += _impact_lines(number, impact)
    if content["picture"]:
        lines += ["", f"![the records]({content['picture']})" if markdown else f"Picture: {content['picture']}"]
    lines += ["", "A trend is the median slope between all pairs of records (Theil-Sen), as a share of the median.", ""]
    return "\n".join(lines)


def _summary_rows(summary: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    rows = []
    for name, figures in summary.items():
        trend = "-" if figures["trend"] is None else f"{figures['trend']:+.2%}"
        values = (_shown(name, figures[key]) for key in ("least", "median", "most"))
        rows.append((_FIGURES[name][0], str(figures["count"]), *values, trend))
    return rows


def _record_rows(records: Sequence[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    names = [name for name in _FIGURES if any(r[name] is not None for r in records)]
    header = ("run", *(_FIGURES[name][0] for name in names), "bound by")
    rows = []
    for r in records:
        bound = f"{r['bound']}: {r['evidence']}" if "bound" in r else "-"
        rows.append((r["label"] or str(r["number"]), *(_shown(name, r[name]) for name in names), bound))
    return header, rows


def _impact_lines(number: int, impact: dict[str, Any]) -> list[str]:
    def shown(value: float | None, form: Callable[[float], str]) -> str:
        return "not known" if value is None else form(value)

    speed = shown(impact["speedup_factor"], lambda v: f"{v:.3g} times as fast")
    memory = shown(impact["memory_reduction"], lambda v: f"{v:+,.1f} % saved")
    saved = shown(impact["cpu_efficiency"], lambda v: f"{v:+,.1f} % saved")
    lines = [f"{number}. time: {speed}; memory: {memory}; CPU time: {saved}"]
    return lines + [f"   - {line}" for line in impact["recommendations"].splitlines()]


def _plain_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    last = len(header) - 1

    def cell(text: str, column: int) -> str:
        return text.ljust(widths[column]) if column in (0, last) else text.rjust(widths[column])

    return ["  " + "  ".join(cell(text, i) for i, text in enumerate(line)).rstrip() for line in lines]


def _markdown_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    ruler = tuple("---" if i in (0, len(header) - 1) else "--:" for i in range(len(header)))
    escaped = (tuple(text.replace("|", "\\|").replace("\n", " ") for text in row) for row in rows)
    return ["| " + " | ".join(line) + " |" for line in (header, ruler, *escaped)]


# ---- Picture -----------------------------------------------------------------------------------------------


def _picture(records: Sequence[PerformanceMetrics]) -> bytes:
    buffer = io.BytesIO()
    _figure(records).savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def _figure(records: Sequence[PerformanceMetrics]) -> Figure:
    """One panel for each figure that some record has, over the number of the record."""
    try:
        from matplotlib.backends.backend_agg import (  # type: ignore[import-not-found,unused-ignore]
            FigureCanvasAgg,
        )
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError('the picture is drawn by Matplotlib, which is not installed: pip install "hyperion-lm[plot]"') from error
    names = [name for name in _FIGURES if any(getattr(r, name) is not None for r in records)]
    figure = Figure(figsize=(8, 1 + 1.7 * max(len(names), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(max(len(names), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axes, name in zip(panels, names):
        title, factor, unit = _FIGURES[name]
        points = [(at, value * factor) for at, r in enumerate(records) if (value := getattr(r, name)) is not None]
        axes.plot(*zip(*points), marker="o", markersize=3, linewidth=1)
        axes.axhline(statistics.median(value for _, value in points), color="0.6", linestyle="--", linewidth=1)
        axes.set_ylabel(f"{title}, {unit}" if unit else title)
        axes.set_ylim(min(0.0, axes.get_ylim()[0]), None)
        axes.grid(axis="y", linewidth=0.3)
    panels[0].set_title("Records; the dashed line is the median")
    panels[-1].set_xlabel("record")
    panels[-1].locator_params(axis="x", integer=True)
    return figure
