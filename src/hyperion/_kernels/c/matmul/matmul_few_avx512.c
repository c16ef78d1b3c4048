/* Two to sixteen tokens and the types of 32: see few_avx512.h. */
#include "matmul/few_avx512.h"
#include "matmul/tokens_avx512.h"

enum {
    RUN = 8,     /* blocks whose token values are made before the first is used */
    AHEAD = 8192 /* bytes; 4 and 8 KiB measure alike, 2 less */
};

/* acc[t] += block x token t, all of them in step, with one chain of vpdpbusd each. */
HYP_INLINE void block_times(int type, int tokens, const hyp_block_avx512 *b, const int32_t *low, const float *min,
                            const uint8_t *codes, const uint8_t *d, __m512 *acc)
{
    const int is_min = hyp_shape_avx512(type) == HYP_SHAPE_MIN;
    __m512i sum[HYP_FEW_PART];
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) sum[t] = is_min ? _mm512_setzero_si512() : hyp_spread_avx512(low + t);
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        HYP_UNROLL
        for (int t = 0; t < tokens; t++)
            sum[t] = _mm512_dpbusd_epi32(sum[t], b->w[v], hyp_spread_avx512(codes + HYP_BLOCK * t + 4 * v));
    }
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) {
        const __m512 dw = _mm512_mul_ps(b->d, hyp_spread_f32_avx512(d + 4 * t));
        acc[t] = _mm512_fmadd_ps(dw, _mm512_cvtepi32_ps(sum[t]), acc[t]);
        if (is_min) acc[t] = _mm512_fmadd_ps(b->p, hyp_spread_f32_avx512(min + t), acc[t]);
    }
}

HYP_INLINE void panel_times(int type, int tokens, const uint8_t *rec, const hyp_few_part *part)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type), blocks = part->k / HYP_BLOCK, first = part->first;
    const uint8_t *act = part->act;
    __m512 acc[HYP_FEW_PART];
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) acc[t] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b += RUN) {
        const size_t n = blocks - b < RUN ? blocks - b : RUN;
        hyp_token_values values[RUN];
        for (size_t i = 0; i < n; i++) hyp_token_values_avx512(type, act + i * HYP_ACT_RECORD, &values[i]);
        for (size_t i = 0; i < n; i++, rec += record, act += HYP_ACT_RECORD) {
            hyp_block_avx512 block;
            HYP_UNROLL
            for (size_t line = 0; line < record; line += 64) HYP_PREFETCH_L2(rec + part->ahead + line);
            hyp_block_load_avx512(type, rec, &block);
            block_times(type, tokens, &block, values[i].low + first, values[i].min + first, act + HYP_BLOCK * first,
                        act + HYP_ACT_D + 4 * first, acc);
        }
    }
    hyp_few_store_avx512(part, tokens, acc);
}

#define OF_32(name, type) HYP_FEW(panel_times, name, type, AHEAD)
HYP_TYPES_OF_32_AVX512(OF_32)
