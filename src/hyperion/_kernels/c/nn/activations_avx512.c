/* Activations, AVX-512. Tails take the same instructions under a mask, so that a value does not depend on where in the
 * vector it stands. */
#include "nn/math_avx512.h"

#define VECTOR __m512
#define STEP 16
#define GELU 4 /* vectors that go together */
#define LOAD(x, left) _mm512_maskz_loadu_ps(tail_mask(left), x)
#define STORE(x, left, v) _mm512_mask_storeu_ps(x, tail_mask(left), v)
#define MULTIPLY _mm512_mul_ps
#define RELU(v) _mm512_max_ps(_mm512_setzero_ps(), v) /* in this order NaN and -0 pass */

HYP_INLINE __mmask16 tail_mask(size_t n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1u);
}

HYP_INLINE VECTOR value_avx512(int op, VECTOR v)
{
    switch (op) {
    case HYP_RELU: return RELU(v);
    case HYP_SILU: return hyp_silu_avx512(v);
    case HYP_GELU: return hyp_gelu_avx512(v);
    case HYP_TANH: return hyp_tanh_avx512(v);
    default: return hyp_sigmoid_avx512(v);
    }
}

/* out = op(x), times y where there is one. */
HYP_INLINE void map_avx512(int op, const float *x, const float *y, size_t n, float *out)
{
    size_t i = 0;
    for (; n - i >= STEP; i += STEP) { /* stores under a mask take longer */
        VECTOR r = value_avx512(op, _mm512_loadu_ps(x + i));
        if (y) r = MULTIPLY(r, _mm512_loadu_ps(y + i));
        _mm512_storeu_ps(out + i, r);
    }
    if (i < n) {
        VECTOR r = value_avx512(op, LOAD(x + i, n - i));
        if (y) r = MULTIPLY(r, LOAD(y + i, n - i));
        STORE(out + i, n - i, r);
    }
}

static void hyp_relu_all_avx512(const float *x, size_t n, float *out) { map_avx512(HYP_RELU, x, NULL, n, out); }
static void hyp_silu_all_avx512(const float *x, size_t n, float *out) { map_avx512(HYP_SILU, x, NULL, n, out); }
static void hyp_gelu_all_avx512(const float *x, size_t n, float *out) { map_avx512(HYP_GELU, x, NULL, n, out); }

static void hyp_gelu_erf_all_avx512(const float *x, size_t n, float *out)
{
    VECTOR v[GELU];
    size_t i = 0;
    for (; n - i >= GELU * STEP; i += GELU * STEP) {
#pragma GCC unroll 4
        for (size_t g = 0; g < GELU; g++) v[g] = _mm512_loadu_ps(x + i + g * STEP);
        hyp_gelu_erf_avx512(GELU, v, v);
#pragma GCC unroll 4
        for (size_t g = 0; g < GELU; g++) _mm512_storeu_ps(out + i + g * STEP, v[g]);
    }
    for (; i < n; i += STEP) {
        v[0] = LOAD(x + i, n - i);
        hyp_gelu_erf_avx512(1, v, v);
        STORE(out + i, n - i, v[0]);
    }
}

static void hyp_tanh_all_avx512(const float *x, size_t n, float *out) { map_avx512(HYP_TANH, x, NULL, n, out); }
static void hyp_sigmoid_all_avx512(const float *x, size_t n, float *out) { map_avx512(HYP_SIGMOID, x, NULL, n, out); }

static void hyp_silu_mul_avx512(const float *gate, const float *up, size_t n, float *out)
{
    map_avx512(HYP_SILU, gate, up, n, out);
}

static void hyp_gelu_mul_avx512(const float *gate, const float *up, size_t n, float *out)
{
    map_avx512(HYP_GELU, gate, up, n, out);
}

void hyp_activations_fill_avx512(hyp_table *t)
{
    t->map[HYP_RELU] = hyp_relu_all_avx512;
    t->map[HYP_SILU] = hyp_silu_all_avx512;
    t->map[HYP_GELU] = hyp_gelu_all_avx512;
    t->map[HYP_GELU_ERF] = hyp_gelu_erf_all_avx512;
    t->map[HYP_TANH] = hyp_tanh_all_avx512;
    t->map[HYP_SIGMOID] = hyp_sigmoid_all_avx512;
    t->silu_mul = hyp_silu_mul_avx512;
    t->gelu_mul = hyp_gelu_mul_avx512;
}
