from libc.stdint cimport int64_t, uint8_t, uint64_t


cdef extern from "matmul/linear.h" nogil:
    ctypedef struct hyp_weight:
        int type
        size_t rows
        size_t cols
        const uint8_t *panels
        const uint64_t *offsets


cdef extern from "quant/pack.h" nogil:
    enum:
        HYP_PANEL
        HYP_BLOCK
    size_t hyp_block_len(int type)
    size_t hyp_block_bytes(int type)
    size_t hyp_row_bytes(int type, size_t cols)
    size_t hyp_panel_bytes(int type, size_t cols)
    int hyp_act_is_float(int type)
    int hyp_act_kind(int type)


cdef class PackedMatrix:
    # Valid as long as this object lives; .panels points into the owner's memory.
    cdef hyp_weight weight
    cdef const uint8_t[::1] view
    cdef readonly object owner
    cdef readonly object offsets  # of sparse panels, uint64 [panels + 1]; None where they are dense
    cdef readonly Py_ssize_t offset
    cdef readonly Py_ssize_t nbytes
    cdef int _set_offsets(self, const uint64_t[::1] offsets) except -1
    cdef int _panel(self, size_t p, uint8_t *dense) noexcept nogil
