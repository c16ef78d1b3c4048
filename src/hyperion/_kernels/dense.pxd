cdef extern from "dense/gemm.h" nogil:
    ctypedef struct hyp_blocks:
        size_t rows
        size_t depth
        size_t super_ "super"
        size_t cols
        size_t ahead
        size_t line

from hyperion._kernels.dispatch cimport hyp_table

cdef class Blocks:
    cdef hyp_blocks c
    cdef const hyp_table *table
