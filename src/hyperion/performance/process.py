"""What the system counts of this process: time, resident memory, bytes from storage, cache accesses."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import struct
import sys
import threading

__all__ = ["CacheCounters", "MemorySampler", "peak_resident", "resident", "storage_bytes"]


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


# ---- perf_event_open(2) ------------------------------------------------------------------------------------

_SYSCALL = {"x86_64": 298, "amd64": 298, "aarch64": 241, "arm64": 241, "ppc64le": 319, "riscv64": 241, "s390x": 331}
_HARDWARE, _REFERENCES, _MISSES = 0, 2, 3
_INHERIT, _NO_KERNEL, _NO_HYPERVISOR = 1 << 1, 1 << 5, 1 << 6
_TIMES = 1 | 2  # read the time that the event was enabled, and that it really counted
_CLOSE_ON_EXEC = 8
_EVENTS = ((_HARDWARE, _REFERENCES), (_HARDWARE, _MISSES))


class CacheCounters:
    """Accesses to the last level of cache, and misses, of all threads of this process from now on.

    Threads that start later count too. The kernel may refuse (``perf_event_paranoid``), and a virtual machine may have no
    such counters: then there are none, and no numbers.

    Parameters
    ----------
    events : sequence of (int, int)
        Type and config of what is counted, as perf_event_open(2) numbers them.
    """

    def __init__(self, events: tuple[tuple[int, int], ...] = _EVENTS) -> None:
        self._fds: list[list[int]] = []
        if not sys.platform.startswith("linux") or platform.machine().lower() not in _SYSCALL:
            return
        try:
            threads = [int(name) for name in os.listdir("/proc/self/task")]
        except OSError:
            return
        for kind, config in events:
            fds = [_open_event(kind, config, thread) for thread in threads]
            self._fds.append([fd for fd in fds if fd >= 0])
            if not self._fds[-1]:
                self.close()
                return

    @property
    def available(self) -> bool:
        """Whether the system counts."""
        return bool(self._fds)

    def read(self) -> list[int] | None:
        """What was counted of each event since the beginning, or None.

        Where the processor has fewer counters than are in use, an event counts for a part of the time only; as `perf stat`
        does, its number is then scaled to all of the time.
        """
        if not self._fds:
            return None
        totals = []
        for fds in self._fds:
            total = 0.0
            for fd in fds:
                value, enabled, running = struct.unpack("<QQQ", os.read(fd, 24))
                if enabled and not running:  # it never got a counter
                    return None
                total += value * (enabled / running) if running else 0
            totals.append(int(total))
        return totals

    def close(self) -> None:
        """Stop counting."""
        for fds in self._fds:
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self._fds = []


def _open_event(kind: int, config: int, thread: int) -> int:
    size = 128  # bytes of perf_event_attr: type, size, config, period, sample type, read format, flags, ...
    attributes = ctypes.create_string_buffer(
        struct.pack("<IIQQQQQ", kind, size, config, 0, 0, _TIMES, _INHERIT | _NO_KERNEL | _NO_HYPERVISOR), size
    )
    number, any_processor, no_group = _SYSCALL[platform.machine().lower()], -1, -1
    numbers = map(ctypes.c_long, (thread, any_processor, no_group, _CLOSE_ON_EXEC))
    return int(ctypes.CDLL(None).syscall(ctypes.c_long(number), attributes, *numbers))


