"""What bounds a run, as far as its figures tell, and what to change about it."""

from __future__ import annotations

import dataclasses
import enum

from hyperion.memory import format_size

from .config import PerformanceMetrics

__all__ = ["Bound", "Diagnosis", "compare", "diagnose", "recommend"]

CACHE_LINE = 64
DISK_WAIT = 0.25  # share of the time; less is lost among everything else
MEMORY_SHARE = 0.6  # of the bandwidth that plain reading reaches: kernels that compute as well come no nearer than 0.6 to 0.95
BUSY = 0.75  # of what all threads could compute
CHANGE = 0.03  # smaller differences between two runs are noise


class Bound(enum.Enum):
    """What a run is at."""

    DISK = "disk"
    MEMORY = "memory"
    COMPUTE = "compute"
    WAITING = "waiting"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """A bound, and the figures that say so."""

    bound: Bound
    evidence: str


def diagnose(metrics: PerformanceMetrics, threads: int, bandwidth: float | None) -> Diagnosis:
    """Say what bounds a run.

    The first that holds: a quarter of the time or more waited for the disk; the weights or the cache lines that came from memory
    reach 60 % of the machine's bandwidth; the threads computed for 75 % of the time or more; they did not.

    Parameters
    ----------
    metrics : PerformanceMetrics
    threads : int
        Threads that could run, where the metrics do not say.
    bandwidth : float or None
        Bytes a second that the machine reads from memory.
    """
    if not metrics.execution_time_ms:
        return Diagnosis(Bound.UNKNOWN, "the execution time is not known")
    seconds, threads = metrics.execution_time_ms / 1000, metrics.threads or threads
    busy = None if metrics.cpu_usage_percent is None else metrics.cpu_usage_percent / (100 * threads)
    used = "" if busy is None else f"{metrics.cpu_usage_percent:.0f} % CPU of {100 * threads} % for {threads} threads"
    if metrics.disk_wait_ms is not None and metrics.disk_wait_ms >= DISK_WAIT * metrics.execution_time_ms:
        share = metrics.disk_wait_ms / metrics.execution_time_ms
        rate = "" if not metrics.disk_bytes else f"; {format_size(int(metrics.disk_bytes / seconds))}/s came from the disk"
        return Diagnosis(Bound.DISK, f"{share:.0%} of the time waited for the file{rate}")
    traffic, what = _traffic(metrics)
    if traffic and bandwidth and traffic / seconds >= MEMORY_SHARE * bandwidth:
        rate, share = format_size(int(traffic / seconds)), traffic / seconds / bandwidth
        return Diagnosis(Bound.MEMORY, f"{rate}/s of {what} is {share:.0%} of the {format_size(int(bandwidth))}/s that memory gives")
    if busy is None:
        return Diagnosis(Bound.UNKNOWN, "the CPU usage is not known")
    if busy >= BUSY:
        return Diagnosis(Bound.COMPUTE, used)
    return Diagnosis(Bound.WAITING, f"{used}, and nothing says that the disk or memory took the rest")


def _traffic(metrics: PerformanceMetrics) -> tuple[int, str]:
    """Bytes that came from memory, and what they are: what passes read, or what the caches missed, whichever is more."""
    found = [(metrics.weight_bytes or 0, "weights")]
    if metrics.cache_misses is not None:
        found.append((metrics.cache_misses * CACHE_LINE, "cache lines"))
    return max(found)


def recommend(diagnosis: Diagnosis, metrics: PerformanceMetrics, threads: int, processors: int) -> list[str]:
    """What to change about a run with such a bound, each with its figure.

    Parameters
    ----------
    diagnosis : Diagnosis
    metrics : PerformanceMetrics
    threads : int
        Threads that could run, where the metrics do not say.
    processors : int
        Threads that suit the machine.
    """
    threads, why = metrics.threads or threads, f"bound by {diagnosis.bound.value}: {diagnosis.evidence}"
    if diagnosis.bound is Bound.DISK:
        return [
            why,
            "give a larger memory budget: every byte that is pinned is not read in the next pass",
            "use smaller weights (hyperion convert --type q4_0): fewer bytes are read for each token",
            "run several prompts as one batch: one pass over the weights serves all of them",
        ]
    if diagnosis.bound is Bound.MEMORY:
        return [
            why,
            "use smaller weights (hyperion convert --type q4_0): time follows their bytes; more threads do not help",
            "run several prompts as one batch: one pass over the weights serves all of them",
        ]
    if diagnosis.bound is Bound.COMPUTE:
        more = [f"use {processors} threads, not {threads}: the machine has them"] if processors > threads else []
        return [why, *more, "check that the highest instruction set runs (Model.describe()['simd'])", "smaller weights help little here"]
    if diagnosis.bound is Bound.WAITING:
        cpu = metrics.cpu_usage_percent or 0.0
        if threads > 1 and 100 * BUSY <= cpu <= 100 * (2 - BUSY):
            return [why, "about one thread computes: the part of the run that is not shared among the threads is what takes the time"]
        fewer = [f"use {processors} threads, not {threads}: more than the machine has wait for each other"] if threads > processors else []
        return [why, *fewer, "look for work between the calls, locks, and other processes: the threads are idle for a part of the time"]
    return [f"what bounds it is not known: {diagnosis.evidence}"]


def compare(baseline: PerformanceMetrics, current: PerformanceMetrics) -> tuple[float | None, float | None, float | None, list[str]]:
    """Speedup, percent of memory saved, percent of CPU time saved; and what those figures advise."""
    before, after = baseline.execution_time_ms, current.execution_time_ms
    speedup = before / after if before and after else None
    memory = _saved(baseline.memory_usage_bytes, current.memory_usage_bytes)
    cpu = _saved(_cpu_ms(baseline), _cpu_ms(current))
    said = []
    if speedup is not None and speedup < 1 - CHANGE:
        said.append(f"it takes {1 / speedup:.2f} times as long as the baseline ({after:.4g} ms, {before:.4g} ms): go back unless memory matters more")
    elif speedup is not None and speedup <= 1 + CHANGE:
        said.append(f"its time is the baseline's within {CHANGE:.0%} ({after:.4g} ms, {before:.4g} ms): the change did not reach what bounds it")
    if memory is not None and memory < -100 * CHANGE and (speedup is None or speedup <= 1 + CHANGE):
        more = (current.memory_usage_bytes or 0) - (baseline.memory_usage_bytes or 0)
        said.append(f"it takes {format_size(more)} more memory and is not faster: give the memory back")
    if cpu is not None and cpu < -100 * CHANGE and speedup is not None and speedup > 1 + CHANGE:
        said.append(f"it is {speedup:.2f} times as fast for {-cpu:.0f} % more CPU time: on a machine that is shared it may cost others")
    return speedup, memory, cpu, said


def _cpu_ms(metrics: PerformanceMetrics) -> float | None:
    if metrics.cpu_usage_percent is None or metrics.execution_time_ms is None:
        return None
    return metrics.cpu_usage_percent / 100 * metrics.execution_time_ms


def _saved(before: float | None, after: float | None) -> float | None:
    """Percent of the first that the second does without."""
    return None if before is None or after is None or before <= 0 else 100 * (1 - after / before)
