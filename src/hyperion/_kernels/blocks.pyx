"""Pools and their blocks: what `hyperion.memory.pool` is made of.

The interpreter's lock serialises all calls on a pool; the C code never calls back, so a collection or another
thread finds a whole pool whenever Python code runs.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.long cimport PyLong_AsLongLongAndOverflow

import sys

from hyperion.errors import HyperionMemoryError, HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError

from hyperion._kernels.pool cimport (
    HYP_OK, checked_size, hyp_pages_map, hyp_pages_rounded, hyp_pages_unmap, shall_fail)

STATIC, POOLED, DYNAMIC, HYBRID = HYP_POOL_STATIC, HYP_POOL_POOLED, HYP_POOL_DYNAMIC, HYP_POOL_HYBRID
ALIGNMENT = HYP_SLOT
DIRECT_FROM = HYP_DIRECT_FROM

cdef enum:
    LIVE = 1  # in use
    CLOSED = 2  # freed, and views still use it
    GONE = 3

cdef hyp_account process  # all pools together; touched with the interpreter's lock held only
cdef bint tracking = False
cdef dict sites = {}


# ---- Allocation sites -------------------------------------------------------------------------------------


@cython.final
cdef class Site:
    """A line of Python that allocates, and what it has in use; made while allocations are tracked.

    Attributes
    ----------
    kind : str
        ``"block"`` or ``"reservation"``.
    filename, line, function
        The innermost caller outside this package.
    live_count, live_bytes : int
        Allocations in use, and their bytes.
    count, total_bytes : int
        All allocations made there while tracking was on.
    dropped : int
        Blocks that were collected without having been freed.
    """

    def __cinit__(self, str kind, str filename, int line, str function):
        self.kind, self.filename, self.line, self.function = kind, filename, line, function

    cdef void taken(self, uint64_t nbytes, uint64_t blocks) noexcept:
        self.live_bytes += nbytes
        self.live_count += blocks
        self.total_bytes += nbytes
        self.count += blocks

    cdef void given(self, uint64_t nbytes, uint64_t blocks) noexcept:
        self.live_bytes -= nbytes
        self.live_count -= blocks

    def grown(self, nbytes, blocks):
        """Count an allocation, or `nbytes` more of one."""
        self.taken(nbytes, blocks)

    def shrunk(self, nbytes, blocks):
        """Count the end of an allocation, or of `nbytes` of one."""
        self.given(nbytes, blocks)

    def __repr__(self):
        return f"Site({self.filename}:{self.line}, {self.live_count} {self.kind}s, {self.live_bytes} bytes)"


def calling_site(str kind):
    """The `Site` of the innermost caller outside this package."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".", 1)[0] == "hyperion":
        frame = frame.f_back
    key = kind, frame.f_code.co_filename, frame.f_lineno
    found = sites.get(key)
    if found is None:
        found = sites.setdefault(key, Site(kind, key[1], key[2], frame.f_code.co_name))
    return found


def set_tracking(bint on):
    """Note the allocation site of every block of every pool from now on, or no longer."""
    global tracking
    tracking = on


def all_sites():
    """Every `Site` so far."""
    return list(sites.values())


def forget_sites():
    """Begin the list of sites anew; what is in use is then not listed any more."""
    sites.clear()


def process_account():
    """(current, peak, total, count, live, held) of all pools together; see `Pool.account`."""
    return process.current, process.peak, process.total, process.count, process.live, process.held


# ---- Blocks -----------------------------------------------------------------------------------------------


@cython.final
@cython.freelist(512)
@cython.no_gc
cdef class Block:
    """Memory from a pool, aligned to 64 bytes, as a writable buffer of uint8. Its content is undefined at first.

    Made by :meth:`Pool.alloc` only. A block that is dropped is freed.

    Notes
    -----
    A view (``memoryview``, ``numpy.frombuffer``) keeps the memory alive: :meth:`free` refuses new views at once, and
    the memory returns to the pool with the last view.
    """

    def __init__(self):
        raise TypeError("blocks come from a pool's alloc()")

    def __dealloc__(self):
        # Nobody refers to it: neither views nor holders are left.
        if self._state == LIVE or self._state == CLOSED:
            if self._site is not None and self._state == LIVE and self._era == self._pool._era:
                self._site.dropped += 1
            self._give(True)

    cdef int _check(self) except -1:
        if self._state != LIVE or (self._era != self._pool._era and self._pages.data == NULL):
            raise HyperionRuntimeError(f"the block of {self._nbytes} bytes of pool {self._pool.name!r} was freed")
        return 0

    cdef int _free(self) except -1:
        if self._state != LIVE or (self._era != self._pool._era and self._pages.data == NULL):
            how = "was freed before" if self._state != LIVE else "was freed together with its pool"
            raise HyperionRuntimeError(
                f"double free: the block of {self._nbytes} bytes at {<size_t> self._data:#x} of pool "
                f"{self._pool.name!r} {how}")
        self._state = CLOSED
        if self._exports == 0:
            self._give(True)
        return 0

    cdef void _give(self, bint settle) noexcept:
        cdef Pool pool = self._pool
        cdef size_t mapped
        self._state = GONE
        if self._site is not None or self._pages.data != NULL:
            pool._unlist(self)
        if self._pages.data != NULL:
            mapped = self._pages.mapped
            if settle:
                with nogil:
                    hyp_pages_unmap(&self._pages)
            else:
                hyp_pages_unmap(&self._pages)
            pool._direct -= mapped
            hyp_pool_direct_given(&pool._c, self._nbytes, mapped)
        elif self._era == pool._era:
            hyp_pool_give(&pool._c, self._data, self._nbytes)
        if settle and pool._c.stats.held != pool._settled:
            pool._settle()

    cdef uint8_t *data(self) except NULL:
        self._check()
        return self._data

    cdef int hold(self) except -1:
        self._check()
        self._exports += 1
        if self._pages.data == NULL:
            self._pool._views += 1
        return 0

    cdef void drop(self) noexcept:
        cdef Pool pool = self._pool
        self._exports -= 1
        if self._pages.data == NULL:
            pool._views -= 1
            if self._era != pool._era:
                if pool._closed and pool._views == 0:
                    pool._finish()
                return
        if self._state == CLOSED and self._exports == 0:
            self._give(True)

    def __getbuffer__(self, Py_buffer *view, int flags):
        self.hold()
        try:
            PyBuffer_FillInfo(view, self, self._data, <Py_ssize_t> self._nbytes, 0, flags)
        except BaseException:
            self.drop()
            raise

    def __releasebuffer__(self, Py_buffer *view):
        self.drop()

    @property
    def address(self):
        """Address of the first byte."""
        return <size_t> self.data()

    @property
    def nbytes(self):
        """Size asked for."""
        return self._nbytes

    @property
    def pool(self):
        """The pool that it is from."""
        return self._pool

    @property
    def freed(self):
        """Whether it was freed, by itself or together with its pool; views may still use it."""
        return self._state != LIVE or (self._era != self._pool._era and self._pages.data == NULL)

    @property
    def released(self):
        """Whether its memory went back to the pool."""
        return self._state == GONE or (self._era != self._pool._era and self._pages.data == NULL)

    def __len__(self):
        return self._nbytes

    def free(self):
        """Give the memory back to the pool, as soon as no view uses it.

        Raises
        ------
        HyperionRuntimeError
            If it was freed before.
        """
        self._free()

    def __enter__(self):
        self._check()
        return self

    def __exit__(self, *error):
        if not self.freed:
            self._free()

    def __repr__(self):
        state = "released" if self.released else "freed" if self.freed else "in use"
        return f"Block({self._nbytes} bytes of pool {self._pool.name!r}, {state})"

    def __reduce__(self):
        raise TypeError("a Block cannot be pickled")


# ---- Pools ------------------------------------------------------------------------------------------------


@cython.no_gc_clear
cdef class Pool:
    """One region of address space that blocks come from; `hyperion.memory.MemoryPool` is its public face.

    Parameters
    ----------
    strategy : int
        STATIC, POOLED, DYNAMIC or HYBRID.
    capacity : int
        Bytes that it may hold at most.
    block : int
        POOLED: bytes of a block, rounded up to 64.
    promise : int
        Bytes that are reserved from the start and stay so; without any, address space is reserved when the first
        block needs it, or by :meth:`open`.
    keep : int
        Free bytes that are kept for reuse before pages go back to the system.
    huge, huge_region, demand, flexible, track : bool
        Advise huge pages for blocks of pages of their own, and for the region; choose size classes from demand; halve
        the capacity while the system refuses the address space; note the allocation site of every block.
    reservation
        Object with ``grow(nbytes)`` and ``shrink(nbytes)``, or None.
    read_size : callable
        Makes a number of bytes of what is not an ``int``.
    name : str
        For messages.
    """

    def __init__(self, int strategy, size_t capacity, size_t block, size_t promise, size_t keep, *, bint huge,
                 bint huge_region, bint demand, bint flexible, bint track, reservation, read_size, str name):
        if self._read_size is not None:
            raise HyperionRuntimeError("the pool is set up already")
        self._c.strategy, self._c.capacity = strategy, capacity
        self._c.block = (block + HYP_SLOT - 1) // HYP_SLOT * HYP_SLOT
        self._c.process = &process
        self._keep, self._demand, self._flexible = keep, demand, flexible
        self._huge, self._huge_region = huge, huge_region
        self._track, self._reservation, self._read_size, self.name = track, reservation, read_size, name
        self._direct_from = HYP_DIRECT_FROM if strategy == HYP_POOL_HYBRID else <size_t> -1
        self._era = 1
        if promise:
            self._open()
            self._promise = hyp_pool_cost(&self._c, promise)
            self._reserve(self._promise)

    def __dealloc__(self):
        # No block is left: each holds its pool.
        hyp_pool_close(&self._c)

    cdef int _open(self) except -1:
        cdef int status
        while True:
            status = HYP_OK + 1 if shall_fail() else hyp_pool_open(
                &self._c, self._c.strategy, self._c.capacity, self._c.block, self._keep,
                self._huge_region, self._demand)
            if status == HYP_OK:
                return 0
            if not self._flexible or self._c.capacity < <size_t> 128 << 20:
                raise HyperionMemoryError(
                    f"the system has no {self._c.capacity} bytes of address space for pool {self.name!r}",
                    nbytes=self._c.capacity)
            self._c.capacity //= 2

    cdef int _reserve(self, size_t more) except -1:
        cdef uint64_t held = self._c.stats.held
        if self._reservation is None:
            self._reserved += more
            return 0
        self._growing += 1
        try:
            self._reservation.grow(more)
        except MemoryBudgetError:
            hyp_pool_trim(&self._c)
            if self._c.stats.held >= held:
                raise
            return 0  # what was idle went back: the caller looks again
        finally:
            self._growing -= 1
        self._reserved += more
        return 0

    cdef size_t _held(self) noexcept:
        """What counts under this pool's own reservation."""
        return <size_t> self._c.stats.held - self._elsewhere

    cdef void _settle(self) noexcept:
        """Give back what is reserved and no longer held. While memory is being had, the one who does so comes here."""
        cdef size_t target = self._promise, less, held = self._held()
        if self._growing:
            return
        self._settled = self._c.stats.held
        if target < held:
            target = held
        if self._reserved > target:
            less = self._reserved - target
            self._reserved = target
            if self._reservation is not None:
                self._reservation.shrink(less)
        if self._closed and not self._reserved and self._reservation is not None:
            self._reservation.release()

    cdef object _full(self, size_t size):
        return HyperionMemoryError(
            f"pool {self.name!r} of {self._c.capacity} bytes cannot hold {size} bytes more: "
            f"{self._c.stats.live} blocks of together {self._c.stats.current} bytes are in use, and the longest free "
            f"run has {hyp_pool_largest(&self._c)}", nbytes=size, pool=self.name)

    cdef uint8_t *_more(self, size_t size) except NULL:
        """The path of a block that needs memory first."""
        cdef size_t more = 0
        cdef uint8_t *at
        try:
            while True:
                if self._closed:
                    raise HyperionRuntimeError(f"pool {self.name!r} is closed")
                if not self._c.open:
                    self._open()
                at = hyp_pool_take(&self._c, size)
                if at != NULL:
                    return at
                if hyp_pool_plan(&self._c, size, &more) != HYP_OK:
                    raise self._full(size)
                if self._direct and self._c.spans.committed + self._direct + more > self._c.capacity:
                    raise self._full(size)
                if self._held() + more > self._reserved:
                    self._reserve(self._held() + more - self._reserved)
                    continue  # other threads ran meanwhile
                if shall_fail() or hyp_pool_grow(&self._c, size) != HYP_OK:
                    raise HyperionMemoryError(f"the system has no {size} bytes of memory", nbytes=size)
        finally:
            self._settle()

    cdef Block _take_pages(self, size_t size):
        """HYBRID: a large block is the system's pages, and goes back to it at once."""
        cdef Block block
        cdef size_t mapped = hyp_pages_rounded(size)
        if self._closed:
            raise HyperionRuntimeError(f"pool {self.name!r} is closed")
        if not mapped or mapped > self._c.capacity or (
                self._direct + self._c.spans.committed > self._c.capacity - mapped):
            raise self._full(size)
        block = Block.__new__(Block)
        block._pool, block._nbytes, block._era = self, size, self._era
        try:
            while self._held() + mapped > self._reserved:
                self._reserve(self._held() + mapped - self._reserved)
            if shall_fail() or hyp_pages_map(&block._pages, size, self._huge) != HYP_OK:
                raise HyperionMemoryError(f"the system has no {size} bytes of memory", nbytes=size)
            self._direct += mapped
            hyp_pool_direct_taken(&self._c, size, mapped)
        finally:
            self._settle()
        block._data, block._state = block._pages.data, LIVE
        if tracking or self._track:
            block._site = calling_site("block")
            block._site.taken(size, 1)
        self._list(block)
        return block

    cdef size_t _size(self, nbytes) except? 0:
        cdef size_t size
        cdef long long value
        cdef int overflow = 0
        if nbytes is None:
            if self._c.strategy != HYP_POOL_POOLED:
                raise InvalidArgumentError(f"pool {self.name!r} has no fixed block size: say how many bytes")
            return self._c.block
        value = PyLong_AsLongLongAndOverflow(nbytes, &overflow) if type(nbytes) is int else -1
        if value >= 0 and not overflow:
            size = <size_t> value
        else:
            size = checked_size(nbytes if type(nbytes) is int else self._read_size(nbytes))
        if self._c.strategy == HYP_POOL_POOLED and size > self._c.block:
            raise InvalidArgumentError(f"the blocks of pool {self.name!r} have {self._c.block} bytes, not {size}")
        return size

    cdef Block _block(self, uint8_t *at, size_t size):
        cdef Block block = Block.__new__(Block)
        block._pool, block._data, block._nbytes = self, at, size
        block._era, block._state = self._era, LIVE
        if tracking or self._track:
            block._site = calling_site("block")
            block._site.taken(size, 1)
            self._list(block)
        return block

    def alloc(self, nbytes=None):
        """Return a block.

        Parameters
        ----------
        nbytes : int or str, optional
            Its size; a POOLED pool's block size by default.

        Returns
        -------
        Block
            Aligned to 64 bytes; its content is undefined.

        Raises
        ------
        InvalidArgumentError
            If `nbytes` is not a size, or is larger than a POOLED pool's blocks.
        HyperionMemoryError
            If the pool is full, or the system has no memory.
        MemoryBudgetError
            If the ledger cannot hold what the pool would need.
        HyperionRuntimeError
            If the pool is closed.
        """
        cdef size_t size
        cdef uint8_t *at
        if nbytes is None and self._c.strategy == HYP_POOL_POOLED:
            size = self._c.block
        else:
            size = self._size(nbytes)
            if size >= self._direct_from:
                return self._take_pages(size)
        at = hyp_pool_take(&self._c, size)
        if at == NULL:
            at = self._more(size)
        return self._block(at, size)

    def free(self, block):
        """Take a block back, as soon as no view uses it; new views are refused at once.

        Raises
        ------
        InvalidArgumentError
            If `block` is not a block of this pool.
        HyperionRuntimeError
            If it was freed before.
        """
        if type(block) is not Block:
            raise InvalidArgumentError(f"pool {self.name!r} frees its blocks, not {type(block).__name__}")
        if (<Block> block)._pool is not self:
            raise InvalidArgumentError(
                f"the block is from pool {(<Block> block)._pool.name!r}, not from pool {self.name!r}")
        (<Block> block)._free()

    # -- blocks that must be found again: pages of their own, and those whose site is known

    cdef void _list(self, Block block) noexcept:
        block._previous, block._next = NULL, self._listed
        if self._listed != NULL:
            (<Block> self._listed)._previous = <void *> block
        self._listed = <void *> block

    cdef void _unlist(self, Block block) noexcept:
        if block._site is not None:
            block._site.given(block._nbytes, 1)
        if block._previous != NULL:
            (<Block> block._previous)._next = block._next
        elif self._listed == <void *> block:
            self._listed = block._next
        if block._next != NULL:
            (<Block> block._next)._previous = block._previous
        block._next = block._previous = NULL

    cdef void _end_era(self) noexcept:
        """Free every block. No Python code runs here, so the list cannot change meanwhile."""
        cdef void *at = self._listed
        cdef Block block
        self._era += 1
        while at != NULL:
            block = <Block> at
            at = block._next
            if block._pages.data != NULL:
                if block._state == LIVE:
                    block._state = CLOSED
                if block._exports == 0:
                    block._give(False)
            else:
                self._unlist(block)
                block._site = None

    cdef void _finish(self) noexcept:
        hyp_pool_close(&self._c)
        self._promise = 0
        self._settle()

    def open(self):
        """Reserve the address space now; no page becomes memory."""
        if self._closed:
            raise HyperionRuntimeError(f"pool {self.name!r} is closed")
        if not self._c.open:
            self._open()

    def reset(self):
        """Free all blocks at once and give their memory back to the system; the pool stays usable.

        Raises
        ------
        HyperionRuntimeError
            If a view still uses a block, or the pool is closed.
        """
        if self._closed:
            raise HyperionRuntimeError(f"pool {self.name!r} is closed")
        if self._views:
            raise HyperionRuntimeError(f"pool {self.name!r} cannot be reset: {self._views} views use its blocks")
        self._end_era()
        hyp_pool_reset(&self._c)
        self._settle()

    def trim(self):
        """Give idle memory back to the system and return how many bytes that were."""
        cdef uint64_t held = self._c.stats.held
        hyp_pool_trim(&self._c)
        self._settle()
        return held - self._c.stats.held

    def close(self):
        """Free all blocks and give everything back, as soon as no view uses it. May be called again."""
        if self._closed:
            return
        self._closed = True
        self._end_era()
        if self._views == 0:
            self._finish()
        else:
            if self._c.open:
                self._c.open = 2
            self._settle()

    def __enter__(self):
        if self._closed:
            raise HyperionRuntimeError(f"pool {self.name!r} is closed")
        return self

    def __exit__(self, *error):
        self.close()

    def count_pages(self, size_t nbytes, size_t mapped, bint taken):
        """Count a buffer of whole pages, reserved elsewhere, that was made through this pool; or its end."""
        if taken:
            self._elsewhere += mapped
            self._asked_elsewhere += nbytes
            hyp_pool_direct_taken(&self._c, nbytes, mapped)
        else:
            self._elsewhere -= mapped
            self._asked_elsewhere -= nbytes
            hyp_pool_direct_given(&self._c, nbytes, mapped)

    @property
    def account(self):
        """(current, peak, total, count, live, held).

        Bytes that live blocks asked for, now and at most at one time; bytes and number of all blocks ever; blocks
        in use; bytes that may be resident for them: committed pages and tables.
        """
        cdef hyp_account *s = &self._c.stats
        return s.current, s.peak, s.total, s.count, s.live, s.held

    @property
    def idle(self):
        """Bytes held under the pool's own reservation that no live block asked for."""
        return self._held() - (<size_t> self._c.stats.current - self._asked_elsewhere)

    @property
    def reserved(self):
        """Bytes reserved in the ledger."""
        return self._reserved

    @property
    def capacity(self):
        """Bytes that the pool may hold at most."""
        return self._c.capacity

    @property
    def block_size(self):
        """POOLED: bytes of a block; otherwise None."""
        return self._c.block if self._c.strategy == HYP_POOL_POOLED else None

    @property
    def closed(self):
        """Whether :meth:`close` was called."""
        return bool(self._closed)

    @property
    def views(self):
        """Views that use blocks of the region."""
        return self._views

    @property
    def tunings(self):
        """How often the size classes were chosen anew."""
        return self._c.spans.tunings

    def class_size(self, nbytes):
        """Bytes that a block of `nbytes` takes, rounding included."""
        cdef size_t size = self._size(nbytes), rounded
        if self._c.strategy == HYP_POOL_POOLED:
            return self._c.block
        if self._c.strategy == HYP_POOL_STATIC:
            return (size + (size == 0) + HYP_SLOT - 1) // HYP_SLOT * HYP_SLOT
        if not self._c.open:
            self._open()
        rounded = hyp_spans_class_size(&self._c.spans, size)
        return rounded if rounded else hyp_pages_rounded(size)

    def __reduce__(self):
        raise TypeError("a pool cannot be pickled")
