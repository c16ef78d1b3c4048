"""The ring's ways of reading: all give the same bytes, are compared again and again, and leave the page cache alone."""

import ctypes
import mmap
import os
import sys

import numpy as np
import pytest

from hyperion._kernels import stream
from hyperion._kernels.nn import Runtime
from hyperion._kernels.threads import Team
from hyperion.errors import InvalidArgumentError
from hyperion.memory import MemoryBudget, allocate

F32, COLS, ROWS = 0, 4096, 64
PIECE = ROWS * COLS * 4  # 1 MiB
PIECES = 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("ring") / "weights"
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        file.writelines(rng.standard_normal((ROWS, COLS), np.float32).tobytes() for _ in range(PIECES))
        file.flush()
        os.fsync(file.fileno())
    return path


def cached_bytes(path):
    """Bytes of a file that the system's page cache holds."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = os.path.getsize(path)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED) as view:
        address = np.frombuffer(view, np.uint8).ctypes.data
        pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
        assert libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), pages) == 0, ctypes.get_errno()
        return sum(p & 1 for p in pages) * mmap.PAGESIZE


def ring_of(path, io, slots=4):
    file = stream.File(path)
    size = stream.piece_buffer_bytes(PIECE)
    memory = allocate(MemoryBudget(None, name="test"), "ring", slots * size + (slots - 1) * 16 * COLS * 4)
    pieces = [(f"piece {i}", file, i * PIECE, F32, ROWS, COLS, False, i, 0, None, None) for i in range(PIECES)]
    return stream.Ring(pieces, memory, slots, size, slots - 1, io)


@pytest.mark.parametrize("io", ["auto", "buffered", "direct"])
def test_passes_of_all_ways(weights, io):
    ring = ring_of(weights, io)
    try:
        while ring.stats["passes"] < 4:
            ring.skim(0.05)
        stats = ring.stats
    finally:
        ring.close()
    assert stats["bytes_used"] >= 4 * PIECES * PIECE
    direct = io != "buffered" and stream.File(weights).has_direct
    assert stats["settled"]  # where it was open, each was tried
    assert (stats["direct_rate"] > 0) == direct
    assert (stats["evicted_rate"] > 0) == (direct and stream.can_evict())
    assert (stats["buffered_rate"] > 0) == (io != "direct" or not direct)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the pages of Linux's cache")
def test_buffered_reads_do_not_fill_the_page_cache(weights):
    stream.File(weights).drop_cache()
    if cached_bytes(weights):
        pytest.skip("this file system keeps its pages, as one in memory does")
    ring = ring_of(weights, "buffered")
    try:
        while ring.stats["passes"] < 2:
            ring.skim(0.02)
        held = cached_bytes(weights)
        total = os.path.getsize(weights)
    finally:
        ring.close()
    assert 0 < held <= total // 2, f"{held} of {total} bytes are cached"


def test_room_to_pack_for_every_thread(weights):
    ring = ring_of(weights, "buffered")
    try:
        Runtime(Team(1), "generic").set_source(ring)
        with pytest.raises(InvalidArgumentError, match="1 workers, and 2 threads"):
            Runtime(Team(2), "generic").set_source(ring)
    finally:
        ring.close()
