/* Two to sixteen tokens and the K types: each group's codes are taken out into registers, multiplied, and forgotten, panel after
 * panel as for one token. A strip would not pay: its stores and its second reading take as long as two tokens' products, and
 * memory waits meanwhile.
 *
 * Every number of tokens up to 8 has code of its own, for a token that does not exist costs as much as one that does. More go in
 * two parts, as their sums would not stay in registers; codes are taken out twice, on ports that the products leave idle. Halves of
 * records are loops on purpose: unrolled, the code of 8 tokens would take a third of the first-level cache.
 *
 * Weights are prefetched by software: the arithmetic fills the window of instructions, so that no read comes early. To the
 * second-level cache: the first has no room beside the activations (Q6_K and two tokens reach 15 instead of 25 GB/s). */
#include "matmul/kquant_avx512.h"

enum {
    PART = 8, /* tokens */
    AHEAD = 4 /* records between what is multiplied and what is prefetched; 3 and 8 measure less */
};

HYP_INLINE int is_scaled(int type)
{
    return type == HYP_Q4_K || type == HYP_Q5_K;
}

/* Up to 4 tokens ask faster than memory answers, and what finds the queue full is dropped: they ask again half way (Q6_K and two
 * tokens: 30 instead of 25 GB/s, both threads 5 to 12% more; more tokens: 1% less). */
HYP_INLINE void fetch(int type, int tokens, const uint8_t *p)
{
    HYP_PREFETCH_L2(p);
    if (tokens <= 4) HYP_PREFETCH_L2(p - AHEAD / 2 * HYP_PANEL * hyp_block_bytes(type));
}

/* -32 times the scales of the halves of Q6_K's group g: two int16 a lane. */
HYP_INLINE __m512i q6_offsets(const uint8_t *rec, int g)
{
    const __m128i s0 = hyp_bytes16_avx512(rec + 32 + 32 * g), s1 = hyp_bytes16_avx512(rec + 48 + 32 * g);
    const __m256i s = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi8(s0, s1)), _mm_unpackhi_epi8(s0, s1), 1);
    return _mm512_mullo_epi16(_mm512_cvtepi8_epi16(s), _mm512_set1_epi16(-HYP_Q6_ZERO));
}

/* Lest gcc keep, over several groups, vectors that hold bits of each, and spill the sums instead: loading them again is cheaper. */
HYP_INLINE const uint8_t *anew(const uint8_t *p)
{
#if defined(__GNUC__)
    __asm__ volatile("" : "+r"(p));
#endif
    return p;
}

/* What half a record adds up for each token: S; and what is multiplied with the activations' sums: the mins, in Q6_K the scales
 * with the zero point, which belong to S. */
typedef struct {
    __m512i sum[PART], by_sums[4];
} half;

/* S += group j x the tokens, in step; `scale`: of the group, or in Q6_K of its halves; `next`: what is prefetched meanwhile. */
HYP_INLINE void group_times(int type, int tokens, const hyp_group_avx512 *group, int j, const __m512i *scale, const uint8_t *codes,
                            const uint8_t *next, half *to)
{
    const int run = type == HYP_Q6_K ? 4 : 8, lines = ((int)hyp_block_bytes(type) * HYP_PANEL / 2 + 63) / 64;
    const int multiplied = is_scaled(type) || type == HYP_Q6_K;
    __m512i own[PART], *sum = multiplied ? own : to->sum;
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        if (multiplied && v % run == 0) {
            HYP_UNROLL
            for (int t = 0; t < tokens; t++) own[t] = _mm512_setzero_si512();
        }
        HYP_UNROLL
        for (int line = lines * (8 * j + v) / 32; line < lines * (8 * j + v + 1) / 32; line++) fetch(type, tokens, next + 64 * line);
        const __m512i w = hyp_group_codes_avx512(type, group, j, v);
        HYP_UNROLL
        for (int t = 0; t < tokens; t++) sum[t] = _mm512_dpbusd_epi32(sum[t], w, hyp_spread_avx512(codes + HYP_BLOCK * t + 4 * v));
        if (multiplied && v % run == run - 1) {
            HYP_UNROLL
            for (int t = 0; t < tokens; t++) to->sum[t] = _mm512_add_epi32(to->sum[t], _mm512_mullo_epi32(own[t], scale[v / run]));
        }
    }
}

/* The groups of half h; `codes`: its activations of the first token. */
HYP_INLINE void groups_times(int type, int tokens, const uint8_t *rec, int h, const uint8_t *codes, const uint8_t *next, half *to)
{
    __m512i scale[2], pair[2];
    HYP_UNROLL
    for (int j = 0; j < 4; j++) {
        const int g = 4 * h + j;
        const hyp_group_avx512 group = hyp_group_at_avx512(type, anew(rec), h, j);
        if (type == HYP_Q2_K) to->by_sums[j] = hyp_q2_mins_avx512(rec, g);
        if (is_scaled(type)) {
            if (j % 2 == 0) to->by_sums[j / 2] = hyp_pair_scales_avx512(rec, 2 * h + j / 2, &pair[0], &pair[1]);
            scale[0] = pair[j % 2];
        }
        if (type == HYP_Q6_K) {
            to->by_sums[j] = q6_offsets(rec, g);
            scale[0] = hyp_widen_signed_avx512(hyp_bytes16_avx512(rec + 32 + 32 * g));
            scale[1] = hyp_widen_signed_avx512(hyp_bytes16_avx512(rec + 48 + 32 * g));
        }
        group_times(type, tokens, &group, j, scale, codes + j * HYP_ACT_RECORD, next, to);
    }
}

/* The activations' sums times by_sums, from `start` on; `sums`: those of the token. */
HYP_INLINE __m512i add_sums(int type, const half *from, const uint8_t *sums, __m512i start)
{
    const int n = is_scaled(type) ? 2 : 4;
    HYP_UNROLL
    for (int i = 0; i < n; i++) {
        const uint8_t *two = sums + (n == 2 ? 2 * i * HYP_ACT_RECORD + HYP_ACT_PAIR - HYP_ACT_S : i * HYP_ACT_RECORD);
        start = _mm512_dpwssd_epi32(start, from->by_sums[i], hyp_spread_avx512(two));
    }
    return start;
}

/* Where S starts in Q3_K, of which the codes have an offset; `pair`: the token's first. */
HYP_INLINE __m512i q3_start(const uint8_t *pair)
{
    const __m512i offset = _mm512_set1_epi32((int32_t)hyp_act_words(-HYP_Q3_OFFSET, -HYP_Q3_OFFSET));
    const __m512i first = _mm512_madd_epi16(hyp_spread_avx512(pair), offset);
    return _mm512_dpwssd_epi32(first, hyp_spread_avx512(pair + 2 * HYP_ACT_RECORD), offset);
}

/* acc[t] += half h of a record x token t; `codes` and `words` are the half's activations: the first token's codes, and the record
 * from which on each token has 4 bytes. */
HYP_INLINE void half_times(int type, int tokens, const uint8_t *rec, int h, const uint8_t *codes, const uint8_t *words,
                           const uint8_t *next, __m512 *acc)
{
    half s;
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) s.sum[t] = type == HYP_Q3_K ? q3_start(words + HYP_ACT_PAIR + 4 * t) : _mm512_setzero_si512();
    groups_times(type, tokens, rec, h, codes, next, &s);
    const __m512 d = hyp_half16_avx512(rec), dmin = hyp_half16_avx512(rec + 32);
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) {
        const uint8_t *sums = words + HYP_ACT_S + 4 * t;
        const __m512 da = hyp_spread_f32_avx512(words + HYP_ACT_D + 4 * t);
        const __m512i sum = type == HYP_Q6_K ? add_sums(type, &s, sums, s.sum[t]) : s.sum[t];
        const __m512i mins = hyp_has_mins(type) ? add_sums(type, &s, sums, _mm512_setzero_si512()) : _mm512_setzero_si512();
        acc[t] = hyp_add_half_avx512(type, d, dmin, da, sum, mins, acc[t]);
    }
}

/* A panel and some of a group's tokens, from token `first` on. */
typedef struct {
    const uint8_t *act; /* the group's */
    size_t k, first;
    size_t ahead; /* bytes */
    float *out;   /* the first token's place */
    size_t ldo;
    __mmask16 lanes;
} part;

HYP_INLINE void panel_times(int type, int tokens, const uint8_t *rec, const part *p)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type);
    const uint8_t *codes = p->act + HYP_BLOCK * p->first, *words = p->act + 4 * p->first;
    __m512 acc[PART];
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) acc[t] = _mm512_setzero_ps();
    for (size_t i = 0; i < p->k; i += HYP_SUPER, rec += record) {
        HYP_ROLLED
        for (int h = 0; h < 2; h++, codes += 4 * HYP_ACT_RECORD, words += 4 * HYP_ACT_RECORD)
            half_times(type, tokens, rec, h, codes, words, rec + p->ahead + (size_t)h * record / 2, acc);
    }
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) _mm512_mask_storeu_ps(p->out + (size_t)t * p->ldo, p->lanes, acc[t]);
}

typedef void (*part_fn)(const uint8_t *panel, const part *p);

/* times[n] multiplies a panel with n tokens. */
HYP_INLINE void few(int type, const part_fn *times, const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,
                    size_t ldo)
{
    const size_t stride = hyp_panel_bytes(type, k), most = m > PART ? (m + 1) / 2 : m;
    part p = {.act = act, .k = k, .ldo = ldo};
    for (size_t row = 0; row < rows; row += HYP_PANEL, w += stride) {
        p.lanes = hyp_rows_avx512(rows, row);
        for (p.first = 0; p.first < m; p.first += most) {
            const size_t left = m - p.first;
            p.out = out + p.first * ldo + row;
            /* a second part has its panel in the second-level cache, and fetches the next one */
            p.ahead = p.first ? stride : AHEAD * HYP_PANEL * hyp_block_bytes(type);
            times[left < most ? left : most](w, &p);
        }
    }
}

#define TOKENS(name, type, tokens)                                                                                      \
    static void name##_##tokens(const uint8_t *panel, const part *p) { panel_times(type, tokens, panel, p); }
#define FEW(name, type)                                                                                                 \
    TOKENS(name, type, 1)                                                                                               \
    TOKENS(name, type, 2)                                                                                               \
    TOKENS(name, type, 3)                                                                                               \
    TOKENS(name, type, 4)                                                                                               \
    TOKENS(name, type, 5)                                                                                               \
    TOKENS(name, type, 6)                                                                                               \
    TOKENS(name, type, 7)                                                                                               \
    TOKENS(name, type, 8)                                                                                               \
    void hyp_few_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo)                                                                            \
    {                                                                                                                   \
        static const part_fn times[PART + 1] = {NULL,     name##_1, name##_2, name##_3, name##_4,                       \
                                                name##_5, name##_6, name##_7, name##_8};                                \
        few(type, times, w, rows, k, act, m, out, ldo);                                                                 \
    }
HYP_TYPES_OF_256_AVX512(FEW)
