/* What the AVX2 and the AVX-512 packing of activations share. */
#ifndef HYP_REACH_AVX2_H
#define HYP_REACH_AVX2_H

#include <immintrin.h>

#include "common/panel.h"

/* A block's share of `reach` (panel.h): (sum |q|) + |sum q|, of 32 codes and the sums of their halves. */
HYP_INLINE int32_t hyp_reach_avx2(const void *q, const int32_t *sums)
{
    const __m256i codes = _mm256_abs_epi8(_mm256_loadu_si256((const __m256i *)q));
    const __m256i eight = _mm256_sad_epu8(codes, _mm256_setzero_si256());
    __m128i sum = _mm_add_epi64(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    sum = _mm_add_epi64(sum, _mm_unpackhi_epi64(sum, sum));
    const int32_t both = sums[0] + sums[1];
    return _mm_cvtsi128_si32(sum) + (both < 0 ? -both : both);
}

#endif
