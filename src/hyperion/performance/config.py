"""What is measured, and the figures."""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any

from hyperion.errors import InvalidArgumentError

__all__ = ["OptimizationImpact", "PerformanceConfig", "PerformanceMetrics"]


@dataclasses.dataclass(kw_only=True)
class PerformanceConfig:
    """What an analysis keeps; checked when made and when a field is set.

    Parameters
    ----------
    track_execution_time, track_memory_usage, track_cpu_usage, track_cache_usage : bool
        Which figures are measured and kept; the others are None.
    enable_optimization : bool
        Say what bounds a run and what to change. That needs the machine's memory bandwidth, which is measured once when it is
        first wanted: a fraction of a second, and some memory.
    """

    track_execution_time: bool = True
    track_memory_usage: bool = True
    track_cpu_usage: bool = True
    track_cache_usage: bool = True
    enable_optimization: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        fields = [field.name for field in dataclasses.fields(PerformanceConfig)]
        if name not in fields:
            raise InvalidArgumentError(f"PerformanceConfig has no field {name!r}; it has {', '.join(fields)}")
        if not isinstance(value, bool):
            raise InvalidArgumentError(f"PerformanceConfig.{name} is {value!r}, expected a bool")
        object.__setattr__(self, name, value)


_INTEGERS = ("memory_usage_bytes", "cache_misses", "cache_hits", "threads", "disk_bytes", "weight_bytes")
_SIGNED = ("memory_usage_bytes",)


@dataclasses.dataclass(kw_only=True)
class PerformanceMetrics:
    """The figures of one run; checked when made and when a field is set. None is what is not known.

    Parameters
    ----------
    execution_time_ms : float, optional
        Wall-clock time.
    memory_usage_bytes : int, optional
        Bytes that the run added to the process's resident memory, at its highest.
    cpu_usage_percent : float, optional
        CPU time of all threads for each unit of wall-clock time: 200 is two processors all the time.
    cache_misses, cache_hits : int, optional
        Accesses to the last level of cache that went on to memory, and those that did not, as the processor's counters say.
    label : str
        What was run.
    threads : int, optional
        Threads that the run could use.
    disk_bytes : int, optional
        Bytes that came from storage.
    disk_wait_ms : float, optional
        Time in which the computation waited for them.
    weight_bytes : int, optional
        Bytes of weights that the passes of a model went through.
    """

    execution_time_ms: float | None = None
    memory_usage_bytes: int | None = None
    cpu_usage_percent: float | None = None
    cache_misses: int | None = None
    cache_hits: int | None = None
    label: str = ""
    threads: int | None = None
    disk_bytes: int | None = None
    disk_wait_ms: float | None = None
    weight_bytes: int | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        fields = [field.name for field in dataclasses.fields(PerformanceMetrics)]
        if name not in fields:
            raise InvalidArgumentError(f"PerformanceMetrics has no field {name!r}; it has {', '.join(fields)}")
        if name == "label":
            if not isinstance(value, str):
                raise InvalidArgumentError(f"PerformanceMetrics.label is {value!r}, expected text")
        elif value is not None:
            value = _number(name, value)
        object.__setattr__(self, name, value)


def _number(name: str, value: Any) -> int | float:
    try:
        number = operator.index(value) if name in _INTEGERS else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, (bool, str)) or not math.isfinite(number) or (number < 0 and name not in _SIGNED):
        kind = "an integer" if name in _INTEGERS else "a number"
        raise InvalidArgumentError(f"PerformanceMetrics.{name} is {value!r}, expected None or {kind} of 0 or more")
    return number


@dataclasses.dataclass(frozen=True)
class OptimizationImpact:
    """What changed between two runs.

    Attributes
    ----------
    speedup_factor : float or None
        Baseline's time / current time: 2.0 is twice as fast.
    memory_reduction : float or None
        Percent of the baseline's memory that the current run does without; negative when it takes more.
    cpu_efficiency : float or None
        Percent of the baseline's CPU seconds that the current run does without; negative when it takes more.
    recommendations : str
        One a line, drawn from the figures; empty without `enable_optimization`.
    bound : str
        What the current run is at: "disk", "memory", "compute", "waiting" or "unknown".
    """

    speedup_factor: float | None
    memory_reduction: float | None
    cpu_efficiency: float | None
    recommendations: str
    bound: str = "unknown"
