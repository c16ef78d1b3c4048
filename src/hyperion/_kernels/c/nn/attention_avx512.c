/* Attention, AVX-512: 16 positions (keys) or 16 dims (values) a vector; 4 queries x 4 vectors of accumulators. */
#include "nn/math_avx512.h"

#define ATTN_DIRECT 4

HYP_INLINE __m512 load_b(int half, const void *b, size_t i)
{
    if (half) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)b + i)));
    return _mm512_loadu_ps((const float *)b + i);
}

HYP_INLINE void product_block(int half, size_t nq, size_t nv, size_t n, const void *b, size_t row, size_t vec,
                              const float *const *a, float *const *c, size_t at, const float *start)
{
    __m512 acc[4][4];
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < nv; v++)
            acc[j][v] = start ? _mm512_mul_ps(_mm512_loadu_ps(c[j] + at + 16 * v), _mm512_set1_ps(start[j]))
                              : _mm512_setzero_ps();
    for (size_t i = 0; i < n; i++) {
        __m512 w[4];
        for (size_t v = 0; v < nv; v++) w[v] = load_b(half, b, i * row + v * vec);
        for (size_t j = 0; j < nq; j++) {
            const __m512 x = _mm512_set1_ps(a[j][i]);
            for (size_t v = 0; v < nv; v++) acc[j][v] = _mm512_fmadd_ps(x, w[v], acc[j][v]);
        }
    }
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < nv; v++) _mm512_storeu_ps(c[j] + at + 16 * v, acc[j][v]);
}

HYP_INLINE void product_queries(int half, size_t nq, size_t n, const void *b, size_t row, size_t vec, size_t vecs,
                                const float *const *a, float *const *c, const float *start)
{
    const char *at = b;
    const size_t step = vec * (half ? 2 : 4);
    size_t v = 0;
    for (; v + 4 <= vecs; v += 4) product_block(half, nq, 4, n, at + v * step, row, vec, a, c, 16 * v, start);
    for (; v + 2 <= vecs; v += 2) product_block(half, nq, 2, n, at + v * step, row, vec, a, c, 16 * v, start);
    for (; v + 1 <= vecs; v += 1) product_block(half, nq, 1, n, at + v * step, row, vec, a, c, 16 * v, start);
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

HYP_INLINE __m512 nibbles_to_f32(__m512i q_i32x16)
{
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(q_i32x16, _mm512_set1_epi32(8)));
}

HYP_INLINE void attn_expand_k(int kv, const uint8_t *tile, size_t hd, float *dst)
{
    if (kv == HYP_KV_F16) {
        for (size_t d = 0; d < hd; d++) _mm512_storeu_ps(dst + 16 * d, load_b(1, tile, 16 * d));
        return;
    }
    for (size_t d = 0; d < hd; d += 32) {
        const size_t left = hd - d < 32 ? hd - d : 32;
        const __m512 scale = load_b(1, tile, 0);
        const __m128i *q = (const __m128i *)(tile + 32);
        if (kv == HYP_KV_Q8_0) {
            for (size_t j = 0; j < left; j++) {
                const __m512 v = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(q + j)));
                _mm512_storeu_ps(dst + 16 * (d + j), _mm512_mul_ps(v, scale));
            }
        } else {
            for (size_t j = 0; j < 16 && j < left; j++) {
                const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128(q + j));
                const __m512 low = nibbles_to_f32(_mm512_and_si512(both, _mm512_set1_epi32(15)));
                const __m512 high = nibbles_to_f32(_mm512_srli_epi32(both, 4));
                _mm512_storeu_ps(dst + 16 * (d + j), _mm512_mul_ps(low, scale));
                if (j + 16 < left) _mm512_storeu_ps(dst + 16 * (d + j + 16), _mm512_mul_ps(high, scale));
            }
        }
        tile += kv == HYP_KV_Q8_0 ? 32 + 512 : 32 + 256;
    }
}

HYP_INLINE void attn_expand_v(int kv, const uint8_t *row, size_t hd, size_t dims, float *dst)
{
    if (kv == HYP_KV_F16) {
        const size_t whole = hd / 16 * 16;
        for (size_t d = 0; d < whole; d += 16) _mm512_storeu_ps(dst + d, load_b(1, row, d));
        if (whole < hd) {
            const __mmask16 mask = (__mmask16)((1u << (hd - whole)) - 1u);
            _mm512_storeu_ps(dst + whole, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)row + whole)));
        }
        return;
    }
    const uint8_t *q = row + 2 * ((hd + 31) / 32);
    for (size_t d = 0; d < dims; d += 16) {
        uint16_t bits;
        memcpy(&bits, row + d / 32 * 2, 2);
        const __m512 scale = _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
        __m512 v;
        if (kv == HYP_KV_Q8_0) {
            v = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(q + d))));
        } else {
            const __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(q + d / 32 * 16)));
            v = nibbles_to_f32(d % 32 ? _mm512_srli_epi32(both, 4) : _mm512_and_si512(both, _mm512_set1_epi32(15)));
        }
        _mm512_storeu_ps(dst + d, _mm512_mul_ps(v, scale));
    }
}

HYP_INLINE float attn_softmax(float *score, size_t count, float scale, float *top, float *sum)
{
    const __m512 lowest = _mm512_set1_ps(-INFINITY);
    const size_t vecs = (count + 15) / 16;
    const __mmask16 last = (__mmask16)(0xffffu >> (16 * vecs - count));
    __m512 s[HYP_ATTN_TILE / 16], max = lowest;
    for (size_t v = 0; v < vecs; v++) {
        s[v] = _mm512_mul_ps(_mm512_loadu_ps(score + 16 * v), _mm512_set1_ps(scale));
        if (v + 1 == vecs) s[v] = _mm512_mask_mov_ps(lowest, last, s[v]); /* the cache beyond may hold NaN */
        max = _mm512_max_ps(max, s[v]);
    }
    const float before = *top, tile = _mm512_reduce_max_ps(max);
    const float now = tile > before ? tile : before;
    const float base = now == -INFINITY ? 0.0f : now; /* -inf - -inf would be NaN */
    float factor = 1.0f;
    if (before != now) factor = _mm512_cvtss_f32(hyp_exp_avx512(_mm512_set1_ps(before - base)));
    __m512 total = _mm512_mul_ps(_mm512_loadu_ps(sum), _mm512_set1_ps(factor));
    for (size_t v = 0; v < vecs; v++) {
        __m512 p = hyp_exp_avx512(_mm512_sub_ps(s[v], _mm512_set1_ps(base)));
        if (v + 1 == vecs) p = _mm512_maskz_mov_ps(last, p);
        _mm512_storeu_ps(score + 16 * v, p);
        total = _mm512_add_ps(total, p);
    }
    _mm512_storeu_ps(sum, total);
    *top = now;
    return factor;
}

HYP_INLINE void attn_finish(const float *acc, const float *sum, size_t hd, float *out)
{
    float total = 0.0f;
    for (size_t l = 0; l < 16; l++) total += sum[l];
    const __m512 divisor = _mm512_set1_ps(total);
    for (size_t d = 0; d < hd; d += 16) {
        const __mmask16 mask = hd - d >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (hd - d)) - 1u);
        _mm512_mask_storeu_ps(out + d, mask, _mm512_div_ps(_mm512_loadu_ps(acc + d), divisor));
    }
}

#include "nn/attention.h"

static void hyp_attention_f16_avx512(const hyp_attn_args *args) { attn_run(args, HYP_KV_F16); }
static void hyp_attention_q8_0_avx512(const hyp_attn_args *args) { attn_run(args, HYP_KV_Q8_0); }
static void hyp_attention_q4_0_avx512(const hyp_attn_args *args) { attn_run(args, HYP_KV_Q4_0); }

void hyp_attn_fill_avx512(hyp_table *t)
{
    t->attention[HYP_KV_F16] = hyp_attention_f16_avx512;
    t->attention[HYP_KV_Q8_0] = hyp_attention_q8_0_avx512;
    t->attention[HYP_KV_Q4_0] = hyp_attention_q4_0_avx512;
}
