/* Activations in plain C. */
#include "nn/math_generic.h"

static void hyp_relu_all_generic(const float *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = x[i] < 0.0f ? 0.0f : x[i];
}

static void hyp_silu_all_generic(const float *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = hyp_silu_generic(x[i]);
}

static void hyp_tanh_all_generic(const float *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = hyp_tanh_generic(x[i]);
}

static void hyp_sigmoid_all_generic(const float *x, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = hyp_sigmoid_generic(x[i]);
}

static void hyp_silu_mul_generic(const float *gate, const float *up, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = hyp_silu_generic(gate[i]) * up[i];
}

/* In two loops: in one, compilers follow the clamped argument through exp, as a path of its own, whose subnormals take
 * hundreds of cycles in every vector. */
HYP_INLINE void gelu_generic(const float *x, const float *up, size_t n, float *out)
{
    float high[64], low[64];
    for (size_t begin = 0; begin < n; begin += 64) {
        const size_t end = n - begin < 64 ? n : begin + 64;
        for (size_t i = begin; i < end; i++) hyp_gelu_argument_generic(x[i], &high[i - begin], &low[i - begin]);
        for (size_t i = begin; i < end; i++) {
            const float v = hyp_gate_generic(x[i], hyp_exp2_generic(high[i - begin], low[i - begin]));
            out[i] = up ? v * up[i] : v;
        }
    }
}

static void hyp_gelu_all_generic(const float *x, size_t n, float *out)
{
    gelu_generic(x, NULL, n, out);
}

static void hyp_gelu_mul_generic(const float *gate, const float *up, size_t n, float *out)
{
    gelu_generic(gate, up, n, out);
}

static void hyp_gelu_erf_all_generic(const float *x, size_t n, float *out) /* in two loops for the same reason */
{
    float high[64], low[64];
    for (size_t begin = 0; begin < n; begin += 64) {
        const size_t end = n - begin < 64 ? n : begin + 64;
        for (size_t i = begin; i < end; i++) hyp_gauss_argument_generic(x[i], &high[i - begin], &low[i - begin]);
        for (size_t i = begin; i < end; i++)
            out[i] = hyp_gelu_erf_generic(x[i], hyp_exp2_generic(high[i - begin], low[i - begin]));
    }
}

void hyp_activations_fill_generic(hyp_table *t)
{
    t->map[HYP_RELU] = hyp_relu_all_generic;
    t->map[HYP_SILU] = hyp_silu_all_generic;
    t->map[HYP_GELU] = hyp_gelu_all_generic;
    t->map[HYP_GELU_ERF] = hyp_gelu_erf_all_generic;
    t->map[HYP_TANH] = hyp_tanh_all_generic;
    t->map[HYP_SIGMOID] = hyp_sigmoid_all_generic;
    t->silu_mul = hyp_silu_mul_generic;
    t->gelu_mul = hyp_gelu_mul_generic;
}
