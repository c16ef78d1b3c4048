/* One block of 32 K of half a panel (8 rows) of packed weights of a type of 32, unpacked into ymm registers: shared text of the AVX2 and
 * AVX-VNNI kernels. The including file sets HYP_YMM_VNNI to 0 or 1 first.
 *
 * Every function takes `type` and the half `half` as compile-time constants: after inlining nothing of the switches is left.
 *
 * Weights stay unsigned, because both vpmaddubsw and vpdpbusd multiply unsigned by signed bytes:
 *                q[8], bytes in         AVX2 only            value of a block's integer sum
 *  Q4_0          0..15                                       sum q*a - 8*sum a
 *  Q5_0          0..31                                       sum q*a - 16*sum a
 *  Q8_0 IQ4_NL   AVX2 |w|, 0..128       sign[8] = w          sum |w| * (a with the sign of w)
 *                VNNI w+128, 1..255                          sum q*a - 128*sum a
 *  Q4_1          0..15                                       sum q*a
 *  Q5_1          0..31                                       sum q*a
 */
#ifndef HYP_YMM_UNPACK_H
#define HYP_YMM_UNPACK_H

#include <immintrin.h>

#include "common/table.h"

#if defined(__GNUC__)
#define HYP_UNROLL8 _Pragma("GCC unroll 8")
#else
#define HYP_UNROLL8
#endif

/* What multiplies a block's sums, of each of 8 rows. */
typedef struct {
    __m256 d, min;
} hyp_ymm_factors;

typedef struct {
    __m256i q[8];    /* vector v: K = 4v..4v+3 of each of 8 rows */
    __m256i sign[8]; /* Q8_0 and IQ4_NL without VNNI: the signed weights */
    hyp_ymm_factors f;
} hyp_ymm_half;

HYP_INLINE __m256i ymm_load(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

HYP_INLINE __m256 ymm_load_half(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* Bytes: shift by `right` bits (left if negative), then keep `mask`. A 16-bit shift is enough: the mask drops what came
 * from the neighbour. */
HYP_INLINE __m256i ymm_bits(__m256i v, int right, int mask)
{
    if (right > 0) v = _mm256_srli_epi16(v, right);
    if (right < 0) v = _mm256_slli_epi16(v, -right);
    return _mm256_and_si256(v, _mm256_set1_epi8((char)mask));
}

/* Vector v of a block: K = 4v..4v+3 of 8 rows, unsigned, before any scale; signed for Q8_0 and IQ4_NL without VNNI. */
HYP_INLINE __m256i ymm_vector(int type, const uint8_t *rec, int half, int v)
{
    const int j = v % 4, nibble = v / 4 * 4;
    rec += 32 * half; /* of every 64-byte vector */
    switch (type) {
    case HYP_Q4_0: return ymm_bits(ymm_load(rec + 32 + 64 * j), nibble, 15);
    case HYP_Q4_1: return ymm_bits(ymm_load(rec + 64 + 64 * j), nibble, 15);
    case HYP_Q5_0:
        return _mm256_or_si256(ymm_bits(ymm_load(rec + 96 + 64 * j), nibble, 15), ymm_bits(ymm_load(rec + 32), v - 4, 16));
    case HYP_Q5_1:
        return _mm256_or_si256(ymm_bits(ymm_load(rec + 128 + 64 * j), nibble, 15), ymm_bits(ymm_load(rec + 64), v - 4, 16));
    case HYP_Q8_0: {
        const __m256i biased = ymm_load(rec + 32 + 64 * v);
        return HYP_YMM_VNNI ? biased : _mm256_xor_si256(biased, _mm256_set1_epi8(-128));
    }
    case HYP_IQ4_NL: {
        const __m256i values = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113));
        const __m256i table = HYP_YMM_VNNI ? _mm256_xor_si256(values, _mm256_set1_epi8(-128)) : values;
        return _mm256_shuffle_epi8(table, ymm_bits(ymm_load(rec + 32 + 64 * j), nibble, 15));
    }
    default: return _mm256_setzero_si256();
    }
}

HYP_INLINE void ymm_factors(int type, const uint8_t *rec, int half, hyp_ymm_factors *f)
{
    f->d = ymm_load_half(rec + 16 * half);
    if (type == HYP_Q4_1 || type == HYP_Q5_1) f->min = ymm_load_half(rec + 32 + 16 * half);
}

/* Everything of a block and 8 rows, for several tokens. */
HYP_INLINE void ymm_unpack(int type, const uint8_t *rec, int half, hyp_ymm_half *h)
{
    ymm_factors(type, rec, half, &h->f);
    HYP_UNROLL8 for (int v = 0; v < 8; v++) {
        __m256i q = ymm_vector(type, rec, half, v);
#if !HYP_YMM_VNNI
        if (type == HYP_Q8_0 || type == HYP_IQ4_NL) {
            h->sign[v] = q;
            q = _mm256_abs_epi8(q); /* -128 becomes 128: right, as an unsigned byte */
        }
#endif
        h->q[v] = q;
    }
}

#endif
