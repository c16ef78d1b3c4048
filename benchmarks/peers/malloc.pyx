# cython: language_level=3
"""The C library's malloc and free behind the same contract as a pool's blocks: the peer of `benchmarks/pool.py`.

A handle with a buffer, freed once, refused after that, kept alive by its views. As thin as the contract permits.
`Nothing` has handles without memory (freeing NULL does nothing): what the two calls cost, whatever the allocator.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free as c_free
from libc.stdlib cimport malloc as c_malloc


@cython.final
@cython.freelist(512)
@cython.no_gc
cdef class MallocBlock:
    cdef void *_data
    cdef size_t _nbytes
    cdef Py_ssize_t _exports
    cdef bint _closed

    def __dealloc__(self):
        c_free(self._data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        if self._closed:
            raise RuntimeError("freed")
        PyBuffer_FillInfo(view, self, self._data, <Py_ssize_t> self._nbytes, 0, flags)
        self._exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self._exports -= 1
        if self._closed and self._exports == 0:
            c_free(self._data)
            self._data = NULL


cdef class Malloc:
    def alloc(self, size_t nbytes):
        cdef MallocBlock block = MallocBlock.__new__(MallocBlock)
        block._data = c_malloc(nbytes)
        if block._data == NULL:
            raise MemoryError
        block._nbytes = nbytes
        return block

    def free(self, block):
        if type(block) is not MallocBlock or (<MallocBlock> block)._closed:
            raise RuntimeError("not a live block")
        (<MallocBlock> block)._closed = True
        if (<MallocBlock> block)._exports == 0:
            c_free((<MallocBlock> block)._data)
            (<MallocBlock> block)._data = NULL


cdef class Nothing(Malloc):
    def alloc(self, size_t nbytes):
        cdef MallocBlock block = MallocBlock.__new__(MallocBlock)
        block._nbytes = nbytes
        return block
