"""What the operating system grants this process: processors, memory, control groups.

Functions that read Linux's pseudo files take the file system's `root`, so that tests can show them any
machine.
"""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

ROOT = Path("/")


def read(path: Path) -> str | None:
    """Return a small file's text without surrounding space, or None when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def number(text: str | None) -> int | None:
    """Return the text as an integer, or None when it is not one ("max", "", None)."""
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


def cgroup_directories(controller: str, root: Path = ROOT) -> tuple[int, list[Path]]:
    """Return the version of the hierarchy with `controller`, and this process's groups in it, innermost first.

    Every group up to the mount point limits the process. An empty list means that there is no such hierarchy.
    """
    memberships: dict[str, str] = {}
    for line in (read(root / "proc/self/cgroup") or "").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        for name in names.split(","):
            memberships[name] = path
    mounts: dict[int, list[tuple[str, str]]] = {1: [], 2: []}
    for line in (read(root / "proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup" and controller in kind[2].split(","):
            mounts[1].append((fields[3], fields[4]))
        elif kind[0] == "cgroup2":
            mounts[2].append((fields[3], fields[4]))
    for version, key in ((1, controller), (2, "")):
        if key not in memberships:
            continue
        for inside, mount in mounts[version]:
            top = root / mount.lstrip("/")
            path = memberships[key]
            prefix = inside.rstrip("/")
            if path == prefix or path.startswith(prefix + "/"):
                path = path[len(prefix) :]
            elif prefix:  # another group's subtree is mounted: its top is all that can be seen
                path = ""
            own = top.joinpath(*[part for part in path.split("/") if part and part != ".."])
            groups = [own, *own.parents]
            groups = [g for g in groups[: groups.index(top) + 1] if g.is_dir()]
            if version == 1 or any((g / f"{controller}.max").exists() for g in groups):
                return version, groups
    return 0, []


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the processors' worth of time that the control groups grant, or None without a quota."""
    version, groups = cgroup_directories("cpu", root)
    quotas = []
    for group in groups:
        if version == 2:
            quota, period = [number(x) for x in [*(read(group / "cpu.max") or "").split(), "", ""][:2]]
        else:
            quota = number(read(group / "cpu.cfs_quota_us"))
            period = number(read(group / "cpu.cfs_period_us"))
        if quota is not None and quota > 0 and period is not None and period > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def memory_groups(root: Path = ROOT) -> list[tuple[int, int]]:
    """Return (limit, bytes in use that cannot be reclaimed) of every control group that limits memory."""
    version, groups = cgroup_directories("memory", root)
    result = []
    for group in groups:
        if version == 2:
            limits = [number(read(group / name)) for name in ("memory.max", "memory.high")]
            usage, prefix = number(read(group / "memory.current")), ""
        else:
            limits = [number(read(group / "memory.limit_in_bytes"))]
            usage, prefix = number(read(group / "memory.usage_in_bytes")), "total_"
        # Version 1 writes "none" as the largest multiple of a page.
        known = [limit for limit in limits if limit is not None and limit < 1 << 62]
        if not known or usage is None:
            continue
        lines = (read(group / "memory.stat") or "").splitlines()
        stat = dict(line.split(None, 1) for line in lines if " " in line)
        cache = sum(number(stat.get(f"{prefix}{name}")) or 0 for name in ("active_file", "inactive_file"))
        result.append((min(known), max(0, usage - cache)))
    return result


def machine_memory(root: Path = ROOT) -> tuple[int, int]:
    """Return (total, available) bytes of the machine, control groups aside.

    Raises
    ------
    OSError
        If the system does not tell.
    """
    if sys.platform == "win32":
        return _windows_memory()
    if sys.platform == "darwin":
        return _macos_memory()
    values = {}
    for line in (read(root / "proc/meminfo") or "").splitlines():
        name, _, value = line.partition(":")
        amount = number(value.split()[0] if value.split() else None)
        if amount is not None:
            values[name] = amount * 1024
    if "MemTotal" in values:
        free = sum(values.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))  # before Linux 3.14
        return values["MemTotal"], values.get("MemAvailable", free)
    pages = os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else pages
    return pages * mmap.PAGESIZE, free * mmap.PAGESIZE


def _windows_memory() -> tuple[int, int]:
    import ctypes
    import struct

    status = ctypes.create_string_buffer(struct.pack("<II7Q", 64, *[0] * 8), 64)  # MEMORYSTATUSEX
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(status):  # type: ignore[attr-defined]
        raise OSError("GlobalMemoryStatusEx failed")
    _, _, total, available, *_ = struct.unpack("<II7Q", status.raw)
    return total, available


def _macos_memory() -> tuple[int, int]:
    import ctypes

    total = sysctl("hw.memsize")
    if total is None:
        raise OSError("sysctl hw.memsize failed")
    libc = ctypes.CDLL(None)
    libc.mach_host_self.restype = ctypes.c_uint32
    counters = (ctypes.c_uint32 * 64)()  # vm_statistics64: free, active, inactive, wired pages come first
    count = ctypes.c_uint32(38)  # HOST_VM_INFO64_COUNT
    if libc.host_statistics64(libc.mach_host_self(), 4, counters, ctypes.byref(count)):  # 4: HOST_VM_INFO64
        raise OSError("host_statistics64 failed")
    return total, (counters[0] + counters[2]) * mmap.PAGESIZE


def sysctl(name: str) -> int | None:
    """Return an integer that macOS's sysctl knows, or None."""
    import ctypes

    value, size = ctypes.c_uint64(0), ctypes.c_size_t(8)
    failed = ctypes.CDLL(None).sysctlbyname(name.encode(), ctypes.byref(value), ctypes.byref(size), None, 0)
    return None if failed else value.value
