/* Attention in C for any target: 16 lanes of positions (keys) or dims (values), four a vector. */
#include "nn/math_generic.h"

#define ATTN_DIRECT 0

/* Four floats. Compilers turn plain loops over the accumulators below into transposes or memory traffic; where there are
 * vector types, they say what is meant, and every target has them in its registers. */
#if defined(__GNUC__)
typedef float lanes4 __attribute__((vector_size(16)));

HYP_INLINE lanes4 lanes_multiply(lanes4 v, float x)
{
    return v * x;
}

HYP_INLINE lanes4 lanes_add(lanes4 a, lanes4 b)
{
    return a + b;
}
#else
typedef struct {
    float f[4];
} lanes4;

HYP_INLINE lanes4 lanes_multiply(lanes4 v, float x)
{
    for (int l = 0; l < 4; l++) v.f[l] *= x;
    return v;
}

HYP_INLINE lanes4 lanes_add(lanes4 a, lanes4 b)
{
    for (int l = 0; l < 4; l++) a.f[l] += b.f[l];
    return a;
}
#endif

HYP_INLINE lanes4 lanes_load(const float *x)
{
    lanes4 v;
    memcpy(&v, x, sizeof v);
    return v;
}

/* Up to 8 accumulators of 4 lanes: what 16 registers hold beside their operands. */
HYP_INLINE void product_block(size_t nq, size_t nv, size_t n, const float *b, size_t row, const float *const *a,
                              float *const *c, size_t at, const float *start)
{
    lanes4 acc[4][4];
    memset(acc, 0, sizeof acc);
    if (start) {
        for (size_t j = 0; j < nq; j++)
            for (size_t v = 0; v < nv; v++) acc[j][v] = lanes_multiply(lanes_load(c[j] + at + 4 * v), start[j]);
    }
    for (size_t i = 0; i < n; i++) {
        lanes4 w[4];
        for (size_t v = 0; v < nv; v++) w[v] = lanes_load(b + i * row + 4 * v);
        for (size_t j = 0; j < nq; j++)
            for (size_t v = 0; v < nv; v++) acc[j][v] = lanes_add(acc[j][v], lanes_multiply(w[v], a[j][i]));
    }
    for (size_t j = 0; j < nq; j++)
        for (size_t v = 0; v < nv; v++) memcpy(c[j] + at + 4 * v, &acc[j][v], sizeof acc[j][v]);
}

HYP_INLINE void attn_product(int half, size_t nq, size_t n, const void *b, size_t row, size_t vec, size_t vecs,
                             const float *const *a, float *const *c, const float *start, hyp_ahead ahead)
{
    (void)half;
    (void)ahead;
    for (size_t v = 0; v < vecs; v++) {
        const float *at = (const float *)b + v * vec;
        if (nq >= 4) {
            product_block(4, 2, n, at, row, a, c, 16 * v, start);
            product_block(4, 2, n, at + 8, row, a, c, 16 * v + 8, start);
        }
        if (nq == 6) {
            product_block(2, 4, n, at, row, a + 4, c + 4, 16 * v, start ? start + 4 : NULL);
        } else if (nq == 2) {
            product_block(2, 4, n, at, row, a, c, 16 * v, start);
        } else if (nq == 1) {
            product_block(1, 4, n, at, row, a, c, 16 * v, start);
        }
    }
}

HYP_INLINE void attn_expand_k(int kv, const uint8_t *tile, size_t hd, float *dst)
{
    if (kv == HYP_KV_F16) {
        for (size_t i = 0; i < 16 * hd; i++) dst[i] = hyp_half_generic(((const uint16_t *)tile)[i]);
        return;
    }
    for (size_t d = 0; d < hd; d += 32) {
        const size_t left = hd - d < 32 ? hd - d : 32;
        const uint8_t *q = tile + 32;
        float scale[16];
        for (size_t l = 0; l < 16; l++) scale[l] = hyp_half_generic(((const uint16_t *)tile)[l]);
        for (size_t j = 0; j < left; j++) {
            float *to = dst + 16 * (d + j);
            if (kv == HYP_KV_Q8_0) {
                for (size_t l = 0; l < 16; l++) to[l] = (float)(int8_t)q[16 * j + l] * scale[l];
            } else if (j < 16) {
                for (size_t l = 0; l < 16; l++) to[l] = (float)((q[16 * j + l] & 15) - 8) * scale[l];
            } else {
                for (size_t l = 0; l < 16; l++) to[l] = (float)((q[16 * (j - 16) + l] >> 4) - 8) * scale[l];
            }
        }
        tile += kv == HYP_KV_Q8_0 ? 32 + 512 : 32 + 256;
    }
}

HYP_INLINE void attn_expand_v(int kv, const uint8_t *row, size_t hd, size_t dims, float *dst)
{
    if (kv == HYP_KV_F16) {
        for (size_t d = 0; d < hd; d++) dst[d] = hyp_half_generic(((const uint16_t *)row)[d]);
        for (size_t d = hd; d < dims; d++) dst[d] = 0.0f;
        return;
    }
    const uint8_t *q = row + 2 * ((hd + 31) / 32);
    for (size_t d = 0; d < dims; d += 16) {
        uint16_t bits;
        memcpy(&bits, row + d / 32 * 2, 2);
        const float scale = hyp_half_generic(bits);
        const int shift = d % 32 ? 4 : 0;
        for (size_t l = 0; l < 16; l++) {
            const int code = kv == HYP_KV_Q8_0 ? (int)(int8_t)q[d + l] : ((q[d / 32 * 16 + l] >> shift) & 15) - 8;
            dst[d + l] = (float)code * scale;
        }
    }
}

/* Never called: every tile is expanded (ATTN_DIRECT 0). */
HYP_INLINE void attn_keys(int kv, size_t nq, size_t hd, const uint8_t *keys, const float *const *query,
                          float *const *score, hyp_ahead ahead)
{
    (void)kv, (void)nq, (void)hd, (void)keys, (void)query, (void)score, (void)ahead;
}

HYP_INLINE void attn_values(int kv, size_t nq, size_t hd, const uint8_t *rows, const float *const *weight,
                            float *const *acc, const float *start, const float *scales, hyp_ahead ahead)
{
    (void)kv, (void)nq, (void)hd, (void)rows, (void)weight, (void)acc, (void)start, (void)scales, (void)ahead;
}

HYP_INLINE void attn_expand_scales(int kv, size_t hd, const uint8_t *rows, float *scales)
{
    (void)kv, (void)hd, (void)rows, (void)scales;
}

HYP_INLINE float attn_softmax(float *score, size_t count, float scale, float *top, float *sum)
{
    const float before = *top;
    float now = before;
    for (size_t i = 0; i < HYP_ATTN_TILE; i++) { /* the cache beyond count may hold NaN */
        score[i] = i < count ? score[i] * scale : -INFINITY;
        now = score[i] > now ? score[i] : now;
    }
    const float base = now == -INFINITY ? 0.0f : now; /* -inf - -inf would be NaN */
    const float factor = before == now ? 1.0f : hyp_exp2_generic(before - base, 0.0f);
    for (size_t i = 0; i < HYP_ATTN_TILE; i++) score[i] = hyp_exp2_generic(score[i] - base, 0.0f);
    for (size_t l = 0; l < 16; l++)
        sum[l] = sum[l] * factor + ((score[l] + score[l + 16]) + (score[l + 32] + score[l + 48]));
    *top = now;
    return factor;
}

HYP_INLINE void attn_finish(const float *acc, const float *sum, size_t hd, float *out)
{
    float total = 0.0f;
    for (size_t l = 0; l < 16; l++) total += sum[l];
    for (size_t d = 0; d < hd; d++) out[d] = acc[d] / total;
}

#include "nn/attention.h"

static void hyp_attention_f16_generic(const hyp_attn_args *args) { attn_run(args, HYP_KV_F16); }
static void hyp_attention_q8_0_generic(const hyp_attn_args *args) { attn_run(args, HYP_KV_Q8_0); }
static void hyp_attention_q4_0_generic(const hyp_attn_args *args) { attn_run(args, HYP_KV_Q4_0); }

void hyp_attn_fill_generic(hyp_table *t)
{
    t->attention[HYP_KV_F16] = hyp_attention_f16_generic;
    t->attention[HYP_KV_Q8_0] = hyp_attention_q8_0_generic;
    t->attention[HYP_KV_Q4_0] = hyp_attention_q4_0_generic;
}
