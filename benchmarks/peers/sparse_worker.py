"""One library's product of a sparse matrix as a worker: Hyperion's, SciPy's, or NumPy's of the dense array."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from benchmarks.peers.worker import serve

SECONDS = 0.06  # how long products are repeated, once untimed (threads and clocks come out of their rest) and once timed
WARM = 4  # products until an owned matrix has what it makes of itself
state: dict[str, Callable[[], np.ndarray]] = {}


def random_dense(rng: np.random.Generator, size: int, density: float, block: int) -> np.ndarray:
    """Values kept at random, singly or in blocks."""
    cells = -(-size // block)
    kept = rng.random((cells, cells)) < density
    mask = np.repeat(np.repeat(kept, block, 0), block, 1)[:size, :size]
    return rng.standard_normal((size, size), dtype=np.float32) * mask


def hyperion(dense: np.ndarray, x: np.ndarray, kind: str, block: int, threads: int) -> list[float]:
    """Seconds of the conversion and of the first products, one of which also makes what later ones use."""
    from hyperion import SparseConfig, convert_to_sparse, sparse_mat_mul

    stamps = [time.perf_counter()]
    matrix = convert_to_sparse(dense, SparseConfig(format=kind, block_size=block), threads=threads)
    stamps.append(time.perf_counter())
    state["product"] = lambda: sparse_mat_mul(matrix, x, threads=threads)
    for _ in range(WARM):
        state["product"]()
        stamps.append(time.perf_counter())
    return np.diff(stamps).tolist()


def scipy(dense: np.ndarray, x: np.ndarray, kind: str, block: int, threads: int) -> list[float]:
    """The same for SciPy, which has one thread."""
    from scipy import sparse

    make = {"csr": sparse.csr_array, "csc": sparse.csc_array, "bsr": lambda a: sparse.bsr_array(a, blocksize=(block, block))}
    matrix = make[kind](dense)
    state["product"] = lambda: matrix @ x
    return []


def numpy(dense: np.ndarray, x: np.ndarray, kind: str, block: int, threads: int) -> list[float]:
    """The product of the array with all its zeros; the environment gives the library its threads."""
    state["product"] = lambda: dense @ x
    return []


def prepare(library: str, kind: str, density: float, columns: int, size: int, block: int, threads: int) -> dict:
    """Make the operands, which are the same for every library; report some results and what came first."""
    rng = np.random.default_rng(0)
    dense = random_dense(rng, size, density, block if kind == "bsr" else 1)
    x = rng.standard_normal((size, columns) if columns > 1 else (size,), dtype=np.float32)
    first = {"hyperion": hyperion, "scipy": scipy, "numpy": numpy}[library](dense, x, kind, block, threads)
    return {"first": first, "results": state["product"]().ravel()[::37].tolist(), "stored": int(np.count_nonzero(dense))}


def repeated() -> float:
    """Seconds of a product, the mean of as many as fill the time."""
    n, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < SECONDS:
        state["product"]()
        n += 1
    return seconds / n


def product() -> float:
    """Seconds of a product, after others that are not timed."""
    repeated()
    return repeated()


if __name__ == "__main__":
    serve({"prepare": prepare, "product": product})
