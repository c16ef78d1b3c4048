/* exp and sigmoid on 16 floats; for files built for AVX-512 only. */
#ifndef HYP_MATH_AVX512_H
#define HYP_MATH_AVX512_H

#include "nn/nn.h"
#include <immintrin.h>

#define HYP_NEAREST (_MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)

/* p and n with exp(x + low) = 2^n (1 + p); x lies between HYP_EXP_MIN and HYP_EXP_MAX, or is NaN. */
HYP_INLINE __m512 hyp_exp_part_avx512(__m512 x, __m512 low_f32x16, __m512 *power)
{
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(HYP_LOG2E)), HYP_NEAREST);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(HYP_LN2_HI), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(HYP_LN2_LO), r);
    r = _mm512_add_ps(r, low_f32x16);
    *power = n;
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(HYP_EXP_P4), r, _mm512_set1_ps(HYP_EXP_P3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(HYP_EXP_P2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(HYP_EXP_P1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(HYP_EXP_P0));
    return _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
}

/* exp(x + low), |low| below an ulp of x. The operand order of min and max lets NaN through. */
HYP_INLINE __m512 hyp_exp2_avx512(__m512 x_f32x16, __m512 low_f32x16)
{
    __m512 x = _mm512_min_ps(_mm512_set1_ps(HYP_EXP_MAX), x_f32x16), n;
    x = _mm512_max_ps(_mm512_set1_ps(HYP_EXP_MIN), x);
    const __m512 p = hyp_exp_part_avx512(x, low_f32x16, &n);
    return _mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1.0f)), n); /* rounds subnormals once */
}

HYP_INLINE __m512 hyp_exp_avx512(__m512 x_f32x16)
{
    return hyp_exp2_avx512(x_f32x16, _mm512_setzero_ps());
}

/* x / (1 + e); x is kept finite from below, so that -inf gives -0 and not NaN. */
HYP_INLINE __m512 hyp_gate_avx512(__m512 x_f32x16, __m512 e_f32x16)
{
    const __m512 x = _mm512_max_ps(_mm512_set1_ps(-FLT_MAX), x_f32x16);
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e_f32x16));
}

HYP_INLINE __m512 hyp_silu_avx512(__m512 x_f32x16)
{
    return hyp_gate_avx512(x_f32x16, hyp_exp_avx512(_mm512_sub_ps(_mm512_setzero_ps(), x_f32x16)));
}

HYP_INLINE __m512d hyp_gelu_argument_avx512(__m256 x_f32x8)
{
    const __m512d x = _mm512_cvtps_pd(x_f32x8);
    const __m512d inner = _mm512_fmadd_pd(_mm512_mul_pd(x, x), _mm512_set1_pd(-HYP_GELU_B), _mm512_set1_pd(-HYP_GELU_A));
    return _mm512_mul_pd(x, inner);
}

HYP_INLINE __m512 hyp_gelu_avx512(__m512 x_f32x16)
{
    const __m512 limit = _mm512_set1_ps(HYP_GELU_CLAMP), zero = _mm512_setzero_ps();
    const __m512 x = _mm512_max_ps(_mm512_sub_ps(zero, limit), _mm512_min_ps(limit, x_f32x16));
    const __m512d y0 = hyp_gelu_argument_avx512(_mm512_castps512_ps256(x));
    const __m512d y1 = hyp_gelu_argument_avx512(_mm512_extractf32x8_ps(x, 1));
    const __m256 high0 = _mm512_cvtpd_ps(y0), high1 = _mm512_cvtpd_ps(y1);
    const __m256 low0 = _mm512_cvtpd_ps(_mm512_sub_pd(y0, _mm512_cvtps_pd(high0)));
    const __m256 low1 = _mm512_cvtpd_ps(_mm512_sub_pd(y1, _mm512_cvtps_pd(high1)));
    const __m512 high = _mm512_insertf32x8(_mm512_castps256_ps512(high0), high1, 1);
    const __m512 low = _mm512_insertf32x8(_mm512_castps256_ps512(low0), low1, 1);
    return hyp_gate_avx512(x_f32x16, hyp_exp2_avx512(high, low));
}

HYP_INLINE __m512 hyp_sigmoid_avx512(__m512 x_f32x16)
{
    const __m512 one = _mm512_set1_ps(1.0f), e = hyp_exp_avx512(_mm512_sub_ps(_mm512_setzero_ps(), x_f32x16));
    return _mm512_div_ps(one, _mm512_add_ps(one, e));
}

HYP_INLINE __m512 hyp_tanh_avx512(__m512 x_f32x16)
{
    const __m512 magnitude = _mm512_min_ps(_mm512_set1_ps(HYP_TANH_CLAMP), _mm512_abs_ps(x_f32x16));
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 n;
    const __m512 p = hyp_exp_part_avx512(_mm512_add_ps(magnitude, magnitude), _mm512_setzero_ps(), &n);
    const __m512 power = _mm512_scalef_ps(one, n);
    const __m512 m = _mm512_fmadd_ps(power, p, _mm512_sub_ps(power, one)); /* exp(2|x|) - 1 */
    const __m512 t = _mm512_div_ps(m, _mm512_add_ps(m, _mm512_set1_ps(2.0f)));
    return _mm512_or_ps(t, _mm512_and_ps(x_f32x16, _mm512_set1_ps(-0.0f)));
}

HYP_INLINE __m512 hyp_gelu_erf_avx512(__m512 x_f32x16)
{
    const __m512 a = _mm512_min_ps(_mm512_set1_ps(HYP_ERF_CLAMP), _mm512_abs_ps(x_f32x16)), one = _mm512_set1_ps(1.0f);
    const __m512 square = _mm512_mul_ps(a, a), half = _mm512_set1_ps(-0.5f);
    const __m512 low = _mm512_mul_ps(_mm512_fmsub_ps(a, a, square), half);
    __m512 n;
    const __m512 part = hyp_exp_part_avx512(_mm512_mul_ps(square, half), low, &n), k = _mm512_set1_ps(HYP_ERF_K);
    const __m512 e = _mm512_scalef_ps(_mm512_add_ps(part, one), n); /* the argument lies between -105.2 and 0 */
    /* 1 / (a + K) by a step of Newton from 14 bits: a division holds up the pipe for longer */
    const __m512 sum = _mm512_add_ps(a, k), near = _mm512_rcp14_ps(sum);
    const __m512 q = _mm512_fmadd_ps(_mm512_fnmadd_ps(sum, near, one), near, near), s = _mm512_mul_ps(_mm512_sub_ps(a, k), q);
    static const float c[] = HYP_ERF_P;
    __m512 p = _mm512_set1_ps(c[9]);
    for (int i = 8; i >= 0; i--) p = _mm512_fmadd_ps(p, s, _mm512_set1_ps(c[i]));
    const __m512 tail = _mm512_mul_ps(_mm512_mul_ps(p, q), e); /* Phi(-|x|) */
    const __mmask16 below = _mm512_cmp_ps_mask(x_f32x16, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 phi = _mm512_mask_sub_ps(tail, (__mmask16)~below, one, tail);
    return _mm512_mul_ps(_mm512_max_ps(_mm512_set1_ps(-FLT_MAX), x_f32x16), phi);
}

#endif
