/* Attention, AVX2: 16 lanes of positions (keys) or dims (values) are two vectors; 8 accumulators, in 4 queries x 1,
 * 2 x 2 or 1 x 4 groups of 16 lanes, hide the latency of fma and fit 16 registers. */
#include "nn/math_avx2.h"

#define ATTN_DIRECT 4

HYP_INLINE __m256 load_b(int half, const void *b, size_t i)
{
    if (half) return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)((const uint16_t *)b + i)));
    return _mm256_loadu_ps((const float *)b + i);
}

HYP_INLINE void product_block(int half, size_t nq, size_t nv, size_t n, const void *b, size_t row, size_t vec,
                              const float *const *a, float *const *c, size_t at, const float *start)
{
    __m256 acc[4][8];
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < 2 * nv; v++)
            acc[j][v] = start ? _mm256_mul_ps(_mm256_loadu_ps(c[j] + at + 8 * v), _mm256_set1_ps(start[j]))
                              : _mm256_setzero_ps();
    for (size_t i = 0; i < n; i++) {
        for (size_t v = 0; v < 2 * nv; v += 2) {
            const __m256 w0 = load_b(half, b, i * row + v / 2 * vec), w1 = load_b(half, b, i * row + v / 2 * vec + 8);
            for (size_t j = 0; j < nq; j++) {
                const __m256 x = _mm256_set1_ps(a[j][i]);
                acc[j][v] = _mm256_fmadd_ps(x, w0, acc[j][v]);
                acc[j][v + 1] = _mm256_fmadd_ps(x, w1, acc[j][v + 1]);
            }
        }
    }
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < 2 * nv; v++) _mm256_storeu_ps(c[j] + at + 8 * v, acc[j][v]);
}

HYP_INLINE void product_queries(int half, size_t nq, size_t n, const void *b, size_t row, size_t vec, size_t vecs,
                                const float *const *a, float *const *c, const float *start)
{
    const char *at = b;
    const size_t step = vec * (half ? 2 : 4), wide = 4 / nq;
    size_t v = 0;
    for (; v + wide <= vecs; v += wide) product_block(half, nq, wide, n, at + v * step, row, vec, a, c, 16 * v, start);
    for (; v < vecs; v++) product_block(half, nq, 1, n, at + v * step, row, vec, a, c, 16 * v, start);
}

#define PRODUCT(name, half, nq)                                                                                    \
    static void name(size_t n, const void *b, size_t row, size_t vec, size_t vecs, const float *const *a,          \
                     float *const *c, const float *start)                                                          \
    {                                                                                                              \
        if (start) product_queries(half, nq, n, b, row, vec, vecs, a, c, start);                                   \
        else product_queries(half, nq, n, b, row, vec, vecs, a, c, NULL);                                          \
    }
PRODUCT(product_f16_1, 1, 1)
PRODUCT(product_f16_2, 1, 2)
PRODUCT(product_f16_4, 1, 4)
PRODUCT(product_f32_1, 0, 1)
PRODUCT(product_f32_2, 0, 2)
PRODUCT(product_f32_4, 0, 4)

HYP_INLINE void attn_product(int half, size_t nq, size_t n, const void *b, size_t row, size_t vec, size_t vecs,
                             const float *const *a, float *const *c, const float *start)
{
    if (half) (nq == 4 ? product_f16_4 : nq == 2 ? product_f16_2 : product_f16_1)(n, b, row, vec, vecs, a, c, start);
    else (nq == 4 ? product_f32_4 : nq == 2 ? product_f32_2 : product_f32_1)(n, b, row, vec, vecs, a, c, start);
}

HYP_INLINE __m256 codes_to_f32(const uint8_t *q)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)q)));
}

HYP_INLINE __m256 nibbles_to_f32(__m256i q_i32x8)
{
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(q_i32x8, _mm256_set1_epi32(8)));
}

HYP_INLINE __m256 low_to_f32(__m256i both_i32x8)
{
    return nibbles_to_f32(_mm256_and_si256(both_i32x8, _mm256_set1_epi32(15)));
}

HYP_INLINE __m256 high_to_f32(__m256i both_i32x8)
{
    return nibbles_to_f32(_mm256_srli_epi32(both_i32x8, 4));
}

HYP_INLINE void attn_expand_k(int kv, const uint8_t *tile, size_t hd, float *dst)
{
    if (kv == HYP_KV_F16) {
        for (size_t i = 0; i < 16 * hd; i += 8) _mm256_storeu_ps(dst + i, load_b(1, tile, i));
        return;
    }
    for (size_t d = 0; d < hd; d += 32) {
        const size_t left = hd - d < 32 ? hd - d : 32;
        const __m256 scale[2] = {load_b(1, tile, 0), load_b(1, tile, 8)};
        const uint8_t *q = tile + 32;
        float *to = dst + 16 * d;
        for (size_t j = 0; j < (kv == HYP_KV_Q8_0 ? 32 : 16) && j < left; j++) {
            for (size_t h = 0; h < 2; h++) {
                if (kv == HYP_KV_Q8_0) {
                    _mm256_storeu_ps(to + 16 * j + 8 * h, _mm256_mul_ps(codes_to_f32(q + 16 * j + 8 * h), scale[h]));
                } else {
                    const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(q + 16 * j + 8 * h)));
                    const __m256 low = _mm256_mul_ps(low_to_f32(both), scale[h]);
                    const __m256 high = _mm256_mul_ps(high_to_f32(both), scale[h]);
                    _mm256_storeu_ps(to + 16 * j + 8 * h, low);
                    if (j + 16 < left) _mm256_storeu_ps(to + 16 * (j + 16) + 8 * h, high);
                }
            }
        }
        tile += kv == HYP_KV_Q8_0 ? 32 + 512 : 32 + 256;
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
    const uint8_t *q = row + 2 * ((hd + 31) / 32);
    for (size_t d = 0; d < dims; d += 8) {
        uint16_t bits;
        memcpy(&bits, row + d / 32 * 2, 2);
        const __m256 scale = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
        __m256 v;
        if (kv == HYP_KV_Q8_0) {
            v = codes_to_f32(q + d);
        } else {
            const __m256i both = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(q + d / 32 * 16 + d % 16)));
            v = d % 32 >= 16 ? high_to_f32(both) : low_to_f32(both);
        }
        _mm256_storeu_ps(dst + d, _mm256_mul_ps(v, scale));
    }
}

HYP_INLINE float attn_softmax(float *score, size_t count, float scale, float *top, float *sum)
{
    const __m256 lowest = _mm256_set1_ps(-INFINITY);
    __m256 max = lowest;
    for (size_t i = 0; i < count; i += 8) {
        __m256 s = _mm256_mul_ps(_mm256_loadu_ps(score + i), _mm256_set1_ps(scale));
        /* the cache beyond may hold NaN */
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
        __m256 p = hyp_exp_avx2(_mm256_sub_ps(_mm256_loadu_ps(score + i), _mm256_set1_ps(base)));
        if (count - i < 8) p = _mm256_and_ps(p, _mm256_castsi256_ps(hyp_tail_avx2(count - i)));
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
