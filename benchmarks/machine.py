"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ISA_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")


def read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def processor() -> tuple[str, list[str]]:
    """Model name and those of its instruction sets that matter here."""
    fields: dict[str, str] = {}
    for line in read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return fields.get("model name") or platform.processor() or platform.machine(), [f for f in ISA_FLAGS if f in flags]


def caches() -> dict[str, str]:
    """Sizes of the first core's caches, as the kernel lists them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level = read(f"{index}/type"), read(f"{index}/level")
        if kind != "Instruction":
            found[f"L{level}"] = read(f"{index}/size")
    return found


def commit() -> str:
    """The commit of the working tree, marked when it has changes."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def describe() -> dict[str, Any]:
    """Everything about the machine that a reader of figures needs to know, as plain data."""
    name, isa = processor()
    memory = next((line.split()[1] for line in read("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "0")
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "processor": name,
        "cores": len(cores),
        "instruction sets": isa,
        "caches": caches(),
        "memory_bytes": int(memory) * 1024,
        "huge pages": read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "load average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": package_version("numpy"),
        "commit": commit(),
    }


def sentence(machine: dict[str, Any]) -> str:
    """One line for the head of a table."""
    cache = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    load = machine["load average"]
    return (
        f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['instruction sets'])}; {cache}), "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}, Python {machine['python']}, "
        f"NumPy {machine['numpy']}, commit {machine['commit']}" + (f", load average {load[0]:.1f}" if load else "")
    )
