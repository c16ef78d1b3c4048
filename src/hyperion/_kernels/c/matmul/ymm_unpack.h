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

typedef struct {
    __m256i q[8];    /* vector j: K = 4j..4j+3 of each of 8 rows */
    __m256i sign[8]; /* 8-bit types without VNNI: the signed weights */
    __m256 d, min;   /* scale and (negated, in K types) minimum of each row */
    __m256i s0, s1;  /* int16 pairs (sc0, sc0), (sc1, sc1) of each row */
    __m256i s2;      /* int16 pairs: Q2_K (m0, m1), Q3_K 4*(sc0, sc1), Q6_K 32*(sc0, sc1) */
    __m256 f0, f1;   /* Q6_K with VNNI: the two scales as floats */
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

/* Low then high nibbles of 4 vectors, 64 bytes apart. */
HYP_INLINE void ymm_nibbles(const uint8_t *p, __m256i *q)
{
    HYP_UNROLL8 for (int j = 0; j < 4; j++) {
        const __m256i v = ymm_load(p + 64 * j);
        q[j] = ymm_bits(v, 0, 15);
        q[4 + j] = ymm_bits(v, 4, 15);
    }
}

/* Bit v of each byte at h becomes bit 4 of q[v]. */
HYP_INLINE void ymm_fifth_bits(const uint8_t *h, __m256i *q)
{
    const __m256i bits = ymm_load(h);
    HYP_UNROLL8 for (int v = 0; v < 8; v++) q[v] = _mm256_or_si256(q[v], ymm_bits(bits, v - 4, 16));
}

/* Signed 8-bit weights, plus 128 in memory or in a table. */
HYP_INLINE void ymm_set8(hyp_ymm_half *h, int v, __m256i biased)
{
#if HYP_YMM_VNNI
    h->q[v] = biased;
#else
    const __m256i w = _mm256_xor_si256(biased, _mm256_set1_epi8(-128));
    h->sign[v] = w;
    h->q[v] = _mm256_abs_epi8(w); /* -128 becomes 128: right, as an unsigned byte */
#endif
}

HYP_INLINE void ymm_unpack_legacy(int type, const uint8_t *rec, int half, hyp_ymm_half *h)
{
    rec += 32 * half; /* of every 64-byte vector; d and m are half as wide, see below */
    const uint8_t *d = rec - 16 * half;
    h->d = ymm_load_half(d);
    if (type == HYP_Q4_1 || type == HYP_Q5_1) h->min = ymm_load_half(d + 32);
    switch (type) {
    case HYP_Q4_0: ymm_nibbles(rec + 32, h->q); break;
    case HYP_Q4_1: ymm_nibbles(rec + 64, h->q); break;
    case HYP_Q5_0:
        ymm_nibbles(rec + 96, h->q);
        ymm_fifth_bits(rec + 32, h->q);
        break;
    case HYP_Q5_1:
        ymm_nibbles(rec + 128, h->q);
        ymm_fifth_bits(rec + 64, h->q);
        break;
    case HYP_Q8_0:
        HYP_UNROLL8 for (int v = 0; v < 8; v++) ymm_set8(h, v, ymm_load(rec + 32 + 64 * v));
        break;
    case HYP_IQ4_NL: { /* the table's values + 128 */
        const __m256i table = _mm256_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153, (char)166,
                                               (char)181, (char)197, (char)217, (char)241, 1, 24, 45, 63, 79, 93, 106, 118,
                                               (char)129, (char)141, (char)153, (char)166, (char)181, (char)197, (char)217,
                                               (char)241);
        __m256i index[8];
        ymm_nibbles(rec + 32, index);
        HYP_UNROLL8 for (int v = 0; v < 8; v++) ymm_set8(h, v, _mm256_shuffle_epi8(table, index[v]));
        break;
    }
    default: break;
    }
}

HYP_INLINE void ymm_unpack_q45k(int type, const uint8_t *rec, const hyp_ymm_scales *s, int g, int half, hyp_ymm_half *h)
{
    const uint8_t *high = rec + 256 + 32 * half, *q = rec + (type == HYP_Q5_K ? 768 : 256) + 32 * half + 512 * (g / 2);
    HYP_UNROLL8 for (int j = 0; j < 8; j++) {
        h->q[j] = ymm_bits(ymm_load(q + 64 * j), g % 2 ? 4 : 0, 15);
        if (type == HYP_Q5_K) h->q[j] = _mm256_or_si256(h->q[j], ymm_bits(ymm_load(high + 64 * j), g - 4, 16));
    }
    h->d = _mm256_mul_ps(ymm_load_half(rec + 16 * half), ymm_bytes_to_float(s->sc[g] + 8 * half));
    const __m256 m = _mm256_mul_ps(ymm_load_half(rec + 32 + 16 * half), ymm_bytes_to_float(s->mn[g] + 8 * half));
    h->min = _mm256_xor_ps(m, _mm256_set1_ps(-0.0f));
}

HYP_INLINE void ymm_unpack_q2k(const uint8_t *rec, int g, int half, hyp_ymm_half *h)
{
    const uint8_t *s = rec + 64 + 32 * g, *q = rec + 320 + 512 * (g / 4) + 32 * half;
    const __m256i low = _mm256_set1_epi16(15);
    const __m256i b0 = ymm_row_pairs(s, half, 0), b1 = ymm_row_pairs(s + 16, half, 0);
    h->s0 = _mm256_and_si256(b0, low);
    h->s1 = _mm256_and_si256(b1, low);
    h->s2 = _mm256_srli_epi16(_mm256_blend_epi16(b0, b1, 0xaa), 4);
    h->d = ymm_load_half(rec + 16 * half);
    h->min = ymm_load_half(rec + 32 + 16 * half);
    HYP_UNROLL8 for (int j = 0; j < 8; j++) {
        h->q[j] = ymm_bits(ymm_load(q + 64 * j), 2 * (g % 4), 3);
#if HYP_YMM_VNNI /* 15 * 3 fits a byte, so one 16-bit product scales two weights without a carry */
        h->q[j] = _mm256_mullo_epi16(h->q[j], j < 4 ? h->s0 : h->s1);
#endif
    }
}

HYP_INLINE void ymm_unpack_q3k(const uint8_t *rec, int g, int half, hyp_ymm_half *h)
{
    const uint8_t *high = rec + 224 + 32 * half, *q = rec + 736 + 512 * (g / 4) + 32 * half;
    const __m256i lo = ymm_row_pairs(rec + 32 + 16 * g, half, 0), hi = ymm_row_pairs(rec + 160 + 16 * (g / 2), half, 0);
    const __m256i bias = _mm256_set1_epi16(32);
    h->s0 = _mm256_sub_epi16(_mm256_or_si256(ymm_bits(lo, 0, 15), ymm_bits(hi, 4 * (g % 2) - 4, 0x30)), bias);
    h->s1 = _mm256_sub_epi16(_mm256_or_si256(_mm256_srli_epi16(lo, 4), ymm_bits(hi, 4 * (g % 2) - 2, 0x30)), bias);
    h->d = ymm_load_half(rec + 16 * half);
#if HYP_YMM_VNNI
    /* Two weights at once, modulo 2^16: (q0 + 256 q1) sc + 257 (124 - 4 sc) = p0 + 256 p1 with p = sc (q - 4) + 124, both in
     * 0..252. */
    const __m256i four = _mm256_set1_epi16(4 * 257), c = _mm256_set1_epi16(124 * 257);
    const __m256i c0 = _mm256_sub_epi16(c, _mm256_mullo_epi16(h->s0, four));
    const __m256i c1 = _mm256_sub_epi16(c, _mm256_mullo_epi16(h->s1, four));
#else
    h->s2 = _mm256_slli_epi16(_mm256_blend_epi16(h->s0, h->s1, 0xaa), 2);
#endif
    HYP_UNROLL8 for (int j = 0; j < 8; j++) {
        const __m256i low = ymm_bits(ymm_load(q + 64 * j), 2 * (g % 4), 3);
        h->q[j] = _mm256_or_si256(low, ymm_bits(ymm_load(high + 64 * j), g - 2, 4));
#if HYP_YMM_VNNI
        h->q[j] = _mm256_add_epi16(_mm256_mullo_epi16(h->q[j], j < 4 ? h->s0 : h->s1), j < 4 ? c0 : c1);
#endif
    }
}

HYP_INLINE void ymm_unpack_q6k(const uint8_t *rec, int g, int half, hyp_ymm_half *h)
{
    const int n = g / 4, c = g % 4;
    const uint8_t *s = rec + 32 + 32 * g;
    const uint8_t *ql = rec + 288 + 1024 * n + 512 * (c % 2) + 32 * half, *qh = rec + 2336 + 512 * n + 32 * half;
    HYP_UNROLL8 for (int j = 0; j < 8; j++) {
        const __m256i low = ymm_bits(ymm_load(ql + 64 * j), c / 2 * 4, 15);
        h->q[j] = _mm256_or_si256(low, ymm_bits(ymm_load(qh + 64 * j), 2 * c - 4, 0x30));
    }
    h->d = ymm_load_half(rec + 16 * half);
#if HYP_YMM_VNNI
    h->f0 = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(s + 8 * half))));
    h->f1 = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(s + 16 + 8 * half))));
#else
    h->s0 = _mm256_srai_epi16(ymm_row_pairs(s, half, 1), 8);
    h->s1 = _mm256_srai_epi16(ymm_row_pairs(s + 16, half, 1), 8);
    h->s2 = _mm256_slli_epi16(_mm256_blend_epi16(h->s0, h->s1, 0xaa), 5);
#endif
}

HYP_INLINE void ymm_unpack(int type, const uint8_t *rec, const hyp_ymm_scales *s, int g, int half, hyp_ymm_half *h)
{
    switch (type) {
    case HYP_Q4_K: case HYP_Q5_K: ymm_unpack_q45k(type, rec, s, g, half, h); break;
    case HYP_Q2_K: ymm_unpack_q2k(rec, g, half, h); break;
    case HYP_Q3_K: ymm_unpack_q3k(rec, g, half, h); break;
    case HYP_Q6_K: ymm_unpack_q6k(rec, g, half, h); break;
    default: ymm_unpack_legacy(type, rec, half, h); break;
    }
}

#endif
