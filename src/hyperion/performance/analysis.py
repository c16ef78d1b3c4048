"""Runs, measured or reported, and what is to be learned from them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from hyperion import cpu
from hyperion.cpu_counters import CacheCounters
from hyperion.errors import HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError
from hyperion.memory import allocate, process_budget

from . import advice, report
from .config import OptimizationImpact, PerformanceConfig, PerformanceMetrics
from .process import MemorySampler, storage_bytes

__all__ = ["PerformanceAnalysis", "memory_bandwidth", "theil_sen"]

KEPT = 1 << 16
"""Records that an analysis keeps; the oldest go first."""
TREND = 1024
"""The latest records that a trend looks at: it compares each pair of them."""

_TRACKED = {
    "track_execution_time": ("execution_time_ms",),
    "track_memory_usage": ("memory_usage_bytes",),
    "track_cpu_usage": ("cpu_usage_percent",),
    "track_cache_usage": ("cache_misses", "cache_hits"),
}


class PerformanceAnalysis:
    """Records of runs, and comparisons of them. Safe to use from several threads.

    Parameters
    ----------
    config : PerformanceConfig, optional
        Copied.

    Attributes
    ----------
    impacts : list of OptimizationImpact
        What :meth:`analyze_optimization_impact` found, for the report.
    """

    def __init__(self, config: PerformanceConfig | None = None) -> None:
        if config is not None and not isinstance(config, PerformanceConfig):
            raise InvalidArgumentError(f"config must be a PerformanceConfig, not {type(config).__name__}")
        self._config = dataclasses.replace(config) if config is not None else PerformanceConfig()
        self._records: deque[PerformanceMetrics] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self.impacts: list[OptimizationImpact] = []

    @property
    def config(self) -> PerformanceConfig:
        """A copy of the settings."""
        return dataclasses.replace(self._config)

    @property
    def records(self) -> list[PerformanceMetrics]:
        """What was recorded, the oldest first."""
        with self._lock:
            return [dataclasses.replace(record) for record in self._records]

    # ---- recording -----------------------------------------------------------------------------------------------

    def record_metrics(self, metrics: PerformanceMetrics) -> None:
        """Keep a copy of a run's figures, of those that the configuration tracks."""
        _check_metrics("metrics", metrics)
        untracked: dict[str, Any] = {name: None for switch, names in _TRACKED.items() if not getattr(self._config, switch) for name in names}
        kept = dataclasses.replace(metrics, **untracked)
        with self._lock:
            self._records.append(kept)

    @contextlib.contextmanager
    def measure(self, label: str = "", *, model: Any = None) -> Iterator[PerformanceMetrics]:
        """Measure what runs in a ``with`` block, and record it.

        What is measured is the process: all its threads, whatever they do meanwhile. A block that raises is not recorded.

        Parameters
        ----------
        label : str
            What is run.
        model : Model, optional
            An open model that runs in the block: adds its threads, the weights that its passes went through and the time that they
            waited for the disk.

        Yields
        ------
        PerformanceMetrics
            Filled in when the block ends. What the system does not tell is None: cache counters without permission
            or in a virtual machine, memory where there is no ``/proc``.
        """
        metrics, config = PerformanceMetrics(label=label), self._config
        sampler = MemorySampler() if config.track_memory_usage else None
        counters = CacheCounters() if config.track_cache_usage else None
        try:
            before = _Moment(model)
            yield metrics
            _Moment(model).since(before, metrics, model)
            if counters is not None and (counted := counters.read()) is not None:
                references, misses = counted
                metrics.cache_misses, metrics.cache_hits = misses, max(references - misses, 0)
        finally:
            grown = sampler.stop() if sampler is not None else None
            if counters is not None:
                counters.close()
        metrics.memory_usage_bytes = grown
        for switch, names in _TRACKED.items():
            if not getattr(config, switch):
                for name in names:
                    setattr(metrics, name, None)
        self.record_metrics(metrics)

    # ---- what they say -------------------------------------------------------------------------------------------

    def diagnose(self, metrics: PerformanceMetrics) -> advice.Diagnosis:
        """Say what bounds a run, and which figures say so."""
        _check_metrics("metrics", metrics)
        known = metrics.weight_bytes is not None or metrics.cache_misses is not None
        threads = metrics.threads or cpu.default_threads()
        return advice.diagnose(metrics, threads, memory_bandwidth(threads) if known else None)

    def recommend(self, metrics: PerformanceMetrics) -> list[str]:
        """Say what bounds a run and what to change about it, drawn from its figures."""
        threads = cpu.default_threads()
        return advice.recommend(self.diagnose(metrics), metrics, threads, threads)

    def analyze_optimization_impact(self, baseline: PerformanceMetrics, current: PerformanceMetrics) -> OptimizationImpact:
        """Compare two runs of the same work, before and after something was changed.

        Parameters
        ----------
        baseline, current : PerformanceMetrics
            The run before and the run after. Times are compared as they are: measure the same prompt and length.

        Returns
        -------
        OptimizationImpact
            How many times faster the second run was, what it took of memory, and, where the configuration has
            `enable_optimization`, what bounds it and what else to try. What cannot be said for want of figures is None.
            It is kept in :attr:`impacts`, too, for :meth:`generate_report`.

        Raises
        ------
        InvalidArgumentError
            If one of them is no PerformanceMetrics.
        """
        _check_metrics("baseline", baseline)
        _check_metrics("current", current)
        speedup, memory, saved, said = advice.compare(baseline, current)
        bound = advice.Bound.UNKNOWN
        if self._config.enable_optimization:
            bound = self.diagnose(current).bound
            said += self.recommend(current)
        text = "\n".join(said) if self._config.enable_optimization else ""
        impact = OptimizationImpact(speedup, memory, saved, text, bound.value)
        with self._lock:
            self.impacts.append(impact)
        return impact

    def get_trend(self, metric: str = "execution_time_ms") -> float:
        """How a figure changes from record to record.

        The Theil-Sen slope (the median of the slopes between all pairs of records; Sen, 1968), divided by the figure's median: up
        to 29 % of the records may be anything without carrying it away. +0.02: each record is 2 % of the median above the
        one before; 0: no trend. Of the latest 1024 records that have the figure.

        Parameters
        ----------
        metric : str
            A field of :class:`PerformanceMetrics` that is a number.

        Returns
        -------
        float
            A fraction for each record; NaN with fewer than two records, or a median of 0.
        """
        fields = [f.name for f in dataclasses.fields(PerformanceMetrics) if f.name != "label"]
        if metric not in fields:
            raise InvalidArgumentError(f"metric is {metric!r}, expected one of {', '.join(fields)}")
        records = self.records
        found = [(at, getattr(r, metric)) for at, r in enumerate(records) if getattr(r, metric) is not None][-TREND:]
        middle = float(np.median([value for _, value in found])) if found else 0.0
        slope = theil_sen(found)
        return slope / abs(middle) if middle else math.nan

    def generate_report(self, path: str | os.PathLike[str]) -> None:
        """Write the records, what bounds them, trends and impacts.

        Parameters
        ----------
        path : str or PathLike
            ``.json`` everything as data; ``.md`` Markdown; ``.txt``, ``.log`` or none text. With Matplotlib (the extra ``plot``) a
            picture of the records goes beside it, with the suffix ``.png``; a path that ends so gets the picture alone.

        Raises
        ------
        InvalidArgumentError
            If the suffix is another one.
        HyperionRuntimeError
            If nothing was recorded.
        UnsupportedError
            If only a picture is asked for and Matplotlib is not installed.
        HyperionIOError
            If a file cannot be written.
        """
        if not self._records:
            raise HyperionRuntimeError("nothing was recorded yet: call record_metrics() or measure() first")
        report.write(self, path)


def _check_metrics(name: str, metrics: Any) -> None:
    if not isinstance(metrics, PerformanceMetrics):
        raise InvalidArgumentError(f"{name} must be PerformanceMetrics, not {type(metrics).__name__}")


class _Moment:
    """Counters of the process and of a model."""

    def __init__(self, model: Any) -> None:
        stream = model.stream_stats if model is not None else {}
        self.stream = float(stream.get("wait_seconds", 0.0))
        self.weights = model.scheduler.counters.passes * model.plan.weight_bytes if model is not None else 0
        self.storage = storage_bytes()
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def since(self, before: _Moment, metrics: PerformanceMetrics, model: Any) -> None:
        """Set the differences; a counter that began anew in between says nothing."""
        wall = self.wall - before.wall
        metrics.execution_time_ms = wall * 1000
        metrics.cpu_usage_percent = 100 * (self.cpu - before.cpu) / wall if wall > 0 else None
        if self.storage is not None and before.storage is not None:
            metrics.disk_bytes = self.storage - before.storage
        if model is not None:
            metrics.threads = model.threads
            if self.weights >= before.weights:
                metrics.weight_bytes = self.weights - before.weights
            if self.stream >= before.stream:
                metrics.disk_wait_ms = (self.stream - before.stream) * 1000


def theil_sen(points: Sequence[tuple[float, float]]) -> float:
    """The median of the slopes between all pairs of points; NaN for fewer than two."""
    if len(points) < 2:
        return math.nan
    x, y = np.array(points, np.float64).T
    i, j = np.triu_indices(len(x), 1)
    return float(np.median((y[j] - y[i]) / (x[j] - x[i])))


@functools.lru_cache(maxsize=8)
def memory_bandwidth(threads: int) -> float | None:
    """Bytes a second that so many threads read from memory together, measured once; None if there is no memory for that.

    Each thread reads its part of a buffer that no cache holds; the best of five times counts.
    """
    size = min(max(32 << 20, 2 * (cpu.cache_sizes()["L3"] or 0)), 128 << 20) // (threads * 4096) * threads * 4096
    try:
        buffer = allocate(process_budget(), "bandwidth probe", size)
    except HyperionMemoryError:
        return None
    with buffer:
        return size / _reading_time(np.frombuffer(buffer, np.float32, size // 4), threads)


def _reading_time(data: np.ndarray, threads: int) -> float:
    """Seconds of the best of five readings of an array."""
    data.fill(1)  # pages that were never written would not be read from memory
    best = math.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.max, np.split(data, threads)))
            best = min(best, time.perf_counter() - start)
    return best
