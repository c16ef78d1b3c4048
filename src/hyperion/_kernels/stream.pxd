from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t


cdef extern from "stream/evict.h" nogil:
    int hyp_can_evict()


cdef extern from "stream/ring.h" nogil:
    enum:
        HYP_OK
        HYP_ERROR_IO
        HYP_CANCELLED
        HYP_IO_DIRECT
        HYP_IO_BUFFERED
        HYP_IO_AUTO
        HYP_DIRECT_ALIGN
        HYP_PANEL
        HYP_READ_CHANGED
        HYP_READ_NOT_FINITE
        HYP_READ_DAMAGED
        HYP_READ_UNSOUND

    size_t hyp_block_len(int type)
    size_t hyp_row_bytes(int type, size_t cols)
    size_t hyp_panel_bytes(int type, size_t cols)

    ctypedef struct hyp_file:
        int buffered, direct
        int64_t state[3]

    double hyp_seconds()
    int hyp_file_state(int fd, int64_t *state)
    void hyp_read_in_order(int fd)
    void hyp_drop_cache(int fd, uint64_t offset, size_t n)

    ctypedef struct hyp_extent:
        hyp_file *file
        uint64_t offset
        int type, packed, check
        size_t rows, cols
        const uint32_t *sums
        const uint64_t *offsets

    ctypedef struct hyp_read_stats:
        uint64_t bytes_read
        double seconds

    size_t hyp_extent_panel_bytes(const hyp_extent *e)
    size_t hyp_extent_buffer_bytes(size_t panel_bytes)
    int hyp_extent_read(const hyp_extent *e, int direct, uint8_t *buffer, uint8_t *temp, const uint8_t **panels,
                        hyp_read_stats *stats, int *error)
    void hyp_drop_behind(const hyp_extent *e, uint64_t lag)
    void hyp_reader_inject(int64_t n, int error)

    ctypedef struct hyp_ring:
        pass

    ctypedef struct hyp_ring_piece:
        hyp_extent extent
        size_t chunk, at

    ctypedef struct hyp_ring_stats:
        uint64_t passes, chunks_filled, bytes_read, bytes_used
        double read_seconds, wait_seconds, direct_rate, evicted_rate, buffered_rate
        int settled

    ctypedef struct hyp_taken:
        const uint8_t *panels
        const uint8_t *rows

    hyp_ring *hyp_ring_create(const hyp_ring_piece *pieces, size_t n, uint8_t *memory, size_t slots, size_t slot_bytes,
                              size_t readers, size_t workers, int io)
    void hyp_ring_destroy(hyp_ring *ring)
    size_t hyp_ring_bytes(const hyp_ring_piece *pieces, size_t n, size_t slots, size_t slot_bytes, size_t workers)
    void hyp_ring_set_poll(hyp_ring *ring, int (*poll)(void *) noexcept nogil, void *arg)
    int hyp_ring_acquire(void *self, size_t piece, hyp_taken *taken)
    void hyp_ring_release(void *self, size_t piece)
    void hyp_ring_restart(hyp_ring *ring)
    int hyp_ring_seek(hyp_ring *ring, size_t piece)
    size_t hyp_ring_position(hyp_ring *ring)
    int64_t hyp_ring_failure(hyp_ring *ring, int *error)
    void hyp_ring_set_window(hyp_ring *ring, size_t slots)
    size_t hyp_ring_window(hyp_ring *ring)
    void hyp_ring_get_stats(hyp_ring *ring, hyp_ring_stats *stats)


cdef extern from "stream/verify.h" nogil:
    uint32_t hyp_checksum(const uint8_t *data, size_t n)


cdef class File:
    cdef hyp_file c
    cdef readonly str path


cdef class Ring:
    cdef hyp_ring *c
    cdef hyp_ring_piece *pieces
    cdef size_t n
    cdef readonly size_t slots, slot_bytes, workers
    cdef readonly str io
    cdef object memory
    cdef list files, sums, offsets
    cdef tuple names
    # what a hyp_source calls, with `c` as its self
    cdef int (*acquire)(void *, size_t, hyp_taken *) noexcept nogil
    cdef void (*release)(void *, size_t) noexcept nogil
    cpdef int seek(self, size_t piece) except -1
    cpdef int raise_failure(self) except -1
