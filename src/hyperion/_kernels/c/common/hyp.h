/* What every C file of Hyperion shares: status codes, numeric types, small portable helpers. No Python.h here. */
#ifndef HYP_H
#define HYP_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER)
#define HYP_RESTRICT __restrict
#define HYP_INLINE static __forceinline
#define HYP_ALIGN64 __declspec(align(64))
#else
#define HYP_RESTRICT restrict
#define HYP_INLINE static inline __attribute__((always_inline))
#define HYP_ALIGN64 __attribute__((aligned(64)))
#endif

/* Status of every C entry point that can fail; the values equal hyperion.ErrorCode, except HYP_CANCELLED. */
enum {
    HYP_OK = 0,
    HYP_ERROR_MEMORY = 1,
    HYP_ERROR_IO = 2,
    HYP_ERROR_ARGUMENT = 3,
    HYP_ERROR_RUNTIME = 5,
    HYP_CANCELLED = 6 /* a signal arrived; Python raises what its handler left */
};

/* Numeric types of weights; the values are GGUF's. */
enum {
    HYP_F32 = 0,
    HYP_F16 = 1,
    HYP_Q4_0 = 2,
    HYP_Q4_1 = 3,
    HYP_Q5_0 = 6,
    HYP_Q5_1 = 7,
    HYP_Q8_0 = 8,
    HYP_Q2_K = 10,
    HYP_Q3_K = 11,
    HYP_Q4_K = 12,
    HYP_Q5_K = 13,
    HYP_Q6_K = 14,
    HYP_IQ4_NL = 20,
    HYP_BF16 = 30,
    HYP_TYPES = 40
};

/* IEEE half to float, exact for every input (a NaN stays a NaN of some payload). Selections instead of branches, so that a loop over
 * many is vectorised; a subnormal's value is made from its integer, so that no mode of the processor flushes it. */
HYP_INLINE float hyp_half_to_float(uint16_t h)
{
#if defined(__aarch64__) && defined(__GNUC__) /* arm64 has the conversion in its baseline */
    __fp16 half;
    memcpy(&half, &h, 2);
    return (float)half;
#else
    const uint32_t magnitude = h & 0x7fffu;
    const float subnormal = (float)(int32_t)magnitude * 5.9604644775390625e-8f; /* 2^-24 */
    uint32_t bits, small;
    memcpy(&small, &subnormal, 4);
    bits = (magnitude << 13) + 0x38000000u; /* the exponents' biases are 112 apart; infinity and NaN go up twice */
    bits += magnitude >= 0x7c00u ? 0x38000000u : 0u;
    bits = magnitude < 0x0400u ? small : bits;
    bits |= (uint32_t)(h & 0x8000u) << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
#endif
}

/* Float to IEEE half, round to nearest even, as F16C does. */
HYP_INLINE uint16_t hyp_float_to_half(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits >= 0x7f800000u) return (uint16_t)(sign | 0x7c00u | (bits > 0x7f800000u ? 0x200u | ((bits >> 13) & 0x3ffu) : 0));
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);
    if (bits < 0x38800000u) { /* subnormal half: adding 0.5 aligns the mantissa, the addition rounds */
        float t;
        memcpy(&t, &bits, 4);
        t += 0.5f;
        memcpy(&bits, &t, 4);
        return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    const uint32_t odd = (bits >> 13) & 1u;
    return (uint16_t)(sign | ((bits - 0x38000000u + 0xfffu + odd) >> 13));
}

HYP_INLINE float hyp_bf16_to_float(uint16_t h)
{
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

#endif
