from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from hyperion._kernels.dispatch cimport hyp_table
from hyperion._kernels.stream cimport Ring, hyp_taken
from hyperion._kernels.threads cimport Team, hyp_team, hyp_threads_api


cdef extern from "nn/block.h" nogil:
    enum:
        HYP_OK
        HYP_CANCELLED
        HYP_PANEL
        HYP_ATTN_TILE
        HYP_KV_F16
        HYP_KV_Q8_0
        HYP_KV_Q4_0

    size_t hyp_block_len(int type)
    size_t hyp_panel_bytes(int type, size_t cols)
    size_t hyp_k_tile_bytes(int kv, size_t head_dim)
    size_t hyp_v_row_bytes(int kv, size_t head_dim)

    ctypedef struct hyp_source:
        void *self
        int (*acquire)(void *, size_t, hyp_taken *) noexcept nogil
        void (*release)(void *, size_t) noexcept nogil

    ctypedef struct hyp_piece:
        size_t row, rows

    ctypedef struct hyp_matrix:
        int type
        size_t rows, cols, pinned_rows
        const uint8_t *pinned
        size_t first_piece, pieces
        const hyp_piece *piece
        const uint64_t *offsets

    ctypedef struct hyp_runtime:
        const hyp_table *table
        const hyp_threads_api *threads
        hyp_team *team
        hyp_source source

    ctypedef struct hyp_shape:
        size_t dim, heads, kv_heads, head_dim, ffn_dim, rot
        int interleaved, gelu, kv_type
        float eps, scale

    ctypedef struct hyp_block:
        const float *attn_norm
        const float *ffn_norm
        const float *q_bias
        const float *k_bias
        const float *v_bias
        const float *o_bias
        const float *q_norm
        const float *k_norm
        hyp_matrix q, k, v, o, gate, up, down

    ctypedef struct hyp_cache:
        uint8_t *base
        size_t head_bytes, v_offset

    ctypedef struct hyp_batch:
        size_t tokens
        const int64_t *position
        const int32_t *sequence
        const float *rotation
        float *x
        uint8_t *scratch

    size_t hyp_block_scratch(const hyp_shape *shape, size_t tokens, size_t workers)
    int hyp_block_forward(const hyp_runtime *rt, const hyp_shape *shape, const hyp_block *block,
                          const hyp_cache *caches, const hyp_batch *batch)
    size_t hyp_head_scratch(size_t dim, size_t n)
    int hyp_head_forward(const hyp_runtime *rt, const float *norm, float eps, const hyp_matrix *output, const float *x,
                         size_t ldx, const int64_t *rows, size_t n, float *logits, size_t ldo, uint8_t *scratch)


cdef class Shape:
    cdef hyp_shape c


cdef class Matrix:
    cdef hyp_matrix c
    cdef hyp_piece *piece
    cdef object owner, offsets


cdef class Block:
    cdef hyp_block c
    cdef list keep
    cdef hyp_matrix _matrix(self, dict matrices, str name, size_t rows, size_t cols) except *
    cdef const float *_vector(self, dict vectors, str name, size_t n, bint needed) except? NULL


cdef class Cache:
    cdef object owner
    cdef uint8_t *base
    cdef size_t layers, positions, head_bytes, v_offset, layer_bytes


cdef class Runtime:
    cdef hyp_table table
    cdef hyp_runtime c
    cdef readonly Team team
    cdef readonly Ring ring
    cdef int check(self, int status) except -1
