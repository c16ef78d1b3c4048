"""Who holds memory, since when, and which line asked for it.

Statistics are always counted. Tracking adds a timeline of the process's ledger and the Python line of every allocation;
while it is off, the ledger compares one variable with None for a change, and a pool reads one flag for a block.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .._kernels import blocks
from ..errors import HyperionRuntimeError, InvalidArgumentError
from ..io import write_file
from . import budget as ledger
from .budget import MemoryBudget, MemoryStats, process_budget
from .sizes import format_size
from .timeline import draw_timeline

__all__ = ["MemoryTracker", "enable_memory_tracking", "generate_memory_report", "get_memory_stats"]

_TEXT = (".txt", ".log", ".md", "")
MOST_BUDGETS = 64
"""Budgets whose limits a tracker keeps, and so a report shows: those that came first."""


class MemoryTracker:
    """A timeline of one ledger: the latest changes one by one, all earlier ones as their sum for each owner.

    Parameters
    ----------
    root : MemoryBudget
        The ledger; changes of others are not recorded.
    limit : int
        How many changes are kept, and how many owners that hold nothing any more.
    """

    def __init__(self, root: MemoryBudget, limit: int = 1 << 14) -> None:
        self.root, self.limit = root, limit
        self.began = datetime.datetime.now(datetime.timezone.utc)
        self.folded = 0
        self._start = time.monotonic()
        self._end: float | None = None
        self._events: deque[tuple[float, str, int]] = deque()
        self._base = root.by_owner()
        self._owners = {owner: [nbytes, nbytes] for owner, nbytes in self._base.items()}  # now, peak
        self._limits: dict[str, deque[tuple[float, int]]] = {}
        self._holding: dict[MemoryBudget, int] = {}  # budgets that hold something, and their limits
        self._note_limit(root, 0.0)

    def record(self, budget: MemoryBudget, owner: str, delta: int) -> None:
        """Note a change of `delta` bytes of a root's owner, made in `budget` at or below it; called by the ledger."""
        chain = [budget]
        while (parent := chain[-1].parent) is not None:
            chain.append(parent)
        if chain[-1] is not self.root:
            return
        now = time.monotonic() - self._start
        for member in chain:
            self._note_limit(member, now)
        if len(self._events) >= self.limit:
            _, folded, nbytes = self._events.popleft()
            self._base[folded] = self._base.get(folded, 0) + nbytes
            if not self._base[folded]:
                del self._base[folded]
            self.folded += 1
        self._events.append((now, owner, delta))
        counts = self._owners.get(owner)
        if counts is None:
            if len(self._owners) >= 2 * self.limit:
                self._forget_owners()
            counts = self._owners[owner] = [0, 0]
        counts[0] += delta
        counts[1] = max(counts)

    def _note_limit(self, budget: MemoryBudget, now: float) -> None:
        """Note a limit that appeared, changed, or went with the last byte that was held under it; the root's always stands."""
        limit = 0 if budget.limit is None or not (budget.used or budget is self.root) else budget.limit
        before = self._holding.get(budget, 0)
        if limit == before:
            return
        self._holding[budget] = limit
        if not limit:
            del self._holding[budget]
        path, above = budget.name, budget.parent
        while above is not None and above is not self.root:
            path, above = f"{above.name}/{path}", above.parent
        if budget is self.root:
            path = ""
        if path in self._limits or len(self._limits) < MOST_BUDGETS:
            steps = self._limits.setdefault(path, deque(maxlen=self.limit))
            steps.append((now, (steps[-1][1] if steps else 0) + limit - before))

    def _forget_owners(self) -> None:
        gone = sorted((peak, owner) for owner, (now, peak) in self._owners.items() if not now)
        for _, owner in gone[: self.limit]:
            del self._owners[owner]

    def stop(self) -> None:
        """End the timeline."""
        self._end = time.monotonic()

    @property
    def seconds(self) -> float:
        """How long the timeline is."""
        return (time.monotonic() if self._end is None else self._end) - self._start

    @property
    def base(self) -> dict[str, int]:
        """Bytes that each owner had before the first change that is kept."""
        return dict(self._base)

    @property
    def events(self) -> list[tuple[float, str, int]]:
        """The changes: seconds since the beginning, owner, bytes more (or less)."""
        return list(self._events)

    @property
    def peaks(self) -> dict[str, int]:
        """The most bytes that each owner had at one time since tracking began."""
        return {owner: peak for owner, (_, peak) in self._owners.items()}

    @property
    def limits(self) -> dict[str, list[tuple[float, int]]]:
        """For each budget by its path below the ledger (the ledger itself is ``""``) its limit from which second on.

        A limit counts while something is held under it; budgets of one name that hold something at one time are added up, and 0
        is none.
        """
        return {path: list(steps) for path, steps in self._limits.items()}


_tracker: MemoryTracker | None = None


def enable_memory_tracking(on: bool = True) -> None:
    """Begin to record the timeline of the process's ledger and the lines that allocate, or end that.

    Turning it on while it is on changes nothing. What was recorded stays for reports until it is turned on again.

    Parameters
    ----------
    on : bool
        Whether to record.
    """
    global _tracker
    if not isinstance(on, (bool, np.bool_)):
        raise InvalidArgumentError(f"on is {on!r}, expected a bool")
    recording = ledger.observer() is not None
    if on and not recording:
        blocks.forget_sites()
        _tracker = MemoryTracker(process_budget())
        ledger.observe(_tracker.record)
    elif not on and recording and _tracker is not None:
        ledger.observe(None)
        _tracker.stop()
    blocks.set_tracking(bool(on))


def get_memory_stats() -> MemoryStats:
    """Return what all pools of the process counted, the engine's buffers included.

    Returns
    -------
    MemoryStats
        `current_usage`, `peak_usage`, `total_allocated`, `allocation_count`: blocks and buffers, in bytes as they were
        asked for. `held`: what may be resident for them; `fragmentation_ratio`: 1 - current_usage / held. `by_owner`: the
        process's ledger, in which what does not come from a pool counts too.
    """
    current, peak, total, count, _, held = blocks.process_account()
    ratio = 1 - current / held if held else 0.0
    return MemoryStats(current, peak, total, count, ratio, process_budget().by_owner(), held)


def generate_memory_report(path: str | os.PathLike[str]) -> None:
    """Write who holds how much, over time and by allocating line as far as tracking was on.

    Parameters
    ----------
    path : str or PathLike
        The suffix decides: ``.json`` everything as data; ``.txt``, ``.log``, ``.md`` or none a text; ``.png`` the timeline,
        stacked by owner under the process's limit, and for each budget below it once more (needs Matplotlib: the extra ``plot``).

    Raises
    ------
    InvalidArgumentError
        If the suffix is another one.
    HyperionRuntimeError
        If a timeline is asked for and tracking was never on.
    UnsupportedError
        If Matplotlib is needed and not installed.
    HyperionIOError
        If the file cannot be written; a file that was there is then what it was.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix == ".json":
        content = (json.dumps(_report(), indent=1) + "\n").encode()
    elif suffix in _TEXT:
        content = _text(_report()).encode()
    elif suffix == ".png":
        if _tracker is None:
            raise HyperionRuntimeError("there is no timeline yet: call enable_memory_tracking() first")
        buffer = io.BytesIO()
        draw_timeline(_tracker).savefig(buffer, format="png", dpi=150)
        content = buffer.getvalue()
    else:
        raise InvalidArgumentError(f"a memory report is .txt, .log, .md, .json or .png, not {suffix!r}: {target}")
    write_file(target, content)


# ---- Content -----------------------------------------------------------------------------------------------


def _report() -> dict[str, Any]:
    root, tracker, stats = process_budget(), _tracker, get_memory_stats()
    owners, peaks = root.by_owner(), tracker.peaks if tracker is not None else {}
    names = sorted({*owners, *peaks}, key=lambda name: (-owners.get(name, 0), -peaks.get(name, 0), name))
    return {
        "report": "hyperion memory",
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "process": os.getpid(),
        "ledger": {
            "limit": root.limit,
            "used": root.used,
            "peak": root.peak,
            "total_reserved": root.total_reserved,
            "reservation_count": root.reservation_count,
        },
        "pools": {
            "current_usage": stats.current_usage,
            "peak_usage": stats.peak_usage,
            "total_allocated": stats.total_allocated,
            "allocation_count": stats.allocation_count,
            "held": stats.held,
            "fragmentation_ratio": stats.fragmentation_ratio,
        },
        "owners": [{"owner": n, "bytes": owners.get(n, 0), "peak_bytes": peaks.get(n)} for n in names],
        "timeline": None if tracker is None else _timeline(tracker),
        "sites": [_site(site) for site in _by_size(blocks.all_sites())],
    }


def _by_size(sites: Iterable[blocks.Site]) -> list[blocks.Site]:
    return sorted(sites, key=lambda s: (-s.live_bytes, -s.live_count, s.filename, s.line))


def _site(site: blocks.Site) -> dict[str, Any]:
    names = ("kind", "filename", "line", "function", "live_count", "live_bytes", "count", "total_bytes", "dropped")
    return {name: getattr(site, name) for name in names}


def _timeline(tracker: MemoryTracker) -> dict[str, Any]:
    return {
        "began": tracker.began.isoformat(timespec="seconds"),
        "seconds": tracker.seconds,
        "folded": tracker.folded,
        "base": tracker.base,
        "limits": {path: [[round(when, 6), limit] for when, limit in steps] for path, steps in tracker.limits.items()},
        "events": [[round(when, 6), owner, delta] for when, owner, delta in tracker.events],
    }


def _table(header: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> list[str]:
    """Columns of text: the first left, the others right aligned."""
    lines = [header, *([f"{c:,}" if isinstance(c, int) else str(c) for c in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    cells = ([c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))] for line in lines)
    return ["  " + "  ".join(line).rstrip() for line in cells]


def _text(report: dict[str, Any]) -> str:
    book, pools, timeline = report["ledger"], report["pools"], report["timeline"]
    lines = [
        f"Memory of process {report['process']} at {report['time']}, in bytes",
        "",
        f"Ledger: {book['used']:,} of {book['limit']:,} reserved ({format_size(book['used'])}), most {book['peak']:,}",
        f"  {book['reservation_count']:,} reservations of {book['total_reserved']:,} in all",
        f"Pools: {pools['current_usage']:,} in use, most {pools['peak_usage']:,}",
        f"  {pools['allocation_count']:,} allocations of {pools['total_allocated']:,} in all",
        f"  held {pools['held']:,}, of which {pools['fragmentation_ratio']:.1%} is in use by nobody",
        "",
        "Owners",
    ]
    owners = [(o["owner"], o["bytes"], "-" if o["peak_bytes"] is None else o["peak_bytes"]) for o in report["owners"]]
    lines += _table(("owner", "now", "peak while tracked"), owners) if owners else ["  none"]
    if timeline is None:
        return "\n".join([*lines, "", "Tracking was not on: no timeline, no allocation sites.", ""])
    lines += ["", f"Timeline of {timeline['seconds']:.3f} s since {timeline['began']}"]
    lines += _table(("seconds", "reserved", "change", "owner"), _sampled(timeline))
    lines += ["", "Limits, in the order in which they were met"]
    changes = sorted((when, path or "(the process)", limit) for path, steps in timeline["limits"].items() for when, limit in steps)
    lines += _table(("seconds", "limit", "budget"), [(f"{when:.3f}", limit or "-", path) for when, path, limit in changes[-60:]])
    for kind, title in (("block", "Blocks"), ("reservation", "Reservations")):
        live = [s for s in report["sites"] if s["kind"] == kind and (s["live_bytes"] or (kind == "block" and s["live_count"]))]
        lines += ["", f"{title} in use by allocating line: leaks, when nothing should be open"]
        rows = [(f"{s['filename']}:{s['line']}", s["live_bytes"], s["live_count"], s["count"]) for s in live]
        lines += _table(("line", "bytes", "in use", "made"), rows) if rows else ["  none"]
    dropped = [s for s in report["sites"] if s["dropped"]]
    if dropped:
        lines += ["", "Blocks that were collected without having been freed"]
        lines += _table(("line", "blocks"), [(f"{s['filename']}:{s['line']}", s["dropped"]) for s in dropped])
    return "\n".join([*lines, ""])


def _sampled(timeline: dict[str, Any], most: int = 60) -> list[tuple[object, ...]]:
    """Rows of a text timeline: all changes, or of many the largest ones, in order."""
    total, rows = sum(timeline["base"].values()), []
    for when, owner, delta in timeline["events"]:
        total += delta
        rows.append((f"{when:.3f}", total, f"{delta:+,}", owner, abs(delta)))
    kept = sorted(range(len(rows)), key=lambda i: -rows[i][4])[:most]
    return [rows[i][:4] for i in sorted(kept)]
