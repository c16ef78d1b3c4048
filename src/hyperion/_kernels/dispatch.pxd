cdef extern from "common/table.h":
    enum:
        HYP_LEVEL_GENERIC
        HYP_LEVEL_AVX2
        HYP_LEVEL_AVXVNNI
        HYP_LEVEL_AVX512
        HYP_LEVEL_AMX
        HYP_LEVELS
        HYP_TYPES
        HYP_RELU
        HYP_SILU
        HYP_GELU
        HYP_GELU_ERF
        HYP_TANH
        HYP_SIGMOID
        HYP_MAPS
        HYP_ACT_KINDS
        HYP_KV_F16
        HYP_KV_Q8_0
        HYP_KV_Q4_0
        HYP_KV_TYPES
        HYP_KV_TILE

    ctypedef void (*hyp_mul_fn)(const unsigned char *w, size_t rows, size_t k, const void *act, size_t m,
                                float *out, size_t ldo) noexcept nogil
    ctypedef void (*hyp_act_fn)(const float *x, size_t ldx, size_t m, size_t k, void *dst) noexcept nogil

    ctypedef struct hyp_attn_args:
        const void *k
        const void *v
        size_t head_dim
        size_t nq
        float scale
        const float *const *q
        float *const *out
        const size_t *len
        float *scratch

    ctypedef void (*hyp_attn_fn)(const hyp_attn_args *args) noexcept nogil
    ctypedef void (*hyp_kv_store_fn)(void *k_cache, void *v_cache, size_t head_dim, size_t pos,
                                     const float *k, const float *v) noexcept nogil
    size_t hyp_attn_scratch(size_t nq, size_t head_dim) noexcept nogil
    size_t hyp_k_tile_bytes(int kv, size_t head_dim) noexcept nogil
    size_t hyp_v_row_bytes(int kv, size_t head_dim) noexcept nogil
    size_t hyp_k_bytes(int kv, size_t head_dim, size_t positions) noexcept nogil
    size_t hyp_v_bytes(int kv, size_t head_dim, size_t positions) noexcept nogil
    size_t hyp_kv_bytes(int kv, size_t head_dim, size_t positions) noexcept nogil

    ctypedef void (*hyp_map_fn)(const float *x, size_t n, float *out) noexcept nogil

    ctypedef struct hyp_gemm_kernel:
        size_t mr
        size_t nr

    ctypedef struct hyp_tuning:
        size_t panels
        size_t ahead
        size_t line

    ctypedef struct hyp_table:
        int level
        hyp_tuning tuning
        hyp_mul_fn *mul
        hyp_act_fn *act
        hyp_attn_fn *attention
        hyp_kv_store_fn *kv_store
        void (*rms_norm)(const float *x, const float *weight, float eps, size_t n, float *out) noexcept nogil
        void (*layer_norm)(const float *x, const float *weight, const float *bias, float eps, size_t n,
                           float *out) noexcept nogil
        void (*rope)(float *x, const float *cs, size_t heads, size_t head_dim, size_t rot,
                     int interleaved) noexcept nogil
        void (*silu_mul)(const float *gate, const float *up, size_t n, float *out) noexcept nogil
        void (*gelu_mul)(const float *gate, const float *up, size_t n, float *out) noexcept nogil
        void (*add)(float *x, const float *y, size_t n) noexcept nogil
        hyp_map_fn *map
        hyp_map_fn softmax
        hyp_gemm_kernel gemm

# The table of a present level, valid as long as the process; raises UnsupportedError for an absent one.
cdef const hyp_table *table(int level) except NULL

# The number of a level given by name or None (the default level).
cdef int level_number(object level) except -1
