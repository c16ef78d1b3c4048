/* One block of weights of one or two panels times four tokens, with vpdpbusd: the product of many tokens, for the shapes SYM
 * and MIN.
 *
 * Zen 4 loads one 512-bit vector a cycle and makes one vpdpbusd, so a broadcast of activations for each vpdpbusd, together with
 * the scales, makes the loads the bound. Two panels share each broadcast, four tokens share each vector of weights: 6 loads for
 * 8 products. What remains is d * da and its fma beside each 8 vpdpbusd: 80% of the peak. */
#ifndef HYP_TOKENS_PAIR_AVX512_H
#define HYP_TOKENS_PAIR_AVX512_H

#include "matmul/tokens_avx512.h"

enum { HYP_PAIR_TOKENS = 4 };

/* Accumulators of one panel and the four tokens. */
typedef struct {
    __m512 at[HYP_PAIR_TOKENS];
} hyp_pair_sums;

/* The four tokens' parts of a group's record and of the values made from it. Pointers of their own, so that everything
 * below is a constant away from one of them. */
typedef struct {
    const uint8_t *codes;
    const float *d, *min;
    const int32_t *low;
} hyp_pair_tokens;

HYP_INLINE hyp_pair_tokens hyp_pair_tokens_at(const uint8_t *act, const hyp_token_values *values, size_t t)
{
    const hyp_pair_tokens from = {act + HYP_BLOCK * t, (const float *)(const void *)(act + HYP_ACT_D) + t, values->min + t,
                                  values->low + t};
    return from;
}

/* To the next block's. */
HYP_INLINE void hyp_pair_tokens_next(hyp_pair_tokens *from)
{
    from->codes += HYP_ACT_RECORD;
    from->d += HYP_ACT_RECORD / sizeof *from->d;
    from->min += sizeof(hyp_token_values) / sizeof *from->min;
    from->low += sizeof(hyp_token_values) / sizeof *from->low;
}

/* acc[p] += block of panel p x the four tokens, the panels' blocks being a strip apart; `type` and `panels` are constants. */
HYP_INLINE void hyp_blocks_times_four_avx512(int type, int panels, const hyp_strip_block *block, const hyp_pair_tokens *from,
                                             hyp_pair_sums *acc)
{
    const int min = hyp_shape_avx512(type) == HYP_SHAPE_MIN;
    __m512i sum[2][HYP_PAIR_TOKENS];
    HYP_UNROLL
    for (int u = 0; u < HYP_PAIR_TOKENS; u++) {
        sum[0][u] = min ? _mm512_setzero_si512() : hyp_spread_avx512(from->low + u);
        sum[1][u] = sum[0][u];
    }
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        HYP_UNROLL
        for (int u = 0; u < HYP_PAIR_TOKENS; u++) {
            const __m512i a = hyp_spread_avx512(from->codes + HYP_BLOCK * u + 4 * v);
            HYP_UNROLL
            for (int p = 0; p < panels; p++)
                sum[p][u] = _mm512_dpbusd_epi32(sum[p][u], _mm512_load_si512(block[p * HYP_STRIP_BLOCKS].w[v]), a);
        }
    }
    HYP_UNROLL
    for (int u = 0; u < HYP_PAIR_TOKENS; u++) {
        HYP_UNROLL
        for (int p = 0; p < panels; p++) {
            const hyp_strip_block *b = block + p * HYP_STRIP_BLOCKS;
            const __m512 dw = _mm512_mul_ps(_mm512_load_ps(b->d), hyp_spread_f32_avx512(from->d + u));
            acc[p].at[u] = _mm512_fmadd_ps(dw, _mm512_cvtepi32_ps(sum[p][u]), acc[p].at[u]);
            if (min)
                acc[p].at[u] = _mm512_fmadd_ps(_mm512_load_ps(b->p), hyp_spread_f32_avx512(from->min + u), acc[p].at[u]);
        }
    }
}

#endif
