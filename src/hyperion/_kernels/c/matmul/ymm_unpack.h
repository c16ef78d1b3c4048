/* One block (32 K) of half a panel (8 rows) of packed weights, unpacked into ymm registers: shared text of the AVX2 and
 * AVX-VNNI kernels. The including file sets HYP_YMM_VNNI to 0 or 1 first.
 *
 * Every function takes `type`, the block `g` in the record and the half `half` as compile-time constants: after
 * inlining nothing of the switches is left.
 *
 * Weights stay unsigned, because both vpmaddubsw and vpdpbusd multiply unsigned by signed bytes:
 *                q[8], bytes in         AVX2 only            value of a block's integer sum
 *  Q4_0          0..15                                       sum q*a - 8*sum a
 *  Q5_0          0..31                                       sum q*a - 16*sum a
 *  Q8_0 IQ4_NL   AVX2 |w|, 0..128       sign[8] = w          sum |w| * (a with the sign of w)
 *                VNNI w+128, 1..255                          sum q*a - 128*sum a
 *  Q4_1 Q4_K     0..15                                       sum q*a
 *  Q5_1 Q5_K     0..31                                       sum q*a
 *  Q2_K          0..3                   s0 s1 = scales       sc0*sum0 q*a + sc1*sum1 q*a
 *                VNNI sc*q, 0..45                            sum q*a
 *  Q3_K          0..7                   s0 s1 = scales       sc0*sum0 q*a + sc1*sum1 q*a - 4*(sc0*sum0 a + sc1*sum1 a)
 *                VNNI (sc-32)*(q-4)+124, 0..252              sum q*a - 124*sum a
 *  Q6_K          0..63                  s0 s1 = scales       sc0*sum0 q*a + sc1*sum1 q*a - 32*(sc0*sum0 a + sc1*sum1 a)
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
    __m256 d, min;  /* scale and minimum (negated in Q4_K and Q5_K) */
    __m256i s0, s1; /* int16 pairs (sc0, sc0), (sc1, sc1) */
    __m256i s2;     /* int16 pairs: Q2_K (m0, m1), Q3_K 4*(sc0, sc1), Q6_K 32*(sc0, sc1) */
    __m256 f0, f1;  /* with VNNI: sc0 and sc1 as floats */
} hyp_ymm_factors;

typedef struct {
    __m256i q[8];    /* vector v: K = 4v..4v+3 of each of 8 rows */
    __m256i sign[8]; /* Q8_0 and IQ4_NL without VNNI: the signed weights */
    hyp_ymm_factors f;
} hyp_ymm_half;

/* Scales of a record of Q4_K or Q5_K, decoded once for all of its groups. */
typedef struct {
    uint8_t sc[8][16], mn[8][16];
} hyp_ymm_scales;

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

/* 8 bytes, one a row, as floats. */
HYP_INLINE __m256 ymm_bytes_to_float(const uint8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

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

/* Vector v of a block: K = 4v..4v+3 of 8 rows, unsigned, before any scale; signed for Q8_0 and IQ4_NL without VNNI. */
HYP_INLINE __m256i ymm_vector(int type, const uint8_t *rec, int base, int phase, int half, int v)
{
    const int j = v % 4, nibble = v / 4 * 4, g = base + phase, n = g / 4, c = phase % 4;
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

/* The two scales of a block of a type with half groups, from int16 pairs or bytes. */
HYP_INLINE void ymm_scales_half(int type, const uint8_t *rec, int g, int half, hyp_ymm_factors *f)
{
    const uint8_t *s = rec + (type == HYP_Q2_K ? 64 : 32) + 32 * g;
    if (type == HYP_Q3_K) {
        const __m256i bias = _mm256_set1_epi16(32);
        const __m256i lo = ymm_row_pairs(rec + 32 + 16 * g, half, 0), hi = ymm_row_pairs(rec + 160 + 16 * (g / 2), half, 0);
        f->s0 = _mm256_sub_epi16(_mm256_or_si256(ymm_bits(lo, 0, 15), ymm_bits(hi, 4 * (g % 2) - 4, 0x30)), bias);
        f->s1 = _mm256_sub_epi16(_mm256_or_si256(_mm256_srli_epi16(lo, 4), ymm_bits(hi, 4 * (g % 2) - 2, 0x30)), bias);
        f->s2 = _mm256_slli_epi16(_mm256_blend_epi16(f->s0, f->s1, 0xaa), 2);
    } else if (type == HYP_Q2_K) {
        const __m256i b0 = ymm_row_pairs(s, half, 0), b1 = ymm_row_pairs(s + 16, half, 0);
        f->s0 = _mm256_and_si256(b0, _mm256_set1_epi16(15));
        f->s1 = _mm256_and_si256(b1, _mm256_set1_epi16(15));
        f->s2 = _mm256_srli_epi16(_mm256_blend_epi16(b0, b1, 0xaa), 4);
    } else {
        f->s0 = _mm256_srai_epi16(ymm_row_pairs(s, half, 1), 8);
        f->s1 = _mm256_srai_epi16(ymm_row_pairs(s + 16, half, 1), 8);
        f->s2 = _mm256_slli_epi16(_mm256_blend_epi16(f->s0, f->s1, 0xaa), 5);
    }
#if HYP_YMM_VNNI
    f->f0 = _mm256_cvtepi32_ps(_mm256_srai_epi32(f->s0, 16));
    f->f1 = _mm256_cvtepi32_ps(_mm256_srai_epi32(f->s1, 16));
#endif
}

HYP_INLINE void ymm_factors(int type, const uint8_t *rec, const hyp_ymm_scales *s, int g, int half, hyp_ymm_factors *f)
{
    f->d = ymm_load_half(rec + 16 * half);
    switch (type) {
    case HYP_Q4_1: case HYP_Q5_1: f->min = ymm_load_half(rec + 32 + 16 * half); break;
    case HYP_Q4_K: case HYP_Q5_K: {
        f->d = _mm256_mul_ps(f->d, ymm_bytes_to_float(s->sc[g] + 8 * half));
        const __m256 m = _mm256_mul_ps(ymm_load_half(rec + 32 + 16 * half), ymm_bytes_to_float(s->mn[g] + 8 * half));
        f->min = _mm256_xor_ps(m, _mm256_set1_ps(-0.0f));
        break;
    }
    case HYP_Q2_K:
        f->min = ymm_load_half(rec + 32 + 16 * half);
        ymm_scales_half(type, rec, g, half, f);
        break;
    case HYP_Q3_K: case HYP_Q6_K: ymm_scales_half(type, rec, g, half, f); break;
    default: break;
    }
}

/* Everything of a block and 8 rows, for several tokens. */
HYP_INLINE void ymm_unpack(int type, const uint8_t *rec, const hyp_ymm_scales *s, int g, int half, hyp_ymm_half *h)
{
    ymm_factors(type, rec, s, g, half, &h->f);
#if HYP_YMM_VNNI
    /* Q3_K, two weights at once, modulo 2^16: (q0 + 256 q1) sc + 257 (124 - 4 sc) = p0 + 256 p1 with p = sc (q - 4) + 124,
     * both in 0..252. Q2_K needs no offset: 15 * 3 has no carry. */
    const __m256i four = _mm256_set1_epi16(4 * 257), c = _mm256_set1_epi16(124 * 257);
#endif
    HYP_UNROLL8 for (int v = 0; v < 8; v++) {
        __m256i q = ymm_vector(type, rec, 0, g, half, v);
#if HYP_YMM_VNNI
        const __m256i scale = v < 4 ? h->f.s0 : h->f.s1;
        if (type == HYP_Q2_K || type == HYP_Q3_K) q = _mm256_mullo_epi16(q, scale);
        if (type == HYP_Q3_K) q = _mm256_add_epi16(q, _mm256_sub_epi16(c, _mm256_mullo_epi16(scale, four)));
#else
        if (type == HYP_Q8_0 || type == HYP_IQ4_NL) {
            h->sign[v] = q;
            q = _mm256_abs_epi8(q); /* -128 becomes 128: right, as an unsigned byte */
        }
#endif
        h->q[v] = q;
    }
}

#endif
