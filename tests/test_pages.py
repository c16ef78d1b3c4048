"""Page buffers: alignment, zeros, lifetime under views, failure."""

import gc
import os
import sys

import numpy as np
import pytest

from hyperion._kernels.pool import PAGE_SIZE, PageBuffer, fail_allocation, rounded
from hyperion.errors import HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError

MIB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * PAGE_SIZE


@pytest.mark.parametrize("huge", [False, True])
@pytest.mark.parametrize(
    "nbytes", [0, 1, 63, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 4 * MIB - 1, 4 * MIB, 5 * MIB + 7]
)
def test_zeroed_aligned_and_writable(nbytes, huge):
    buffer = PageBuffer(nbytes, huge)
    assert buffer.nbytes == len(buffer) == nbytes
    assert buffer.mapped == rounded(nbytes)
    assert buffer.address % PAGE_SIZE == 0
    if huge and nbytes >= 4 * MIB and sys.platform != "win32":
        assert buffer.address % (2 * MIB) == 0
    view = memoryview(buffer)
    assert (view.format, view.itemsize, view.ndim, view.nbytes, view.readonly) == ("B", 1, 1, nbytes, False)
    array = np.frombuffer(buffer, np.uint8) if nbytes else np.zeros(0, np.uint8)
    assert not array.any()
    array[:] = 255
    assert bytes(view) == b"\xff" * nbytes


def test_rounded():
    assert rounded(0) == rounded(1) == rounded(PAGE_SIZE) == PAGE_SIZE
    assert rounded(PAGE_SIZE + 1) == 2 * PAGE_SIZE


def test_a_view_keeps_the_pages():
    released = []
    buffer = PageBuffer(PAGE_SIZE, on_release=lambda: released.append(True))
    array = np.frombuffer(buffer, np.uint8)
    part = array[10:20]
    part[:] = 7
    buffer.close()
    buffer.close()
    assert buffer.closed
    assert not buffer.released
    for use in (
        lambda: buffer.address,
        lambda: memoryview(buffer),
        lambda: buffer.discard(),
        buffer.__enter__,
    ):
        with pytest.raises(HyperionRuntimeError, match="closed"):
            use()
    del array
    gc.collect()
    assert part.tolist() == [7] * 10
    assert not released
    del part
    gc.collect()
    assert released == [True]
    assert buffer.released
    assert buffer.nbytes == buffer.mapped == 0
    buffer.close()
    assert released == [True]


def test_a_view_outlives_the_buffer():
    array = np.frombuffer(PageBuffer(5 * MIB), np.float32)
    array[:] = 1
    assert array.sum() == 5 * MIB / 4


def test_released_with_the_object():
    released = []
    buffer = PageBuffer(1, on_release=lambda: released.append(True))
    del buffer
    gc.collect()
    assert released == [True]
    with PageBuffer(1, on_release=lambda: released.append(True)):
        assert len(released) == 1
    assert len(released) == 2


def test_failure_in_on_release_is_reported_not_raised(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    buffer = PageBuffer(1, on_release=lambda: 1 / 0)
    buffer.close()
    assert buffer.released
    assert [entry.exc_type for entry in seen] == [ZeroDivisionError]


@linux
def test_memory_goes_back():
    before = resident()
    buffer = PageBuffer(64 * MIB)
    assert resident() - before < 8 * MIB
    np.frombuffer(buffer, np.uint8)[:] = 1
    assert resident() - before > 60 * MIB
    buffer.close()
    assert resident() - before < 8 * MIB


@linux
def test_without_huge_pages_only_what_is_touched_is_resident():
    before = resident()
    buffer = PageBuffer(256 * MIB, huge=False)
    np.frombuffer(buffer, np.uint8)[:: 16 * MIB] = 1
    assert resident() - before < 2 * MIB
    buffer.close()


@linux
def test_huge_tail_adds_nothing():
    """A buffer that ends just after a huge page must not make the rest of another one resident."""
    before = resident()
    buffer = PageBuffer(6 * MIB + 1)
    np.frombuffer(buffer, np.uint8)[:] = 1
    assert resident() - before < 6 * MIB + 512 * 1024
    buffer.close()


def test_discard():
    buffer = PageBuffer(5 * PAGE_SIZE + 100)
    array = np.frombuffer(buffer, np.uint8)
    array[:] = 1
    buffer.discard(PAGE_SIZE - 1, 2 * PAGE_SIZE)
    assert array.reshape(-1).sum() == array.size - PAGE_SIZE
    assert not array[PAGE_SIZE : 2 * PAGE_SIZE].any()
    buffer.discard(5 * PAGE_SIZE)
    assert not array[5 * PAGE_SIZE :].any()
    array[:] = 2
    assert (array == 2).all()
    buffer.discard()
    assert not array.any()
    for offset, nbytes in [(array.size + 1, None), (array.size, 1), (1, array.size), (0, -1), (0, 2**62)]:
        with pytest.raises(InvalidArgumentError):
            buffer.discard(offset, nbytes)


@pytest.mark.parametrize("nbytes", [-1, 1.0, "1", None, True])
def test_bad_size(nbytes):
    with pytest.raises(InvalidArgumentError, match="nbytes"):
        PageBuffer(nbytes)


@pytest.mark.parametrize("nbytes", [2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 2**200])
def test_impossible_size(nbytes):
    with pytest.raises(HyperionMemoryError):
        PageBuffer(nbytes)


def test_injected_failure():
    released = []
    fail_allocation(3)
    kept = [PageBuffer(10), PageBuffer(10)]
    with pytest.raises(HyperionMemoryError, match="no 10 bytes"):
        PageBuffer(10, on_release=lambda: released.append(True))
    kept.append(PageBuffer(10))
    fail_allocation(1)
    fail_allocation(0)
    kept.append(PageBuffer(10))
    assert len(kept) == 4
    assert not released


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_cycles_leave_no_mapping():
    def mappings():
        with open("/proc/self/maps") as f:
            return len(f.readlines())

    PageBuffer(5 * MIB).close()
    before = mappings()
    for i in range(500):
        np.frombuffer(PageBuffer(1 + i * 20011), np.uint8)[0] = 1
    assert mappings() <= before + 2
