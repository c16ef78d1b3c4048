"""Reading weights: one run of rows at a time into its final place, or a schedule of runs through a ring."""

import os

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from cpython.exc cimport PyErr_Occurred

import numpy as np

from hyperion._kernels.threads cimport check_signals, check_status

from hyperion._kernels.quant import check_offsets
from hyperion.errors import (
    FormatError,
    HyperionIOError,
    HyperionMemoryError,
    HyperionRuntimeError,
    InvalidArgumentError,
)

IO_MODES = {"direct": HYP_IO_DIRECT, "buffered": HYP_IO_BUFFERED, "auto": HYP_IO_AUTO}
DIRECT_ALIGN = HYP_DIRECT_ALIGN

cdef enum:
    READ_LAG = 16 << 20  # a few threads pin weights side by side, in reads of some MiB each


cdef class File:
    """An open file for positioned reads, with a second descriptor that bypasses the page cache where there is such."""

    def __cinit__(self, path, bint direct=True):
        self.c.buffered = self.c.direct = -1
        self.path = os.fspath(path)
        flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        try:
            self.c.buffered = os.open(self.path, flags)
            if direct and hasattr(os, "O_DIRECT"):
                try:
                    self.c.direct = os.open(self.path, flags | os.O_DIRECT)
                except OSError:  # the file system has no direct reads
                    self.c.direct = -1
            elif direct and hasattr(os, "F_NOCACHE"):
                self.c.direct = -1
        except OSError as error:
            raise HyperionIOError(f"cannot open {self.path!r}: {error.strerror}", path=self.path) from None
        if hyp_file_state(self.c.buffered, self.c.state):
            raise HyperionIOError(f"cannot read the state of {self.path!r}", path=self.path)
        hyp_read_in_order(self.c.buffered)

    def __dealloc__(self):
        self._close()

    def _close(self):
        if self.c.buffered >= 0:
            os.close(self.c.buffered)
        if self.c.direct >= 0:
            os.close(self.c.direct)
        self.c.buffered = self.c.direct = -1

    def drop_cache(self):
        """Give back the file's pages that the system still caches."""
        if self.c.buffered >= 0:
            hyp_drop_cache(self.c.buffered, 0, 0)

    @property
    def has_direct(self):
        return self.c.direct >= 0

    @property
    def size(self):
        return self.c.state[0]

    @property
    def unchanged(self):
        """The file is what it was when it was opened."""
        cdef int64_t now[3]
        return self.c.buffered >= 0 and not hyp_file_state(self.c.buffered, now) and \
            (now[0], now[1], now[2]) == (self.c.state[0], self.c.state[1], self.c.state[2])


cdef hyp_extent _extent(File file, int type, size_t offset, size_t rows, size_t cols, bint packed,
                        const uint32_t[::1] sums, const uint64_t[::1] offsets) except *:
    cdef hyp_extent e
    if hyp_block_len(type) == 0 or rows == 0 or cols == 0 or cols % hyp_block_len(type):
        raise InvalidArgumentError(f"rows [{rows}, {cols}] of type {type} cannot be packed")
    e.file, e.offset, e.type, e.packed, e.rows, e.cols, e.check = &file.c, offset, type, packed, rows, cols, True
    e.sums = NULL
    if sums is not None:
        if not packed or <size_t>sums.shape[0] != (rows + HYP_PANEL - 1) // HYP_PANEL:
            raise InvalidArgumentError(f"{sums.shape[0]} checksums for {rows} rows: packed panels have one each")
        e.sums = &sums[0]
    e.offsets = NULL
    if offsets is not None:
        if not packed:
            raise InvalidArgumentError("only packed panels are sparse")
        check_offsets(type, rows, cols, offsets)
        e.offsets = &offsets[0]
    return e


def describe_failure(str what, str path, int error):
    """The exception for a failed read of `what`."""
    if error == HYP_READ_NOT_FINITE:
        return FormatError(f"{what} of {path!r} has a scale or a weight that is NaN or infinite", path=path, what=what)
    if error == HYP_READ_DAMAGED:
        message = f"{what} of {path!r} is damaged: its checksum is not the one that was written"
        return FormatError(message, path=path, what=what)
    if error == HYP_READ_UNSOUND:
        message = f"{what} of {path!r} has a sparse panel whose list of blocks cannot be"
        return FormatError(message, path=path, what=what)
    if error == HYP_READ_CHANGED:
        reason = "the file was changed, replaced or truncated after it was opened"
    elif error == 0:
        reason = "the file ended early"
    else:
        reason = os.strerror(error)
    return HyperionIOError(f"{what}: reading {path!r} failed: {reason}", path=path, what=what, errno=error)


def read_rows(File file, int type, size_t offset, size_t rows, size_t cols, uint8_t[::1] out, *, bint packed=False,
              bint direct=False, str what="weights", const uint32_t[::1] sums=None,
              const uint64_t[::1] offsets=None):
    """Read rows and leave them as packed panels in `out`, which has exactly their panels' bytes.

    A direct read needs an aligned buffer with slack and is for :class:`Ring`; here reads are buffered and the pages
    are dropped from the cache behind them. `packed`: the file holds panels already, each of which must have its
    checksum of `sums` where they are given; sparse panels have their `offsets`, counted from any place.
    """
    cdef hyp_extent e = _extent(file, type, offset, rows, cols, packed, sums, offsets)
    cdef hyp_read_stats stats
    cdef const uint8_t *panels
    cdef int error = 0, status
    cdef uint8_t *temp
    if <size_t>out.shape[0] != hyp_extent_panel_bytes(&e):
        raise InvalidArgumentError(f"{rows} rows take {hyp_extent_panel_bytes(&e)} bytes, out has {out.shape[0]}")
    if out.shape[0] == 0:
        return 0
    temp = <uint8_t *>malloc(hyp_panel_bytes(type, cols))
    if temp is NULL:
        raise HyperionMemoryError(f"{what}: no memory for one panel")
    try:
        with nogil:
            status = hyp_extent_read(&e, 0, &out[0], temp, &panels, &stats, &error)
            hyp_drop_behind(&e, READ_LAG)
    finally:
        free(temp)
    if status == HYP_ERROR_IO:
        raise describe_failure(what, file.path, error)
    if status != HYP_OK:
        raise InvalidArgumentError(f"{what}: packing ended with status {status}")
    return stats.bytes_read


def checksum(data):
    """The 32 bits by which a .hyperion file knows these bytes (see c/stream/verify.h)."""
    cdef const uint8_t[::1] view = memoryview(data).cast("B") if memoryview(data).nbytes else b"\0"
    cdef size_t n = memoryview(data).nbytes
    cdef uint32_t result
    with nogil:
        result = hyp_checksum(&view[0], n)
    return result


def checksums(data, offsets, uint32_t[::1] out):
    """out[i] = checksum of bytes [offsets[i], offsets[i + 1]) of data, which ends at the last offset; where `offsets` is an
    integer, of the ith run of so many bytes."""
    cdef size_t i, n = out.shape[0], nbytes = memoryview(data).nbytes
    cdef const uint8_t[::1] view = memoryview(data).cast("B") if nbytes else b"\0"
    cdef const uint64_t[::1] at
    if isinstance(offsets, int):
        offsets = np.arange(n + 1, dtype=np.uint64) * np.uint64(offsets)
    at = offsets
    if n == 0 or <size_t>at.shape[0] != n + 1 or at[0] != 0 or at[n] != nbytes or (np.diff(np.asarray(at)) > nbytes).any():
        raise InvalidArgumentError(f"{nbytes} bytes are not {n} runs that end at {at[at.shape[0] - 1]}")
    with nogil:
        for i in range(n):
            out[i] = hyp_checksum(&view[at[i]], at[i + 1] - at[i])


def piece_buffer_bytes(size_t panel_bytes):
    """Bytes that a piece takes in a slot: its panels, and slack for the alignment of direct reads."""
    return hyp_extent_buffer_bytes(panel_bytes)


def can_evict():
    """Whether this processor gives lines of its caches back on demand, which is one of the ring's ways to read."""
    return bool(hyp_can_evict())


def inject_read_failure(int64_t n, int error=5):
    """Testing: the nth read from now on fails with this errno (0: the file seems short). n = 0 switches it off."""
    hyp_reader_inject(n, error)


cdef class Ring:
    """Reader threads that keep the pieces of a schedule coming.

    Parameters
    ----------
    pieces : sequence of (name, file, offset, type, rows, cols, packed, chunk, at, sums, offsets)
        In the order in which a pass uses them; see c/stream/ring.h. `sums` has a checksum for each panel, or is None; so are
        `offsets` where panels are not sparse.
    memory : buffer
        slots * slot_bytes bytes, and for each of the `workers` that multiply three of the largest panel that has to be packed;
        aligned to 4096.
    """

    def __cinit__(self, pieces, memory, size_t slots, size_t slot_bytes, size_t readers=2, str io="auto", size_t workers=1):
        cdef uint8_t[::1] view = memory
        cdef size_t i
        cdef File file
        if io not in IO_MODES:
            raise InvalidArgumentError(f"io is one of {sorted(IO_MODES)}, not {io!r}")
        self.n, self.io = len(pieces), io
        self.slots, self.slot_bytes = min(slots, len({p[7] for p in pieces})), slot_bytes
        self.workers = workers
        self.files, self.sums, self.offsets = [], [], []
        self.memory, self.names = memory, tuple((p[0], p[1].path) for p in pieces)
        if self.n == 0 or slots == 0 or <size_t>view.shape[0] < slots * slot_bytes or <size_t>&view[0] % HYP_DIRECT_ALIGN:
            raise InvalidArgumentError(f"a ring of {slots} slots of {slot_bytes} bytes for {self.n} pieces cannot be")
        self.pieces = <hyp_ring_piece *>calloc(self.n, sizeof(hyp_ring_piece))
        if self.pieces is NULL:
            raise HyperionMemoryError("no memory for the ring's schedule")
        for i, (name, file, offset, type, rows, cols, packed, chunk, at, sums, offsets) in enumerate(pieces):
            self.files.append(file)
            self.sums.append(sums)
            self.offsets.append(offsets)
            self.pieces[i].extent = _extent(file, type, offset, rows, cols, packed, sums, offsets)
            self.pieces[i].chunk, self.pieces[i].at = chunk, at
            if at % HYP_DIRECT_ALIGN or at + hyp_extent_buffer_bytes(hyp_extent_panel_bytes(&self.pieces[i].extent)) > slot_bytes:
                raise InvalidArgumentError(f"piece {i} ({name}) does not fit a slot of {slot_bytes} bytes at {at}")
            if chunk != (self.pieces[i - 1].chunk if i else 0) and (i == 0 or chunk != self.pieces[i - 1].chunk + 1):
                raise InvalidArgumentError(f"piece {i} ({name}) is of chunk {chunk}, out of order")
        need = hyp_ring_bytes(self.pieces, self.n, slots, slot_bytes, workers)
        if <size_t>view.shape[0] < need:
            raise InvalidArgumentError(f"a ring of {slots} slots for {workers} workers takes {need} bytes, not {view.shape[0]}")
        self.c = hyp_ring_create(self.pieces, self.n, &view[0], slots, slot_bytes, readers, workers, IO_MODES[io])
        if self.c is NULL:
            raise HyperionMemoryError("no memory for the ring")
        self.acquire, self.release = hyp_ring_acquire, hyp_ring_release
        hyp_ring_set_poll(self.c, check_signals, NULL)

    def __dealloc__(self):
        hyp_ring_destroy(self.c)
        free(self.pieces)

    def close(self):
        """Stop the readers; reads under way end first."""
        cdef hyp_ring *ring = self.c
        self.c = NULL
        with nogil:
            hyp_ring_destroy(ring)

    def restart(self):
        """Back to the first piece, after a pass that did not finish."""
        with nogil:
            hyp_ring_restart(self.c)

    def skim(self, double seconds):
        """Take pieces and give them back for about so long, to see how fast they come.

        Ends between passes or within one.
        """
        cdef double end = hyp_seconds() + seconds
        cdef size_t piece = hyp_ring_position(self.c)
        cdef hyp_taken taken
        cdef int status = HYP_OK
        with nogil:
            while status == HYP_OK and hyp_seconds() < end:
                status = hyp_ring_acquire(self.c, piece, &taken)
                if status == HYP_OK:
                    hyp_ring_release(self.c, piece)
                    piece = piece + 1 if piece + 1 < self.n else 0
        if status != HYP_OK:
            check_status(status, "reading weights") if status == HYP_CANCELLED else self.raise_failure()

    cpdef int seek(self, size_t piece) except -1:
        """Go on at a piece in the middle of the schedule: layers that are run again take their weights once more."""
        cdef int status
        with nogil:
            status = hyp_ring_seek(self.c, piece)
        if status == HYP_OK:
            return 0
        if PyErr_Occurred() is not NULL:  # set by the poll that cancelled
            return -1
        self.raise_failure()
        raise HyperionRuntimeError(f"going to piece {piece} of {self.n} ended with status {status}")

    @property
    def position(self):
        """The piece that has to be taken next; 0 before a pass."""
        return hyp_ring_position(self.c)

    cpdef int raise_failure(self) except -1:
        """Raise what stopped the readers, if anything did."""
        cdef int error = 0
        cdef int64_t piece = hyp_ring_failure(self.c, &error)
        if piece >= 0:
            name, path = self.names[piece]
            raise describe_failure(name, path, error)
        return 0

    @property
    def window(self):
        """Slots that are filled ahead of the consumer, 1 to all."""
        return hyp_ring_window(self.c)

    @window.setter
    def window(self, size_t slots):
        hyp_ring_set_window(self.c, slots)

    @property
    def stats(self):
        """Counters since the ring was made: passes, bytes, seconds (see c/stream/ring.h)."""
        cdef hyp_ring_stats s
        hyp_ring_get_stats(self.c, &s)
        return s
