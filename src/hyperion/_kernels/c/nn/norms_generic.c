/* Norms in plain C. */
#include "nn/nn.h"

#define LANES 8 /* partial sums; their number and order are part of the result */

HYP_INLINE double reduce_f64(const double *s)
{
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

static void hyp_rms_norm_generic(const float *x, const float *weight, float eps, size_t n, float *out)
{
    double sum[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) sum[l] += (double)x[i + l] * (double)x[i + l];
    for (size_t l = 0; i + l < n; l++) sum[l] += (double)x[i + l] * (double)x[i + l];
    const float scale = (float)(1.0 / sqrt(reduce_f64(sum) / (double)n + (double)eps));
    for (i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
}

static void hyp_layer_norm_generic(const float *x, const float *weight, const float *bias, float eps, size_t n, float *out)
{
    const double first = (double)x[0];
    double sum[LANES] = {0}, squares[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            const double d = (double)x[i + l] - first;
            sum[l] += d, squares[l] += d * d;
        }
    for (size_t l = 0; i + l < n; l++) {
        const double d = (double)x[i + l] - first;
        sum[l] += d, squares[l] += d * d;
    }
    const hyp_moments m = hyp_moments_of(first, reduce_f64(sum), reduce_f64(squares), n, eps);
    for (i = 0; i < n; i++) {
        const float z = ((x[i] - m.high) - m.low) * m.scale;
        out[i] = z * (weight ? weight[i] : 1.0f) + (bias ? bias[i] : 0.0f);
    }
}

void hyp_norms_fill_generic(hyp_table *t)
{
    t->rms_norm = hyp_rms_norm_generic;
    t->layer_norm = hyp_layer_norm_generic;
}
