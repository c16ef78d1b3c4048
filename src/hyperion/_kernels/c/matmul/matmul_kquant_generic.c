/* Products of K types in portable C. Half a record, 128 K, is summed in integers under its scales, group by group, and
 * becomes a float once (see panel.h). */
#include "matmul/portable.h"

typedef struct {
    int16_t w[8][LANES];      /* a group's codes, zero point subtracted */
    int32_t sc[2][HYP_PANEL]; /* scales of the two halves; of the group in sc[0] where it has one */
    int32_t mn[2][HYP_PANEL];
} group;

typedef struct {
    int32_t sum[HYP_ACT_TILE][HYP_PANEL], mins[HYP_ACT_TILE][HYP_PANEL];
} span_sums;

/* Two-bit codes: group i = 4h + p is bits 2p of vectors 8h .. 8h+7. */
HYP_INLINE void load_twos(const uint8_t *HYP_RESTRICT q, size_t i, group *HYP_RESTRICT b)
{
    const int shift = (int)(2 * (i % 4));
    q += i / 4 * 8 * LANES;
    for (int v = 0; v < 8; ++v)
        for (int n = 0; n < LANES; ++n) b->w[v][n] = (int16_t)((q[v * LANES + n] >> shift) & 3);
}

HYP_INLINE void load_q2_k(const uint8_t *rec, size_t i, group *b)
{
    const uint8_t *s = rec + 64 + 2 * i * HYP_PANEL;
    for (int half = 0; half < 2; ++half)
        for (int r = 0; r < HYP_PANEL; ++r) {
            b->sc[half][r] = s[half * HYP_PANEL + r] & 15;
            b->mn[half][r] = s[half * HYP_PANEL + r] >> 4;
        }
    load_twos(rec + 320, i, b);
}

HYP_INLINE void load_q3_k(const uint8_t *HYP_RESTRICT rec, size_t i, group *HYP_RESTRICT b)
{
    /* half groups 2i and 2i+1: one byte of lo, two fields of hi[i / 2] at bits 4(i % 2) and 4(i % 2) + 2 */
    const uint8_t *lo = rec + 32 + i * HYP_PANEL, *hi = rec + 160 + i / 2 * HYP_PANEL, *h = rec + 224;
    const int at = (int)(4 * (i % 2)), g = (int)i;
    for (int r = 0; r < HYP_PANEL; ++r) {
        b->sc[0][r] = ((lo[r] & 15) | (((hi[r] >> at) & 3) << 4)) - 32;
        b->sc[1][r] = ((lo[r] >> 4) | (((hi[r] >> (at + 2)) & 3) << 4)) - 32;
    }
    load_twos(rec + 736, i, b);
    for (int v = 0; v < 8; ++v)
        for (int n = 0; n < LANES; ++n)
            b->w[v][n] = (int16_t)(b->w[v][n] + (((h[v * LANES + n] >> g) & 1) << 2) - 4);
}

/* Scale and min of group i of Q4_K and Q5_K. */
HYP_INLINE void load_k_scales(const uint8_t *rec, size_t i, group *b)
{
    const uint8_t *lo = rec + 64 + i * HYP_PANEL, *hi = rec + 192 + i / 2 * HYP_PANEL;
    const int at = (int)(4 * (i % 2));
    for (int r = 0; r < HYP_PANEL; ++r) {
        b->sc[0][r] = (lo[r] & 15) | (((hi[r] >> at) & 3) << 4);
        b->mn[0][r] = (lo[r] >> 4) | (((hi[r] >> (at + 2)) & 3) << 4);
    }
}

/* Group i of four-bit codes in pairs: the low or the high nibble of 8 vectors. */
HYP_INLINE void load_half_nibbles(const uint8_t *HYP_RESTRICT q, size_t pair, int high, group *HYP_RESTRICT b)
{
    const int shift = high ? 4 : 0;
    q += pair * 8 * LANES;
    for (int v = 0; v < 8; ++v)
        for (int n = 0; n < LANES; ++n) b->w[v][n] = (int16_t)((q[v * LANES + n] >> shift) & 15);
}

HYP_INLINE void load_q4_k(const uint8_t *rec, size_t i, group *b)
{
    load_k_scales(rec, i, b);
    load_half_nibbles(rec + 256, i / 2, (int)(i % 2), b);
}

HYP_INLINE void load_q5_k(const uint8_t *HYP_RESTRICT rec, size_t i, group *HYP_RESTRICT b)
{
    const uint8_t *h = rec + 256;
    const int g = (int)i;
    load_k_scales(rec, i, b);
    load_half_nibbles(rec + 768, i / 2, (int)(i % 2), b);
    for (int v = 0; v < 8; ++v)
        for (int n = 0; n < LANES; ++n) b->w[v][n] = (int16_t)(b->w[v][n] | (((h[v * LANES + n] >> g) & 1) << 4));
}

HYP_INLINE void load_q6_k(const uint8_t *HYP_RESTRICT rec, size_t i, group *HYP_RESTRICT b)
{
    /* group i: n = i / 4, c = i % 4; nibbles of [n][c % 2], high ones from c = 2 on; bits 4-5 at 2c of qh[n] */
    const uint8_t *qh = rec + 32 + 256 + 2048 + i / 4 * 8 * LANES;
    const int shift = (int)(2 * (i % 4));
    int8_t s[2 * HYP_PANEL];
    memcpy(s, rec + 32 + 2 * i * HYP_PANEL, sizeof s);
    for (int r = 0; r < HYP_PANEL; ++r) {
        b->sc[0][r] = s[r];
        b->sc[1][r] = s[HYP_PANEL + r];
    }
    load_half_nibbles(rec + 32 + 256, i / 4 * 2 + i % 2, i % 4 >= 2, b);
    for (int v = 0; v < 8; ++v)
        for (int n = 0; n < LANES; ++n)
            b->w[v][n] = (int16_t)((b->w[v][n] | (((qh[v * LANES + n] >> shift) & 3) << 4)) - 32);
}

/* ---- The template -------------------------------------------------------------------------------------------------- */

/* Adds a group times one token; halves: two scales; min: two or one of those too. */
HYP_INLINE void add_group(int halves, int min, const group *b, const int8_t *a, const int16_t half[2], int32_t sum[HYP_PANEL],
                          int32_t mins[HYP_PANEL])
{
    int32_t first[HYP_PANEL], second[HYP_PANEL];
    if (halves) {
        dot(b->w, a, 4, first);
        dot(b->w + 4, a + 16, 4, second);
        for (int r = 0; r < HYP_PANEL; ++r) sum[r] += b->sc[0][r] * first[r] + b->sc[1][r] * second[r];
    } else {
        dot(b->w, a, 8, first);
        for (int r = 0; r < HYP_PANEL; ++r) sum[r] += b->sc[0][r] * first[r];
    }
    if (min && halves)
        for (int r = 0; r < HYP_PANEL; ++r) mins[r] += b->mn[0][r] * half[0] + b->mn[1][r] * half[1];
    else if (min)
        for (int r = 0; r < HYP_PANEL; ++r) mins[r] += b->mn[0][r] * (half[0] + half[1]);
}

HYP_INLINE void add_span(int min, const uint8_t *rec, const span_sums *s, const float *da, size_t tokens,
                           float acc[HYP_ACT_TILE][HYP_PANEL])
{
    float d[HYP_PANEL], dmin[HYP_PANEL];
    load_halves(rec, d);
    if (min) load_halves(rec + 32, dmin);
    for (size_t t = 0; t < tokens; ++t) {
        float v[HYP_PANEL];
        for (int r = 0; r < HYP_PANEL; ++r) v[r] = d[r] * (float)s->sum[t][r];
        for (int r = 0; min && r < HYP_PANEL; ++r) v[r] += -dmin[r] * (float)s->mins[t][r];
        for (int r = 0; r < HYP_PANEL; ++r) acc[t][r] += da[t] * v[r];
    }
}

typedef void (*load_fn)(const uint8_t *rec, size_t i, group *b);

/* One panel and one group of `tokens` <= tile tokens. */
HYP_INLINE void mul_tokens(int type, load_fn load, const uint8_t *rec, size_t rows, size_t k, const uint8_t *act, size_t tile,
                           size_t tokens, float *out, size_t ldo)
{
    const int halves = type == HYP_Q2_K || type == HYP_Q3_K || type == HYP_Q6_K, min = type != HYP_Q3_K && type != HYP_Q6_K;
    const size_t act_bytes = hyp_act_group_bytes(0, tile, HYP_BLOCK);
    float acc[HYP_ACT_TILE][HYP_PANEL] = {{0}};
    for (size_t i = 0; i < k; i += HYP_SUPER, rec += HYP_PANEL * hyp_block_bytes(type)) {
        span_sums s;
        group b;
        const float *da = NULL; /* half a record's scales */
        for (size_t g = 0; g < HYP_SUPER / HYP_BLOCK; ++g, act += act_bytes) {
            const int16_t *half = (const int16_t *)(const void *)(act + tile * (HYP_BLOCK + 4));
            if (g * HYP_BLOCK % HYP_SPAN == 0) {
                memset(&s, 0, sizeof s);
                da = (const float *)(const void *)(act + tile * HYP_BLOCK);
            }
            load(rec, g, &b);
            for (size_t t = 0; t < tokens; ++t)
                add_group(halves, min, &b, (const int8_t *)act + t * HYP_BLOCK, half + 2 * t, s.sum[t], s.mins[t]);
            if ((g + 1) * HYP_BLOCK % HYP_SPAN == 0) add_span(min, rec, &s, da, tokens, acc);
        }
    }
    for (size_t t = 0; t < tokens; ++t)
        for (size_t r = 0; r < rows; ++r) out[t * ldo + r] = acc[t][r];
}

HYP_INLINE void mul(int type, load_fn load, const uint8_t *w, size_t rows, size_t k, const uint8_t *act, size_t m, float *out,
                    size_t ldo)
{
    const size_t tile = hyp_act_tile(m), group_bytes = hyp_act_group_bytes(0, tile, k), panel_bytes = hyp_panel_bytes(type, k);
    for (size_t row = 0; row < rows; row += HYP_PANEL, w += panel_bytes) {
        const size_t n = rows - row < HYP_PANEL ? rows - row : HYP_PANEL;
        const uint8_t *tokens = act;
        for (size_t t = 0; t < m; t += tile, tokens += group_bytes)
            mul_tokens(type, load, w, n, k, tokens, tile, m - t < tile ? m - t : tile, out + t * ldo + row, ldo);
    }
}

#define MUL(name, type)                                                                                               \
    static void hyp_mul_##name##_generic(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m,          \
                                         float *out, size_t ldo)                                                      \
    {                                                                                                                 \
        mul(type, load_##name, w, rows, k, act, m, out, ldo);                                                         \
    }

MUL(q2_k, HYP_Q2_K)
MUL(q3_k, HYP_Q3_K)
MUL(q4_k, HYP_Q4_K)
MUL(q5_k, HYP_Q5_K)
MUL(q6_k, HYP_Q6_K)

void hyp_matmul_fill_kquant_generic(hyp_table *t)
{
    t->mul[HYP_Q2_K] = hyp_mul_q2_k_generic;
    t->mul[HYP_Q3_K] = hyp_mul_q3_k_generic;
    t->mul[HYP_Q4_K] = hyp_mul_q4_k_generic;
    t->mul[HYP_Q5_K] = hyp_mul_q5_k_generic;
    t->mul[HYP_Q6_K] = hyp_mul_q6_k_generic;
}
