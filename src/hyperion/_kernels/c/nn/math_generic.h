/* exp and sigmoid in plain C, one value at a time and without branches or libm: a compiler vectorises loops over them. */
#ifndef HYP_MATH_GENERIC_H
#define HYP_MATH_GENERIC_H

#include "nn/nn.h"

#define HYP_MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits */

HYP_INLINE float hyp_power_of_2_generic(uint32_t n)
{
    const uint32_t bits = (n + 127u) << 23;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* p and n with exp(x + low) = 2^n (1 + p); x lies between HYP_EXP_MIN and HYP_EXP_MAX, or is NaN. */
HYP_INLINE float hyp_exp_part_generic(float x, float low, uint32_t *power)
{
    const float t = x * HYP_LOG2E + HYP_MAGIC, n = t - HYP_MAGIC;
    uint32_t whole;
    memcpy(&whole, &t, 4);
    *power = whole - 0x4b400000u;
    float r = x - n * HYP_LN2_HI;
    r = r - n * HYP_LN2_LO + low;
    float p = HYP_EXP_P4 * r + HYP_EXP_P3;
    p = p * r + HYP_EXP_P2;
    p = p * r + HYP_EXP_P1;
    p = p * r + HYP_EXP_P0;
    return p * (r * r) + r;
}

/* exp(x + low), |low| below an ulp of x; NaN fails both comparisons and stays. */
HYP_INLINE float hyp_exp2_generic(float x, float low)
{
    uint32_t whole;
    x = x > HYP_EXP_MAX ? HYP_EXP_MAX : x;
    x = x < HYP_EXP_MIN ? HYP_EXP_MIN : x;
    const float p = hyp_exp_part_generic(x, low, &whole) + 1.0f;
    /* n reaches from -150 to 128: two factors stay normal, and only the last product rounds. part = n >> 1, signed. */
    const uint32_t part = ((whole + 512u) >> 1) - 256u;
    return p * hyp_power_of_2_generic(part) * hyp_power_of_2_generic(whole - part);
}

/* x / (1 + e); x is kept finite from below, so that -inf gives -0 and not NaN. */
HYP_INLINE float hyp_gate_generic(float x, float e)
{
    return (x < -FLT_MAX ? -FLT_MAX : x) / (1.0f + e);
}

HYP_INLINE float hyp_silu_generic(float x)
{
    return hyp_gate_generic(x, hyp_exp2_generic(-x, 0.0f));
}

/* The argument of GELU's exp in two floats. */
HYP_INLINE void hyp_gelu_argument_generic(float x, float *high, float *low)
{
    x = x > HYP_GELU_CLAMP ? HYP_GELU_CLAMP : x;
    x = x < -HYP_GELU_CLAMP ? -HYP_GELU_CLAMP : x;
    const double d = (double)x, y = d * (-HYP_GELU_A - HYP_GELU_B * (d * d));
    *high = (float)y;
    *low = (float)(y - (double)*high);
}

HYP_INLINE float hyp_sigmoid_generic(float x)
{
    return 1.0f / (1.0f + hyp_exp2_generic(-x, 0.0f));
}

HYP_INLINE float hyp_tanh_generic(float x)
{
    uint32_t n;
    const float a = fabsf(x), magnitude = a > HYP_TANH_CLAMP ? HYP_TANH_CLAMP : a;
    const float p = hyp_exp_part_generic(magnitude + magnitude, 0.0f, &n), power = hyp_power_of_2_generic(n);
    const float m = power * p + (power - 1.0f); /* exp(2|x|) - 1 */
    return copysignf(m / (m + 2.0f), x);
}

/* -x^2 / 2 in two floats, for the erf GELU's exp. */
HYP_INLINE void hyp_gauss_argument_generic(float x, float *high, float *low)
{
    const float a = fabsf(x), magnitude = a > HYP_ERF_CLAMP ? HYP_ERF_CLAMP : a;
    const double d = (double)magnitude, y = d * d * -0.5;
    *high = (float)y;
    *low = (float)(y - (double)*high);
}

/* The erf GELU of x; e = exp(-x^2 / 2). */
HYP_INLINE float hyp_gelu_erf_generic(float x, float e)
{
    static const float c[] = HYP_ERF_P;
    const float m = fabsf(x), a = m > HYP_ERF_CLAMP ? HYP_ERF_CLAMP : m;
    const float q = 1.0f / (a + HYP_ERF_K), s = (a - HYP_ERF_K) * q;
    float p = c[9];
    for (int i = 8; i >= 0; i--) p = p * s + c[i];
    const float tail = p * q * e; /* Phi(-|x|) */
    return (x < -FLT_MAX ? -FLT_MAX : x) * (x < 0.0f ? tail : 1.0f - tail);
}

/* As hyp_half_to_float, without branches: halves' exponents moved to floats' and scaled by 2^112, exact for subnormals.
 * arm64 has an instruction for it. */
HYP_INLINE float hyp_half_generic(uint16_t h)
{
#if defined(__GNUC__) && defined(__aarch64__)
    __fp16 f;
    memcpy(&f, &h, 2);
    return (float)f;
#else
    int32_t bits = (h & 0x7fff) << 13;
    const int32_t special = bits >= 0x0f800000 ? 0x7f800000 : 0, sign = (int32_t)((uint32_t)(h & 0x8000u) << 16);
    float f;
    memcpy(&f, &bits, 4);
    f *= 5.192296858534828e33f; /* 2^112 */
    memcpy(&bits, &f, 4);
    bits |= special | sign;
    memcpy(&f, &bits, 4);
    return f;
#endif
}

#endif
