"""The processor's own counters of cache accesses, through perf_event_open(2), where the system gives them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
import sys

__all__ = ["CacheCounters"]

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
