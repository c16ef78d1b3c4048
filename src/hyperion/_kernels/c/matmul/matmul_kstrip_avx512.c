/* K types, many tokens: a record of a panel is taken apart once, and multiplied with one group of 16 tokens after another.
 *
 * A pass takes two panels and four tokens: their integer sums of a group, those of half a record and the floats are 24 registers
 * and as many chains, so that vpdpbusd waits for none; each vector of codes serves four products, each broadcast two.
 * What multiplies shares vpdpbusd's two ports on Zen 4 (vpdpwssd, vpmulld, floats), one slot each; additions and conversions do not.
 * So two groups' sums of Q4_K and Q5_K become the words of one vpdpwssd, where the tokens' reach (panel.h) says that they fit: half
 * a record, 32 vpdpbusd, then has 7 others, 82% of the peak; 9 where they do not. */
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
                _mm512_store_si512(to->scale[8 + g / 2], _mm512_or_si512(s[0], _mm512_slli_epi32(s[1], 16)));
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

enum { PASS_TOKENS = 4 };

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

/* Four tokens' parts of a group of activations; what follows is a constant away from them. */
typedef struct {
    const uint8_t *codes, *words; /* words: scales, sums of half groups, sums of pairs of groups */
    const int32_t *start;
} four_tokens;

/* The integer sums of the panels and tokens of a pass. */
typedef struct {
    __m512i of[HYP_STRIP_PANELS][PASS_TOKENS];
} sums_of_pass;

/* s += vectors [v0, v0 + n) of group g x the tokens. */
HYP_INLINE void vectors_times(int panels, int v0, int n, const hyp_strip *strip, int g, const uint8_t *codes, sums_of_pass *s)
{
    HYP_UNROLL
    for (int v = v0; v < v0 + n; v++) {
        HYP_UNROLL
        for (int u = 0; u < PASS_TOKENS; u++) {
            const __m512i a = hyp_spread_avx512(codes + HYP_BLOCK * u + 4 * v);
            HYP_UNROLL
            for (int p = 0; p < panels; p++)
                s->of[p][u] = _mm512_dpbusd_epi32(s->of[p][u], _mm512_load_si512(strip[p].super->w[g][v]), a);
        }
    }
}

HYP_INLINE void start_at(int panels, const int32_t *start, sums_of_pass *s)
{
    HYP_UNROLL
    for (int u = 0; u < PASS_TOKENS; u++) {
        s->of[0][u] = start ? hyp_spread_avx512(start + u) : _mm512_setzero_si512();
        if (panels == 2) s->of[1][u] = s->of[0][u];
    }
}

/* sum += s times scale i of each panel's rows. */
HYP_INLINE void add_scaled(int panels, const hyp_strip *strip, int i, const sums_of_pass *s, sums_of_pass *sum)
{
    HYP_UNROLL
    for (int p = 0; p < panels; p++) {
        const __m512i scale = _mm512_load_si512(strip[p].super->scale[i]);
        HYP_UNROLL
        for (int u = 0; u < PASS_TOKENS; u++)
            sum->of[p][u] = _mm512_add_epi32(sum->of[p][u], _mm512_mullo_epi32(s->of[p][u], scale));
    }
}

/* Groups g and g + 1, whose sums fit words: sum += s0 times the first word of their scales, s1 times the second. */
HYP_INLINE void add_scaled_words(int panels, const hyp_strip *strip, int g, const sums_of_pass *s0, const sums_of_pass *s1,
                                 sums_of_pass *sum)
{
    HYP_UNROLL
    for (int p = 0; p < panels; p++) {
        const __m512i scales = _mm512_load_si512(strip[p].super->scale[8 + g / 2]);
        HYP_UNROLL
        for (int u = 0; u < PASS_TOKENS; u++) {
            const __m512i words = _mm512_mask_blend_epi16(0xaaaaaaaau, s0->of[p][u], _mm512_slli_epi32(s1->of[p][u], 16));
            sum->of[p][u] = _mm512_dpwssd_epi32(sum->of[p][u], words, scales);
        }
    }
}

/* sum += groups g and g + 1 x the tokens. */
HYP_INLINE void pair_times(int panels, const hyp_strip *strip, int g, const uint8_t *codes, sums_of_pass *sum)
{
    sums_of_pass s[2];
    HYP_UNROLL
    for (int i = 0; i < 2; i++) {
        start_at(panels, NULL, &s[i]);
        vectors_times(panels, 0, 8, strip, g + i, codes + i * HYP_ACT_RECORD, &s[i]);
    }
    add_scaled_words(panels, strip, g, &s[0], &s[1], sum);
}

/* sum += group g x the tokens. */
HYP_INLINE void group_times(int type, int panels, const hyp_strip *strip, int g, const four_tokens *from, sums_of_pass *sum)
{
    sums_of_pass s;
    if (type == HYP_Q2_K || type == HYP_Q3_K) {
        vectors_times(panels, 0, 8, strip, g, from->codes, sum);
    } else if (type == HYP_Q6_K) {
        HYP_UNROLL
        for (int half = 0; half < 2; half++) {
            start_at(panels, from->start + (2 * g + half) * HYP_ACT_TILE, &s);
            vectors_times(panels, 4 * half, 4, strip, g, from->codes, &s);
            add_scaled(panels, strip, 2 * g + half, &s, sum);
        }
    } else {
        start_at(panels, NULL, &s);
        vectors_times(panels, 0, 8, strip, g, from->codes, &s);
        add_scaled(panels, strip, g, &s, sum);
    }
}

/* Group g's share of what will be needed next: weights, and the next tokens' activations. */
HYP_INLINE void fetch_next(int panels, const hyp_ahead *ahead, size_t g)
{
    for (int p = 0; p < panels; p++) {
        const uint8_t *w = ahead->w[p] + g * ahead->w_step, *end = w + ahead->w_step;
        for (w = (const uint8_t *)(((uintptr_t)w + 63) & ~(uintptr_t)63); w < end; w += 64)
            _mm_prefetch((const char *)w, _MM_HINT_T0);
    }
    if (!ahead->act) return;
    HYP_UNROLL
    for (size_t line = 0; line < HYP_ACT_RECORD; line += 64)
        _mm_prefetch((const char *)ahead->act + g * HYP_ACT_RECORD + line, _MM_HINT_T0);
}

/* One record of one or two panels x four tokens; `words`: their groups' sums fit 16 bits. */
HYP_INLINE void record_times(int type, int words, int panels, const hyp_strip *strip, const uint8_t *act, const starts *start, size_t t,
                             hyp_strip_sums *sums)
{
    four_tokens from = {act + HYP_BLOCK * t, act + HYP_ACT_D + 4 * t, start->at[0] + t};
    for (int h = 0; h < 2; h++) {
        const int end = 4 * h + 4;
        sums_of_pass sum;
        start_at(panels, type == HYP_Q3_K ? from.start + h * HYP_ACT_TILE : NULL, &sum);
        for (int g = 4 * h; words && g < end; g += 2, from.codes += 2 * HYP_ACT_RECORD) pair_times(panels, strip, g, from.codes, &sum);
        for (int g = 4 * h; !words && g < end; g++, from.codes += HYP_ACT_RECORD) group_times(type, panels, strip, g, &from, &sum);
        HYP_UNROLL
        for (int u = 0; u < PASS_TOKENS; u++) {
            HYP_UNROLL
            for (int p = 0; p < panels; p++) {
                float *acc = sums[p * HYP_STRIP_GROUPS].at[t + (size_t)u];
                _mm512_store_ps(acc, hyp_finish_half_avx512(type, strip[p].super, h, from.words + 4 * u, sum.of[p][u], _mm512_load_ps(acc)));
            }
        }
        from.words += 4 * HYP_ACT_RECORD;
    }
}

/* Which of 16 tokens have groups whose sums may not fit 16 bits; all, where a type has no other way. */
HYP_INLINE unsigned far_reaching(int type, const uint8_t *act)
{
    const int limit = 2 * INT16_MAX / (type == HYP_Q4_K ? 15 : 31);
    if (type != HYP_Q4_K && type != HYP_Q5_K) return 0xffff;
    act += HYP_ACT_REACH * HYP_ACT_RECORD + HYP_ACT_D;
    const __m512i reach = _mm512_max_epi32(hyp_load_avx512(act), hyp_load_avx512(act + 4 * HYP_ACT_RECORD));
    return _mm512_cmpgt_epi32_mask(reach, _mm512_set1_epi32(limit));
}

/* The passes share the fetching of what is next: all at once would fill the queue of misses, and products would wait for it. */
HYP_INLINE void panels_times(int type, int panels, const hyp_strip *strip, const uint8_t *act, size_t tokens,
                             hyp_strip_sums *sums, const hyp_ahead *ahead)
{
    const size_t groups = HYP_SUPER / HYP_BLOCK;
    const unsigned far = far_reaching(type, act);
    size_t fetched = 0;
    starts start;
    find_starts(type, act, &start);
    for (size_t t = 0; t < tokens; t += PASS_TOKENS) {
        for (; fetched < groups && fetched * tokens < groups * (t + PASS_TOKENS); fetched++) fetch_next(panels, ahead, fetched);
        if (far >> t & 15) record_times(type, 0, panels, strip, act, &start, t, sums);
        else record_times(type, 1, panels, strip, act, &start, t, sums);
    }
}

/* Always one record. */
HYP_INLINE void strip_times(int type, const hyp_strip *strip, size_t panels, const uint8_t *act, size_t tokens, hyp_strip_sums *sums,
                            const hyp_ahead *ahead)
{
    if (panels == 2) panels_times(type, 2, strip, act, tokens, sums, ahead);
    else panels_times(type, 1, strip, act, tokens, sums, ahead);
}

#define STRIP(name, type)                                                                                               \
    static void strip_##name(const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,        \
                             hyp_strip_sums *acc, const hyp_ahead *ahead)                                               \
    {                                                                                                                   \
        (void)n;                                                                                                        \
        strip_times(type, strip, panels, act, tokens, acc, ahead);                                                      \
    }
STRIP(q2_k, HYP_Q2_K)
STRIP(q3_k, HYP_Q3_K)
STRIP(q4_k, HYP_Q4_K)
STRIP(q5_k, HYP_Q5_K)
STRIP(q6_k, HYP_Q6_K)

hyp_strip_mul_fn hyp_strip_mul_k_avx512(int type)
{
    switch (type) {
    case HYP_Q2_K: return strip_q2_k;
    case HYP_Q3_K: return strip_q3_k;
    case HYP_Q6_K: return strip_q6_k;
    case HYP_Q4_K: return strip_q4_k;
    default: return strip_q5_k;
    }
}
