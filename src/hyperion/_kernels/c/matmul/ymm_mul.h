/* Products of panels of types of 32 with ymm registers: shared text of the AVX2 and AVX-VNNI kernels, which differ in the
 * integer dot step only. The including file sets HYP_YMM_VNNI to 0 or 1 first.
 *
 * The AVX2 step, vpmaddubsw, adds two products in a *saturating* int16. Activation codes are -127..127, so a pair of
 * weights of at most w gives at most 2*127*w, and n of them may be added in int16 while n*254*w <= 32767:
 *      w         pair      vectors added in int16
 *      15         3810     8 = the block, 30480             Q4_0 Q4_1
 *      31         7874     4, 31496                         Q5_0 Q5_1
 *      128       32512     1                                Q8_0 IQ4_NL, as |w| * (a with the sign of w)
 * vpmaddwd with ones then widens. vpdpbusd adds four products in int32 and needs none of this. A block's sum stays below 2^24.
 */
#ifndef HYP_YMM_MUL_H
#define HYP_YMM_MUL_H

#include "ymm_unpack.h"

/* What a token brings to a block, broadcast to all rows. */
typedef struct {
    __m256 da, xs; /* scale; scale * sum of the codes */
    __m256i c0;     /* see hyp_ymm_terms */
} hyp_ymm_token;

/* The same for a group of tokens, in memory; only what the type needs is set. */
typedef struct {
    float xs[HYP_ACT_TILE];
    int32_t c0[HYP_ACT_TILE]; /* -zero * sum of the codes */
} hyp_ymm_terms;

HYP_INLINE __m256i ymm_broadcast4(const int8_t *a)
{
    int32_t v;
    memcpy(&v, a, 4);
    return _mm256_set1_epi32(v); /* vpbroadcastd from memory: a load port alone */
}

/* The order of arithmetic that panel.h fixes, from a block's integer sum (as a float: it is exact). */
HYP_INLINE __m256 ymm_finish(int type, const hyp_ymm_factors *f, __m256 sum, const hyp_ymm_token *t, __m256 acc)
{
    acc = _mm256_fmadd_ps(_mm256_mul_ps(f->d, t->da), sum, acc);
    return type == HYP_Q4_1 || type == HYP_Q5_1 ? _mm256_fmadd_ps(f->min, t->xs, acc) : acc;
}

/* The zero point of a type whose weights are offset; 0 for those that need no term. */
HYP_INLINE int ymm_zero(int type)
{
    switch (type) {
    case HYP_Q4_0: return 8;
    case HYP_Q5_0: return 16;
#if HYP_YMM_VNNI
    case HYP_Q8_0: case HYP_IQ4_NL: return 128;
#endif
    default: return 0;
    }
}

/* The terms of 8 tokens from their sums s[8][2] and scales. */
HYP_INLINE void ymm_terms(int type, const int32_t *s, const float *d, hyp_ymm_terms *t, int at)
{
    const __m256 a = _mm256_castsi256_ps(ymm_load(s)), b = _mm256_castsi256_ps(ymm_load(s + 8));
    const __m256i s0 = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), 0xd8);
    const __m256i s1 = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xdd)), 0xd8);
    const __m256i sum = _mm256_add_epi32(s0, s1), factor = _mm256_set1_epi32(-ymm_zero(type));
    if (type == HYP_Q4_1 || type == HYP_Q5_1)
        _mm256_storeu_ps(t->xs + at, _mm256_mul_ps(_mm256_loadu_ps(d), _mm256_cvtepi32_ps(sum)));
    else
        _mm256_storeu_si256((__m256i *)(t->c0 + at), _mm256_mullo_epi32(sum, factor));
}

HYP_INLINE void ymm_token_of(int type, const hyp_ymm_terms *terms, const float *d, size_t t, hyp_ymm_token *token)
{
    const int affine = type == HYP_Q4_1 || type == HYP_Q5_1;
    token->da = _mm256_broadcast_ss(d + t);
    token->xs = _mm256_broadcast_ss(terms->xs + t);
    token->c0 = affine ? _mm256_setzero_si256() : _mm256_set1_epi32(terms->c0[t]);
}

/* The same for a single token, straight from its record: broadcast loads and a few sums, away from the port that moves
 * scalars into vectors. */
HYP_INLINE void ymm_token_single(int type, const uint8_t *record, hyp_ymm_token *token)
{
    const __m256i s0 = ymm_broadcast4((const int8_t *)record + HYP_BLOCK + 4);
    const __m256i s1 = ymm_broadcast4((const int8_t *)record + HYP_BLOCK + 8);
    const __m256i sum = _mm256_add_epi32(s0, s1), none = _mm256_setzero_si256();
    const int zero = ymm_zero(type), shift = zero == 8 ? 3 : zero == 16 ? 4 : 7;
    token->da = _mm256_castsi256_ps(ymm_broadcast4((const int8_t *)record + HYP_BLOCK));
    token->xs = _mm256_mul_ps(token->da, _mm256_cvtepi32_ps(sum));
    token->c0 = zero ? _mm256_sub_epi32(none, _mm256_slli_epi32(sum, shift)) : none;
}

/* out[0..n), n <= 16, from a panel's two accumulators. */
HYP_INLINE void ymm_store_rows(float *out, size_t n, __m256 low, __m256 high)
{
    if (n >= HYP_PANEL) {
        _mm256_storeu_ps(out, low);
        _mm256_storeu_ps(out + 8, high);
        return;
    }
    float rows[HYP_PANEL];
    _mm256_storeu_ps(rows, low);
    _mm256_storeu_ps(rows + 8, high);
    memcpy(out, rows, n * sizeof *out);
}

#define YMM_ONE_RECORD (HYP_BLOCK + 12)                 /* bytes of an activation block of one token */
#define YMM_TILE_RECORD (HYP_ACT_TILE * YMM_ONE_RECORD) /* and of a group of 16 */

/* The integer sums of a block, 8 rows and one token, as they grow vector by vector. */
typedef struct {
    __m256i s16, s0;
} hyp_ymm_sum;

/* Integer additions associate, and gcc makes a balanced tree of a chain: eight products in registers where one would do.
 * A value that has passed here is not taken apart. */
#if defined(__GNUC__)
#define YMM_KEEP(v) __asm__("" : "+x"(v))
#else
#define YMM_KEEP(v) ((void)0)
#endif

/* Vector v, the i-th in order, times its four activations. `sign` is null for weights as they come, and not for unpacked
 * ones: of Q8_0 and IQ4_NL without VNNI these are magnitudes. */
HYP_INLINE void ymm_step(int type, __m256i q, const __m256i *sign, int i, __m256i a, hyp_ymm_sum *s)
{
#if HYP_YMM_VNNI
    (void)i, (void)sign;
    s->s0 = _mm256_dpbusd_avx_epi32(s->s0, q, a);
#else
    const __m256i one = _mm256_set1_epi16(1);
    if (type == HYP_Q8_0 || type == HYP_IQ4_NL) {
        const __m256i p = _mm256_maddubs_epi16(sign ? q : _mm256_abs_epi8(q), _mm256_sign_epi8(a, sign ? *sign : q));
        s->s0 = _mm256_add_epi32(s->s0, _mm256_madd_epi16(p, one));
        YMM_KEEP(s->s0);
        return;
    }
    const int fit = type == HYP_Q4_0 || type == HYP_Q4_1 ? 8 : 4;
    const __m256i p = _mm256_maddubs_epi16(q, a);
    s->s16 = i % fit ? _mm256_add_epi16(s->s16, p) : p;
    YMM_KEEP(s->s16);
    if (i % fit == fit - 1)
        s->s0 = _mm256_add_epi32(s->s0, _mm256_madd_epi16(s->s16, one));
#endif
}

/* Step i of a panel's two halves: one broadcast serves them. Low and high nibbles of a vector follow each other. */
HYP_INLINE void ymm_one_vector(int type, int np, const uint8_t *rec, size_t stride, int i, const uint8_t *act, hyp_ymm_sum *s)
{
    const int v = type != HYP_Q8_0 ? i % 2 * 4 + i / 2 : i;
    const __m256i a = ymm_broadcast4((const int8_t *)act + 4 * v);
    ymm_step(type, ymm_vector(type, rec, 0, v), NULL, i, a, s);
    ymm_step(type, ymm_vector(type, rec, 1, v), NULL, i, a, s + 1);
    if (np == 1) return;
    ymm_step(type, ymm_vector(type, rec + stride, 0, v), NULL, i, a, s + 2);
    ymm_step(type, ymm_vector(type, rec + stride, 1, v), NULL, i, a, s + 3);
}

HYP_INLINE hyp_ymm_sum ymm_sum_start(const hyp_ymm_token *t)
{
    return (hyp_ymm_sum){.s16 = _mm256_setzero_si256(), .s0 = t->c0};
}

HYP_INLINE void ymm_one_start(int type, const uint8_t *rec, const hyp_ymm_token *t, hyp_ymm_factors *f, hyp_ymm_sum *s)
{
    ymm_factors(type, rec, 0, f);
    ymm_factors(type, rec, 1, f + 1);
    s[0] = s[1] = ymm_sum_start(t);
}

/* The records at `ahead` of two panels. */
HYP_INLINE void ymm_prefetch(int type, const uint8_t *ahead, size_t stride)
{
    const int lines = (int)(HYP_PANEL * hyp_block_bytes(type) + 63) / 64;
    for (int i = 0; i < lines; i++) {
        _mm_prefetch((const char *)ahead + 64 * i, _MM_HINT_T1);
        _mm_prefetch((const char *)ahead + stride + 64 * i, _MM_HINT_T1);
    }
}

/* The records of np panels, `stride` bytes apart. */
HYP_INLINE void ymm_one_block(int type, int np, const uint8_t *rec, size_t stride, const uint8_t *act, const uint8_t *ahead, __m256 *acc)
{
    hyp_ymm_token token;
    hyp_ymm_factors f[4];
    hyp_ymm_sum s[4];
    if (np == 2 && ahead) ymm_prefetch(type, ahead, stride);
    ymm_token_single(type, act, &token);
    ymm_one_start(type, rec, &token, f, s);
    if (np == 2) ymm_one_start(type, rec + stride, &token, f + 2, s + 2);
    ymm_one_vector(type, np, rec, stride, 0, act, s);
    ymm_one_vector(type, np, rec, stride, 1, act, s);
    ymm_one_vector(type, np, rec, stride, 2, act, s);
    ymm_one_vector(type, np, rec, stride, 3, act, s);
    ymm_one_vector(type, np, rec, stride, 4, act, s);
    ymm_one_vector(type, np, rec, stride, 5, act, s);
    ymm_one_vector(type, np, rec, stride, 6, act, s);
    ymm_one_vector(type, np, rec, stride, 7, act, s);
    acc[0] = ymm_finish(type, f, _mm256_cvtepi32_ps(s[0].s0), &token, acc[0]);
    acc[1] = ymm_finish(type, f + 1, _mm256_cvtepi32_ps(s[1].s0), &token, acc[1]);
    if (np == 1) return;
    acc[2] = ymm_finish(type, f + 2, _mm256_cvtepi32_ps(s[2].s0), &token, acc[2]);
    acc[3] = ymm_finish(type, f + 3, _mm256_cvtepi32_ps(s[3].s0), &token, acc[3]);
}

/* np panels, one token. Prefetching runs `ahead` bytes before the reads, from the end of these panels into the next. */
HYP_INLINE void ymm_one_panels(int type, int np, const uint8_t *w, size_t n_rows, size_t k, const uint8_t *act, float *out,
                               size_t ahead)
{
    const size_t bytes = HYP_PANEL * hyp_block_bytes(type), stride = k / HYP_BLOCK * bytes;
    __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t at = 0; at < stride; at += bytes, act += YMM_ONE_RECORD) {
        const size_t next = at + ahead < stride ? at + ahead : at + ahead + stride;
        ymm_one_block(type, np, w + at, stride, act, ahead ? w + next : NULL, acc);
    }
    ymm_store_rows(out, n_rows, acc[0], acc[1]);
    if (np == 2) ymm_store_rows(out + HYP_PANEL, n_rows - HYP_PANEL, acc[2], acc[3]);
}

/* One token: the weights go from memory to registers and are forgotten. Two panels at a time, for they share the
 * activations, and two streams of reads cover each other's page crossings; but one at a time without prefetching by software
 * (AMD): two streams confuse Zen 4's prefetchers. */
HYP_INLINE void ymm_mul_one(int type, const uint8_t *w, size_t rows, size_t k, const uint8_t *act, float *out, size_t ahead)
{
    const size_t bytes = hyp_panel_bytes(type, k);
    size_t row = 0;
    for (; ahead && row + HYP_PANEL < rows; row += 2 * HYP_PANEL, w += 2 * bytes)
        ymm_one_panels(type, 2, w, rows - row, k, act, out + row, ahead);
    for (; row < rows; row += HYP_PANEL, w += bytes) ymm_one_panels(type, 1, w, rows - row, k, act, out + row, 0);
}

#define YMM_K_BLOCKS 8 /* blocks unpacked at a time: 2 * 8 halves of at most 700 bytes stay in L1 */
#define YMM_GROUPS 4   /* groups of 16 tokens that share what is unpacked */

/* `blocks` <= 8 blocks of a panel to tile[block][half]. */
HYP_INLINE void ymm_unpack_tile(int type, const uint8_t *w, size_t blocks, hyp_ymm_half (*tile)[2])
{
    for (size_t b = 0; b < blocks; b++, w += HYP_PANEL * hyp_block_bytes(type)) {
        ymm_unpack(type, w, 0, &tile[b][0]);
        ymm_unpack(type, w, 1, &tile[b][1]);
    }
}

/* Tokens that go through a block in step: as many as their sums of 16 rows leave registers for. The two loads a cycle are the
 * bound, and four tokens by 16 rows load 6 vectors for 8 products. */
HYP_INLINE int ymm_tokens_in_step(int type)
{
#if HYP_YMM_VNNI
    return 4;
#else
    return type == HYP_Q4_0 || type == HYP_Q4_1 ? 4 : 2;
#endif
}

/* One unpacked block times n <= 4 tokens of a group from token t on: acc[token][16]. */
HYP_INLINE void ymm_block_tokens(int type, int n, const hyp_ymm_half *tile, const int8_t *codes, const hyp_ymm_terms *terms,
                                 const float *d, size_t t, float *acc)
{
    hyp_ymm_sum s[4][2];
    HYP_UNROLL8
    for (int u = 0; u < n; u++) {
        hyp_ymm_token token;
        ymm_token_of(type, terms, d, t + (size_t)u, &token);
        s[u][0] = s[u][1] = ymm_sum_start(&token);
    }
    HYP_UNROLL8
    for (int v = 0; v < 8; v++) {
        const __m256i q0 = tile[0].q[v], q1 = tile[1].q[v];
        HYP_UNROLL8
        for (int u = 0; u < n; u++) {
            const __m256i a = ymm_broadcast4(codes + (t + (size_t)u) * HYP_BLOCK + 4 * v);
            ymm_step(type, q0, &tile[0].sign[v], v, a, &s[u][0]);
            ymm_step(type, q1, &tile[1].sign[v], v, a, &s[u][1]);
        }
    }
    HYP_UNROLL8
    for (int u = 0; u < n; u++) {
        float *sum = acc + (t + (size_t)u) * HYP_PANEL;
        hyp_ymm_token token;
        ymm_token_of(type, terms, d, t + (size_t)u, &token);
        for (int half = 0; half < 2; half++, sum += 8) {
            const hyp_ymm_factors *f = &tile[half].f;
            _mm256_storeu_ps(sum, ymm_finish(type, f, _mm256_cvtepi32_ps(s[u][half].s0), &token, _mm256_loadu_ps(sum)));
        }
    }
}

/* One unpacked block, `tokens` <= 16 of a group, rounded up to the step: tokens that do not exist are zero, and `acc` has
 * room for them. The accumulators live in L1. */
HYP_INLINE void ymm_group_block(int type, const hyp_ymm_half *tile, const uint8_t *act, size_t tokens, float *acc)
{
    const float *d = (const float *)(const void *)(act + HYP_ACT_TILE * HYP_BLOCK);
    const int32_t *s = (const int32_t *)(const void *)(d + HYP_ACT_TILE);
    const int8_t *codes = (const int8_t *)act;
    const int most = ymm_tokens_in_step(type);
    hyp_ymm_terms terms;
    size_t t = 0;
    ymm_terms(type, s, d, &terms, 0);
    if (tokens > 8) ymm_terms(type, s + 16, d + 8, &terms, 8);
    for (; most == 4 && t + 2 < tokens; t += 4) ymm_block_tokens(type, 4, tile, codes, &terms, d, t, acc);
    for (; t < tokens; t += 2) ymm_block_tokens(type, 2, tile, codes, &terms, d, t, acc);
}

/* One panel times up to 64 tokens. */
HYP_INLINE void ymm_panel_groups(int type, const uint8_t *w, size_t n_rows, size_t k, const uint8_t *act, size_t m, float *out,
                                 size_t ldo)
{
    HYP_ALIGN64 float acc[YMM_GROUPS * HYP_ACT_TILE][HYP_PANEL];
    HYP_ALIGN64 hyp_ymm_half tile[YMM_K_BLOCKS][2];
    const size_t blocks = k / HYP_BLOCK, group_bytes = blocks * YMM_TILE_RECORD;
    const size_t bytes = HYP_PANEL * hyp_block_bytes(type);
    memset(acc, 0, (m + 3) / 4 * 4 * sizeof acc[0]);
    for (size_t b = 0; b < blocks; b += YMM_K_BLOCKS) {
        const size_t n = blocks - b < YMM_K_BLOCKS ? blocks - b : YMM_K_BLOCKS;
        ymm_unpack_tile(type, w + b * bytes, n, tile);
        for (size_t t = 0; t < m; t += HYP_ACT_TILE) {
            const uint8_t *a = act + t / HYP_ACT_TILE * group_bytes + b * YMM_TILE_RECORD;
            const size_t tokens = m - t < HYP_ACT_TILE ? m - t : HYP_ACT_TILE;
            for (size_t i = 0; i < n; i++) ymm_group_block(type, tile[i], a + i * YMM_TILE_RECORD, tokens, acc[t]);
        }
    }
    for (size_t t = 0; t < m; t++)
        ymm_store_rows(out + t * ldo, n_rows, _mm256_load_ps(acc[t]), _mm256_load_ps(acc[t] + 8));
}

HYP_INLINE void ymm_mul_many(int type, const uint8_t *w, size_t rows, size_t k, const uint8_t *act, size_t m, float *out,
                             size_t ldo)
{
    const size_t step = YMM_GROUPS * HYP_ACT_TILE, group_bytes = hyp_act_group_bytes(0, HYP_ACT_TILE, k);
    const size_t panel_bytes = hyp_panel_bytes(type, k);
    for (size_t t = 0; t < m; t += step) {
        const uint8_t *panel = w, *a = act + t / HYP_ACT_TILE * group_bytes;
        for (size_t row = 0; row < rows; row += HYP_PANEL, panel += panel_bytes)
            ymm_panel_groups(type, panel, rows - row, k, a, m - t < step ? m - t : step, out + t * ldo + row, ldo);
    }
}

/* A type's two entries of the table, without and with software prefetching for a single token. */
#define HYP_YMM_KERNEL(name, type)                                                                                             \
    static void name##_run(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo,         \
                           size_t ahead)                                                                                       \
    {                                                                                                                          \
        if (m == 1)                                                                                                            \
            ymm_mul_one(type, w, rows, k, (const uint8_t *)act, out, ahead);                                                   \
        else                                                                                                                   \
            ymm_mul_many(type, w, rows, k, (const uint8_t *)act, m, out, ldo);                                                 \
    }                                                                                                                          \
    static void name(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)               \
    {                                                                                                                          \
        name##_run(w, rows, k, act, m, out, ldo, 0);                                                                           \
    }                                                                                                                          \
    static void name##_ahead(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)       \
    {                                                                                                                          \
        name##_run(w, rows, k, act, m, out, ldo, HYP_YMM_AHEAD);                                                               \
    }

#endif
