"""What the system counts of this process: time, resident memory, bytes from storage, cache accesses."""

from __future__ import annotations

import mmap
import threading

__all__ = ["MemorySampler", "peak_resident", "resident", "storage_bytes"]


def peak_resident() -> int | None:
    """The largest resident set of this process so far in bytes, or None where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def resident() -> int | None:
    """The resident set of this process in bytes, or None where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        return None


def storage_bytes() -> int | None:
    """Bytes that this process has had read from storage, page cache aside, or None where the system does not tell."""
    try:
        with open("/proc/self/io", encoding="ascii") as counters:
            return next(int(line.split()[1]) for line in counters if line.startswith("read_bytes:"))
    except (OSError, StopIteration):
        return None


class MemorySampler:
    """The highest resident set of a stretch of time, looked at every `interval` seconds and as the system's peak says."""

    def __init__(self, interval: float = 0.01) -> None:
        self._before, self._peak_before = resident(), peak_resident()
        self._highest = self._before
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if self._before is not None:
            self._thread = threading.Thread(target=self._sample, args=(interval,), name="hyperion memory sampler", daemon=True)
            self._thread.start()

    def _sample(self, interval: float) -> None:
        while not self._stop.wait(interval):
            now = resident()
            if now is not None and self._highest is not None:
                self._highest = max(self._highest, now)

    def stop(self) -> int | None:
        """End, and return the bytes by which it was above the beginning at most; None where the system does not tell."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        now, peak = resident(), peak_resident()
        if self._before is None or self._highest is None or now is None:
            return None
        highest = max(self._highest, now)
        if peak is not None and self._peak_before is not None and peak > self._peak_before:
            highest = max(highest, peak)  # a new peak of the process was in this stretch
        return highest - self._before
