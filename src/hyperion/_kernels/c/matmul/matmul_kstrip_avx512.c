/* K types, two or more tokens: a record of a panel is taken apart once, and its 8 groups are multiplied with one group of 16
 * tokens at a time. Codes of a group (8 vectors) and the tokens' integer sums (16) stay in registers; activations come as 4-byte
 * broadcasts from memory, which costs no vector port. */
#include "matmul/kquant_avx512.h"

HYP_INLINE void unpack(int type, const uint8_t *rec, size_t blocks, hyp_strip *strip)
{
    hyp_strip_super *to = strip->super;
    for (size_t i = 0; i < blocks; i += 8, to++, rec += HYP_PANEL * hyp_block_bytes(type)) {
        HYP_UNROLL
        for (int g = 0; g < 8; g++) {
            __m512i w[8];
            hyp_group_load_avx512(type, rec, g, w);
            HYP_UNROLL
            for (int v = 0; v < 8; v++) _mm512_store_si512(to->w[g][v], w[v]);
            if (type == HYP_Q6_K) {
                for (int half = 2 * g; half < 2 * g + 2; half++)
                    _mm512_store_si512(to->scale[half], hyp_widen_signed_avx512(hyp_bytes16_avx512(rec + 32 + 16 * half)));
            }
            if (type == HYP_Q2_K) _mm512_store_si512(to->min[g], hyp_q2_mins_avx512(rec, g));
            if ((type == HYP_Q4_K || type == HYP_Q5_K) && g % 2 == 0) {
                __m512i s[2];
                _mm512_store_si512(to->min[g / 2], hyp_pair_scales_avx512(rec, g / 2, &s[0], &s[1]));
                _mm512_store_si512(to->scale[g], s[0]);
                _mm512_store_si512(to->scale[g + 1], s[1]);
            }
        }
        _mm512_store_ps(to->d, hyp_half16_avx512(rec));
        if (hyp_has_mins(type)) _mm512_store_ps(to->dmin, hyp_half16_avx512(rec + 32));
    }
}

#define UNPACK(name, type)                                                                                              \
    void hyp_unpack_##name##_avx512(const uint8_t *rec, size_t n, hyp_strip *strip)                                    \
    {                                                                                                                   \
        unpack(type, rec, n, strip);                                                                                    \
    }
HYP_TYPES_OF_256_AVX512(UNPACK)

/* Where the integer sums of the tokens start, by half groups in Q6_K; in Q3_K [0] and [1] are those of the record's halves. */
typedef struct {
    HYP_ALIGN64 int32_t at[16][HYP_ACT_TILE];
} starts;

/* `factor` times the first and the second word of each of 16 pairs. */
HYP_INLINE __m512i words_times(__m512i pairs, int first, int second)
{
    return _mm512_madd_epi16(pairs, _mm512_set1_epi32((int32_t)hyp_act_words(first, second)));
}

HYP_INLINE void find_starts(int type, const uint8_t *act, starts *s)
{
    if (type == HYP_Q6_K) {
        for (int g = 0; g < 8; g++, act += HYP_ACT_RECORD) {
            const __m512i halves = hyp_load_avx512(act + HYP_ACT_S);
            _mm512_store_si512(s->at[2 * g], words_times(halves, -HYP_Q6_ZERO, 0));
            _mm512_store_si512(s->at[2 * g + 1], words_times(halves, 0, -HYP_Q6_ZERO));
        }
    } else if (type == HYP_Q3_K) {
        for (int h = 0; h < 2; h++, act += 4 * HYP_ACT_RECORD) {
            const __m512i first = hyp_load_avx512(act + HYP_ACT_PAIR), second = hyp_load_avx512(act + 2 * HYP_ACT_RECORD + HYP_ACT_PAIR);
            _mm512_store_si512(s->at[h], _mm512_add_epi32(words_times(first, -HYP_Q3_OFFSET, -HYP_Q3_OFFSET),
                                                          words_times(second, -HYP_Q3_OFFSET, -HYP_Q3_OFFSET)));
        }
    }
}

/* sum[t] += group g x token t for `tokens` (a constant, even) tokens, two in step; `act`: the group's record. */
HYP_INLINE void group_times_tokens(int type, int tokens, const hyp_strip_super *b, int g, const uint8_t *act, const starts *start,
                                   __m512i *sum)
{
    const int halves = type == HYP_Q6_K, scaled = type == HYP_Q4_K || type == HYP_Q5_K;
    __m512i w[8];
    HYP_UNROLL
    for (int v = 0; v < 8; v++) w[v] = _mm512_load_si512(b->w[g][v]);
    HYP_UNROLL
    for (int t = 0; t < tokens; t += 2) {
        __m512i low[2], high[2];
        HYP_UNROLL
        for (int u = 0; u < 2; u++) {
            low[u] = halves ? hyp_spread_avx512(&start->at[2 * g][t + u]) : scaled ? _mm512_setzero_si512() : sum[t + u];
            if (halves) high[u] = hyp_spread_avx512(&start->at[2 * g + 1][t + u]);
        }
        HYP_UNROLL
        for (int v = 0; v < 8; v++) {
            HYP_UNROLL
            for (int u = 0; u < 2; u++) {
                const int at = halves ? (v & 1 ? 4 + v / 2 : v / 2) : v;
                __m512i *to = halves && (v & 1) ? &high[u] : &low[u];
                *to = _mm512_dpbusd_epi32(*to, w[at], hyp_spread_avx512(act + HYP_BLOCK * (t + u) + 4 * at));
            }
        }
        HYP_UNROLL
        for (int u = 0; u < 2; u++) {
            __m512i *to = &sum[t + u];
            if (!halves && !scaled) {
                *to = low[u];
                continue;
            }
            *to = _mm512_add_epi32(*to, _mm512_mullo_epi32(low[u], _mm512_load_si512(b->scale[halves ? 2 * g : g])));
            if (halves) *to = _mm512_add_epi32(*to, _mm512_mullo_epi32(high[u], _mm512_load_si512(b->scale[2 * g + 1])));
        }
    }
}

HYP_INLINE void panel_times(int type, int tokens, const hyp_strip_super *b, const uint8_t *act, const starts *start,
                            hyp_strip_sums *acc, const hyp_ahead *ahead, size_t panel)
{
    for (int h = 0; h < 2; h++, act += 4 * HYP_ACT_RECORD) {
        __m512i sum[HYP_ACT_TILE];
        HYP_UNROLL
        for (int t = 0; t < tokens; t++) sum[t] = type == HYP_Q3_K ? hyp_spread_avx512(&start->at[h][t]) : _mm512_setzero_si512();
        for (int g = 0; g < 4; g++) {
            hyp_fetch_ahead_avx512(ahead, panel, (size_t)(4 * h + g), 1);
            group_times_tokens(type, tokens, b, 4 * h + g, act + g * HYP_ACT_RECORD, start, sum);
        }
        hyp_finish_half_avx512(type, tokens, b, h, act, sum, acc);
    }
}

/* Four sizes: a token that does not exist costs as much as one that does. */
HYP_INLINE void strip_times(int type, const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,
                            hyp_strip_sums *acc, const hyp_ahead *ahead)
{
    starts start;
    (void)n; /* always one record */
    find_starts(type, act, &start);
    for (size_t p = 0; p < panels; p++, strip++, acc += HYP_STRIP_GROUPS) {
        const hyp_strip_super *b = strip->super;
        if (tokens <= 4) panel_times(type, 4, b, act, &start, acc, ahead, p);
        else if (tokens <= 8) panel_times(type, 8, b, act, &start, acc, ahead, p);
        else if (tokens <= 12) panel_times(type, 12, b, act, &start, acc, ahead, p);
        else panel_times(type, 16, b, act, &start, acc, ahead, p);
    }
}

#define STRIP(name, type)                                                                                               \
    static void strip_##name(const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,        \
                             hyp_strip_sums *acc, const hyp_ahead *ahead)                                               \
    {                                                                                                                   \
        strip_times(type, strip, panels, n, act, tokens, acc, ahead);                                                   \
    }
STRIP(q2_k, HYP_Q2_K)
STRIP(q3_k, HYP_Q3_K)
STRIP(scaled, HYP_Q4_K)
STRIP(q6_k, HYP_Q6_K)

hyp_strip_mul_fn hyp_strip_mul_k_avx512(int type)
{
    switch (type) {
    case HYP_Q2_K: return strip_q2_k;
    case HYP_Q3_K: return strip_q3_k;
    case HYP_Q6_K: return strip_q6_k;
    default: return strip_scaled;
    }
}
