"""Hyperion's matrix products as a worker: packed weights in huge pages, as the engine has them.

The activations are packed by every call. One token's products run over up to 16 matrices a call, as a layer's do.
"""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np

from benchmarks.peers.products import activations, at_hand, copies, raw_weights
from benchmarks.peers.worker import serve
from hyperion._kernels import matmul, quant
from hyperion._kernels.pool import PageBuffer
from hyperion._kernels.threads import Team, probe_regions

AT_ONCE = 16
state: dict[str, Any] = {"teams": {}}


def load(kind: str, rows: int, cols: int, nbytes: int) -> dict:
    """Matrices of at least `nbytes` together, in place of the last ones."""
    from hyperion import __version__

    state.pop("weights", None)
    size = quant.TYPES[kind].packed_bytes(rows, cols)
    count = copies(kind, rows, cols, nbytes)
    memory = PageBuffer(count * size)
    whole = np.frombuffer(memory, np.uint8)
    first = quant.pack(kind, raw_weights(kind, rows, cols), rows, cols, out=whole[:size])
    for i in range(1, count):
        whole[i * size : (i + 1) * size] = whole[:size]
    state["weights"] = [first] + [quant.PackedMatrix(kind, rows, cols, whole, i * size) for i in range(1, count)]
    return {"version": __version__, "count": count}


def outputs(tokens: int) -> list[np.ndarray]:
    return [np.empty((tokens, state["weights"][0].rows), np.float32) for _ in range(AT_ONCE if tokens == 1 else 1)]


def run(tokens: int, level: str, team: Team, out: list[np.ndarray]) -> int:
    """All products once; how many they were."""
    x, weights = state["x"], state["weights"]
    weights = weights[: at_hand(len(weights), tokens)]
    for i in range(0, len(weights), len(out)):
        some = weights[i : i + len(out)]
        matmul.linear_many(some, x, level, team, out[: len(some)])
    return len(weights)


def team_of(count: int) -> Team:
    if count not in state["teams"]:
        state["teams"][count] = Team(count)
    return state["teams"][count]


def seconds(tokens: int, threads: int, turns: int, level: str) -> float:
    """Seconds a product: `turns` times all matrices."""
    team, out = team_of(threads), outputs(tokens)
    state["x"] = activations(tokens, state["weights"][0].cols)
    done = 0
    start = time.perf_counter()
    for _ in itertools.repeat(None, turns):
        done += run(tokens, level, team, out)
    return (time.perf_counter() - start) / done


def result(tokens: int, level: str) -> list[float]:
    """The last token's outputs by the last matrix."""
    x = activations(tokens, state["weights"][0].cols)
    return matmul.linear(state["weights"][-1], x, level)[-1].tolist()


def regions(threads: int, count: int, idle: float) -> float:
    """Nanoseconds of a parallel region of one empty task a thread: `count` without a pause, after `idle` seconds."""
    team = team_of(threads)
    time.sleep(idle)
    return probe_regions(team, count) / count


if __name__ == "__main__":
    serve({"load": load, "seconds": seconds, "result": result, "regions": regions})
