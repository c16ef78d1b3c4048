from hyperion._kernels.dispatch cimport hyp_table

cdef extern from "dense/gemm.h" nogil:
    ctypedef struct hyp_blocks:
        size_t rows
        size_t depth
        size_t super_ "super"
        size_t cols
        size_t ahead
        size_t line

cdef extern from "dense/conv.h" nogil:
    ctypedef struct hyp_conv_dim:
        size_t in_ "in"
        size_t out
        size_t kernel
        size_t step
        size_t gap
        size_t pad

    ctypedef struct hyp_conv:
        size_t channels
        size_t filters
        size_t groups
        hyp_conv_dim *dim
        const float *x
        const float *filter
        const float *bias
        Py_ssize_t x_channel
        Py_ssize_t *x_at
        float *out
        Py_ssize_t out_filter
        Py_ssize_t out_row

cdef class Blocks:
    cdef hyp_blocks c
    cdef const hyp_table *table

cdef class Convolution:
    cdef hyp_conv c
    cdef object owners
    cdef Blocks blocks
    cdef hyp_conv of(self, const float[:, :, :] x, float[:, :, :] out) except *
