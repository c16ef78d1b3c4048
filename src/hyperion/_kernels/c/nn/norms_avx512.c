/* Norms, AVX-512. Tails take the same instructions under a mask, so that a value does not depend on where in the vector it
 * stands. */
#include "nn/math_avx512.h"

HYP_INLINE __mmask16 tail_mask(size_t n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1u);
}

/* Sum of 16 doubles in a fixed order. */
HYP_INLINE double reduce_f64(__m512d a, __m512d b)
{
    HYP_ALIGN64 double s[8];
    _mm512_store_pd(s, _mm512_add_pd(a, b));
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}

static void hyp_rms_norm_avx512(const float *x, const float *weight, float eps, size_t n, float *out)
{
    __m512d sum[4] = {_mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd(), _mm512_setzero_pd()};
    for (size_t i = 0; i < n; i += 32) {
        const __m512 v = _mm512_maskz_loadu_ps(tail_mask(n - i), x + i);
        const __m512 w = n - i > 16 ? _mm512_maskz_loadu_ps(tail_mask(n - i - 16), x + i + 16) : _mm512_setzero_ps();
        const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(v)), b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1));
        const __m512d c = _mm512_cvtps_pd(_mm512_castps512_ps256(w)), d = _mm512_cvtps_pd(_mm512_extractf32x8_ps(w, 1));
        sum[0] = _mm512_fmadd_pd(a, a, sum[0]);
        sum[1] = _mm512_fmadd_pd(b, b, sum[1]);
        sum[2] = _mm512_fmadd_pd(c, c, sum[2]);
        sum[3] = _mm512_fmadd_pd(d, d, sum[3]);
    }
    const double squares = reduce_f64(_mm512_add_pd(sum[0], sum[1]), _mm512_add_pd(sum[2], sum[3]));
    const double mean = squares / (double)n + (double)eps;
    const __m512 scale = _mm512_set1_ps((float)(1.0 / _mm_cvtsd_f64(_mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(mean)))));
    for (size_t i = 0; i < n; i += 16) {
        const __mmask16 mask = tail_mask(n - i);
        const __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), scale);
        _mm512_mask_storeu_ps(out + i, mask, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(mask, weight + i)));
    }
}

/* Add 8 differences from the first value, and their squares. */
HYP_INLINE void moments_add(__m256 v_f32x8, __m512d first, __m512d *sum, __m512d *squares)
{
    const __m512d d = _mm512_sub_pd(_mm512_cvtps_pd(v_f32x8), first);
    *sum = _mm512_add_pd(*sum, d);
    *squares = _mm512_fmadd_pd(d, d, *squares);
}

/* 32 values, or fewer and the first value in place of the others. */
HYP_INLINE void moments_step(__m512 v, __m512 w, __m512d first, __m512d sum[4], __m512d squares[4])
{
    moments_add(_mm512_castps512_ps256(v), first, &sum[0], &squares[0]);
    moments_add(_mm512_extractf32x8_ps(v, 1), first, &sum[1], &squares[1]);
    moments_add(_mm512_castps512_ps256(w), first, &sum[2], &squares[2]);
    moments_add(_mm512_extractf32x8_ps(w, 1), first, &sum[3], &squares[3]);
}

static hyp_moments moments_avx512(const float *x, float eps, size_t n)
{
    const __m512 start = _mm512_set1_ps(x[0]); /* stands past the end too, where it differs by 0 */
    const __m512d first = _mm512_set1_pd((double)x[0]), zero = _mm512_setzero_pd();
    __m512d sum[4] = {zero, zero, zero, zero}, squares[4] = {zero, zero, zero, zero};
    size_t i = 0;
    for (; n - i >= 32; i += 32) moments_step(_mm512_loadu_ps(x + i), _mm512_loadu_ps(x + i + 16), first, sum, squares);
    if (i < n) {
        const __m512 v = _mm512_mask_loadu_ps(start, tail_mask(n - i), x + i);
        const __m512 w = n - i > 16 ? _mm512_mask_loadu_ps(start, tail_mask(n - i - 16), x + i + 16) : start;
        moments_step(v, w, first, sum, squares);
    }
    return hyp_moments_of((double)x[0], reduce_f64(_mm512_add_pd(sum[0], sum[1]), _mm512_add_pd(sum[2], sum[3])),
                          reduce_f64(_mm512_add_pd(squares[0], squares[1]), _mm512_add_pd(squares[2], squares[3])), n, eps);
}

static void hyp_layer_norm_avx512(const float *x, const float *weight, const float *bias, float eps, size_t n, float *out)
{
    const hyp_moments m = moments_avx512(x, eps, n);
    const __m512 high = _mm512_set1_ps(m.high), low = _mm512_set1_ps(m.low), scale = _mm512_set1_ps(m.scale);
    size_t i = 0;
    for (; weight && bias && n - i >= 16; i += 16) { /* the usual; stores under a mask take longer */
        const __m512 d = _mm512_sub_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), high), low);
        _mm512_storeu_ps(out + i, _mm512_fmadd_ps(_mm512_mul_ps(d, scale), _mm512_loadu_ps(weight + i), _mm512_loadu_ps(bias + i)));
    }
    for (; i < n; i += 16) {
        const __mmask16 mask = tail_mask(n - i);
        const __m512 d = _mm512_sub_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, x + i), high), low);
        const __m512 w = weight ? _mm512_maskz_loadu_ps(mask, weight + i) : _mm512_set1_ps(1.0f);
        const __m512 b = bias ? _mm512_maskz_loadu_ps(mask, bias + i) : _mm512_setzero_ps();
        _mm512_mask_storeu_ps(out + i, mask, _mm512_fmadd_ps(_mm512_mul_ps(d, scale), w, b));
    }
}

void hyp_norms_fill_avx512(hyp_table *t)
{
    t->rms_norm = hyp_rms_norm_avx512;
    t->layer_norm = hyp_layer_norm_avx512;
}
