/* Products of K types with ymm registers: shared text of the AVX2 and AVX-VNNI kernels, which differ in the integer dot step only.
 * The including file sets HYP_YMM_VNNI to 0 or 1 first.
 *
 * Weights stay unsigned; half a record's sum under its scales (S in panel.h) grows in an int32 a row. vpmaddubsw adds two products in a
 * *saturating* int16: activation codes are -127..127, so a pair of weights of at most w gives at most 2*127*w, and n of them may be
 * added in int16 while n*254*w <= 32767:
 *      w         pair      vectors added in int16
 *      3           762     4 (of 43; a half group ends)     Q2_K
 *      7          1778     4 (of 18; a half group ends)     Q3_K
 *      15         3810     8 = the group, 30480             Q4_K
 *      31         7874     4, 31496                         Q5_K
 *      63        16002     2, 32004                         Q6_K
 * vpmaddwd then widens and scales at once (|scale| <= 128: 2*32004*128 is far from 2^31). vpdpbusd adds four products in int32 and
 * needs none of this; there the group's sum is multiplied, but in Q2_K and Q3_K for many tokens, whose code times scale fits a
 * byte (15*3 = 45, -32*-4 + 124 = 252).
 *
 * A zero point leaves with the half groups' sums of activations: S = (sum of unsigned codes) - zero * sum of sc * (sum a). */
#ifndef HYP_YMM_KQUANT_H
#define HYP_YMM_KQUANT_H

#include "ymm_kunpack.h"
#include "ymm_mul.h"

/* gcc gathers the prefetches of unrolled code into one burst, which fills the line buffers that the reads need (Q6_K: a third of the
 * bandwidth). What is volatile stays in order, and so between the steps. */
#if defined(__GNUC__)
#define YMM_PREFETCH(p) __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)(p)))
#define YMM_HERE(v) __asm__ volatile("" : "+x"(v))
#else
#define YMM_PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T0)
#define YMM_HERE(v) ((void)0)
#endif

/* The integer sums of 8 rows and one token, as they grow vector by vector. */
typedef struct {
    __m256i part;      /* of the group at hand: AVX2 int16, VNNI int32 */
    __m256i sum, mins; /* S and M of half a record */
} hyp_ymm_k_sum;

/* Vector v of a group, q, times its four activations; `scaled`: the codes have their scales in them. */
HYP_INLINE void ymm_k_step(int type, int scaled, __m256i q, int v, __m256i a, const hyp_ymm_k_factors *f, hyp_ymm_k_sum *s)
{
#if HYP_YMM_VNNI
    if (scaled) {
        s->sum = _mm256_dpbusd_avx_epi32(s->sum, q, a);
        return;
    }
    if (v == 0 || (ymm_halved(type) && v == 4)) s->part = _mm256_setzero_si256();
    s->part = _mm256_dpbusd_avx_epi32(s->part, q, a);
    if (v == 7 || (ymm_halved(type) && v == 3))
        s->sum = _mm256_add_epi32(s->sum, _mm256_mullo_epi32(s->part, v < 4 ? f->s0 : f->s1));
#else
    const int fit = type == HYP_Q6_K ? 2 : type == HYP_Q4_K ? 8 : 4;
    const __m256i p = _mm256_maddubs_epi16(q, a);
    (void)scaled;
    s->part = v % fit ? _mm256_add_epi16(s->part, p) : p;
    YMM_HERE(s->part);
    if (v % fit == fit - 1) s->sum = _mm256_add_epi32(s->sum, _mm256_madd_epi16(s->part, v < 4 ? f->s0 : f->s1));
#endif
}

/* What a group adds beside its codes: `half` and `pair` are the record's int16 sums, broadcast. */
HYP_INLINE void ymm_k_terms(int type, int g, __m256i half, __m256i pair, const hyp_ymm_k_factors *f, hyp_ymm_k_sum *s)
{
    if (type == HYP_Q3_K || type == HYP_Q6_K) s->sum = _mm256_sub_epi32(s->sum, _mm256_madd_epi16(f->zero, half));
    else if (type == HYP_Q2_K) s->mins = _mm256_add_epi32(s->mins, _mm256_madd_epi16(f->min, half));
    else if (g % 2) s->mins = _mm256_add_epi32(s->mins, _mm256_madd_epi16(f->min, pair));
}

/* acc + half a record, in the order that panel.h fixes. */
HYP_INLINE __m256 ymm_k_finish(int type, const uint8_t *rec, int half, __m256 da, const hyp_ymm_k_sum *s, __m256 acc)
{
    __m256 t = _mm256_mul_ps(ymm_load_half(rec + 16 * half), _mm256_cvtepi32_ps(s->sum));
    if (hyp_has_mins(type)) t = _mm256_fnmadd_ps(ymm_load_half(rec + 32 + 16 * half), _mm256_cvtepi32_ps(s->mins), t);
    return _mm256_fmadd_ps(da, t, acc);
}

/* ---- One token ------------------------------------------------------------------------------------------------------- */

/* Group base + phase of one panel's record (base is not a constant, phase is); a share of the record at `ahead` is prefetched. */
HYP_INLINE void ymm_k_one_group(int type, const uint8_t *rec, const hyp_ymm_scales *sc, int base, int phase, const uint8_t *act,
                                const uint8_t *ahead, hyp_ymm_k_sum *s)
{
    const int g = base + phase, bytes = HYP_PANEL * (int)hyp_block_bytes(type) / 8;
    hyp_ymm_k_factors f[2];
    act += (size_t)g * YMM_ONE_RECORD;
    ymm_k_factors(type, rec, sc, g, 0, f);
    ymm_k_factors(type, rec, sc, g, 1, f + 1);
    HYP_UNROLL8
    for (int v = 0; v < 8; v++) {
        const __m256i a = ymm_broadcast4((const int8_t *)act + 4 * v);
        if (64 * v < bytes) YMM_PREFETCH(ahead + g * bytes + 64 * v);
        ymm_k_step(type, 0, ymm_k_vector(type, rec, base, phase, 0, v), v, a, f, s);
        ymm_k_step(type, 0, ymm_k_vector(type, rec, base, phase, 1, v), v, a, f + 1, s + 1);
    }
    const __m256i half = ymm_broadcast4((const int8_t *)act + HYP_BLOCK + 4), pair = ymm_broadcast4((const int8_t *)act + HYP_BLOCK + 8);
    ymm_k_terms(type, g, half, pair, f, s);
    ymm_k_terms(type, g, half, pair, f + 1, s + 1);
}

/* Half a record becomes a float. */
HYP_INLINE void ymm_k_end_half(int type, const uint8_t *rec, const uint8_t *act, hyp_ymm_k_sum *s, __m256 *acc)
{
    const __m256 da = _mm256_castsi256_ps(ymm_broadcast4((const int8_t *)act + HYP_BLOCK));
    for (int half = 0; half < 2; half++) {
        acc[half] = ymm_k_finish(type, rec, half, da, s + half, acc[half]);
        s[half].sum = s[half].mins = _mm256_setzero_si256();
    }
}

/* One record. Two turns of a loop where its halves read the same bits of different vectors; shifts want constants. */
HYP_INLINE void ymm_k_one_record(int type, const uint8_t *rec, const uint8_t *act, const uint8_t *ahead, __m256 *acc)
{
    const int same = type == HYP_Q4_K || type == HYP_Q2_K || type == HYP_Q6_K;
    const __m256i none = _mm256_setzero_si256();
    hyp_ymm_k_sum s[2] = {{none, none, none}, {none, none, none}};
    hyp_ymm_scales sc;
    if (type == HYP_Q4_K || type == HYP_Q5_K) ymm_scales_q4k(rec, &sc);
    for (int g = 0; g < (same ? 8 : 4); g += 4) {
        ymm_k_one_group(type, rec, &sc, g, 0, act, ahead, s);
        ymm_k_one_group(type, rec, &sc, g, 1, act, ahead, s);
        ymm_k_one_group(type, rec, &sc, g, 2, act, ahead, s);
        ymm_k_one_group(type, rec, &sc, g, 3, act, ahead, s);
        ymm_k_end_half(type, rec, act + g * YMM_ONE_RECORD, s, acc);
    }
    if (same) return;
    ymm_k_one_group(type, rec, &sc, 0, 4, act, ahead, s);
    ymm_k_one_group(type, rec, &sc, 0, 5, act, ahead, s);
    ymm_k_one_group(type, rec, &sc, 0, 6, act, ahead, s);
    ymm_k_one_group(type, rec, &sc, 0, 7, act, ahead, s);
    ymm_k_end_half(type, rec, act + 4 * YMM_ONE_RECORD, s, acc);
}

/* One panel at a time: its vectors are not read in the order of their bytes, which no hardware prefetcher follows well, so that the
 * software prefetches `lead` bytes ahead, and one stream of reads is enough. */
HYP_INLINE void ymm_k_mul_one(int type, const uint8_t *w, size_t rows, size_t k, const uint8_t *act, float *out, size_t lead)
{
    const size_t bytes = HYP_PANEL * hyp_block_bytes(type);
    for (size_t row = 0; row < rows; row += HYP_PANEL) {
        __m256 acc[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (size_t i = 0; i < k / HYP_SUPER; i++, w += bytes)
            ymm_k_one_record(type, w, act + i * 8 * YMM_ONE_RECORD, w + lead, acc);
        ymm_store_rows(out + row, rows - row, acc[0], acc[1]);
    }
}

/* ---- Two or more tokens ---------------------------------------------------------------------------------------------- */

/* A group taken apart: 8 vectors of the two halves of the panel. */
typedef struct {
    __m256i q[2][8];
    hyp_ymm_k_factors f[2];
} hyp_ymm_k_group;

/* Group g, for several tokens. */
HYP_INLINE void ymm_k_unpack(int type, const uint8_t *rec, const hyp_ymm_scales *sc, int g, int half, hyp_ymm_k_group *to)
{
    hyp_ymm_k_factors f;
    ymm_k_scales(type, rec, sc, g, half, &f);
#if HYP_YMM_VNNI
    /* Q3_K, two weights at once, modulo 2^16: (q0 + 256 q1) sc + 257 (124 - 4 sc) = p0 + 256 p1 with p = sc (q - 4) + 124,
     * both in 0..252. Q2_K needs no offset: 15 * 3 has no carry. */
    const __m256i four = _mm256_set1_epi16(4 * 257), c = _mm256_set1_epi16(124 * 257);
#endif
    HYP_UNROLL8
    for (int v = 0; v < 8; v++) {
        __m256i q = ymm_k_vector(type, rec, 0, g, half, v);
#if HYP_YMM_VNNI
        const __m256i scale = v < 4 ? f.s0 : f.s1;
        if (type == HYP_Q2_K || type == HYP_Q3_K) q = _mm256_mullo_epi16(q, scale);
        if (type == HYP_Q3_K) q = _mm256_add_epi16(q, _mm256_sub_epi16(c, _mm256_mullo_epi16(scale, four)));
#endif
        to->q[half][v] = q;
    }
#if HYP_YMM_VNNI
    if (type == HYP_Q3_K) f.zero = _mm256_set1_epi16(124); /* of the products */
    f.s0 = _mm256_srai_epi32(f.s0, 16);
    f.s1 = _mm256_srai_epi32(f.s1, 16);
#endif
    to->f[half] = f;
}

HYP_INLINE void ymm_k_unpack_both(int type, const uint8_t *rec, const hyp_ymm_scales *sc, int g, hyp_ymm_k_group *to)
{
    ymm_k_unpack(type, rec, sc, g, 0, to + g);
    ymm_k_unpack(type, rec, sc, g, 1, to + g);
}

HYP_INLINE void ymm_k_unpack_record(int type, const uint8_t *rec, hyp_ymm_k_group *to)
{
    hyp_ymm_scales sc;
    if (type == HYP_Q4_K || type == HYP_Q5_K) ymm_scales_q4k(rec, &sc);
    ymm_k_unpack_both(type, rec, &sc, 0, to);
    ymm_k_unpack_both(type, rec, &sc, 1, to);
    ymm_k_unpack_both(type, rec, &sc, 2, to);
    ymm_k_unpack_both(type, rec, &sc, 3, to);
    ymm_k_unpack_both(type, rec, &sc, 4, to);
    ymm_k_unpack_both(type, rec, &sc, 5, to);
    ymm_k_unpack_both(type, rec, &sc, 6, to);
    ymm_k_unpack_both(type, rec, &sc, 7, to);
}

/* Four groups, half a record, times n tokens (a constant) of a group of tokens from token t on; act: theirs. acc[token][16]. */
HYP_INLINE void ymm_k_tokens(int type, int n, const uint8_t *rec, const hyp_ymm_k_group *groups, const uint8_t *act, size_t t, float *acc)
{
    const int scaled = HYP_YMM_VNNI && (type == HYP_Q2_K || type == HYP_Q3_K);
    const __m256i none = _mm256_setzero_si256();
    hyp_ymm_k_sum s[4][2];
    HYP_UNROLL8
    for (int u = 0; u < n; u++) s[u][0] = s[u][1] = (hyp_ymm_k_sum){none, none, none};
    for (int g = 0; g < 4; g++, groups++) {
        const uint8_t *a = act + (size_t)g * YMM_TILE_RECORD, *sums = a + HYP_ACT_TILE * (HYP_BLOCK + 4) + 4 * t;
        const int8_t *codes = (const int8_t *)a + t * HYP_BLOCK;
        HYP_UNROLL8
        for (int v = 0; v < 8; v++) {
            const __m256i q0 = groups->q[0][v], q1 = groups->q[1][v];
            HYP_UNROLL8
            for (int u = 0; u < n; u++) {
                const __m256i x = ymm_broadcast4(codes + u * HYP_BLOCK + 4 * v);
                ymm_k_step(type, scaled, q0, v, x, &groups->f[0], &s[u][0]);
                ymm_k_step(type, scaled, q1, v, x, &groups->f[1], &s[u][1]);
            }
        }
        HYP_UNROLL8
        for (int u = 0; u < n; u++) {
            const __m256i half = ymm_broadcast4((const int8_t *)sums + 4 * u);
            const __m256i pair = ymm_broadcast4((const int8_t *)sums + 4 * HYP_ACT_TILE + 4 * u);
            ymm_k_terms(type, g, half, pair, &groups->f[0], &s[u][0]);
            ymm_k_terms(type, g, half, pair, &groups->f[1], &s[u][1]);
        }
    }
    HYP_UNROLL8
    for (int u = 0; u < n; u++) {
        const __m256 da = _mm256_broadcast_ss((const float *)(const void *)(act + HYP_ACT_TILE * HYP_BLOCK) + t + u);
        float *to = acc + (t + (size_t)u) * HYP_PANEL;
        _mm256_storeu_ps(to, ymm_k_finish(type, rec, 0, da, &s[u][0], _mm256_loadu_ps(to)));
        _mm256_storeu_ps(to + 8, ymm_k_finish(type, rec, 1, da, &s[u][1], _mm256_loadu_ps(to + 8)));
    }
}

/* Tokens that go through a record in step: as many as their sums of 16 rows leave registers for. */
HYP_INLINE int ymm_k_tokens_in_step(int type)
{
    return HYP_YMM_VNNI && type != HYP_Q6_K ? 4 : 2;
}

/* One panel times up to 64 tokens: a record is taken apart once for all. Tokens that do not exist are zero, and `acc` has room for
 * them. */
HYP_INLINE void ymm_k_panel(int type, const uint8_t *w, size_t n_rows, size_t k, const uint8_t *act, size_t m, float *out, size_t ldo)
{
    HYP_ALIGN64 float acc[YMM_GROUPS * HYP_ACT_TILE][HYP_PANEL];
    HYP_ALIGN64 hyp_ymm_k_group groups[8];
    const size_t group_bytes = k / HYP_BLOCK * YMM_TILE_RECORD;
    const int most = ymm_k_tokens_in_step(type);
    memset(acc, 0, (m + 3) / 4 * 4 * sizeof acc[0]);
    for (size_t i = 0; i < k / HYP_SUPER; i++, w += HYP_PANEL * hyp_block_bytes(type)) {
        ymm_k_unpack_record(type, w, groups);
        for (size_t first = 0; first < m; first += HYP_ACT_TILE) {
            const uint8_t *a = act + first / HYP_ACT_TILE * group_bytes + i * 8 * YMM_TILE_RECORD;
            const size_t tokens = m - first < HYP_ACT_TILE ? m - first : HYP_ACT_TILE;
            size_t t = 0;
            for (; most == 4 && t + 2 < tokens; t += 4)
                for (int h = 0; h < 2; h++) ymm_k_tokens(type, 4, w, groups + 4 * h, a + 4 * h * YMM_TILE_RECORD, t, acc[first]);
            for (; t < tokens; t += 2)
                for (int h = 0; h < 2; h++) ymm_k_tokens(type, 2, w, groups + 4 * h, a + 4 * h * YMM_TILE_RECORD, t, acc[first]);
        }
    }
    for (size_t t = 0; t < m; t++)
        ymm_store_rows(out + t * ldo, n_rows, _mm256_load_ps(acc[t]), _mm256_load_ps(acc[t] + 8));
}

HYP_INLINE void ymm_k_mul_many(int type, const uint8_t *w, size_t rows, size_t k, const uint8_t *act, size_t m, float *out, size_t ldo)
{
    const size_t step = YMM_GROUPS * HYP_ACT_TILE, group_bytes = k / HYP_BLOCK * YMM_TILE_RECORD;
    for (size_t t = 0; t < m; t += step) {
        const uint8_t *panel = w, *a = act + t / HYP_ACT_TILE * group_bytes;
        for (size_t row = 0; row < rows; row += HYP_PANEL, panel += hyp_panel_bytes(type, k))
            ymm_k_panel(type, panel, rows - row, k, a, m - t < step ? m - t : step, out + t * ldo + row, ldo);
    }
}

#define HYP_YMM_K_KERNEL(name, type)                                                                                           \
    static void name(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)               \
    {                                                                                                                          \
        if (m == 1)                                                                                                            \
            ymm_k_mul_one(type, w, rows, k, (const uint8_t *)act, out, HYP_YMM_K_AHEAD * HYP_PANEL * hyp_block_bytes(type));   \
        else                                                                                                                   \
            ymm_k_mul_many(type, w, rows, k, (const uint8_t *)act, m, out, ldo);                                               \
    }

#endif
