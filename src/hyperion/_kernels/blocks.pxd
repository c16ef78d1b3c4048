from libc.stdint cimport uint8_t, uint64_t

from hyperion._kernels.pool cimport hyp_pages

cdef extern from "pool/pool.h" nogil:
    enum:
        HYP_POOL_STATIC
        HYP_POOL_POOLED
        HYP_POOL_DYNAMIC
        HYP_POOL_HYBRID
        HYP_DIRECT_FROM
        HYP_SLOT
    ctypedef struct hyp_spans:
        size_t committed
        size_t idle
        unsigned tunings
    ctypedef struct hyp_account:
        uint64_t current
        uint64_t peak
        uint64_t total
        uint64_t count
        uint64_t live
        uint64_t held
    ctypedef struct hyp_pool:
        int strategy
        int open
        size_t capacity
        size_t block
        hyp_account stats
        hyp_account *process
        size_t committed
        hyp_spans spans
    int hyp_pool_open(hyp_pool *p, int strategy, size_t capacity, size_t block, size_t keep, int huge, int demand)
    void hyp_pool_close(hyp_pool *p)
    uint8_t *hyp_pool_take(hyp_pool *p, size_t bytes)
    int hyp_pool_plan(hyp_pool *p, size_t bytes, size_t *more)
    int hyp_pool_grow(hyp_pool *p, size_t bytes)
    int hyp_pool_give(hyp_pool *p, const uint8_t *at, size_t bytes)
    void hyp_pool_trim(hyp_pool *p)
    int hyp_pool_reset(hyp_pool *p)
    size_t hyp_pool_cost(const hyp_pool *p, size_t bytes)
    void hyp_pool_direct_taken(hyp_pool *p, size_t bytes, size_t mapped)
    void hyp_pool_direct_given(hyp_pool *p, size_t bytes, size_t mapped)
    size_t hyp_pool_largest(const hyp_pool *p)
    size_t hyp_spans_class_size(const hyp_spans *s, size_t bytes)

cdef class Site:
    cdef readonly str kind, filename, function
    cdef readonly int line
    cdef readonly uint64_t live_count, live_bytes, count, total_bytes, dropped
    cdef void taken(self, uint64_t nbytes, uint64_t blocks) noexcept
    cdef void given(self, uint64_t nbytes, uint64_t blocks) noexcept

cdef class Block:
    cdef Pool _pool
    cdef uint8_t *_data
    cdef size_t _nbytes
    cdef uint64_t _era
    cdef Py_ssize_t _exports
    cdef int _state
    cdef hyp_pages _pages
    cdef void *_next
    cdef void *_previous
    cdef Site _site
    # For compiled users: the address, or an exception once freed; hold() keeps the memory until drop().
    cdef uint8_t *data(self) except NULL
    cdef int hold(self) except -1
    cdef void drop(self) noexcept
    cdef int _check(self) except -1
    cdef int _free(self) except -1
    cdef void _give(self, bint settle) noexcept

cdef class Pool:
    cdef hyp_pool _c
    cdef readonly str name
    cdef object _reservation, _read_size
    cdef size_t _promise, _reserved, _settled, _direct, _direct_from, _keep, _elsewhere, _asked_elsewhere
    cdef bint _huge, _huge_region, _demand, _flexible, _closed, _track
    cdef int _growing
    cdef uint64_t _era
    cdef Py_ssize_t _views
    cdef void *_listed
    cdef object __weakref__
    cdef size_t _size(self, nbytes) except? 0
    cdef Block _block(self, uint8_t *at, size_t size)
    cdef uint8_t *_more(self, size_t size) except NULL
    cdef Block _take_pages(self, size_t size)
    cdef int _open(self) except -1
    cdef int _reserve(self, size_t more) except -1
    cdef object _full(self, size_t size)
    cdef size_t _held(self) noexcept
    cdef void _settle(self) noexcept
    cdef void _list(self, Block block) noexcept
    cdef void _unlist(self, Block block) noexcept
    cdef void _end_era(self) noexcept
    cdef void _finish(self) noexcept
