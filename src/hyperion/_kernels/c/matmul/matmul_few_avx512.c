/* Two to sixteen tokens and the types of 32: each block is unpacked into registers, multiplied, and forgotten, panel after panel
 * as for one token. A strip would not pay: its stores take as long as two tokens' products.
 * The arithmetic fills the window of instructions, so that no read of weights comes early: they are prefetched by software. */
#include "matmul/tokens_avx512.h"

enum {
    RUN = 8,      /* blocks whose token values are made before the first is used */
    AHEAD = 8192  /* bytes between what is multiplied and what is prefetched; 4 and 8 KiB measure alike, 2 less */
};

HYP_INLINE void panel_times_few(int type, int tokens, const uint8_t *rec, size_t blocks, const uint8_t *act, __m512 *acc)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type);
    for (size_t b = 0; b < blocks; b += RUN) {
        const size_t n = blocks - b < RUN ? blocks - b : RUN;
        hyp_token_values values[RUN];
        for (size_t i = 0; i < n; i++) hyp_token_values_avx512(type, act + i * HYP_ACT_RECORD, &values[i]);
        for (size_t i = 0; i < n; i++, rec += record, act += HYP_ACT_RECORD) {
            hyp_block_avx512 block;
            HYP_UNROLL
            for (size_t line = 0; line < record; line += 64) _mm_prefetch((const char *)rec + AHEAD + line, _MM_HINT_T1);
            hyp_block_load_avx512(type, rec, &block);
            hyp_block_times_tokens_avx512(type, tokens, &block, &values[i], act, acc);
        }
    }
}

/* `tokens`: m rounded up to what is compiled; tokens that do not exist are zero. */
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

#define FEW(name, type)                                                                                                 \
    void hyp_few_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo)                                                                            \
    {                                                                                                                   \
        if (m <= 4) few(type, 4, w, rows, k, act, m, out, ldo);                                                         \
        else if (m <= 8) few(type, 8, w, rows, k, act, m, out, ldo);                                                    \
        else if (m <= 12) few(type, 12, w, rows, k, act, m, out, ldo);                                                  \
        else few(type, 16, w, rows, k, act, m, out, ldo);                                                               \
    }
HYP_TYPES_OF_32_AVX512(FEW)
