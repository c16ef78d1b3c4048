"""How fast a plan will run, from a short probe of the disk and of the kernels."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from hyperion._kernels.matmul import linear
from hyperion._kernels.quant import PackedMatrix
from hyperion._kernels.threads import Team

__all__ = ["Prediction", "probe_compute", "probe_stream"]

STREAM_SECONDS = 0.4
COMPUTE_SECONDS = 0.05
LARGE = 1 << 20


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a decoded token will cost.

    Attributes
    ----------
    bytes_per_token : int
        Weights that are read from the file for every token.
    tokens_per_second : float
    disk_rate : float or None
        Bytes a second that the stream reached in the probe; None where nothing is streamed.
    compute_rate : float or None
        Bytes of weights a second that the kernels reached; None where nothing is pinned that they could run on.
    bound : {"disk", "compute"}
    """

    bytes_per_token: int
    tokens_per_second: float
    disk_rate: float | None
    compute_rate: float | None
    bound: str

    @classmethod
    def from_rates(cls, weights: int, streamed: int, disk: float | None, compute: float | None) -> Prediction:
        """Reading and computing overlap, so the slower of them sets the pace."""
        reading = streamed / disk if disk else 0.0
        computing = weights / compute if compute else 0.0
        seconds = max(reading, computing)
        rate = 1.0 / seconds if seconds else float("inf")
        return cls(streamed, rate, disk, compute, "disk" if reading > computing else "compute")

    def __str__(self) -> str:
        bound = {"disk": "the disk is the bound", "compute": "the processor is the bound"}[self.bound]
        return f"about {self.tokens_per_second:.3g} tokens/s predicted: {bound}"


def probe_stream(ring: Any) -> float:
    """Bytes of weights a second that the ring delivers when nobody computes.

    What was read ahead before the probe is not counted, nor the time in which the ring tries its ways of reading.
    """
    ring.restart()
    began = time.perf_counter()
    ring.skim(0.1 * STREAM_SECONDS)
    while not _settled(ring) and time.perf_counter() - began < STREAM_SECONDS:
        ring.skim(0.1 * STREAM_SECONDS)
    start = ring.stats["bytes_used"]
    began = time.perf_counter()
    ring.skim(STREAM_SECONDS)
    rate = (ring.stats["bytes_used"] - start) / (time.perf_counter() - began)
    ring.restart()
    return float(rate)


def _settled(ring: Any) -> bool:
    """The ring knows by which mode it reads faster."""
    return bool(ring.stats["settled"])


def probe_compute(matrices: Sequence[PackedMatrix], team: Team, level: str) -> float | None:
    """Bytes of weights a second that decoding multiplies, over different matrices in turn.

    The first part of the time wakes the team and the memory, and does not count; nor do small matrices where there are large
    ones, because calls from Python cost what a block's own loop does not.
    """
    if not matrices:
        return None
    large = [m for m in matrices if m.nbytes >= LARGE] or matrices
    vectors = {m.cols: np.ones((1, m.cols), np.float32) for m in large}
    turns = itertools.cycle(large)

    def rate(seconds: float) -> float:
        done, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < seconds or not done:
            m = next(turns)
            linear(m, vectors[m.cols], level=level, team=team)
            done += m.nbytes
        return done / spent

    rate(COMPUTE_SECONDS / 3)
    return rate(COMPUTE_SECONDS)
