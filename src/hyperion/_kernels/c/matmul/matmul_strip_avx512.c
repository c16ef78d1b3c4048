/* A strip of unpacked weights times one group of 16 tokens, with vpdpbusd. Activations come as 4-byte broadcasts from memory,
 * which costs no vector port. Up to 8 tokens: the 8 weight vectors of a block and the float accumulators stay in registers. More:
 * tokens_pair_avx512.h. (K types are in matmul_kstrip_avx512.c.) */
#include "matmul/tokens_pair_avx512.h"

enum { ONE_PANEL_TOKENS = 8 }; /* up to which one panel at a time is faster: they are bound by the unpacking */

/* `type`: one of the types of a shape and zero point, as a constant. */
HYP_INLINE void panel_times(int type, int tokens, const hyp_strip_block *from, size_t n, const uint8_t *act,
                            const hyp_token_values *values, hyp_strip_sums *sums, const hyp_ahead *ahead, size_t panel)
{
    __m512 acc[ONE_PANEL_TOKENS];
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) acc[t] = _mm512_load_ps(sums->at[t]);
    for (size_t i = 0; i < n; i++, from++, act += HYP_ACT_RECORD) {
        hyp_fetch_ahead_avx512(ahead, panel, i, 1);
        hyp_block_avx512 b;
        HYP_UNROLL
        for (int v = 0; v < 8; v++) b.w[v] = _mm512_load_si512(from->w[v]);
        b.d = _mm512_load_ps(from->d);
        b.p = _mm512_load_ps(from->p);
        hyp_block_times_tokens_avx512(type, tokens, &b, values + i, act, acc);
    }
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) _mm512_store_ps(sums->at[t], acc[t]);
}

/* Four tokens' share of a record is not a stream that the hardware would prefetch. */
HYP_INLINE void fetch_next(int panels, const hyp_ahead *ahead, size_t i)
{
    for (int p = 0; p < panels; p++) hyp_fetch_ahead_avx512(ahead, (size_t)p, i, 1);
    if (!ahead->act) return;
    HYP_UNROLL
    for (size_t line = 0; line < HYP_ACT_RECORD; line += 64)
        _mm_prefetch((const char *)ahead->act + i * HYP_ACT_RECORD + line, _MM_HINT_T0);
}

/* One or two panels, four tokens at a time: see tokens_pair_avx512.h. */
HYP_INLINE void panels_times(int type, int panels, const hyp_strip *strip, size_t n, const uint8_t *act, size_t tokens,
                             const hyp_token_values *values, hyp_strip_sums *sums, const hyp_ahead *ahead)
{
    for (size_t t = 0; t < tokens; t += HYP_PAIR_TOKENS) {
        hyp_pair_tokens from = hyp_pair_tokens_at(act, values, t);
        hyp_pair_sums acc[2];
        HYP_UNROLL
        for (int p = 0; p < panels; p++)
            HYP_UNROLL
            for (int u = 0; u < HYP_PAIR_TOKENS; u++) acc[p].at[u] = _mm512_load_ps(sums[p * HYP_STRIP_GROUPS].at[t + (size_t)u]);
        for (size_t i = 0; i < n; i++, hyp_pair_tokens_next(&from)) {
            if (t == 0) fetch_next(panels, ahead, i);
            hyp_blocks_times_four_avx512(type, panels, strip->block + i, &from, acc);
        }
        HYP_UNROLL
        for (int p = 0; p < panels; p++)
            HYP_UNROLL
            for (int u = 0; u < HYP_PAIR_TOKENS; u++) _mm512_store_ps(sums[p * HYP_STRIP_GROUPS].at[t + (size_t)u], acc[p].at[u]);
    }
}

/* Two sizes: a token that does not exist costs as much as one that does. */
HYP_INLINE void strip_times(int type, const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,
                            hyp_strip_sums *sums, const hyp_ahead *ahead)
{
    hyp_token_values values[HYP_STRIP_BLOCKS];
    for (size_t i = 0; i < n; i++) hyp_token_values_avx512(type, act + i * HYP_ACT_RECORD, &values[i]);
    if (tokens > ONE_PANEL_TOKENS) {
        if (panels == 2) panels_times(type, 2, strip, n, act, tokens, values, sums, ahead);
        else panels_times(type, 1, strip, n, act, tokens, values, sums, ahead);
        return;
    }
    for (size_t p = 0; p < panels; p++, strip++, sums += HYP_STRIP_GROUPS) {
        if (tokens <= 4) panel_times(type, 4, strip->block, n, act, values, sums, ahead, p);
        else panel_times(type, ONE_PANEL_TOKENS, strip->block, n, act, values, sums, ahead, p);
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
STRIP(zero_128, HYP_Q8_0)
STRIP(min, HYP_Q4_1)

hyp_strip_mul_fn hyp_strip_mul_avx512(int type)
{
    if (hyp_block_len(type) == HYP_SUPER) return hyp_strip_mul_k_avx512(type);
    switch (type) {
    case HYP_Q4_0: return strip_zero_8;
    case HYP_Q5_0: return strip_zero_16;
    case HYP_Q8_0: case HYP_IQ4_NL: return strip_zero_128;
    default: return strip_min;
    }
}
