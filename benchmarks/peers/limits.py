"""The machine's limits as a worker: `limits.c`, compiled for this machine when the worker starts."""

from __future__ import annotations

import ctypes
import mmap
import os
import shlex
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from benchmarks.peers.worker import serve

READ = 0
KINDS = {"vnni": 1, "avx2": 2, "fma": 3}
FLAGS = ["-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC", "-pthread"]
HUGE_PAGE = 2 << 20

state: dict = {}


def load(nbytes: int, rounds: int) -> dict[str, str]:
    """Compile, and take memory in huge pages where the system gives them; `rounds`: turns of an arithmetic loop."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "limits.so")
        source = str(Path(__file__).with_suffix(".c"))
        subprocess.run([compiler, *FLAGS, source, "-o", str(target)], check=True, capture_output=True)
        library = ctypes.CDLL(str(target))
    rate = library.limits_rate
    rate.restype = ctypes.c_double
    rate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    memory = mmap.mmap(-1, nbytes + HUGE_PAGE, **private)  # shared memory has no huge pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    view = (ctypes.c_char * len(memory)).from_buffer(memory)
    start = -(-ctypes.addressof(view) // HUGE_PAGE) * HUGE_PAGE
    ctypes.memset(start, 1, nbytes)
    state.update(rate=rate, view=view, start=start, nbytes=nbytes, rounds=rounds)
    return {"compiler": compiler}


def read(threads: int) -> float:
    """Bytes a second that `threads` threads read, each its part from end to end."""
    return state["rate"](READ, threads, state["start"], state["nbytes"], 0)


def peak(kind: str, threads: int) -> float:
    """Operations a second (a multiplication and an addition are two)."""
    return state["rate"](KINDS[kind], threads, None, 0, state["rounds"])


if __name__ == "__main__":
    serve({"load": load, "read": read, "peak": peak})
