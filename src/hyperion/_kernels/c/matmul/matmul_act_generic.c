/* Packing of activations in portable C (see panel.h). */
#include "matmul/portable.h"

/* The scale of n values, or 0 where they have none and their codes are 0: *d then is what the record gets. */
static float scale_of(const float *HYP_RESTRICT x, size_t n, float *d)
{
    /* Magnitudes compare as integers: infinity and NaN come out on top instead of vanishing in a float comparison. */
    uint32_t top = 0;
    for (size_t i = 0; i < n; ++i) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        const uint32_t magnitude = bits & 0x7fffffffu;
        top = magnitude > top ? magnitude : top;
    }
    float absmax;
    memcpy(&absmax, &top, 4);
    const float scale = absmax / 127.0f;
    if (top >= 0x7f800000u || !(scale >= 1.17549435e-38f)) {
        const uint32_t nan = 0x7fc00000u;
        *d = 0.0f;
        if (top >= 0x7f800000u) memcpy(d, &nan, 4);
        return 0.0f;
    }
    *d = scale;
    return scale;
}

/* The codes of 32 values and the sums of both halves. */
static void quantize_block(const float *HYP_RESTRICT x, float scale, int8_t *HYP_RESTRICT q, int32_t s[2])
{
    s[0] = s[1] = 0;
    if (scale == 0.0f) {
        memset(q, 0, HYP_BLOCK);
        return;
    }
    for (int i = 0; i < HYP_BLOCK; ++i) {
        /* 1.5 * 2^23: the sum's last place is 1, so the addition rounds to nearest even and the low bits are the code. */
        const float shifted = x[i] / scale + 12582912.0f;
        int32_t code;
        memcpy(&code, &shifted, 4);
        q[i] = (int8_t)(code - 0x4b400000);
    }
    for (int i = 0; i < HYP_BLOCK; ++i) s[i / (HYP_BLOCK / 2)] += q[i];
}

/* One token's records, `bytes` apart: 32 K each. */
static void quantize_by_32(const float *x, size_t k, uint8_t *rec, size_t bytes, size_t tile, size_t t)
{
    for (size_t i = 0; i < k; i += HYP_BLOCK, rec += bytes) {
        float d;
        int32_t s[2];
        const float scale = scale_of(x + i, HYP_BLOCK, &d);
        quantize_block(x + i, scale, (int8_t *)rec + t * HYP_BLOCK, s);
        memcpy(rec + tile * HYP_BLOCK + 4 * t, &d, 4);
        memcpy(rec + tile * (HYP_BLOCK + 4) + 8 * t, s, 8);
    }
}

static int32_t reach_of(const int8_t *q, const int32_t s[2])
{
    int32_t magnitudes = 0;
    for (int i = 0; i < HYP_BLOCK; ++i) magnitudes += q[i] < 0 ? -q[i] : q[i];
    return magnitudes + (s[0] + s[1] < 0 ? -(s[0] + s[1]) : s[0] + s[1]);
}

/* The same, four records to a scale. */
static void quantize_by_128(const float *x, size_t k, uint8_t *rec, size_t bytes, size_t tile, size_t t)
{
    for (size_t i = 0; i < k; i += HYP_SPAN) {
        float d;
        int32_t reach = 0;
        uint8_t *to_reach = rec + HYP_ACT_REACH * bytes + tile * HYP_BLOCK + 4 * t;
        const float scale = scale_of(x + i, HYP_SPAN, &d);
        for (size_t g = 0; g < HYP_SPAN; g += 2 * HYP_BLOCK, rec += 2 * bytes) {
            int32_t s[2][2];
            quantize_block(x + i + g, scale, (int8_t *)rec + t * HYP_BLOCK, s[0]);
            quantize_block(x + i + g + HYP_BLOCK, scale, (int8_t *)rec + bytes + t * HYP_BLOCK, s[1]);
            const uint32_t pair = hyp_act_words(s[0][0] + s[0][1], s[1][0] + s[1][1]);
            for (size_t n = 0; n < 2; ++n) {
                const uint32_t half = hyp_act_words(s[n][0], s[n][1]);
                const int32_t own = reach_of((const int8_t *)rec + n * bytes + t * HYP_BLOCK, s[n]);
                uint8_t *to = rec + n * bytes + tile * HYP_BLOCK + 4 * t;
                reach = own > reach ? own : reach;
                memcpy(to, &d, 4);
                memcpy(to + 4 * tile, &half, 4);
                memcpy(to + 8 * tile, &pair, 4);
            }
        }
        memcpy(to_reach, &reach, 4);
    }
}

HYP_INLINE void quantize(int kind, const float *x, size_t ldx, size_t m, size_t k, uint8_t *out)
{
    const size_t tile = hyp_act_tile(m), bytes = hyp_act_group_bytes(0, tile, HYP_BLOCK), group = k / HYP_BLOCK * bytes;
    for (size_t t0 = 0; t0 < m; t0 += tile, out += group) {
        const size_t tokens = m - t0 < tile ? m - t0 : tile;
        if (tokens < tile) memset(out, 0, group);
        for (size_t t = 0; t < tokens; ++t) {
            if (kind == HYP_ACT_BY_32) quantize_by_32(x + (t0 + t) * ldx, k, out, bytes, tile, t);
            else quantize_by_128(x + (t0 + t) * ldx, k, out, bytes, tile, t);
        }
    }
}

static void hyp_act_by_32_generic(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    quantize(HYP_ACT_BY_32, x, ldx, m, k, dst);
}

static void hyp_act_by_128_generic(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    quantize(HYP_ACT_BY_128, x, ldx, m, k, dst);
}

static void hyp_act_float_generic(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    const size_t tile = hyp_act_tile(m);
    float *out = dst;
    for (size_t t0 = 0; t0 < m; t0 += tile) {
        const size_t tokens = m - t0 < tile ? m - t0 : tile;
        for (size_t i = 0; i < k; ++i, out += tile) {
            for (size_t t = 0; t < tokens; ++t) out[t] = x[(t0 + t) * ldx + i];
            for (size_t t = tokens; t < tile; ++t) out[t] = 0.0f;
        }
    }
}

void hyp_matmul_fill_act_generic(hyp_table *t)
{
    t->act[HYP_ACT_FLOAT] = hyp_act_float_generic;
    t->act[HYP_ACT_BY_32] = hyp_act_by_32_generic;
    t->act[HYP_ACT_BY_128] = hyp_act_by_128_generic;
}
