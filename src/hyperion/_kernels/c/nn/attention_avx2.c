/* Attention, AVX2: 16 lanes of positions (keys) or dims (values) are two vectors; 8 accumulators, in 4 queries x 1,
 * 2 x 2 or 1 x 4 groups of 16 lanes, hide the latency of fma and fit 16 registers. */
#include "nn/math_avx2.h"

#define ATTN_DIRECT 8

/* Into L2: a tile of values and one of expanded keys are more than L1 holds. A step of f16 takes two lines. */
HYP_INLINE void prefetch(hyp_ahead ahead, size_t i)
{
    _mm_prefetch(ahead.at + i * ahead.step, _MM_HINT_T1);
    if (ahead.step > 96) _mm_prefetch(ahead.at + i * ahead.step + 64, _MM_HINT_T1);
}

HYP_INLINE __m256 load_b(int half, const void *b, size_t i)
{
    if (half) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)b + i)));
    return _mm256_loadu_ps((const float *)b + i);
}

HYP_INLINE void load_acc(size_t nq, size_t nv, float *const *c, size_t at, const float *start, __m256 (*acc)[8])
{
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < 2 * nv; v++)
            acc[j][v] = start ? _mm256_mul_ps(_mm256_loadu_ps(c[j] + at + 8 * v), _mm256_set1_ps(start[j]))
                              : _mm256_setzero_ps();
}

HYP_INLINE void store_acc(size_t nq, size_t nv, float *const *c, size_t at, __m256 (*acc)[8])
{
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < 2 * nv; v++) _mm256_storeu_ps(c[j] + at + 8 * v, acc[j][v]);
}

/* 16 lanes, the v-th of each query. */
HYP_INLINE void multiply_add(size_t nq, const float *const *a, size_t i, __m256 w0, __m256 w1, __m256 (*acc)[8], size_t v)
{
    for (size_t j = 0; j < nq; j++) {
        const __m256 x = _mm256_set1_ps(a[j][i]);
        acc[j][2 * v] = _mm256_fmadd_ps(x, w0, acc[j][2 * v]);
        acc[j][2 * v + 1] = _mm256_fmadd_ps(x, w1, acc[j][2 * v + 1]);
    }
}

/* ---- float and f16 ------------------------------------------------------------------------------------------------- */

HYP_INLINE void product_block(int half, size_t nq, size_t nv, size_t n, const void *b, size_t row, size_t vec,
                              const float *const *a, float *const *c, size_t at, const float *start, hyp_ahead ahead)
{
    __m256 acc[6][8];
    load_acc(nq, nv, c, at, start, acc);
    for (size_t i = 0; i < n; i++) {
        prefetch(ahead, i);
        for (size_t v = 0; v < nv; v++) {
            const size_t w = i * row + v * vec;
            multiply_add(nq, a, i, load_b(half, b, w), load_b(half, b, w + 8), acc, v);
        }
    }
    store_acc(nq, nv, c, at, acc);
}

/* The prefetches of 64 lanes belong to the first of the passes that cover them. */
HYP_INLINE hyp_ahead pass_ahead(hyp_ahead ahead, size_t v, size_t n)
{
    ahead.at += v / 4 * n * ahead.step;
    if (v % 4) ahead.step = 0;
    return ahead;
}

HYP_INLINE void product_queries(int half, size_t nq, size_t n, const void *b, size_t row, size_t vec, size_t vecs,
                                const float *const *a, float *const *c, const float *start, hyp_ahead ahead)
{
    const char *at = b;
    const size_t step = vec * (half ? 2 : 4), wide = nq < 4 ? 4 / nq : 1;
    size_t v = 0;
    for (; v + wide <= vecs; v += wide)
        product_block(half, nq, wide, n, at + v * step, row, vec, a, c, 16 * v, start, pass_ahead(ahead, v, n));
    ahead.step = 0;
    for (; v < vecs; v++) product_block(half, nq, 1, n, at + v * step, row, vec, a, c, 16 * v, start, ahead);
}

#define PRODUCT(name, half, nq)                                                                                    \
    static void name(size_t n, const void *b, size_t row, size_t vec, size_t vecs, const float *const *a,          \
                     float *const *c, const float *start, hyp_ahead ahead)                                         \
    {                                                                                                              \
        if (start) product_queries(half, nq, n, b, row, vec, vecs, a, c, start, ahead);                            \
        else product_queries(half, nq, n, b, row, vec, vecs, a, c, NULL, ahead);                                   \
    }
PRODUCT(product_f16_1, 1, 1)
PRODUCT(product_f16_2, 1, 2)
PRODUCT(product_f16_4, 1, 4)
PRODUCT(product_f32_1, 0, 1)
PRODUCT(product_f32_2, 0, 2)
PRODUCT(product_f32_4, 0, 4)
PRODUCT(product_f32_6, 0, 6)

HYP_INLINE void attn_product(int half, size_t nq, size_t n, const void *b, size_t row, size_t vec, size_t vecs,
                             const float *const *a, float *const *c, const float *start, hyp_ahead ahead)
{
    if (half) (nq == 4 ? product_f16_4 : nq == 2 ? product_f16_2 : product_f16_1)(n, b, row, vec, vecs, a, c, start, ahead);
    else if (nq == 6) product_f32_6(n, b, row, vec, vecs, a, c, start, ahead);
    else (nq == 4 ? product_f32_4 : nq == 2 ? product_f32_2 : product_f32_1)(n, b, row, vec, vecs, a, c, start, ahead);
}

/* ---- quantized ------------------------------------------------------------------------------------------------------ */

/* 8 codes times their scales. Q4_0: the low nibbles of 8 bytes, or the high ones; less = -8 * scale, and the fma that
 * takes it is exact. */
HYP_INLINE __m256 codes_f32(int kv, int high, const uint8_t *q, __m256 scale, __m256 less)
{
    const __m128i bytes = _mm_loadl_epi64((const __m128i *)q);
    if (kv == HYP_KV_Q8_0) return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), scale);
    const __m256i both = _mm256_cvtepu8_epi32(bytes);
    const __m256i code = high ? _mm256_srli_epi32(both, 4) : _mm256_and_si256(both, _mm256_set1_epi32(15));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(code), scale, less);
}

HYP_INLINE __m256 times_minus_8(__m256 scale)
{
    return _mm256_mul_ps(scale, _mm256_set1_ps(-8.0f));
}

/* Keys: 16 of a block's 32 dims, in nv tiles. scale holds the tiles' scales and -8 times them; in memory, since they do
 * not fit the registers beside 8 accumulators. */
HYP_INLINE void keys_16(int kv, int high, size_t nq, size_t nv, const uint8_t *q, size_t tile_bytes,
                        const float (*scale)[32], const float *const *a, size_t d, __m256 (*acc)[8], hyp_ahead ahead)
{
    for (size_t i = 0; i < 16; i++) {
        prefetch(ahead, d + i);
        for (size_t v = 0; v < nv; v++) {
            const uint8_t *codes = q + v * tile_bytes + 16 * i;
            const __m256 s0 = _mm256_load_ps(scale[v]), s1 = _mm256_load_ps(scale[v] + 8);
            const __m256 less0 = _mm256_load_ps(scale[v] + 16), less1 = _mm256_load_ps(scale[v] + 24);
            multiply_add(nq, a, d + i, codes_f32(kv, high, codes, s0, less0), codes_f32(kv, high, codes + 8, s1, less1),
                         acc, v);
        }
    }
}

HYP_INLINE void keys_block(int kv, size_t nq, size_t hd, const uint8_t *keys, const float *const *a, float *const *c,
                           hyp_ahead ahead)
{
    const size_t tile_bytes = hyp_k_tile_bytes(kv, hd), half = kv == HYP_KV_Q8_0 ? 256 : 0, wide = 4 / nq;
    for (size_t t = 0; t < 4; t += wide, ahead.step = 0) {
        HYP_ALIGN64 float scale[4][32];
        const uint8_t *block = keys + t * tile_bytes;
        __m256 acc[4][8];
        load_acc(nq, wide, c, 0, NULL, acc);
        for (size_t d = 0; d < hd; d += 32, block += hyp_k_tile_bytes(kv, 32)) {
            for (size_t v = 0; v < wide; v++) {
                for (size_t l = 0; l < 16; l += 8) {
                    const __m256 s = load_b(1, block + v * tile_bytes, l);
                    _mm256_store_ps(scale[v] + l, s);
                    _mm256_store_ps(scale[v] + 16 + l, times_minus_8(s));
                }
            }
            keys_16(kv, 0, nq, wide, block + 32, tile_bytes, scale, a, d, acc, ahead);
            keys_16(kv, 1, nq, wide, block + 32 + half, tile_bytes, scale, a, d + 16, acc, ahead);
        }
        store_acc(nq, wide, c, 16 * t, acc);
    }
}

/* Values: 64 rows; one block of 32 dims at a time, or half a block for 4 queries. */
HYP_INLINE void values_part(int kv, size_t nq, size_t hd, const uint8_t *q, const float *const *a, float *const *c,
                            size_t at, const float *start, const float *scale, size_t first, size_t nv, hyp_ahead ahead)
{
    const size_t row_bytes = hyp_v_row_bytes(kv, hd), half = kv == HYP_KV_Q8_0 ? 16 : 0;
    __m256 acc[4][8];
    load_acc(nq, nv, c, at, start, acc);
    for (size_t i = 0; i < HYP_ATTN_TILE; i++, q += row_bytes, scale += hd / 32) {
        const __m256 s = _mm256_set1_ps(*scale), less = times_minus_8(s);
        prefetch(ahead, i);
        for (size_t v = 0; v < nv; v++) {
            const int high = first + v > 0;
            const uint8_t *codes = q + (high ? half : 0);
            multiply_add(nq, a, i, codes_f32(kv, high, codes, s, less), codes_f32(kv, high, codes + 8, s, less), acc, v);
        }
    }
    store_acc(nq, nv, c, at, acc);
}

HYP_INLINE void values_block(int kv, size_t nq, size_t hd, const uint8_t *rows, const float *const *a, float *const *c,
                             const float *start, const float *scales, hyp_ahead ahead)
{
    const size_t blocks = hd / 32, bytes = kv == HYP_KV_Q8_0 ? 32 : 16;
    for (size_t b = 0; b < blocks; b++) {
        const uint8_t *q = rows + 2 * blocks + b * bytes;
        const hyp_ahead own = pass_ahead(ahead, 2 * b, HYP_ATTN_TILE);
        if (nq < 4) {
            values_part(kv, nq, hd, q, a, c, 32 * b, start, scales + b, 0, 2, own);
        } else {
            values_part(kv, nq, hd, q, a, c, 32 * b, start, scales + b, 0, 1, own);
            values_part(kv, nq, hd, q, a, c, 32 * b + 16, start, scales + b, 1, 1, pass_ahead(own, 1, 0));
        }
    }
}

#include "nn/attention_quantized.h"

/* ---- expansion ------------------------------------------------------------------------------------------------------ */

HYP_INLINE void expand_k16(int kv, int high, const uint8_t *q, size_t n, __m256 s0, __m256 s1, float *dst)
{
    const __m256 less0 = times_minus_8(s0), less1 = times_minus_8(s1);
    for (size_t i = 0; i < n && i < 16; i++) {
        _mm256_storeu_ps(dst + 16 * i, codes_f32(kv, high, q + 16 * i, s0, less0));
        _mm256_storeu_ps(dst + 16 * i + 8, codes_f32(kv, high, q + 16 * i + 8, s1, less1));
    }
}

HYP_INLINE void attn_expand_k(int kv, const uint8_t *tile, size_t hd, float *dst)
{
    if (kv == HYP_KV_F16) {
        for (size_t i = 0; i < 16 * hd; i += 8) _mm256_storeu_ps(dst + i, load_b(1, tile, i));
        return;
    }
    const size_t half = kv == HYP_KV_Q8_0 ? 256 : 0;
    for (size_t d = 0; d < hd; d += 32, tile += hyp_k_tile_bytes(kv, 32)) {
        const __m256 s0 = load_b(1, tile, 0), s1 = load_b(1, tile, 8);
        expand_k16(kv, 0, tile + 32, hd - d, s0, s1, dst + 16 * d);
        if (hd - d > 16) expand_k16(kv, 1, tile + 32 + half, hd - d - 16, s0, s1, dst + 16 * (d + 16));
    }
}

HYP_INLINE void attn_expand_v(int kv, const uint8_t *row, size_t hd, size_t dims, float *dst)
{
    if (kv == HYP_KV_F16) {
        const size_t whole = hd / 8 * 8;
        for (size_t d = 0; d < whole; d += 8) _mm256_storeu_ps(dst + d, load_b(1, row, d));
        for (size_t d = whole; d < dims; d += 8) {
            uint16_t tail[8] = {0};
            if (d < hd) memcpy(tail, row + 2 * d, 2 * (hd - d)); /* the row's end may be the cache's end */
            _mm256_storeu_ps(dst + d, load_b(1, tail, 0));
        }
        return;
    }
    const size_t bytes = kv == HYP_KV_Q8_0 ? 32 : 16;
    const uint8_t *q = row + 2 * ((hd + 31) / 32);
    for (size_t d = 0; d < dims; d += 32, row += 2, q += bytes) {
        uint16_t bits;
        memcpy(&bits, row, 2);
        const __m256 s = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits))), less = times_minus_8(s);
        for (size_t l = 0; l < 16; l += 8) {
            _mm256_storeu_ps(dst + d + l, codes_f32(kv, 0, q + l, s, less));
            if (dims - d > 16) _mm256_storeu_ps(dst + d + 16 + l, codes_f32(kv, 1, q + bytes - 16 + l, s, less));
        }
    }
}

HYP_INLINE float attn_softmax(float *score, size_t count, float scale, float *top, float *sum)
{
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 max = lowest;
    for (size_t i = 0; i < count; i += 8) {
        __m256 s = _mm256_mul_ps(_mm256_loadu_ps(score + i), _mm256_set1_ps(scale));
        /* the cache beyond may hold NaN; exp(-inf) is 0 */
        if (count - i < 8) s = _mm256_blendv_ps(lowest, s, _mm256_castsi256_ps(hyp_tail_avx2(count - i)));
        _mm256_storeu_ps(score + i, s);
        max = _mm256_max_ps(max, s);
    }
    const float before = *top, tile = hyp_reduce_max_avx2(max);
    const float now = tile > before ? tile : before;
    const float base = now == -INFINITY ? 0.0f : now; /* -inf - -inf would be NaN */
    float factor = 1.0f;
    if (before != now) factor = _mm256_cvtss_f32(hyp_exp_avx2(_mm256_set1_ps(before - base)));
    __m256 total = _mm256_mul_ps(_mm256_loadu_ps(sum), _mm256_set1_ps(factor));
    for (size_t i = 0; i < count; i += 8) {
        const __m256 p = hyp_exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(score + i), _mm256_set1_ps(base)));
        _mm256_storeu_ps(score + i, p);
        total = _mm256_add_ps(total, p);
    }
    _mm256_storeu_ps(sum, total);
    *top = now;
    return factor;
}

HYP_INLINE void attn_finish(const float *acc, const float *sum, size_t hd, float *out)
{
    float total = 0.0f;
    for (size_t l = 0; l < 8; l++) total += sum[l];
    const __m256 divisor = _mm256_set1_ps(total);
    for (size_t d = 0; d < hd; d += 8)
        hyp_store_avx2(out + d, hd - d, _mm256_div_ps(_mm256_loadu_ps(acc + d), divisor));
}

#include "nn/attention.h"

static void hyp_attention_f16_avx2(const hyp_attn_args *args) { attn_run(args, HYP_KV_F16); }
static void hyp_attention_q8_0_avx2(const hyp_attn_args *args) { attn_run(args, HYP_KV_Q8_0); }
static void hyp_attention_q4_0_avx2(const hyp_attn_args *args) { attn_run(args, HYP_KV_Q4_0); }

void hyp_attn_fill_avx2(hyp_table *t)
{
    t->attention[HYP_KV_F16] = hyp_attention_f16_avx2;
    t->attention[HYP_KV_Q8_0] = hyp_attention_q8_0_avx2;
    t->attention[HYP_KV_Q4_0] = hyp_attention_q4_0_avx2;
}
