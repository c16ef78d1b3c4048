/* One block of weights in registers times several tokens of a group of 16, with vpdpbusd. */
#ifndef HYP_TOKENS_AVX512_H
#define HYP_TOKENS_AVX512_H

#include "matmul/products_avx512.h"

/* Offsets in a group's record of one block: codes, scales, sums. */
enum {
    HYP_ACT_D = HYP_BLOCK * HYP_ACT_TILE,
    HYP_ACT_S = HYP_ACT_D + 4 * HYP_ACT_TILE,
    HYP_ACT_RECORD = HYP_ACT_S + 8 * HYP_ACT_TILE
};

/* Per token values of one block, computed for 16 tokens at once and then broadcast one by one. They are made for a run
 * of blocks before the first is used: gcc otherwise keeps the vector and shuffles each lane out of it, on port 5. */
typedef struct {
    HYP_ALIGN64 int32_t low[16]; /* where the integer sums start */
    int32_t high[16];            /* HALVES: the second one's; PAIRS: both sums as two int16 */
    float min[16];               /* MIN: da * f32(sum a) */
} hyp_token_values;

HYP_INLINE void hyp_token_values_avx512(int type, const uint8_t *act, hyp_token_values *t)
{
    const int shape = hyp_shape_avx512(type);
    const __m512i a = hyp_load_avx512(act + HYP_ACT_S), b = hyp_load_avx512(act + HYP_ACT_S + 64);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i s0 = _mm512_permutex2var_epi32(a, even, b);
    const __m512i s1 = _mm512_permutex2var_epi32(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
    const __m512i sum = _mm512_add_epi32(s0, s1), factor = _mm512_set1_epi32(-hyp_zero_avx512(type));
    if (shape == HYP_SHAPE_SYM) _mm512_store_si512(t->low, _mm512_mullo_epi32(sum, factor));
    if (shape == HYP_SHAPE_HALVES) {
        _mm512_store_si512(t->low, _mm512_mullo_epi32(s0, factor));
        _mm512_store_si512(t->high, _mm512_mullo_epi32(s1, factor));
    }
    if (shape == HYP_SHAPE_PAIRS)
        _mm512_store_si512(t->high, _mm512_mask_blend_epi16(0xaaaaaaaau, s0, _mm512_slli_epi32(s1, 16)));
    if (shape == HYP_SHAPE_MIN) {
        const __m512 da = _mm512_loadu_ps((const float *)(const void *)(act + HYP_ACT_D));
        _mm512_store_ps(t->min, _mm512_mul_ps(da, _mm512_cvtepi32_ps(sum)));
    }
}

/* acc[t] += block x token t for `tokens` (a constant, even) tokens, two in step with one chain of vpdpbusd each (two in
 * HALVES): the next tokens cover its latency, and a second chain would cost an addition, on ports that vpdpbusd needs. */
HYP_INLINE void hyp_block_times_tokens_avx512(int type, int tokens, const hyp_block_avx512 *b, const hyp_token_values *values,
                                              const uint8_t *act, __m512 *acc)
{
    const int shape = hyp_shape_avx512(type), halves = shape == HYP_SHAPE_HALVES, zero = shape == HYP_SHAPE_SYM || halves;
    HYP_UNROLL
    for (int t = 0; t < tokens; t += 2) {
        __m512i low[2], high[2];
        HYP_UNROLL
        for (int u = 0; u < 2; u++) {
            low[u] = zero ? hyp_spread_avx512(&values->low[t + u]) : _mm512_setzero_si512();
            high[u] = halves ? hyp_spread_avx512(&values->high[t + u]) : _mm512_setzero_si512();
        }
        HYP_UNROLL
        for (int v = 0; v < 8; v++) {
            HYP_UNROLL
            for (int u = 0; u < 2; u++) {
                const int at = halves ? (v & 1 ? 4 + v / 2 : v / 2) : v;
                __m512i *sum = halves && (v & 1) ? &high[u] : &low[u];
                *sum = _mm512_dpbusd_epi32(*sum, b->w[at], hyp_spread_avx512(act + HYP_BLOCK * (t + u) + 4 * at));
            }
        }
        HYP_UNROLL
        for (int u = 0; u < 2; u++) {
            const __m512 da = hyp_spread_f32_avx512(act + HYP_ACT_D + 4 * (t + u)), dw = _mm512_mul_ps(b->d, da);
            __m512 sum = _mm512_cvtepi32_ps(low[u]);
            if (halves) {
                sum = _mm512_mul_ps(b->p, sum);
                sum = _mm512_fmadd_ps(_mm512_castsi512_ps(b->q), _mm512_cvtepi32_ps(high[u]), sum);
            }
            acc[t + u] = _mm512_fmadd_ps(dw, sum, acc[t + u]);
            if (shape == HYP_SHAPE_MIN)
                acc[t + u] = _mm512_fmadd_ps(b->p, hyp_spread_f32_avx512(&values->min[t + u]), acc[t + u]);
            if (shape == HYP_SHAPE_PAIRS) {
                const __m512i min = _mm512_madd_epi16(b->q, hyp_spread_avx512(&values->high[t + u]));
                acc[t + u] = _mm512_fnmadd_ps(_mm512_mul_ps(b->p, da), _mm512_cvtepi32_ps(min), acc[t + u]);
            }
        }
    }
}

#endif
