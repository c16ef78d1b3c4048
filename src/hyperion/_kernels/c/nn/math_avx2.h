/* exp and sigmoid on 8 floats, loads and stores of tails; for files built for AVX2 only. */
#ifndef HYP_MATH_AVX2_H
#define HYP_MATH_AVX2_H

#include "nn/nn.h"
#include <immintrin.h>

#define HYP_NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

/* Lanes below n. */
HYP_INLINE __m256i hyp_tail_avx2(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

HYP_INLINE __m256 hyp_load_avx2(const float *x, size_t n)
{
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, hyp_tail_avx2(n));
}

HYP_INLINE void hyp_store_avx2(float *x, size_t n, __m256 v_f32x8)
{
    if (n >= 8) _mm256_storeu_ps(x, v_f32x8);
    else _mm256_maskstore_ps(x, hyp_tail_avx2(n), v_f32x8);
}

HYP_INLINE __m256 hyp_power_of_2_avx2(__m256i n_i32x8)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n_i32x8, _mm256_set1_epi32(127)), 23));
}

/* p and n with exp(x + low) = 2^n (1 + p); x lies between HYP_EXP_MIN and HYP_EXP_MAX, or is NaN. */
HYP_INLINE __m256 hyp_exp_part_avx2(__m256 x, __m256 low_f32x8, __m256i *power)
{
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(HYP_LOG2E)), HYP_NEAREST);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(HYP_LN2_HI), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(HYP_LN2_LO), r);
    r = _mm256_add_ps(r, low_f32x8);
    *power = _mm256_cvtps_epi32(n);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(HYP_EXP_P4), r, _mm256_set1_ps(HYP_EXP_P3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(HYP_EXP_P2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(HYP_EXP_P1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(HYP_EXP_P0));
    return _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r);
}

/* exp(x + low), |low| below an ulp of x. The operand order of min and max lets NaN through. */
HYP_INLINE __m256 hyp_exp2_avx2(__m256 x_f32x8, __m256 low_f32x8)
{
    __m256i whole;
    __m256 x = _mm256_min_ps(_mm256_set1_ps(HYP_EXP_MAX), x_f32x8);
    x = _mm256_max_ps(_mm256_set1_ps(HYP_EXP_MIN), x);
    const __m256 p = _mm256_add_ps(hyp_exp_part_avx2(x, low_f32x8, &whole), _mm256_set1_ps(1.0f));
    /* n reaches from -150 to 128: two factors stay normal, and only the last product rounds. */
    const __m256i part = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, hyp_power_of_2_avx2(part)), hyp_power_of_2_avx2(_mm256_sub_epi32(whole, part)));
}

HYP_INLINE __m256 hyp_exp_avx2(__m256 x_f32x8)
{
    return hyp_exp2_avx2(x_f32x8, _mm256_setzero_ps());
}

/* x / (1 + e); x is kept finite from below, so that -inf gives -0 and not NaN. */
HYP_INLINE __m256 hyp_gate_avx2(__m256 x_f32x8, __m256 e_f32x8)
{
    const __m256 x = _mm256_max_ps(_mm256_set1_ps(-FLT_MAX), x_f32x8);
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e_f32x8));
}

HYP_INLINE __m256 hyp_silu_avx2(__m256 x_f32x8)
{
    return hyp_gate_avx2(x_f32x8, hyp_exp_avx2(_mm256_sub_ps(_mm256_setzero_ps(), x_f32x8)));
}

HYP_INLINE __m256d hyp_gelu_argument_avx2(__m128 x_f32x4)
{
    const __m256d x = _mm256_cvtps_pd(x_f32x4);
    const __m256d inner = _mm256_fmadd_pd(_mm256_mul_pd(x, x), _mm256_set1_pd(-HYP_GELU_B), _mm256_set1_pd(-HYP_GELU_A));
    return _mm256_mul_pd(x, inner);
}

HYP_INLINE __m256 hyp_gelu_avx2(__m256 x_f32x8)
{
    const __m256 limit = _mm256_set1_ps(HYP_GELU_CLAMP), zero = _mm256_setzero_ps();
    const __m256 x = _mm256_max_ps(_mm256_sub_ps(zero, limit), _mm256_min_ps(limit, x_f32x8));
    const __m256d y0 = hyp_gelu_argument_avx2(_mm256_castps256_ps128(x));
    const __m256d y1 = hyp_gelu_argument_avx2(_mm256_extractf128_ps(x, 1));
    const __m128 high0 = _mm256_cvtpd_ps(y0), high1 = _mm256_cvtpd_ps(y1);
    const __m128 low0 = _mm256_cvtpd_ps(_mm256_sub_pd(y0, _mm256_cvtps_pd(high0)));
    const __m128 low1 = _mm256_cvtpd_ps(_mm256_sub_pd(y1, _mm256_cvtps_pd(high1)));
    const __m256 high = _mm256_insertf128_ps(_mm256_castps128_ps256(high0), high1, 1);
    const __m256 low = _mm256_insertf128_ps(_mm256_castps128_ps256(low0), low1, 1);
    return hyp_gate_avx2(x_f32x8, hyp_exp2_avx2(high, low));
}

HYP_INLINE __m256 hyp_sigmoid_avx2(__m256 x_f32x8)
{
    const __m256 one = _mm256_set1_ps(1.0f), e = hyp_exp_avx2(_mm256_sub_ps(_mm256_setzero_ps(), x_f32x8));
    return _mm256_div_ps(one, _mm256_add_ps(one, e));
}

HYP_INLINE __m256 hyp_tanh_avx2(__m256 x_f32x8)
{
    const __m256 sign = _mm256_set1_ps(-0.0f), one = _mm256_set1_ps(1.0f);
    const __m256 magnitude = _mm256_min_ps(_mm256_set1_ps(HYP_TANH_CLAMP), _mm256_andnot_ps(sign, x_f32x8));
    __m256i n;
    const __m256 p = hyp_exp_part_avx2(_mm256_add_ps(magnitude, magnitude), _mm256_setzero_ps(), &n);
    const __m256 power = hyp_power_of_2_avx2(n);
    const __m256 m = _mm256_fmadd_ps(power, p, _mm256_sub_ps(power, one)); /* exp(2|x|) - 1 */
    const __m256 t = _mm256_div_ps(m, _mm256_add_ps(m, _mm256_set1_ps(2.0f)));
    return _mm256_or_ps(t, _mm256_and_ps(x_f32x8, sign));
}

HYP_INLINE __m256 hyp_gelu_erf_avx2(__m256 x_f32x8)
{
    const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x_f32x8), one = _mm256_set1_ps(1.0f);
    const __m256 a = _mm256_min_ps(_mm256_set1_ps(HYP_ERF_CLAMP), magnitude);
    const __m256 square = _mm256_mul_ps(a, a), half = _mm256_set1_ps(-0.5f);
    const __m256 low = _mm256_mul_ps(_mm256_fmsub_ps(a, a, square), half);
    const __m256 e = hyp_exp2_avx2(_mm256_mul_ps(square, half), low), k = _mm256_set1_ps(HYP_ERF_K);
    const __m256 q = _mm256_div_ps(one, _mm256_add_ps(a, k)), s = _mm256_mul_ps(_mm256_sub_ps(a, k), q);
    static const float c[] = HYP_ERF_P;
    __m256 p = _mm256_set1_ps(c[9]);
    for (int i = 8; i >= 0; i--) p = _mm256_fmadd_ps(p, s, _mm256_set1_ps(c[i]));
    const __m256 tail = _mm256_mul_ps(_mm256_mul_ps(p, q), e); /* Phi(-|x|) */
    const __m256 below = _mm256_cmp_ps(x_f32x8, _mm256_setzero_ps(), _CMP_LT_OQ);
    const __m256 phi = _mm256_blendv_ps(_mm256_sub_ps(one, tail), tail, below);
    return _mm256_mul_ps(_mm256_max_ps(_mm256_set1_ps(-FLT_MAX), x_f32x8), phi);
}

HYP_INLINE float hyp_reduce_max_avx2(__m256 v_f32x8)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v_f32x8), _mm256_extractf128_ps(v_f32x8, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

#endif
