/* What the AVX-512 files of the matrix product know of each other. */
#ifndef HYP_PRODUCTS_AVX512_H
#define HYP_PRODUCTS_AVX512_H

#include "matmul/block_avx512.h"

/* X(name, type) for the types of 32, for those of 256, and for every block type. */
#define HYP_TYPES_OF_32_AVX512(X)                                                                                       \
    X(q4_0, HYP_Q4_0)                                                                                                   \
    X(q4_1, HYP_Q4_1)                                                                                                   \
    X(q5_0, HYP_Q5_0)                                                                                                   \
    X(q5_1, HYP_Q5_1)                                                                                                   \
    X(q8_0, HYP_Q8_0)                                                                                                   \
    X(iq4_nl, HYP_IQ4_NL)
#define HYP_TYPES_OF_256_AVX512(X)                                                                                      \
    X(q2_k, HYP_Q2_K)                                                                                                   \
    X(q3_k, HYP_Q3_K)                                                                                                   \
    X(q4_k, HYP_Q4_K)                                                                                                   \
    X(q5_k, HYP_Q5_K)                                                                                                   \
    X(q6_k, HYP_Q6_K)
#define HYP_BLOCK_TYPES_AVX512(X) HYP_TYPES_OF_32_AVX512(X) HYP_TYPES_OF_256_AVX512(X)

/* One token. `intel`: two panels at a time, and the prefetch that suits its cores. */
#define HYP_GEMV_AVX512(name, type)                                                                                     \
    void hyp_gemv_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, float *out, int intel);
HYP_BLOCK_TYPES_AVX512(HYP_GEMV_AVX512)

/* One to HYP_FEW_TOKENS tokens of a group of 16. */
enum { HYP_FEW_TOKENS = HYP_ACT_TILE };
#define HYP_FEW_AVX512(name, type)                                                                                      \
    void hyp_few_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo);
HYP_BLOCK_TYPES_AVX512(HYP_FEW_AVX512)

/* ---- Many tokens: strips ----------------------------------------------------------------------------------------------
 * A strip is a run of K of one panel taken apart into what the inner loop reads, once for all tokens that pass by it.
 * Two panels share the activations' way through the first-level cache. */
enum {
    HYP_STRIP_PANELS = 2,
    HYP_STRIP_BLOCKS = 16,   /* blocks of 32 */
    HYP_STRIP_RECORDS = 1,   /* records of K types */
    HYP_STRIP_K = 128,       /* K of float weights */
    HYP_STRIP_GROUPS = 16    /* token groups whose accumulators are held at once */
};

typedef struct {
    HYP_ALIGN64 uint8_t w[8][64]; /* vector v: K = 4v..4v+3 of 16 rows; as an AMX tile: 8 rows of 64 bytes */
    float d[HYP_PANEL], p[HYP_PANEL];
} hyp_strip_block;

/* A record of a K type: 8 groups, their scales (of half groups in Q6_K; in Q4_K and Q5_K 8, then 4 pairs of int16; none in Q2_K and
 * Q3_K) and mins (int16 pairs). */
typedef struct {
    HYP_ALIGN64 uint8_t w[8][8][64];
    int32_t scale[16][HYP_PANEL];
    uint32_t min[8][HYP_PANEL];
    float d[HYP_PANEL], dmin[HYP_PANEL];
    uint8_t second[8][8][64]; /* AMX: the high bytes of codes times scales */
} hyp_strip_super;

typedef struct {
    HYP_ALIGN64 float w[HYP_PANEL];
} hyp_strip_row;

typedef union {
    hyp_strip_block block[HYP_STRIP_BLOCKS];
    hyp_strip_super super[HYP_STRIP_RECORDS];
    hyp_strip_row row[HYP_STRIP_K];
} hyp_strip;

/* Accumulators of one panel and one group: [token][row]. */
typedef struct {
    HYP_ALIGN64 float at[HYP_ACT_TILE][HYP_PANEL];
} hyp_strip_sums;

/* Take n blocks (of 32 or 1 K; whole records) apart. */
typedef void (*hyp_strip_unpack_fn)(const uint8_t *rec, size_t n, hyp_strip *strip);

/* The weights that the next strips will take. A strip is multiplied between two reads of memory, so the hardware's prefetch would
 * stop and start with each; instead each block that is multiplied fetches a share of them. */
typedef struct {
    const uint8_t *w[HYP_STRIP_PANELS]; /* this call's share of the next strips */
    size_t w_step;                      /* bytes of w a block */
    const uint8_t *act;                 /* the activations that come after this call's; or NULL */
} hyp_ahead;

/* The share of blocks i .. i+n-1, to the second-level cache: the first has no room for it. */
HYP_INLINE void hyp_fetch_ahead_avx512(const hyp_ahead *ahead, size_t panel, size_t i, size_t n)
{
    const uint8_t *w = ahead->w[panel] + i * ahead->w_step, *end = w + n * ahead->w_step;
    for (w = (const uint8_t *)(((uintptr_t)w + 63) & ~(uintptr_t)63); w < end; w += 64)
        _mm_prefetch((const char *)w, _MM_HINT_T1);
}

/* sums[panel * HYP_STRIP_GROUPS] += strip[panel] x one group of activations at `act`, of which the first `tokens` count. */
typedef void (*hyp_strip_mul_fn)(const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,
                                 hyp_strip_sums *sums, const hyp_ahead *ahead);

/* How one type goes through strips. */
typedef struct {
    int type;
    hyp_strip_unpack_fn unpack;
    hyp_strip_mul_fn mul;
    int passes; /* how often mul reads a strip and its activations */
} hyp_strips;

void hyp_strips_mul_avx512(const hyp_strips *s, const uint8_t *w, size_t rows, size_t k, const void *act, size_t m,
                           float *out, size_t ldo);

#define HYP_UNPACK_AVX512(name, type) void hyp_unpack_##name##_avx512(const uint8_t *rec, size_t n, hyp_strip *strip);
HYP_BLOCK_TYPES_AVX512(HYP_UNPACK_AVX512)

/* The product with vpdpbusd of a block type's strips. */
hyp_strip_mul_fn hyp_strip_mul_avx512(int type);
hyp_strip_mul_fn hyp_strip_mul_k_avx512(int type);

/* How often it reads a strip: tokens go four by four in the types of 32. */
HYP_INLINE int hyp_strip_passes_avx512(int type)
{
    return hyp_block_len(type) == HYP_BLOCK ? HYP_ACT_TILE / 4 : 1;
}

/* Whole products, as in the table. On Intel's processors one core does not reach its share of the memory's bandwidth by
 * the hardware's prefetch alone: a plain read gains 20% from a prefetch half a KiB ahead (Sapphire Rapids), and one
 * token's product 10 to 20%. On Zen 4 prefetching (4 KiB ahead) cost 12 to 16%, so there are two. */
#define HYP_MUL_AVX512(name, type)                                                                                      \
    void hyp_mul_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo);                                                                           \
    void hyp_mul_##name##_ahead_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo);
HYP_BLOCK_TYPES_AVX512(HYP_MUL_AVX512)
void hyp_mul_f32_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo);
void hyp_mul_f16_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo);
void hyp_mul_bf16_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo);

/* Sparse panels: one token, and any number. */
#define HYP_SPARSE_TYPES_AVX512(X)                                                                                      \
    X(q4_0, HYP_Q4_0)                                                                                                   \
    X(q8_0, HYP_Q8_0)
#define HYP_SPARSE_AVX512(name, type)                                                                                   \
    void hyp_gemv_sparse_##name##_avx512(const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k,              \
                                         const void *act, float *out);                                                  \
    void hyp_mul_sparse_##name##_avx512(const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k,               \
                                        const void *act, size_t m, float *out, size_t ldo);
HYP_SPARSE_TYPES_AVX512(HYP_SPARSE_AVX512)

/* Activations. */
void hyp_act_by_32_avx512(const float *x, size_t ldx, size_t m, size_t k, void *dst);
void hyp_act_by_128_avx512(const float *x, size_t ldx, size_t m, size_t k, void *dst);
void hyp_act_float_avx512(const float *x, size_t ldx, size_t m, size_t k, void *dst);

#endif
