/* One block of weights in registers times several tokens of a group of 16, with vpdpbusd. */
#ifndef HYP_TOKENS_AVX512_H
#define HYP_TOKENS_AVX512_H

#include "matmul/products_avx512.h"

/* Offsets in a group's record of one block: codes, scales, sums. */
enum {
    HYP_ACT_D = HYP_BLOCK * HYP_ACT_TILE,
    HYP_ACT_S = HYP_ACT_D + 4 * HYP_ACT_TILE, /* by 32; by 128 the halves' sums, then the pairs' */
    HYP_ACT_PAIR = HYP_ACT_S + 4 * HYP_ACT_TILE,
    HYP_ACT_RECORD = HYP_ACT_S + 8 * HYP_ACT_TILE
};

/* Per token values of one block, computed for 16 tokens at once and then broadcast one by one. They are made for a run
 * of blocks before the first is used: gcc otherwise keeps the vector and shuffles each lane out of it, on port 5. */
typedef struct {
    HYP_ALIGN64 int32_t low[16]; /* SYM: of the integer sums */
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
    if (shape == HYP_SHAPE_MIN) {
        const __m512 da = _mm512_loadu_ps((const float *)(const void *)(act + HYP_ACT_D));
        _mm512_store_ps(t->min, _mm512_mul_ps(da, _mm512_cvtepi32_ps(sum)));
    }
}

/* acc[t] += block x token t for `tokens` (a constant, even) tokens, two in step with one chain of vpdpbusd each: the next
 * tokens cover its latency, and a second chain would cost an addition, on ports that vpdpbusd needs. */
HYP_INLINE void hyp_block_times_tokens_avx512(int type, int tokens, const hyp_block_avx512 *b, const hyp_token_values *values,
                                              const uint8_t *act, __m512 *acc)
{
    const int shape = hyp_shape_avx512(type);
    HYP_UNROLL
    for (int t = 0; t < tokens; t += 2) {
        __m512i sum[2];
        HYP_UNROLL
        for (int u = 0; u < 2; u++)
            sum[u] = shape == HYP_SHAPE_SYM ? hyp_spread_avx512(&values->low[t + u]) : _mm512_setzero_si512();
        HYP_UNROLL
        for (int v = 0; v < 8; v++) {
            HYP_UNROLL
            for (int u = 0; u < 2; u++)
                sum[u] = _mm512_dpbusd_epi32(sum[u], b->w[v], hyp_spread_avx512(act + HYP_BLOCK * (t + u) + 4 * v));
        }
        HYP_UNROLL
        for (int u = 0; u < 2; u++) {
            const __m512 dw = _mm512_mul_ps(b->d, hyp_spread_f32_avx512(act + HYP_ACT_D + 4 * (t + u)));
            acc[t + u] = _mm512_fmadd_ps(dw, _mm512_cvtepi32_ps(sum[u]), acc[t + u]);
            if (shape == HYP_SHAPE_MIN)
                acc[t + u] = _mm512_fmadd_ps(b->p, hyp_spread_f32_avx512(&values->min[t + u]), acc[t + u]);
        }
    }
}

#endif
