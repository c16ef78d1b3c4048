/* A strip of unpacked weights times one group of 16 tokens, with vpdpbusd. The 8 weight vectors of a block and up to 16
 * float accumulators stay in registers; activations come as 4-byte broadcasts from memory, which costs no vector port. */
#include "matmul/tokens_avx512.h"

/* `type`: one of the types of a shape and zero point, as a constant. */
HYP_INLINE void panel_times(int type, int tokens, const hyp_strip_block *from, size_t n, const uint8_t *act,
                            const hyp_token_values *values, hyp_strip_sums *sums, const hyp_ahead *ahead, size_t panel)
{
    __m512 acc[HYP_ACT_TILE];
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) acc[t] = _mm512_load_ps(sums->at[t]);
    for (size_t i = 0; i < n; i++, from++, act += HYP_ACT_RECORD) {
        hyp_fetch_ahead_avx512(ahead, panel, i, 1);
        hyp_block_avx512 b;
        HYP_UNROLL
        for (int v = 0; v < 8; v++) b.w[v] = _mm512_load_si512(from->w[v]);
        b.d = _mm512_load_ps(from->d);
        b.p = _mm512_load_ps(from->p);
        b.q = _mm512_load_si512(from->q);
        hyp_block_times_tokens_avx512(type, tokens, &b, values + i, act, acc);
    }
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) _mm512_store_ps(sums->at[t], acc[t]);
}

/* Four sizes: a token that does not exist costs as much as one that does. */
HYP_INLINE void strip_times(int type, const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,
                            hyp_strip_sums *sums, const hyp_ahead *ahead)
{
    hyp_token_values values[HYP_STRIP_BLOCKS];
    for (size_t i = 0; i < n; i++) hyp_token_values_avx512(type, act + i * HYP_ACT_RECORD, &values[i]);
    for (size_t p = 0; p < panels; p++, strip++, sums += HYP_STRIP_GROUPS) {
        if (tokens <= 4) panel_times(type, 4, strip->block, n, act, values, sums, ahead, p);
        else if (tokens <= 8) panel_times(type, 8, strip->block, n, act, values, sums, ahead, p);
        else if (tokens <= 12) panel_times(type, 12, strip->block, n, act, values, sums, ahead, p);
        else panel_times(type, 16, strip->block, n, act, values, sums, ahead, p);
    }
}

#define STRIP(name, type)                                                                                               \
    static void strip_##name(const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,        \
                             hyp_strip_sums *sums, const hyp_ahead *ahead)                                              \
    {                                                                                                                   \
        strip_times(type, strip, panels, n, act, tokens, sums, ahead);                                                  \
    }
STRIP(zero_8, HYP_Q4_0)
STRIP(zero_16, HYP_Q5_0)
STRIP(zero_124, HYP_Q3_K)
STRIP(zero_128, HYP_Q8_0)
STRIP(min, HYP_Q4_1)
STRIP(halves, HYP_Q6_K)
STRIP(pairs, HYP_Q2_K)

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
