/* Activations, AVX2. Tails take the same instructions under a mask, so that a value does not depend on where in the vector
 * it stands. */
#include "nn/math_avx2.h"

#define VECTOR __m256
#define STEP 8
#define LOAD(x, left) hyp_load_avx2(x, left)
#define STORE(x, left, v) hyp_store_avx2(x, left, v)
#define MULTIPLY _mm256_mul_ps
#define RELU(v) _mm256_max_ps(_mm256_setzero_ps(), v) /* in this order NaN and -0 pass */

HYP_INLINE VECTOR value_avx2(int op, VECTOR v)
{
    switch (op) {
    case HYP_RELU: return RELU(v);
    case HYP_SILU: return hyp_silu_avx2(v);
    case HYP_GELU: return hyp_gelu_avx2(v);
    case HYP_GELU_ERF: return hyp_gelu_erf_avx2(v);
    case HYP_TANH: return hyp_tanh_avx2(v);
    default: return hyp_sigmoid_avx2(v);
    }
}

/* out = op(x), times y where there is one. */
HYP_INLINE void map_avx2(int op, const float *x, const float *y, size_t n, float *out)
{
    for (size_t i = 0; i < n; i += STEP) {
        VECTOR r = value_avx2(op, LOAD(x + i, n - i));
        if (y) r = MULTIPLY(r, LOAD(y + i, n - i));
        STORE(out + i, n - i, r);
    }
}

static void hyp_relu_all_avx2(const float *x, size_t n, float *out) { map_avx2(HYP_RELU, x, NULL, n, out); }
static void hyp_silu_all_avx2(const float *x, size_t n, float *out) { map_avx2(HYP_SILU, x, NULL, n, out); }
static void hyp_gelu_all_avx2(const float *x, size_t n, float *out) { map_avx2(HYP_GELU, x, NULL, n, out); }
static void hyp_gelu_erf_all_avx2(const float *x, size_t n, float *out) { map_avx2(HYP_GELU_ERF, x, NULL, n, out); }
static void hyp_tanh_all_avx2(const float *x, size_t n, float *out) { map_avx2(HYP_TANH, x, NULL, n, out); }
static void hyp_sigmoid_all_avx2(const float *x, size_t n, float *out) { map_avx2(HYP_SIGMOID, x, NULL, n, out); }

static void hyp_silu_mul_avx2(const float *gate, const float *up, size_t n, float *out)
{
    map_avx2(HYP_SILU, gate, up, n, out);
}

static void hyp_gelu_mul_avx2(const float *gate, const float *up, size_t n, float *out)
{
    map_avx2(HYP_GELU, gate, up, n, out);
}

void hyp_activations_fill_avx2(hyp_table *t)
{
    t->map[HYP_RELU] = hyp_relu_all_avx2;
    t->map[HYP_SILU] = hyp_silu_all_avx2;
    t->map[HYP_GELU] = hyp_gelu_all_avx2;
    t->map[HYP_GELU_ERF] = hyp_gelu_erf_all_avx2;
    t->map[HYP_TANH] = hyp_tanh_all_avx2;
    t->map[HYP_SIGMOID] = hyp_sigmoid_all_avx2;
    t->silu_mul = hyp_silu_mul_avx2;
    t->gelu_mul = hyp_gelu_mul_avx2;
}
