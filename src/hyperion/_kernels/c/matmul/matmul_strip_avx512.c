/* A strip of unpacked weights times one group of 16 tokens, with vpdpbusd. The 8 weight vectors of a block and up to 16
 * float accumulators stay in registers; activations come as 4-byte broadcasts from memory, which costs no vector port. */
#include "matmul/products_avx512.h"

enum { ACT_D = HYP_BLOCK * HYP_ACT_TILE, ACT_S = ACT_D + 4 * HYP_ACT_TILE, ACT_RECORD = ACT_S + 8 * HYP_ACT_TILE };

/* Per token values of one block, computed for 16 tokens at once and then broadcast one by one. */
typedef struct {
    HYP_ALIGN64 int32_t low[16]; /* where the integer sums start */
    int32_t high[16];            /* HALVES: the second one's; PAIRS: both sums as two int16 */
    float min[16];               /* MIN: da * f32(sum a) */
} token_values;

HYP_INLINE void token_values_of(int shape, int zero, const uint8_t *act, token_values *t)
{
    const __m512i a = hyp_load_avx512(act + ACT_S), b = hyp_load_avx512(act + ACT_S + 64);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i s0 = _mm512_permutex2var_epi32(a, even, b);
    const __m512i s1 = _mm512_permutex2var_epi32(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
    const __m512i sum = _mm512_add_epi32(s0, s1);
    /* zero points are below 2^15 and |sum| <= 2*16*127: 16-bit products would do, but there is no such broadcast */
    const __m512i factor = _mm512_set1_epi32(-zero);
    if (shape == HYP_SHAPE_SYM) _mm512_store_si512(t->low, _mm512_mullo_epi32(sum, factor));
    if (shape == HYP_SHAPE_HALVES) {
        _mm512_store_si512(t->low, _mm512_mullo_epi32(s0, factor));
        _mm512_store_si512(t->high, _mm512_mullo_epi32(s1, factor));
    }
    if (shape == HYP_SHAPE_PAIRS)
        _mm512_store_si512(t->high, _mm512_mask_blend_epi16(0xaaaaaaaau, s0, _mm512_slli_epi32(s1, 16)));
    if (shape == HYP_SHAPE_MIN) {
        const __m512 da = _mm512_loadu_ps((const float *)(const void *)(act + ACT_D));
        _mm512_store_ps(t->min, _mm512_mul_ps(da, _mm512_cvtepi32_ps(sum)));
    }
}

HYP_INLINE __m512i start(int from_memory, const int32_t *value)
{
    return from_memory ? hyp_spread_avx512(value) : _mm512_setzero_si512();
}

enum { TOKENS = 8 }; /* tokens in step: as many chains of vpdpbusd as hide its latency on two ports */

/* `tokens` (a constant, at most TOKENS) tokens from t on of one block. */
HYP_INLINE void block_times(int shape, int tokens, const hyp_strip_block *b, const token_values *values, const uint8_t *act,
                            int t, __m512 *acc)
{
    const int halves = shape == HYP_SHAPE_HALVES, zero = shape == HYP_SHAPE_SYM || halves;
    __m512i low[TOKENS], high[TOKENS];
    HYP_UNROLL
    for (int u = 0; u < tokens; u++) {
        low[u] = start(zero, &values->low[t + u]);
        high[u] = start(halves, &values->high[t + u]);
    }
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        const __m512i w = _mm512_load_si512(b->w[v]);
        HYP_UNROLL
        for (int u = 0; u < tokens; u++) {
            __m512i *sum = halves && v >= 4 ? &high[u] : &low[u];
            *sum = _mm512_dpbusd_epi32(*sum, w, hyp_spread_avx512(act + HYP_BLOCK * (t + u) + 4 * v));
        }
    }
    HYP_UNROLL
    for (int u = 0; u < tokens; u++) {
        const __m512 da = hyp_spread_f32_avx512(act + ACT_D + 4 * (t + u));
        const __m512 dw = _mm512_mul_ps(_mm512_load_ps(b->d), da);
        __m512 sum = _mm512_cvtepi32_ps(low[u]);
        if (halves) {
            sum = _mm512_mul_ps(_mm512_load_ps(b->p), sum);
            sum = _mm512_fmadd_ps(_mm512_load_ps((const float *)(const void *)b->q), _mm512_cvtepi32_ps(high[u]), sum);
        }
        acc[u] = _mm512_fmadd_ps(dw, sum, acc[u]);
        if (shape == HYP_SHAPE_MIN)
            acc[u] = _mm512_fmadd_ps(_mm512_load_ps(b->p), hyp_spread_f32_avx512(&values->min[t + u]), acc[u]);
        if (shape == HYP_SHAPE_PAIRS) {
            const __m512i min = _mm512_madd_epi16(_mm512_load_si512(b->q), hyp_spread_avx512(&values->high[t + u]));
            acc[u] = _mm512_fnmadd_ps(_mm512_mul_ps(_mm512_load_ps(b->p), da), _mm512_cvtepi32_ps(min), acc[u]);
        }
    }
}

HYP_INLINE void panel_times(int shape, int tokens, const hyp_strip_block *b, size_t n, const uint8_t *act,
                            const token_values *values, hyp_strip_sums *sums)
{
    __m512 acc[16];
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) acc[t] = _mm512_load_ps(sums->at[t]);
    for (size_t i = 0; i < n; i++, act += ACT_RECORD) {
        HYP_UNROLL
        for (int t = 0; t < tokens; t += TOKENS)
            block_times(shape, tokens - t < TOKENS ? tokens - t : TOKENS, b + i, values + i, act, t, acc + t);
    }
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) _mm512_store_ps(sums->at[t], acc[t]);
}

/* Four sizes: a token that does not exist costs as much as one that does, and most calls of 2 to 16 tokens are small. */
HYP_INLINE void strip_times(int shape, int zero, const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act,
                            size_t tokens, hyp_strip_sums *sums)
{
    token_values values[HYP_STRIP_BLOCKS];
    for (size_t i = 0; i < n; i++) token_values_of(shape, zero, act + i * ACT_RECORD, &values[i]);
    for (size_t p = 0; p < panels; p++, strip++, sums += HYP_STRIP_GROUPS) {
        if (tokens <= 4) panel_times(shape, 4, strip->block, n, act, values, sums);
        else if (tokens <= 8) panel_times(shape, 8, strip->block, n, act, values, sums);
        else if (tokens <= 12) panel_times(shape, 12, strip->block, n, act, values, sums);
        else panel_times(shape, 16, strip->block, n, act, values, sums);
    }
}

#define STRIP(name, shape, zero)                                                                                        \
    static void strip_##name(const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,        \
                             hyp_strip_sums *sums)                                                                      \
    {                                                                                                                   \
        strip_times(shape, zero, strip, panels, n, act, tokens, sums);                                                  \
    }
STRIP(zero_8, HYP_SHAPE_SYM, 8)
STRIP(zero_16, HYP_SHAPE_SYM, 16)
STRIP(zero_124, HYP_SHAPE_SYM, 124)
STRIP(zero_128, HYP_SHAPE_SYM, 128)
STRIP(min, HYP_SHAPE_MIN, 0)
STRIP(halves, HYP_SHAPE_HALVES, 32)
STRIP(pairs, HYP_SHAPE_PAIRS, 0)

hyp_strip_mul_fn hyp_strip_mul_avx512(int type)
{
    switch (type) {
    case HYP_Q4_0: return strip_zero_8;
    case HYP_Q5_0: return strip_zero_16;
    case HYP_Q3_K: return strip_zero_124;
    case HYP_Q8_0: case HYP_IQ4_NL: return strip_zero_128;
    case HYP_Q6_K: return strip_halves;
    case HYP_Q2_K: return strip_pairs;
    default: return strip_min;
    }
}
