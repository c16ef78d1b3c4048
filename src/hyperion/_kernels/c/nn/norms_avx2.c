/* Norms, AVX2. Tails take the same instructions under a mask, so that a value does not depend on where in the vector it
 * stands. */
#include "nn/math_avx2.h"

/* Sum of 8 doubles in a fixed order. */
HYP_INLINE double reduce_f64(__m256d a, __m256d b)
{
    double s[4];
    _mm256_storeu_pd(s, _mm256_add_pd(a, b));
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static void hyp_rms_norm_avx2(const float *x, const float *weight, float eps, size_t n, float *out)
{
    __m256d sum[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    for (size_t i = 0; i < n; i += 16) {
        const __m256 v = hyp_load_avx2(x + i, n - i), w = n - i > 8 ? hyp_load_avx2(x + i + 8, n - i - 8) : _mm256_setzero_ps();
        const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(v)), b = _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
        const __m256d c = _mm256_cvtps_pd(_mm256_castps256_ps128(w)), d = _mm256_cvtps_pd(_mm256_extractf128_ps(w, 1));
        sum[0] = _mm256_fmadd_pd(a, a, sum[0]);
        sum[1] = _mm256_fmadd_pd(b, b, sum[1]);
        sum[2] = _mm256_fmadd_pd(c, c, sum[2]);
        sum[3] = _mm256_fmadd_pd(d, d, sum[3]);
    }
    const double squares = reduce_f64(_mm256_add_pd(sum[0], sum[1]), _mm256_add_pd(sum[2], sum[3]));
    const double mean = squares / (double)n + (double)eps;
    const __m256 scale = _mm256_set1_ps((float)(1.0 / _mm_cvtsd_f64(_mm_sqrt_sd(_mm_setzero_pd(), _mm_set_sd(mean)))));
    for (size_t i = 0; i < n; i += 8) {
        const __m256 v = _mm256_mul_ps(hyp_load_avx2(x + i, n - i), scale);
        hyp_store_avx2(out + i, n - i, _mm256_mul_ps(v, hyp_load_avx2(weight + i, n - i)));
    }
}

/* Add 4 differences from the first value, and their squares. */
HYP_INLINE void moments_add(__m128 v_f32x4, __m256d first, __m256d *sum, __m256d *squares)
{
    const __m256d d = _mm256_sub_pd(_mm256_cvtps_pd(v_f32x4), first);
    *sum = _mm256_add_pd(*sum, d);
    *squares = _mm256_fmadd_pd(d, d, *squares);
}

static hyp_moments moments_avx2(const float *x, float eps, size_t n)
{
    const __m256 start = _mm256_set1_ps(x[0]);
    const __m256d first = _mm256_set1_pd((double)x[0]), zero = _mm256_setzero_pd();
    __m256d sum[4] = {zero, zero, zero, zero}, squares[4] = {zero, zero, zero, zero};
    for (size_t i = 0; i < n; i += 16)
        for (size_t h = 0; h < 2; h++) {
            const size_t at = i + 8 * h, left = at < n ? n - at : 0;
            __m256 v = left ? hyp_load_avx2(x + at, left) : start; /* past the end: the first value, which differs by 0 */
            if (left && left < 8) v = _mm256_blendv_ps(start, v, _mm256_castsi256_ps(hyp_tail_avx2(left)));
            moments_add(_mm256_castps256_ps128(v), first, &sum[2 * h], &squares[2 * h]);
            moments_add(_mm256_extractf128_ps(v, 1), first, &sum[2 * h + 1], &squares[2 * h + 1]);
        }
    return hyp_moments_of((double)x[0], reduce_f64(_mm256_add_pd(sum[0], sum[1]), _mm256_add_pd(sum[2], sum[3])),
                          reduce_f64(_mm256_add_pd(squares[0], squares[1]), _mm256_add_pd(squares[2], squares[3])), n, eps);
}

static void hyp_layer_norm_avx2(const float *x, const float *weight, const float *bias, float eps, size_t n, float *out)
{
    const hyp_moments m = moments_avx2(x, eps, n);
    const __m256 high = _mm256_set1_ps(m.high), low = _mm256_set1_ps(m.low), scale = _mm256_set1_ps(m.scale);
    for (size_t i = 0; i < n; i += 8) {
        const __m256 d = _mm256_sub_ps(_mm256_sub_ps(hyp_load_avx2(x + i, n - i), high), low), z = _mm256_mul_ps(d, scale);
        const __m256 w = weight ? hyp_load_avx2(weight + i, n - i) : _mm256_set1_ps(1.0f);
        const __m256 b = bias ? hyp_load_avx2(bias + i, n - i) : _mm256_setzero_ps();
        hyp_store_avx2(out + i, n - i, _mm256_fmadd_ps(z, w, b));
    }
}

void hyp_norms_fill_avx2(hyp_table *t)
{
    t->rms_norm = hyp_rms_norm_avx2;
    t->layer_norm = hyp_layer_norm_avx2;
}
