/* One group (32 K) of half a panel (8 rows) of a K type's record, in ymm registers: shared text of the AVX2 and AVX-VNNI kernels.
 *
 * Every function takes `type`, the group (or its phase) and the half `half` as compile-time constants: after inlining nothing of
 * the switches is left. Codes are unsigned, before any scale. */
#ifndef HYP_YMM_KUNPACK_H
#define HYP_YMM_KUNPACK_H

#include "ymm_unpack.h"

/* Scales of a record of Q4_K or Q5_K, decoded once for all of its groups. */
typedef struct {
    uint8_t sc[8][16], mn[8][16];
} hyp_ymm_scales;

/* 16 bytes, one a row: those of the 8 rows of `half`, each twice in the low bytes of its row's two int16 (or the high
 * bytes). One in-lane shuffle of a broadcast load, where vpmovzx would cross lanes. */
HYP_INLINE __m256i ymm_row_pairs(const uint8_t *p, int half, int high)
{
    const __m256i both = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
    const __m256i low = _mm256_setr_epi8(0, -1, 0, -1, 1, -1, 1, -1, 2, -1, 2, -1, 3, -1, 3, -1,
                                         4, -1, 4, -1, 5, -1, 5, -1, 6, -1, 6, -1, 7, -1, 7, -1);
    __m256i index = half ? _mm256_add_epi16(low, _mm256_set1_epi16(8)) : low;
    if (high) index = _mm256_or_si256(_mm256_slli_epi16(index, 8), _mm256_set1_epi16(0xff));
    return _mm256_shuffle_epi8(both, index);
}

HYP_INLINE void ymm_scales_q4k(const uint8_t *rec, hyp_ymm_scales *s)
{
    const uint8_t *lo = rec + 64, *hi = lo + 128;
    const __m256i second = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
    HYP_UNROLL8 for (int n = 0; n < 4; n++) { /* two groups a vector: their high bits share a byte */
        const __m256i l = ymm_load(lo + 32 * n);
        const __m256i h = _mm256_srlv_epi32(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(hi + 16 * n))), second);
        const __m256i sc = _mm256_or_si256(ymm_bits(l, 0, 15), ymm_bits(h, -4, 0x30));
        const __m256i mn = _mm256_or_si256(ymm_bits(l, 4, 15), ymm_bits(h, -2, 0x30));
        _mm256_storeu_si256((__m256i *)s->sc[2 * n], sc);
        _mm256_storeu_si256((__m256i *)s->mn[2 * n], mn);
    }
}

/* Vector v of group g = base + phase: K = 4v..4v+3 of 8 rows; base is a multiple of the groups that share bits, and need not be a
 * constant. */
HYP_INLINE __m256i ymm_k_vector(int type, const uint8_t *rec, int base, int phase, int half, int v)
{
    const int g = base + phase, n = g / 4, c = phase % 4;
    rec += 32 * half; /* of every 64-byte vector */
    switch (type) {
    case HYP_Q2_K: return ymm_bits(ymm_load(rec + 320 + 512 * n + 64 * v), 2 * c, 3);
    case HYP_Q3_K:
        return _mm256_or_si256(ymm_bits(ymm_load(rec + 736 + 512 * n + 64 * v), 2 * c, 3),
                               ymm_bits(ymm_load(rec + 224 + 64 * v), g - 2, 4));
    case HYP_Q4_K: return ymm_bits(ymm_load(rec + 256 + 512 * (g / 2) + 64 * v), phase % 2 * 4, 15);
    case HYP_Q5_K:
        return _mm256_or_si256(ymm_bits(ymm_load(rec + 768 + 512 * (g / 2) + 64 * v), g % 2 * 4, 15),
                               ymm_bits(ymm_load(rec + 256 + 64 * v), g - 4, 16));
    default: /* Q6_K */
        return _mm256_or_si256(ymm_bits(ymm_load(rec + 288 + 1024 * n + 512 * (c % 2) + 64 * v), c / 2 * 4, 15),
                               ymm_bits(ymm_load(rec + 2336 + 512 * n + 64 * v), 2 * c - 4, 0x30));
    }
}

/* Types whose groups have two scales. */
HYP_INLINE int ymm_halved(int type)
{
    return type == HYP_Q2_K || type == HYP_Q3_K || type == HYP_Q6_K;
}

/* What multiplies a group's sums, of each of 8 rows. */
typedef struct {
    __m256i s0, s1; /* of the halves (the same where there is one scale): twice as int16; with VNNI int32 */
    __m256i zero;   /* Q3_K, Q6_K: int16 pairs of the halves' scales times the zero point */
    __m256i min;    /* Q2_K: int16 pairs, of the halves; Q4_K, Q5_K: of groups 2n and 2n + 1 */
} hyp_ymm_k_factors;

/* The scales of group g's halves as int16, each twice. */
HYP_INLINE void ymm_k_scales(int type, const uint8_t *rec, const hyp_ymm_scales *sc, int g, int half, hyp_ymm_k_factors *f)
{
    const uint8_t *s = rec + (type == HYP_Q2_K ? 64 : 32) + 32 * g;
    if (type == HYP_Q4_K || type == HYP_Q5_K) {
        f->s0 = f->s1 = ymm_row_pairs(sc->sc[g], half, 0);
        f->min = _mm256_blend_epi16(ymm_row_pairs(sc->mn[g & ~1], half, 0), ymm_row_pairs(sc->mn[g | 1], half, 0), 0xaa);
    } else if (type == HYP_Q2_K) {
        const __m256i b0 = ymm_row_pairs(s, half, 0), b1 = ymm_row_pairs(s + 16, half, 0);
        f->s0 = _mm256_and_si256(b0, _mm256_set1_epi16(15));
        f->s1 = _mm256_and_si256(b1, _mm256_set1_epi16(15));
        f->min = _mm256_srli_epi16(_mm256_blend_epi16(b0, b1, 0xaa), 4);
    } else if (type == HYP_Q3_K) {
        const __m256i bias = _mm256_set1_epi16(32);
        const __m256i lo = ymm_row_pairs(rec + 32 + 16 * g, half, 0), hi = ymm_row_pairs(rec + 160 + 16 * (g / 2), half, 0);
        f->s0 = _mm256_sub_epi16(_mm256_or_si256(ymm_bits(lo, 0, 15), ymm_bits(hi, 4 * (g % 2) - 4, 0x30)), bias);
        f->s1 = _mm256_sub_epi16(_mm256_or_si256(_mm256_srli_epi16(lo, 4), ymm_bits(hi, 4 * (g % 2) - 2, 0x30)), bias);
        f->zero = _mm256_slli_epi16(_mm256_blend_epi16(f->s0, f->s1, 0xaa), 2);
    } else {
        f->s0 = _mm256_srai_epi16(ymm_row_pairs(s, half, 1), 8);
        f->s1 = _mm256_srai_epi16(ymm_row_pairs(s + 16, half, 1), 8);
        f->zero = _mm256_slli_epi16(_mm256_blend_epi16(f->s0, f->s1, 0xaa), 5);
    }
}

/* The same in the form that the sums want. */
HYP_INLINE void ymm_k_factors(int type, const uint8_t *rec, const hyp_ymm_scales *sc, int g, int half, hyp_ymm_k_factors *f)
{
    ymm_k_scales(type, rec, sc, g, half, f);
#if HYP_YMM_VNNI
    f->s0 = _mm256_srai_epi32(f->s0, 16);
    f->s1 = _mm256_srai_epi32(f->s1, 16);
#endif
}

#endif
