"""What the processor has and how many threads suit this process."""

from __future__ import annotations

import functools
import os
import platform
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from ._kernels import dispatch, system
from ._kernels.threads import Team

__all__ = [
    "SIMDCapabilities",
    "cache_sizes",
    "default_simd_level",
    "default_threads",
    "get_simd_capabilities",
    "processor_name",
    "shared_team",
    "simd_levels",
]


# ---- Kernels -----------------------------------------------------------------------------------------------


def simd_levels() -> tuple[str, ...]:
    """Return the levels of kernels that this build has and this processor runs, lowest first.

    They are, where present: ``generic`` (portable C), ``avx2`` (with FMA and F16C), ``avxvnni``, ``avx512``
    (F, BW, VL, DQ, VNNI) and ``amx``. A level is present only where the operating system saves its registers.
    """
    return dispatch.levels()


def default_simd_level() -> str:
    """Return the level that runs unless a model asks for another: the highest one, or ``HYPERION_SIMD``'s.

    Raises
    ------
    InvalidArgumentError
        If the environment names no level.
    UnsupportedError
        If the environment names a level that is absent here.
    """
    return dispatch.default_level()


@dataclass(frozen=True, kw_only=True)
class SIMDCapabilities:
    """What the processor has of vector instructions, and what Hyperion makes of it.

    Parameters
    ----------
    features : dict of str to bool
        Instruction sets that the processor has and whose registers the operating system saves.
    levels : tuple of str
        Levels of kernels that this build has and this processor runs, lowest first.
    default_level : str
        The one that runs unless a model asks for another.
    numbers : dict of str to int
        The number of each level, for :func:`hyperion.set_simd_optimization_level`.
    """

    features: dict[str, bool]
    levels: tuple[str, ...]
    default_level: str
    numbers: dict[str, int]


def get_simd_capabilities() -> SIMDCapabilities:
    """Return what the processor and this build offer; see :class:`SIMDCapabilities`."""
    return SIMDCapabilities(
        features=dispatch.features(),
        levels=dispatch.levels(),
        default_level=dispatch.default_level(),
        numbers={name: dispatch.LEVELS.index(name) for name in dispatch.levels()},
    )


# ---- Threads -----------------------------------------------------------------------------------------------


def default_threads(root: Path = system.ROOT) -> int:
    """Return how many threads a team should have, the caller included.

    One for each physical core among the processors that this process may use (its affinity), and no more than
    the CPU quota of its control groups, rounded to the nearest number: two threads on one core share the
    units that the kernels saturate, and threads beyond the quota only bring the moment nearer at which all of
    them are stopped.

    Parameters
    ----------
    root : Path
        File system to read Linux's pseudo files from.
    """
    usable = _usable_processors()
    cores = {_core_of(cpu, root) for cpu in usable}
    if sys.platform == "darwin":
        # Efficiency cores, several times slower, would be waited for; performance level 0 is the fast kind.
        threads = system.sysctl("hw.perflevel0.physicalcpu") or system.sysctl("hw.physicalcpu") or len(usable)
    elif sys.platform == "win32":
        threads = min(len(usable), len(_windows_processors()[0]) or len(usable))
    else:
        threads = len(cores)
    quota = system.cpu_quota(root)
    if quota is not None:
        threads = min(threads, int(quota + 0.5))
    return max(1, threads)


def shared_team(threads: int | None = None) -> Team:
    """Return the team that functions on arrays use for a number of threads; it is kept for the next call.

    Parameters
    ----------
    threads : int, optional
        1 to 4096, the caller included; by default as many as suit this process, asked of the system once for each affinity.
    """
    return _default_team(tuple(_usable_processors())) if threads is None else _team(threads)


@functools.lru_cache(maxsize=8)
def _default_team(usable: tuple[int, ...]) -> Team:
    return _team(default_threads())


@functools.lru_cache(maxsize=8)
def _team(threads: int) -> Team:
    return Team(threads)


def _usable_processors() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(getattr(os, "process_cpu_count", os.cpu_count)() or 1))


def _core_of(cpu: int, root: Path) -> str:
    """Return a text that the processors of one physical core share; its own number if the system does not tell."""
    topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
    names = ("core_cpus_list", "thread_siblings_list")
    return next((text for name in names if (text := system.read(topology / name))), str(cpu))


# ---- Caches ------------------------------------------------------------------------------------------------


def cache_sizes(root: Path = system.ROOT) -> dict[str, int | None]:
    """Return the bytes of the data caches that one core sees: ``{"L1d": ..., "L2": ..., "L3": ...}``.

    None where there is no such cache or the system does not tell. A virtual machine may report a third level
    that it shares with other machines.

    Parameters
    ----------
    root : Path
        File system to read Linux's pseudo files from.
    """
    if sys.platform == "darwin":
        names = {"L1d": "l1dcachesize", "L2": "l2cachesize", "L3": "l3cachesize"}
        return {
            level: system.sysctl(f"hw.perflevel0.{name}") or system.sysctl(f"hw.{name}") or None
            for level, name in names.items()
        }
    if sys.platform == "win32":
        return _named(_windows_processors()[1])
    found = []
    for cache in sorted((root / f"sys/devices/system/cpu/cpu{_usable_processors()[0]}/cache").glob("index*")):
        level, size = system.number(system.read(cache / "level")), _kernel_size(system.read(cache / "size"))
        if level is not None and size is not None and system.read(cache / "type") in {"Data", "Unified"}:
            found.append((level, size))
    return _named(found)


def _named(found: list[tuple[int, int]]) -> dict[str, int | None]:
    sizes = dict(reversed(found))  # the first of a level counts
    return {"L1d": sizes.get(1), "L2": sizes.get(2), "L3": sizes.get(3)}


def _kernel_size(text: str | None) -> int | None:
    """Return the bytes of a size as the kernel writes it: ``"48K"``."""
    if not text:
        return None
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1])
    value = system.number(text[:-1] if unit else text)
    return value * (unit or 1) if value else None


# ---- Windows -----------------------------------------------------------------------------------------------


def _windows_processors() -> tuple[list[int], list[tuple[int, int]]]:
    import ctypes

    get = ctypes.windll.kernel32.GetLogicalProcessorInformation  # type: ignore[attr-defined]
    size = ctypes.c_ulong(0)
    get(None, ctypes.byref(size))
    records = ctypes.create_string_buffer(size.value)
    return _parse_processors(records.raw[: size.value]) if get(records, ctypes.byref(size)) else ([], [])


def _parse_processors(records: bytes) -> tuple[list[int], list[tuple[int, int]]]:
    """Return (processor mask of each core, (level, bytes) of each data cache) of Windows' 64-bit records."""
    cores, caches = [], []
    for mask, relation, level, _, _, size, kind in struct.iter_unpack("<Qi4xBBHIi4x", records):
        if relation == 0:  # RelationProcessorCore
            cores.append(mask)
        elif relation == 2 and kind in (0, 2):  # RelationCache: CacheUnified, CacheData
            caches.append((level, size))
    return cores, caches


# ---- Name --------------------------------------------------------------------------------------------------


def processor_name(root: Path = system.ROOT) -> str:
    """Return the processor's name as the system gives it, or the architecture's where it gives none.

    Parameters
    ----------
    root : Path
        File system to read Linux's pseudo files from.
    """
    if sys.platform == "darwin":
        import ctypes

        name, size = ctypes.create_string_buffer(256), ctypes.c_size_t(256)
        if not ctypes.CDLL(None).sysctlbyname(b"machdep.cpu.brand_string", name, ctypes.byref(size), None, 0):
            return name.value.decode(errors="replace")
    for line in (system.read(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in {"model name", "hardware", "cpu model", "uarch"} and value.strip():
            return value.strip()
    return platform.processor() or platform.machine() or "unknown"
