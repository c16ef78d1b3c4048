/* Attention, AVX-512: 16 positions (keys) or 16 dims (values) a vector; 4 queries x 4 vectors of accumulators. */
#include "nn/math_avx512.h"

#define ATTN_DIRECT 8

/* Into L2: a tile of values and one of expanded keys are more than L1 holds. A step of f16 takes two lines. */
HYP_INLINE void prefetch(hyp_ahead ahead, size_t i)
{
    _mm_prefetch(ahead.at + i * ahead.step, _MM_HINT_T1);
    if (ahead.step > 96) _mm_prefetch(ahead.at + i * ahead.step + 64, _MM_HINT_T1);
}

HYP_INLINE __m512 load_b(int half, const void *b, size_t i)
{
    if (half) return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)b + i)));
    return _mm512_loadu_ps((const float *)b + i);
}

HYP_INLINE void load_acc(size_t nq, size_t nv, float *const *c, size_t at, const float *start, __m512 (*acc)[4])
{
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < nv; v++)
            acc[j][v] = start ? _mm512_mul_ps(_mm512_loadu_ps(c[j] + at + 16 * v), _mm512_set1_ps(start[j]))
                              : _mm512_setzero_ps();
}

HYP_INLINE void store_acc(size_t nq, size_t nv, float *const *c, size_t at, __m512 (*acc)[4])
{
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < nv; v++) _mm512_storeu_ps(c[j] + at + 16 * v, acc[j][v]);
}

HYP_INLINE void multiply_add(size_t nq, size_t nv, const float *const *a, size_t i, const __m512 *w, __m512 (*acc)[4])
{
    for (size_t j = 0; j < nq; j++) {
        const __m512 x = _mm512_set1_ps(a[j][i]);
        for (size_t v = 0; v < nv; v++) acc[j][v] = _mm512_fmadd_ps(x, w[v], acc[j][v]);
    }
}

/* ---- float and f16 ------------------------------------------------------------------------------------------------- */

HYP_INLINE void product_block(int half, size_t nq, size_t nv, size_t n, const void *b, size_t row, size_t vec,
                              const float *const *a, float *const *c, size_t at, const float *start, hyp_ahead ahead)
{
    __m512 acc[6][4], w[4];
    load_acc(nq, nv, c, at, start, acc);
    for (size_t i = 0; i < n; i++) {
        prefetch(ahead, i);
        for (size_t v = 0; v < nv; v++) w[v] = load_b(half, b, i * row + v * vec);
        multiply_add(nq, nv, a, i, w, acc);
    }
    store_acc(nq, nv, c, at, acc);
}

HYP_INLINE void product_queries(int half, size_t nq, size_t n, const void *b, size_t row, size_t vec, size_t vecs,
                                const float *const *a, float *const *c, const float *start, hyp_ahead ahead)
{
    const char *at = b;
    const size_t step = vec * (half ? 2 : 4);
    size_t v = 0;
    for (; v + 4 <= vecs; v += 4) {
        product_block(half, nq, 4, n, at + v * step, row, vec, a, c, 16 * v, start, ahead);
        ahead.at += n * ahead.step;
    }
    ahead.step = 0;
    for (; v + 2 <= vecs; v += 2) product_block(half, nq, 2, n, at + v * step, row, vec, a, c, 16 * v, start, ahead);
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

/* 16 codes as floats. Q4_0: the low nibbles of 16 bytes, or the high ones, through a table of their 16 values. */
HYP_INLINE __m512 codes_f32(int kv, int high, const uint8_t *q)
{
    const __m128i bytes = _mm_loadu_si128((const __m128i *)q);
    if (kv == HYP_KV_Q8_0) return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
    const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i both = _mm512_cvtepu8_epi32(bytes); /* the permutation looks at the low 4 bits only */
    return _mm512_permutexvar_ps(high ? _mm512_srli_epi32(both, 4) : both, values);
}

/* Keys: 16 of a block's 32 dims, in 4 tiles. */
HYP_INLINE void keys_16(int kv, int high, size_t nq, const uint8_t *q, size_t tile_bytes, const __m512 *scale,
                        const float *const *a, size_t d, __m512 (*acc)[4], hyp_ahead ahead)
{
    for (size_t i = 0; i < 16; i++) {
        __m512 w[4];
        prefetch(ahead, d + i);
        for (size_t v = 0; v < 4; v++) w[v] = _mm512_mul_ps(codes_f32(kv, high, q + v * tile_bytes + 16 * i), scale[v]);
        multiply_add(nq, 4, a, d + i, w, acc);
    }
}

HYP_INLINE void keys_block(int kv, size_t nq, size_t hd, const uint8_t *keys, const float *const *a, float *const *c,
                           hyp_ahead ahead)
{
    const size_t tile_bytes = hyp_k_tile_bytes(kv, hd), half = kv == HYP_KV_Q8_0 ? 256 : 0;
    __m512 acc[4][4], scale[4];
    load_acc(nq, 4, c, 0, NULL, acc);
    for (size_t d = 0; d < hd; d += 32, keys += hyp_k_tile_bytes(kv, 32)) {
        for (size_t v = 0; v < 4; v++) scale[v] = load_b(1, keys + v * tile_bytes, 0);
        keys_16(kv, 0, nq, keys + 32, tile_bytes, scale, a, d, acc, ahead);
        keys_16(kv, 1, nq, keys + 32 + half, tile_bytes, scale, a, d + 16, acc, ahead);
    }
    store_acc(nq, 4, c, 0, acc);
}

/* Values: 64 rows; 64 dims at a time, which are two blocks. */
HYP_INLINE void values_block(int kv, size_t nq, size_t hd, const uint8_t *rows, const float *const *a, float *const *c,
                             const float *start, const float *scales, hyp_ahead ahead)
{
    const size_t row_bytes = hyp_v_row_bytes(kv, hd), blocks = hd / 32, bytes = kv == HYP_KV_Q8_0 ? 32 : 16;
    for (size_t b = 0; b < blocks; b += 2) {
        const uint8_t *q = rows + 2 * blocks + b * bytes;
        const float *scale = scales + b;
        __m512 acc[4][4], w[4];
        load_acc(nq, 4, c, 32 * b, start, acc);
        for (size_t i = 0; i < HYP_ATTN_TILE; i++, q += row_bytes, scale += blocks) {
            const __m512 first = _mm512_set1_ps(scale[0]), second = _mm512_set1_ps(scale[1]);
            prefetch(ahead, i);
            w[0] = _mm512_mul_ps(codes_f32(kv, 0, q), first);
            w[1] = _mm512_mul_ps(codes_f32(kv, 1, q + bytes - 16), first);
            w[2] = _mm512_mul_ps(codes_f32(kv, 0, q + bytes), second);
            w[3] = _mm512_mul_ps(codes_f32(kv, 1, q + 2 * bytes - 16), second);
            multiply_add(nq, 4, a, i, w, acc);
        }
        store_acc(nq, 4, c, 32 * b, acc);
        ahead.at += HYP_ATTN_TILE * ahead.step;
    }
}

#include "nn/attention_quantized.h"

/* ---- expansion ------------------------------------------------------------------------------------------------------ */

HYP_INLINE void expand_k16(int kv, int high, const uint8_t *q, size_t n, __m512 scale, float *dst)
{
    for (size_t i = 0; i < n && i < 16; i++)
        _mm512_storeu_ps(dst + 16 * i, _mm512_mul_ps(codes_f32(kv, high, q + 16 * i), scale));
}

HYP_INLINE void attn_expand_k(int kv, const uint8_t *tile, size_t hd, float *dst)
{
    if (kv == HYP_KV_F16) {
        for (size_t d = 0; d < hd; d++) _mm512_storeu_ps(dst + 16 * d, load_b(1, tile, 16 * d));
        return;
    }
    const size_t half = kv == HYP_KV_Q8_0 ? 256 : 0;
    for (size_t d = 0; d < hd; d += 32, tile += hyp_k_tile_bytes(kv, 32)) {
        const __m512 scale = load_b(1, tile, 0);
        expand_k16(kv, 0, tile + 32, hd - d, scale, dst + 16 * d);
        if (hd - d > 16) expand_k16(kv, 1, tile + 32 + half, hd - d - 16, scale, dst + 16 * (d + 16));
    }
}

HYP_INLINE void attn_expand_v(int kv, const uint8_t *row, size_t hd, size_t dims, float *dst)
{
    if (kv == HYP_KV_F16) {
        const size_t whole = hd / 16 * 16;
        for (size_t d = 0; d < whole; d += 16) _mm512_storeu_ps(dst + d, load_b(1, row, d));
        if (whole < hd) {
            const __mmask16 mask = (__mmask16)((1u << (hd - whole)) - 1u);
            const __m256i tail = _mm256_maskz_loadu_epi16(mask, (const uint16_t *)row + whole);
            _mm512_storeu_ps(dst + whole, _mm512_cvtph_ps(tail));
        }
        return;
    }
    const size_t bytes = kv == HYP_KV_Q8_0 ? 32 : 16;
    const uint8_t *q = row + 2 * ((hd + 31) / 32);
    for (size_t d = 0; d < dims; d += 32, row += 2, q += bytes) {
        uint16_t bits;
        memcpy(&bits, row, 2);
        const __m512 scale = _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
        _mm512_storeu_ps(dst + d, _mm512_mul_ps(codes_f32(kv, 0, q), scale));
        if (dims - d > 16) _mm512_storeu_ps(dst + d + 16, _mm512_mul_ps(codes_f32(kv, 1, q + bytes - 16), scale));
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
        if (v + 1 == vecs) s[v] = _mm512_mask_mov_ps(lowest, last, s[v]); /* the cache beyond may hold NaN; exp(-inf) is 0 */
        max = _mm512_max_ps(max, s[v]);
    }
    const float before = *top, tile = _mm512_reduce_max_ps(max);
    const float now = tile > before ? tile : before;
    const float base = now == -INFINITY ? 0.0f : now; /* -inf - -inf would be NaN */
    float factor = 1.0f;
    if (before != now) factor = _mm512_cvtss_f32(hyp_exp_avx512(_mm512_set1_ps(before - base)));
    __m512 total = _mm512_mul_ps(_mm512_loadu_ps(sum), _mm512_set1_ps(factor));
    for (size_t v = 0; v < vecs; v++) {
        const __m512 p = hyp_exp_avx512(_mm512_sub_ps(s[v], _mm512_set1_ps(base)));
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
