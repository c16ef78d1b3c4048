"""One library's dense functions as a worker: Hyperion's, NumPy's or torch's, of the same operands."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.worker import serve

WARM, TIMED = 2e-3, 8e-3  # seconds that short work is repeated, first untimed: threads and clocks come out of their rest
RESULTS = 500  # values that are compared
Work = Callable[[], Any]
state: dict[str, Any] = {}


def operands(case: dict[str, Any]) -> list[np.ndarray]:
    """The inputs of a case, the same for every library."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape, dtype=np.float32) for shape in case["shapes"]]


# ---- Hyperion ----------------------------------------------------------------------------------------------


def hyperion(case: dict[str, Any], arrays: list[np.ndarray], threads: int) -> Work:
    """The library's function of the case's name; of attention to one token also the engine's, over a cache that stands."""
    import hyperion

    kind, arguments = case["kind"], dict(case["arguments"])
    if kind == "decode":
        return decode(arrays, threads, arguments["kv_type"])
    if kind == "attention":
        return lambda: hyperion.scaled_dot_product_attention(*arrays, causal=True, threads=threads, **arguments)
    if kind in ("conv1d", "conv2d"):
        call = getattr(hyperion, kind)
        return lambda: call(*arrays, threads=threads, **arguments)
    if kind == "matmul":
        config = hyperion.CacheConfig(**arguments) if arguments else None
        out = np.empty((arrays[0].shape[0], arrays[1].shape[1]), np.float32)
        return lambda: hyperion.matmul(*arrays, out, cache=config, threads=threads)
    call, out = getattr(hyperion, kind), np.empty_like(arrays[0])
    return lambda: call(*arrays, out=out, threads=threads, **arguments)


def decode(arrays: list[np.ndarray], threads: int, kv_type: str) -> Work:
    """A block of the engine for one more token after all positions but one: its projections, of width 16, hardly count.

    The queries are other than the peers' (the block makes them), so that results are not compared.
    """
    from hyperion._kernels import nn, quant
    from hyperion._kernels.threads import Team

    (heads, _, head_dim), (kv_heads, positions, _) = arrays[0].shape, arrays[1].shape
    width = 16
    shape = nn.Shape(
        dim=width, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ffn_dim=width, rot=0, interleaved=False, gelu=False,
        eps=1e-5, scale=head_dim**-0.5, kv_type=kv_type,
    )  # fmt: skip
    rows = {"q": heads, "k": kv_heads, "v": kv_heads}
    sizes = {name: (n * head_dim, width) for name, n in rows.items()} | {"o": (width, heads * head_dim)}
    sizes |= dict.fromkeys(("gate", "up", "down"), (width, width))
    rng, matrices = np.random.default_rng(1), {}
    for name, (n, k) in sizes.items():
        packed = quant.pack("f32", rng.standard_normal((n, k), dtype=np.float32).view(np.uint8).reshape(-1), n, k)
        matrices[name] = nn.Matrix(packed.type.id, n, k, packed.owner, packed.offset)
    ones = np.ones(width, np.float32)
    block = nn.Block(shape, matrices, {"attn_norm": ones, "ffn_norm": ones})
    cache = nn.Cache(shape, 1, positions, aligned(shape.kv_bytes(positions)))
    team = Team(threads)
    runtime, scratch = nn.Runtime(team), aligned(shape.scratch_bytes(positions, threads))

    def token(first: int, count: int) -> None:
        x = rng.standard_normal((count, width), dtype=np.float32)
        places = np.arange(first, first + count, dtype=np.int64)
        runtime.block_forward(shape, block, 0, [cache], places, np.zeros(count, np.int32), np.zeros((count, 0), np.float32), x, scratch)

    token(0, positions)
    last = (np.array([positions - 1], np.int64), np.zeros(1, np.int32), np.zeros((1, 0), np.float32))
    x, start = np.empty((1, width), np.float32), np.ones((1, width), np.float32)

    def work() -> None:
        x[...] = start
        runtime.block_forward(shape, block, 0, [cache], *last, x, scratch)

    return work


def aligned(nbytes: int) -> np.ndarray:
    """Zeros at a multiple of 64."""
    whole = np.zeros(nbytes + 64, np.uint8)
    skip = -whole.ctypes.data % 64
    return whole[skip : skip + nbytes]


# ---- NumPy and torch ---------------------------------------------------------------------------------------


def numpy(case: dict[str, Any], arrays: list[np.ndarray], threads: int) -> Work | None:
    """What NumPy has; the environment gives it its threads."""
    if case["kind"] == "matmul":
        out = np.empty((arrays[0].shape[0], arrays[1].shape[1]), np.float32)
        return lambda: np.matmul(*arrays, out=out)
    out = np.empty_like(arrays[0])
    return {"tanh": lambda: np.tanh(*arrays, out=out), "relu": lambda: np.maximum(*arrays, 0, out=out)}.get(case["kind"])


def torch(case: dict[str, Any], arrays: list[np.ndarray], threads: int) -> Work | None:
    """What torch has, its results in memory that it allocates; settings of Hyperion's own are left out."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    tensors, functions, kind = [torch.from_numpy(array) for array in arrays], torch.nn.functional, case["kind"]
    if kind == "matmul":
        out = torch.empty(tensors[0].shape[0], tensors[1].shape[1])
        return lambda: torch.matmul(*tensors, out=out)
    if kind in ("attention", "decode"):
        batches, attend = [t[None] for t in tensors], functions.scaled_dot_product_attention
        return lambda: attend(*batches, is_causal=kind == "attention", enable_gqa=True)
    if kind in ("rms_norm", "layer_norm"):
        x, *others = tensors
        return lambda: getattr(functions, kind)(x, others[0].shape, *others, eps=1e-5)
    arguments = case["arguments"]
    if kind in ("conv1d", "conv2d"):
        return lambda: getattr(functions, kind)(*tensors, **arguments)
    if kind == "softmax":
        return lambda: torch.softmax(*tensors, -1)
    call = getattr(torch, kind, None) or getattr(functions, kind)
    return lambda: call(*tensors, **arguments)


# ---- Requests ----------------------------------------------------------------------------------------------


def prepare(library: str, case: dict[str, Any], threads: int) -> list[float] | None:
    """Make a case's operands and work; return some results, none where a library does not have it."""
    state.clear()
    work = {"hyperion": hyperion, "numpy": numpy, "torch": torch}[library](case, operands(case), threads)
    if work is None:
        return None
    state["work"] = work
    results = work()
    if results is None:
        return []
    values = np.asarray(results).ravel()
    return values[:: max(1, values.size // RESULTS)].tolist()


def repeated(least: float) -> float:
    """Seconds of one call, the mean of as many as fill `least`."""
    work, calls, done, start = state["work"], 1, 0, time.perf_counter()
    while True:
        for _ in range(calls):
            work()
        done += calls
        seconds = time.perf_counter() - start
        if seconds >= least:
            return seconds / done
        calls = max(1, min(1000, math.ceil((least - seconds) / seconds * done)))  # so that the clock is seldom asked


def sample() -> float:
    """Seconds of one call, after others that are not timed."""
    if repeated(0.0) < WARM:
        repeated(WARM)
    return repeated(TIMED)


if __name__ == "__main__":
    serve({"prepare": prepare, "sample": sample})
