from libc.stdint cimport uint8_t

cdef extern from "pool/pages.h" nogil:
    enum:
        HYP_OK
        HYP_ERROR_MEMORY
        HYP_ERROR_ARGUMENT
    ctypedef struct hyp_pages:
        uint8_t *data
        size_t bytes
        size_t mapped
    size_t hyp_page_size()
    size_t hyp_pages_rounded(size_t bytes)
    int hyp_pages_map(hyp_pages *p, size_t bytes, int huge)
    void hyp_pages_unmap(hyp_pages *p)
    int hyp_pages_discard(hyp_pages *p, size_t offset, size_t bytes)

cdef class PageBuffer:
    cdef hyp_pages _pages
    cdef Py_ssize_t _exports
    cdef bint _closed
    cdef object _on_release
    cdef object __weakref__
    # For compiled users: the address, or an exception once closed; hold() keeps the pages until drop().
    cdef uint8_t *data(self) except NULL
    cdef int hold(self) except -1
    cdef void drop(self) noexcept
    cdef void _release(self) noexcept

# For the other modules that allocate: the next allocation fails when a test asked for it; a size from Python.
cdef bint shall_fail() noexcept
cdef size_t checked_size(nbytes) except? 0
