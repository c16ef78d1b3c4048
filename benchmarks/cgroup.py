"""Running a command alone in a fresh memory cgroup with a cold page cache (Linux, root)."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

V2 = Path("/sys/fs/cgroup/cgroup.controllers")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did in its group: exit status (None: stopped at the deadline), output, peak bytes, kills for memory."""

    status: int | None
    output: str
    errors: str
    peak: int
    kills: int


def available() -> bool:
    """Whether groups can be made here."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and (V2.exists() or Path("/sys/fs/cgroup/memory").is_dir())


def drop_caches() -> None:
    """Write dirty pages and forget clean ones."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def run(command: Sequence[str], limit: int, *, deadline: float, env: dict[str, str] | None = None) -> Outcome:
    """Run a command in a group of `limit` bytes; 0 sets no limit."""
    group = Path("/sys/fs/cgroup" if V2.exists() else "/sys/fs/cgroup/memory") / f"hyperion_{os.getpid()}_{time.monotonic_ns()}"
    group.mkdir()
    limit_file, peak_file = ("memory.max", "memory.peak") if V2.exists() else ("memory.limit_in_bytes", "memory.max_usage_in_bytes")
    try:
        if limit:
            (group / limit_file).write_text(str(limit))
        drop_caches()
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(group), *command],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})},
        )  # fmt: skip
        try:
            output, errors = process.communicate(timeout=deadline)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            status = None
        events = (group / ("memory.events" if V2.exists() else "memory.oom_control")).read_text().split()
        kills = int(events[events.index("oom_kill") + 1]) if "oom_kill" in events else 0
        return Outcome(status, output, errors, int((group / peak_file).read_text()), kills)
    finally:
        for _ in range(20):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)
