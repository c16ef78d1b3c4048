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

/* Of n vectors at a time, a constant up to 4: the chain of instructions is long, and schedulers do not look so far ahead that one
 * vector after the other would keep the units busy. x * Phi(x) is max(x, 0) - |x| Phi(-|x|). */
HYP_INLINE void hyp_gelu_erf_avx512(const int n, const __m512 *x_f32x16, __m512 *out_f32x16)
{
#define EACH _Pragma("GCC unroll 4") for (int i = 0; i < n; i++)
    static const float c[] = HYP_ERF_P;
    const __m512 one = _mm512_set1_ps(1.0f), k = _mm512_set1_ps(HYP_ERF_K);
    __m512 a[4], square[4], low[4], power[4], e[4], r[4], sum[4], q[4], s[4], p[4];
    EACH a[i] = _mm512_min_ps(_mm512_set1_ps(HYP_ERF_CLAMP), _mm512_abs_ps(x_f32x16[i]));
    EACH square[i] = _mm512_mul_ps(a[i], a[i]);
    EACH sum[i] = _mm512_add_ps(a[i], k);
    /* 1 / (a + K) by a step of Newton from 14 bits: a division holds up the pipe for longer */
    EACH q[i] = _mm512_rcp14_ps(sum[i]);
    EACH power[i] = _mm512_roundscale_ps(_mm512_mul_ps(square[i], _mm512_set1_ps(-0.5f * HYP_LOG2E)), HYP_NEAREST);
    EACH low[i] = _mm512_fmsub_ps(a[i], a[i], square[i]);
    EACH sum[i] = _mm512_fnmadd_ps(sum[i], q[i], one);
    /* exp(-r / 2) of r = a^2 + 2 ln2 power: the polynomial of exp with its factors scaled by powers of 2 */
    EACH r[i] = _mm512_fmadd_ps(power[i], _mm512_set1_ps(2.0f * HYP_LN2_HI), square[i]);
    EACH q[i] = _mm512_fmadd_ps(sum[i], q[i], q[i]);
    EACH r[i] = _mm512_fmadd_ps(power[i], _mm512_set1_ps(2.0f * HYP_LN2_LO), r[i]);
    EACH s[i] = _mm512_mul_ps(_mm512_sub_ps(a[i], k), q[i]);
    EACH r[i] = _mm512_add_ps(r[i], low[i]);
    EACH p[i] = _mm512_fmadd_ps(_mm512_set1_ps(c[9]), s[i], _mm512_set1_ps(c[8]));
    EACH e[i] = _mm512_fmadd_ps(_mm512_set1_ps(HYP_EXP_P4 / 64), r[i], _mm512_set1_ps(-HYP_EXP_P3 / 32));
    EACH p[i] = _mm512_fmadd_ps(p[i], s[i], _mm512_set1_ps(c[7]));
    EACH e[i] = _mm512_fmadd_ps(e[i], r[i], _mm512_set1_ps(HYP_EXP_P2 / 16));
    EACH p[i] = _mm512_fmadd_ps(p[i], s[i], _mm512_set1_ps(c[6]));
    EACH e[i] = _mm512_fmadd_ps(e[i], r[i], _mm512_set1_ps(-HYP_EXP_P1 / 8));
    EACH p[i] = _mm512_fmadd_ps(p[i], s[i], _mm512_set1_ps(c[5]));
    EACH e[i] = _mm512_fmadd_ps(e[i], r[i], _mm512_set1_ps(HYP_EXP_P0 / 4));
    EACH p[i] = _mm512_fmadd_ps(p[i], s[i], _mm512_set1_ps(c[4]));
    EACH e[i] = _mm512_fmadd_ps(e[i], r[i], _mm512_set1_ps(-0.5f));
    EACH p[i] = _mm512_fmadd_ps(p[i], s[i], _mm512_set1_ps(c[3]));
    EACH e[i] = _mm512_fmadd_ps(e[i], r[i], one);
    EACH p[i] = _mm512_fmadd_ps(p[i], s[i], _mm512_set1_ps(c[2]));
    EACH e[i] = _mm512_scalef_ps(e[i], power[i]);
    EACH p[i] = _mm512_fmadd_ps(p[i], s[i], _mm512_set1_ps(c[1]));
    EACH q[i] = _mm512_mul_ps(q[i], a[i]);
    EACH p[i] = _mm512_fmadd_ps(p[i], s[i], _mm512_set1_ps(c[0]));
    EACH q[i] = _mm512_mul_ps(p[i], q[i]);
    /* the operands' order lets NaN and -0 pass */
    EACH out_f32x16[i] = _mm512_fnmadd_ps(q[i], e[i], _mm512_max_ps(_mm512_set1_ps(-0.0f), x_f32x16[i]));
#undef EACH
}

#endif
