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

/* exp(x + low), |low| below an ulp of x; NaN fails both comparisons and stays. */
HYP_INLINE float hyp_exp2_generic(float x, float low)
{
    x = x > HYP_EXP_MAX ? HYP_EXP_MAX : x;
    x = x < HYP_EXP_MIN ? HYP_EXP_MIN : x;
    const float t = x * HYP_LOG2E + HYP_MAGIC, n = t - HYP_MAGIC;
    uint32_t whole;
    memcpy(&whole, &t, 4);
    whole -= 0x4b400000u;
    float r = x - n * HYP_LN2_HI;
    r = r - n * HYP_LN2_LO + low;
    float p = HYP_EXP_P4 * r + HYP_EXP_P3;
    p = p * r + HYP_EXP_P2;
    p = p * r + HYP_EXP_P1;
    p = p * r + HYP_EXP_P0;
    p = p * (r * r) + r + 1.0f;
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
