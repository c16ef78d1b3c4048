/* Two to sixteen tokens and the types of 32: each block is unpacked into registers, multiplied, and forgotten, panel after panel
 * as for one token. A strip would not pay: its stores take as long as two tokens' products.
 * The arithmetic fills the window of instructions, so that no read of weights comes early: they are prefetched by software. */
#include "matmul/tokens_avx512.h"

enum {
    RUN = 8,      /* blocks whose token values are made before the first is used */
    AHEAD = 8192, /* bytes between what is multiplied and what is prefetched */
    IN_STEP = 8   /* tokens whose integer sums have registers beside the accumulators */
};

/* Twice, the second time half way: few tokens ask faster than memory answers, and what finds the queue full is dropped (Q8_0 and two
 * tokens: 26 instead of 19 GB/s). */
HYP_INLINE void fetch(const uint8_t *p)
{
    HYP_PREFETCH_L2(p);
    HYP_PREFETCH_L2(p - AHEAD / 2);
}

/* acc[t] += block x token t for up to IN_STEP tokens, all in step; `next`: what is prefetched meanwhile. */
HYP_INLINE void block_times_few(int type, int tokens, const hyp_block_avx512 *b, const hyp_token_values *values, const uint8_t *act,
                                const uint8_t *next, __m512 *acc)
{
    const int is_min = hyp_shape_avx512(type) == HYP_SHAPE_MIN, lines = (HYP_PANEL * (int)hyp_block_bytes(type) + 63) / 64;
    __m512i sum[IN_STEP];
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) sum[t] = is_min ? _mm512_setzero_si512() : hyp_spread_avx512(&values->low[t]);
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        HYP_UNROLL
        for (int line = lines * v / 8; line < lines * (v + 1) / 8; line++) fetch(next + 64 * line);
        HYP_UNROLL
        for (int t = 0; t < tokens; t++) sum[t] = _mm512_dpbusd_epi32(sum[t], b->w[v], hyp_spread_avx512(act + HYP_BLOCK * t + 4 * v));
    }
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) {
        const __m512 dw = _mm512_mul_ps(b->d, hyp_spread_f32_avx512(act + HYP_ACT_D + 4 * t));
        acc[t] = _mm512_fmadd_ps(dw, _mm512_cvtepi32_ps(sum[t]), acc[t]);
        if (is_min) acc[t] = _mm512_fmadd_ps(b->p, hyp_spread_f32_avx512(&values->min[t]), acc[t]);
    }
}

HYP_INLINE void panel_times_few(int type, int tokens, const uint8_t *rec, size_t blocks, const uint8_t *act, __m512 *acc)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type);
    for (size_t b = 0; b < blocks; b += RUN) {
        const size_t n = blocks - b < RUN ? blocks - b : RUN;
        hyp_token_values values[RUN];
        for (size_t i = 0; i < n; i++) hyp_token_values_avx512(type, act + i * HYP_ACT_RECORD, &values[i]);
        for (size_t i = 0; i < n; i++, rec += record, act += HYP_ACT_RECORD) {
            hyp_block_avx512 block;
            hyp_block_load_avx512(type, rec, &block);
            if (tokens <= IN_STEP) {
                block_times_few(type, tokens, &block, &values[i], act, rec + AHEAD, acc);
                continue;
            }
            HYP_UNROLL
            for (size_t line = 0; line < record; line += 64) fetch(rec + AHEAD + line);
            hyp_block_times_tokens_avx512(type, tokens, &block, &values[i], act, acc);
        }
    }
}

/* `tokens`: m or what is compiled above it; tokens that do not exist are zero. */
HYP_INLINE void few(int type, int tokens, const uint8_t *w, size_t rows, size_t k, const uint8_t *act, size_t m,
                    float *out, size_t ldo)
{
    const size_t stride = hyp_panel_bytes(type, k);
    for (size_t row = 0; row < rows; row += HYP_PANEL, w += stride) {
        __m512 acc[HYP_FEW_TOKENS];
        HYP_UNROLL
        for (int t = 0; t < tokens; t++) acc[t] = _mm512_setzero_ps();
        panel_times_few(type, tokens, w, k / HYP_BLOCK, act, acc);
        const __mmask16 lanes = hyp_rows_avx512(rows, row);
        HYP_UNROLL
        for (int t = 0; t < tokens; t++)
            if ((size_t)t < m) _mm512_mask_storeu_ps(out + (size_t)t * ldo + row, lanes, acc[t]);
    }
}

#define CASE(type, tokens)                                                                                              \
    case tokens: few(type, tokens, w, rows, k, act, m, out, ldo); break;
#define FEW(name, type)                                                                                                 \
    void hyp_few_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo)                                                                            \
    {                                                                                                                   \
        switch (m > IN_STEP ? m + m % 2 : m) {  /* a token that does not exist costs as much as one that does */       \
            CASE(type, 1)                                                                                               \
            CASE(type, 2)                                                                                               \
            CASE(type, 3)                                                                                               \
            CASE(type, 4)                                                                                               \
            CASE(type, 5)                                                                                               \
            CASE(type, 6)                                                                                               \
            CASE(type, 7)                                                                                               \
            CASE(type, 8)                                                                                               \
            CASE(type, 10)                                                                                              \
            CASE(type, 12)                                                                                              \
            CASE(type, 14)                                                                                              \
        default: few(type, 16, w, rows, k, act, m, out, ldo); break;                                                    \
        }                                                                                                               \
    }
HYP_TYPES_OF_32_AVX512(FEW)
