/* The table of kernels: one struct of function pointers a level, filled by c/dispatch, called by everything else.
 * A model holds its own copy, so that a level (or one operation's level) is a property of the model. */
#ifndef HYP_TABLE_H
#define HYP_TABLE_H

#include "panel.h"

enum { HYP_LEVEL_GENERIC = 0, HYP_LEVEL_AVX2 = 1, HYP_LEVEL_AVXVNNI = 2, HYP_LEVEL_AVX512 = 3, HYP_LEVEL_AMX = 4, HYP_LEVELS = 5 };

/* out[t*ldo + r] = sum_k W[r, k] * x[t, k] for r < rows, t < m.
 * w: ceil(rows/16) panels; act: packed activations of m tokens (see panel.h), tile = hyp_act_tile(m). rows need not be
 * a multiple of 16: nothing is written past it. One thread; callers split the rows by whole panels. */
typedef void (*hyp_mul_fn)(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo);

/* The same for sparse panels, of which offsets[0 .. panels] say where they are; panel 0 begins at w. */
typedef void (*hyp_mul_sparse_fn)(const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k, const void *act, size_t m,
                                  float *out, size_t ldo);

/* Pack m rows of x (row stride ldx) into activation groups at dst. */
typedef void (*hyp_act_fn)(const float *x, size_t ldx, size_t m, size_t k, void *dst);

/* ---- KV cache ------------------------------------------------------------------------------------------------------
 * One KV head's cache is two plain byte arrays. Keys keep positions in lanes, values keep dims in lanes, so that neither
 * product needs a horizontal sum. nb = ceil(head_dim / 32) blocks; a block's scale d is f16; dims past head_dim are padding.
 *   keys, a tile of 16 positions             values, a row (one position)
 *   F16   f16 k[head_dim][16]                f16 v[head_dim]
 *   Q8_0  nb x { f16 d[16] | int8 q[32][16] }   f16 d[nb] | int8 q[nb][32]                               value d*q
 *   Q4_0  nb x { f16 d[16] | u8 q[16][16] }     f16 d[nb] | u8 q[nb][16]                                 value d*(q-8)
 *         (low nibble: dim j of the block, high nibble: dim 16+j)
 * d*q is exact in float, so that decode and prefill may expand it where they like and still agree to the bit. */
enum { HYP_KV_F16 = 0, HYP_KV_Q8_0 = 1, HYP_KV_Q4_0 = 2, HYP_KV_TYPES = 3 };
#define HYP_KV_TILE 16 /* positions in a tile of keys */

/* Bytes of 16 positions of keys; 0 where the type is unknown. */
HYP_INLINE size_t hyp_k_tile_bytes(int kv, size_t head_dim)
{
    const size_t blocks = (head_dim + 31) / 32;
    switch (kv) {
    case HYP_KV_F16: return head_dim * HYP_KV_TILE * 2;
    case HYP_KV_Q8_0: return blocks * (HYP_KV_TILE * 2 + 32 * HYP_KV_TILE);
    case HYP_KV_Q4_0: return blocks * (HYP_KV_TILE * 2 + 16 * HYP_KV_TILE);
    default: return 0;
    }
}

/* Bytes of one position of values; 0 where the type is unknown. */
HYP_INLINE size_t hyp_v_row_bytes(int kv, size_t head_dim)
{
    const size_t blocks = (head_dim + 31) / 32;
    switch (kv) {
    case HYP_KV_F16: return head_dim * 2;
    case HYP_KV_Q8_0: return blocks * (2 + 32);
    case HYP_KV_Q4_0: return blocks * (2 + 16);
    default: return 0;
    }
}

/* Bytes of the keys and of the values of one KV head over `positions` positions (keys in whole tiles). */
HYP_INLINE size_t hyp_k_bytes(int kv, size_t head_dim, size_t positions)
{
    return (positions + HYP_KV_TILE - 1) / HYP_KV_TILE * hyp_k_tile_bytes(kv, head_dim);
}

HYP_INLINE size_t hyp_v_bytes(int kv, size_t head_dim, size_t positions)
{
    return positions * hyp_v_row_bytes(kv, head_dim);
}

HYP_INLINE size_t hyp_kv_bytes(int kv, size_t head_dim, size_t positions)
{
    return hyp_k_bytes(kv, head_dim, positions) + hyp_v_bytes(kv, head_dim, positions);
}

/* Attention of nq queries over one KV head.
 * Query j sees positions 0 .. len[j]-1 (len >= 1). Online softmax over tiles of HYP_ATTN_TILE positions at fixed
 * absolute positions; every query's arithmetic is independent of the others in the call. Cache memory at positions
 * >= len[j] never reaches query j's output, whatever it holds; no memory past the last visible tile of 16 keys and the
 * last visible row of values is read. q is not scaled yet. out[j] may be q[j]. */
#define HYP_ATTN_TILE 64
#define HYP_ATTN_CHUNK 64 /* queries that share the loads of a tile; longer calls are cut */
typedef struct {
    const void *k, *v;
    size_t head_dim, nq;
    float scale;
    const float *const *q;   /* nq pointers to head_dim floats */
    float *const *out;       /* nq pointers to head_dim floats */
    const size_t *len;       /* nq visible lengths */
    float *scratch;          /* hyp_attn_scratch(nq, head_dim) floats, 64-byte aligned */
} hyp_attn_args;
typedef void (*hyp_attn_fn)(const hyp_attn_args *args);

/* Floats of scratch; does not grow past HYP_ATTN_CHUNK queries. */
HYP_INLINE size_t hyp_attn_scratch(size_t nq, size_t head_dim)
{
    const size_t dims = (head_dim + 15) / 16 * 16, queries = nq < HYP_ATTN_CHUNK ? nq : HYP_ATTN_CHUNK;
    return HYP_ATTN_TILE * dims + queries * (HYP_ATTN_TILE + dims + 32);
}

/* Store one position of one KV head: k and v are head_dim floats, rounded to the cache's type. */
typedef void (*hyp_kv_store_fn)(void *k_cache, void *v_cache, size_t head_dim, size_t pos, const float *k, const float *v);

/* ---- Quantizing ------------------------------------------------------------------------------------------------------
 * Contiguous floats in, contiguous codes or blocks out, one thread; c/quantize has the drivers. Codes of 4 bits are written packed
 * two to a byte, the earlier one low, or as int8 where packed is 0. Where symmetric, zeros is NULL. What ends in `each` has params of
 * its own for each of n values. Functions that return int return nonzero where a float is not finite. */
typedef struct {
    void (*load_f16)(const void *src, size_t n, float *x);
    void (*load_bf16)(const void *src, size_t n, float *x);
    void (*load_f64)(const void *src, size_t n, float *x);
    void (*store_f16)(const float *x, size_t n, void *dst);
    void (*store_bf16)(const float *x, size_t n, void *dst);
    void (*store_f64)(const float *x, size_t n, void *dst);
    /* to[c + r * to_step] = from[r + c * from_step] for r < rows, c < columns */
    void (*turn)(const float *from, ptrdiff_t from_step, size_t rows, size_t columns, float *to, ptrdiff_t to_step);
    int (*extremes)(const float *x, size_t n, float mm[2]);
    int (*extremes_each)(const float *x, ptrdiff_t step, size_t rows, size_t n, float *least, float *greatest);
    void (*range)(const float mm[2], int bits, int symmetric, float *scale, float *zero);
    int (*range_groups)(const float *x, size_t n, size_t g, int bits, int packed, float *scales, float *zeros, uint8_t *q);
    int (*codes)(const float *x, size_t n, size_t g, int bits, int packed, const float *scales, const float *zeros, uint8_t *q);
    void (*inverses)(const float *scales, size_t n, float *inverse);
    int (*codes_each)(const float *x, size_t n, int bits, int packed, const float *inverse, const float *zeros, uint8_t *q);
    void (*values)(const uint8_t *q, int packed, size_t n, size_t g, const float *scales, const float *zeros, float *x);
    void (*values_each)(const uint8_t *q, int packed, size_t n, const float *scales, const float *zeros, float *x);
    void (*pack4)(const int8_t *q, size_t n, uint8_t *p);
    void (*unpack4)(const uint8_t *p, size_t n, int8_t *q);
    void (*fit)(const float *x, size_t n, float scale, float zero, int bits, double sums[5]);
    void (*hqq)(const float *x, size_t n, float scale, float zero, int bits, float beta, double sums[2]);
    /* By type, NULL where the type is unknown: blocks return the largest magnitude, a NaN where one is not finite; searched ones,
     * which have no entry in blocks, take finite floats alone. */
    float (*blocks[HYP_TYPES])(const float *x, size_t blocks, uint8_t *dst);
    void (*searched[HYP_TYPES])(const float *x, size_t blocks, uint8_t *dst);
    void (*floats[HYP_TYPES])(const uint8_t *src, size_t blocks, float *x);
} hyp_quantize_kernels;

/* fit and hqq for HYP_EACH groups side by side: x is [n][HYP_EACH], and n at most HYP_EACH_ROWS, which are summed in float. */
#define HYP_EACH 16
#define HYP_EACH_ROWS 256
typedef struct {
    void (*fit)(const float *x, size_t n, const float *scale, const float *zero, int bits, double sums[5][HYP_EACH]);
    void (*hqq)(const float *x, size_t n, const float *scale, const float *zero, int bits, float beta, double sums[5][HYP_EACH]);
} hyp_search_kernels;

/* ---- Activations ------------------------------------------------------------------------------------------------------
 * out[i] = f(x[i]) for i < n; out may be x. A value does not depend on its place. */
enum { HYP_RELU = 0, HYP_SILU = 1, HYP_GELU = 2, HYP_GELU_ERF = 3, HYP_TANH = 4, HYP_SIGMOID = 5, HYP_MAPS = 6 };
typedef void (*hyp_map_fn)(const float *x, size_t n, float *out);

/* ---- Sparse matrices -------------------------------------------------------------------------------------------------
 * A dense operand comes as rows of `vectors` times 16 floats (1 to 4), ldb floats apart; results are added to what is there.
 * Every result is one chain of additions in the order of the indices, so that cutting a row changes no bit. Positions in
 * indices and values count from indptr[0]. */
#define HYP_SPARSE_VECTOR 16
#define HYP_SPARSE_COLS 64     /* columns multiplied together: four registers of AVX-512 */
#define HYP_SPARSE_TILE 128    /* rows of the dense operand that stay in the first-level cache: 32 KiB of 64 columns */
#define HYP_SPARSE_ROWS 256    /* rows of the sparse matrix that share such a tile */
typedef struct {
    uint16_t count, row; /* stored values of one row in one tile */
} hyp_sparse_visit;
typedef struct {
    /* c[r] += sum over row r of value * b[index]; rows of c are ldc floats apart. */
    void (*rows)(const int32_t *indptr, const int32_t *indices, const float *values, size_t rows, const float *b, size_t ldb,
                 size_t vectors, float *c, size_t ldc);
    /* The same for one tile: offsets are rows of the tile; rows of b and c are HYP_SPARSE_COLS floats apart. */
    void (*visits)(const hyp_sparse_visit *visits, size_t n, const uint8_t *offsets, const float *values, const float *b,
                   size_t vectors, float *c);
    /* y[r * stride] = sum over row r of value * x[index]. */
    void (*dots)(const int32_t *indptr, const int32_t *indices, const float *values, size_t rows, const float *x, float *y,
                 ptrdiff_t stride);
    /* One row of n blocks [height][width]: c[i] += sum over blocks and k of block[i][k] * b[index * width + k]. */
    void (*blocks)(const int32_t *indices, const float *values, size_t n, size_t height, size_t width, const float *b,
                   size_t ldb, size_t vectors, float *c, size_t ldc);
    /* The same for a vector: y[i] += ... x[index * width + k]. */
    void (*block_dots)(const int32_t *indices, const float *values, size_t n, size_t height, size_t width, const float *x,
                       float *y);
} hyp_sparse_kernels;
/* ---- Dense products ---------------------------------------------------------------------------------------------------
 * c[i, j] = (first ? 0 : c[i, j]) + sum over p < k, in order, of a[i, p] * b[p, j]. Strides are in floats and may be negative;
 * columns of c are contiguous. Row p of b is at b + p * b_row, or with `places` at b + places[p], which `dots` has not. ahead: bytes
 * between what is multiplied and what is prefetched where memory is read in order, 0 for no prefetching; `dots`, which reads rows in
 * turns, has distances of its own, `row` leaves it to the hardware. */
typedef struct {
    size_t k;
    const float *a, *b;
    ptrdiff_t a_row, a_col, b_row; /* of a[i, p]; of b[p, j], or of the transposed b[j, p] */
    const ptrdiff_t *places;
    float *c;
    ptrdiff_t c_row;
    int first;
    size_t ahead;
} hyp_tile;
typedef void (*hyp_tile_fn)(size_t rows, size_t cols, const hyp_tile *tile);
typedef void (*hyp_tile_row_fn)(size_t cols, const hyp_tile *tile);
typedef struct {
    size_t mr, nr;        /* the greatest tile */
    hyp_tile_fn tile;     /* columns of b are contiguous */
    hyp_tile_row_fn row;  /* one row of any length: wider than a tile, as nothing but b is read */
    hyp_tile_row_fn dots; /* one row of any length; b is transposed, so that b[j, p] is contiguous in p */
    /* to[p * width + i] = from[i * stride + p] for i < count <= width, p < k. */
    void (*pack)(const float *from, ptrdiff_t stride, size_t count, size_t k, size_t width, float *to);
} hyp_gemm_kernel;

/* How products of packed weights are cut; a model's own copy may be set, and no result depends on it. */
typedef struct {
    size_t panels;      /* panels that a thread takes at a time; 0: chosen by size */
    size_t ahead, line; /* bytes after those panels that are prefetched meanwhile, by lines of so many; ahead 0: none */
} hyp_tuning;

typedef struct {
    int level;
    hyp_tuning tuning;
    hyp_mul_fn mul[HYP_TYPES];     /* NULL where the type is unknown */
    hyp_mul_sparse_fn mul_sparse[HYP_TYPES];
    hyp_act_fn act[HYP_ACT_KINDS]; /* k is a multiple of 32 or 128 where they are quantized */
    hyp_attn_fn attention[HYP_KV_TYPES];
    hyp_kv_store_fn kv_store[HYP_KV_TYPES];
    void (*rms_norm)(const float *x, const float *weight, float eps, size_t n, float *out);        /* out may be x */
    void (*layer_norm)(const float *x, const float *weight, const float *bias, float eps, size_t n, float *out); /* either NULL */
    /* Rotate `heads` heads of head_dim floats in place: cs holds cos, sin of rot/2 frequencies (cos[rot/2] then
     * sin[rot/2]); pairs (2i, 2i+1) when interleaved, (i, i + rot/2) otherwise; dims from rot on are left alone. */
    void (*rope)(float *x, const float *cs, size_t heads, size_t head_dim, size_t rot, int interleaved);
    void (*silu_mul)(const float *gate, const float *up, size_t n, float *out);  /* silu(gate) * up; out may be either */
    void (*gelu_mul)(const float *gate, const float *up, size_t n, float *out);  /* tanh-approximated GELU */
    void (*add)(float *x, const float *y, size_t n);                              /* x += y */
    hyp_map_fn map[HYP_MAPS]; /* HYP_GELU is the tanh approximation */
    hyp_map_fn softmax;       /* of n values as one row, n >= 1 */
    hyp_gemm_kernel gemm;
    hyp_quantize_kernels quantize;
    hyp_sparse_kernels sparse;
    hyp_search_kernels search;
} hyp_table;

/* Each <family>_<isa>.c exports one function that fills the entries it implements; a level's table starts as a copy of
 * the next lower one, so a missing entry falls back. */
void hyp_matmul_fill_generic(hyp_table *t);
void hyp_matmul_fill_kquant_generic(hyp_table *t);
void hyp_matmul_fill_act_generic(hyp_table *t);
void hyp_matmul_fill_avx2(hyp_table *t);
void hyp_matmul_fill_avxvnni(hyp_table *t);
void hyp_matmul_fill_avx512(hyp_table *t);
void hyp_matmul_fill_amx(hyp_table *t);
void hyp_matmul_fill_kquant_amx(hyp_table *t);
void hyp_gemm_fill_generic(hyp_table *t);
void hyp_gemm_fill_avx2(hyp_table *t);
void hyp_gemm_fill_avx512(hyp_table *t);
void hyp_nn_fill_generic(hyp_table *t);
void hyp_quantize_fill_generic(hyp_table *t);
void hyp_quantize_fill_avx2(hyp_table *t);
void hyp_quantize_fill_avx512(hyp_table *t);
void hyp_sparse_fill_generic(hyp_table *t);
void hyp_sparse_fill_avx2(hyp_table *t);
void hyp_sparse_fill_avx512(hyp_table *t);
void hyp_nn_fill_avx2(hyp_table *t);
void hyp_nn_fill_avx512(hyp_table *t);

#endif
