/* Rotations, softmax and the KV store in plain C. */
#include "nn/kv_store.h"
#include "nn/math_generic.h"

static void hyp_add_generic(float *x, const float *y, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

#define LANES 8 /* partial sums; their number and order are part of the result */

HYP_INLINE double reduce_f64(const double *s)
{
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

static void hyp_rope_generic(float *x, const float *cs, size_t heads, size_t head_dim, size_t rot, int interleaved)
{
    const size_t half = rot / 2, step = interleaved ? 2 : 1, apart = interleaved ? 1 : half;
    for (size_t h = 0; h < heads; h++, x += head_dim) {
        for (size_t i = 0; i < half; i++) {
            const float c = cs[i], s = cs[half + i], a = x[i * step], b = x[i * step + apart];
            x[i * step] = a * c - b * s;
            x[i * step + apart] = b * c + a * s;
        }
    }
}

static void hyp_softmax_generic(const float *x, size_t n, float *out)
{
    float top[LANES], max = -INFINITY;
    double sum[LANES] = {0};
    size_t i = 0;
    for (size_t l = 0; l < LANES; l++) top[l] = -INFINITY;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) top[l] = x[i + l] > top[l] ? x[i + l] : top[l];
    for (; i < n; i++) top[0] = x[i] > top[0] ? x[i] : top[0];
    for (size_t l = 0; l < LANES; l++) max = top[l] > max ? top[l] : max;
    for (i = 0; i < n; i++) out[i] = hyp_exp2_generic(x[i] - max, 0.0f);
    i = 0;
    for (; i + LANES <= n; i += LANES) /* in double: a vocabulary has 10^5 terms */
        for (size_t l = 0; l < LANES; l++) sum[l] += (double)out[i + l];
    for (size_t l = 0; i + l < n; l++) sum[l] += (double)out[i + l];
    const float scale = (float)(1.0 / reduce_f64(sum));
    for (i = 0; i < n; i++) out[i] *= scale;
}

static void hyp_kv_store_f16_generic(void *k_cache, void *v_cache, size_t head_dim, size_t pos, const float *k,
                                     const float *v)
{
    uint16_t *keys = (uint16_t *)k_cache + pos / HYP_KV_TILE * head_dim * HYP_KV_TILE + pos % HYP_KV_TILE;
    uint16_t *values = (uint16_t *)v_cache + pos * head_dim;
    for (size_t d = 0; d < head_dim; d++) {
        keys[d * HYP_KV_TILE] = hyp_float_to_half(k[d]);
        values[d] = hyp_float_to_half(v[d]);
    }
}

static void hyp_kv_store_q8_0_generic(void *kc, void *vc, size_t hd, size_t pos, const float *k, const float *v)
{
    kv_store_quantized(HYP_KV_Q8_0, kc, vc, hd, pos, k, v);
}

static void hyp_kv_store_q4_0_generic(void *kc, void *vc, size_t hd, size_t pos, const float *k, const float *v)
{
    kv_store_quantized(HYP_KV_Q4_0, kc, vc, hd, pos, k, v);
}

void hyp_nn_fill_generic(hyp_table *t)
{
    t->kv_store[HYP_KV_F16] = hyp_kv_store_f16_generic;
    t->kv_store[HYP_KV_Q8_0] = hyp_kv_store_q8_0_generic;
    t->kv_store[HYP_KV_Q4_0] = hyp_kv_store_q4_0_generic;
    t->rope = hyp_rope_generic;
    t->add = hyp_add_generic;
    t->softmax = hyp_softmax_generic;
    hyp_activations_fill_generic(t);
    hyp_norms_fill_generic(t);
    hyp_attn_fill_generic(t);
}
