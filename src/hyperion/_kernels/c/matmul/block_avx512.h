/* One block of 32 K of a panel, taken out of its record into registers: what every AVX-512 product starts from.
 *
 * vpdpbusd wants its first operand unsigned, so codes stay unsigned and carry a zero point; vector v holds K = 4v..4v+3
 * of each of the 16 rows, one row a 32-bit lane. Types meet in four shapes:
 *
 *  SYM    acc = fma(d*da, f32(sum w*a - zero*(sum a)), acc)                     Q4_0 Q5_0 Q8_0 IQ4_NL Q3_K
 *  MIN    SYM without a zero point, then acc = fma(p, da*f32(sum a), acc)       Q4_1 Q5_1 Q4_K Q5_K
 *  HALVES acc = fma(d*da, p*f32(sum0) + q*f32(sum1), acc)                       Q6_K
 *  PAIRS  SYM without a zero point, then acc = fma(-(p*da), f32(madd(q, s)), acc) Q2_K
 *
 * Q2_K and Q3_K carry their 4 and 6 bit half-group scale inside w: 15*3 = 45 and -32*-4 + 124 = 252 fit a byte, and the
 * integer sum is the same. Q6_K's product takes 14 bits and does not. Its p*sum0 + q*sum1 is exact in float, and thus
 * equal to the integer: |sum| <= 16*32*127 and |scale| <= 128, so each product is below 2^23 and the total below 2^24. */
#ifndef HYP_BLOCK_AVX512_H
#define HYP_BLOCK_AVX512_H

#include <immintrin.h>

#include "common/table.h"

#if defined(__clang__)
#define HYP_UNROLL _Pragma("unroll")
#elif defined(__GNUC__)
#define HYP_UNROLL _Pragma("GCC unroll 16")
#else
#define HYP_UNROLL
#endif

enum { HYP_SHAPE_SYM, HYP_SHAPE_MIN, HYP_SHAPE_HALVES, HYP_SHAPE_PAIRS };

HYP_INLINE int hyp_shape_avx512(int type)
{
    switch (type) {
    case HYP_Q4_1: case HYP_Q5_1: case HYP_Q4_K: case HYP_Q5_K: return HYP_SHAPE_MIN;
    case HYP_Q6_K: return HYP_SHAPE_HALVES;
    case HYP_Q2_K: return HYP_SHAPE_PAIRS;
    default: return HYP_SHAPE_SYM;
    }
}

/* What hyp_block_load_avx512 adds to the signed codes. */
HYP_INLINE int hyp_zero_avx512(int type)
{
    switch (type) {
    case HYP_Q4_0: return 8;
    case HYP_Q5_0: return 16;
    case HYP_Q8_0: case HYP_IQ4_NL: return 128;
    case HYP_Q3_K: return 124;
    case HYP_Q6_K: return 32;
    default: return 0;
    }
}

typedef struct {
    __m512i w[8];
    __m512 d, p;
    __m512i q; /* HALVES: floats; PAIRS: two int16 a lane */
} hyp_block_avx512;

HYP_INLINE __m512i hyp_load_avx512(const uint8_t *p)
{
    return _mm512_loadu_si512((const void *)p);
}

HYP_INLINE __m512 hyp_half16_avx512(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

HYP_INLINE __m128i hyp_bytes16_avx512(const uint8_t *p)
{
    return _mm_loadu_si128((const __m128i *)(const void *)p);
}

HYP_INLINE __m512i hyp_low4_avx512(__m512i v)
{
    return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

HYP_INLINE __m512i hyp_high4_avx512(__m512i v)
{
    return _mm512_and_si512(_mm512_srli_epi32(v, 4), _mm512_set1_epi8(15));
}

/* a | (b & mask), one vpternlogd. */
HYP_INLINE __m512i hyp_or_and_avx512(__m512i a, __m512i b, __m512i mask)
{
    return _mm512_ternarylogic_epi32(a, b, mask, 0xf8);
}

/* Move bit `from` of every byte to bit `to`; the caller masks what crossed over from the neighbours. */
HYP_INLINE __m512i hyp_move_bit_avx512(__m512i v, int from, int to)
{
    return from <= to ? _mm512_slli_epi32(v, (unsigned)(to - from)) : _mm512_srli_epi32(v, (unsigned)(from - to));
}

/* ---- Blocks of 32 -------------------------------------------------------------------------------------------------- */

HYP_INLINE void hyp_nibbles_avx512(const uint8_t *q, __m512i *w)
{
    HYP_UNROLL
    for (int j = 0; j < 4; j++) {
        const __m512i v = hyp_load_avx512(q + 64 * j);
        w[j] = hyp_low4_avx512(v);
        w[4 + j] = hyp_high4_avx512(v);
    }
}

HYP_INLINE void hyp_fifth_bits_avx512(const uint8_t *high, __m512i *w)
{
    const __m512i h = hyp_load_avx512(high), sixteen = _mm512_set1_epi8(16);
    HYP_UNROLL
    for (int v = 0; v < 8; v++) w[v] = hyp_or_and_avx512(w[v], hyp_move_bit_avx512(h, v, 4), sixteen);
}

HYP_INLINE void hyp_iq4_nl_avx512(const uint8_t *q, __m512i *w)
{
    const __m512i table = _mm512_broadcast_i32x4(
        _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153, (char)166, (char)181, (char)197,
                      (char)217, (char)241)); /* the 16 values + 128 */
    hyp_nibbles_avx512(q, w);
    HYP_UNROLL
    for (int v = 0; v < 8; v++) w[v] = _mm512_shuffle_epi8(table, w[v]);
}

/* ---- Blocks of 256, group g of 8 ----------------------------------------------------------------------------------- */

/* One byte a row to one 32-bit lane a row. */
HYP_INLINE __m512i hyp_widen_avx512(__m128i v)
{
    return _mm512_cvtepu8_epi32(v);
}

HYP_INLINE __m128i hyp_field_avx512(__m128i v, int shift, int mask)
{
    return _mm_and_si128(_mm_srli_epi16(v, shift), _mm_set1_epi8((char)mask));
}

/* Scale and min of Q4_K and Q5_K. */
HYP_INLINE void hyp_scale_min_avx512(const uint8_t *rec, int g, hyp_block_avx512 *b)
{
    const __m128i lo = hyp_bytes16_avx512(rec + 64 + 16 * g), hi = hyp_bytes16_avx512(rec + 192 + 16 * (g / 2));
    const int at = 4 * (g & 1);
    const __m128i scale = _mm_or_si128(hyp_field_avx512(lo, 0, 15), _mm_slli_epi16(hyp_field_avx512(hi, at, 3), 4));
    const __m128i min = _mm_or_si128(hyp_field_avx512(lo, 4, 15), _mm_slli_epi16(hyp_field_avx512(hi, at + 2, 3), 4));
    const __m512 minus_dmin = _mm512_xor_ps(hyp_half16_avx512(rec + 32), _mm512_set1_ps(-0.0f));
    b->d = _mm512_mul_ps(hyp_half16_avx512(rec), _mm512_cvtepi32_ps(hyp_widen_avx512(scale)));
    b->p = _mm512_mul_ps(minus_dmin, _mm512_cvtepi32_ps(hyp_widen_avx512(min)));
}

HYP_INLINE void hyp_nibble_group_avx512(const uint8_t *q, int g, __m512i *w)
{
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        const __m512i x = hyp_load_avx512(q + 512 * (g / 2) + 64 * v);
        w[v] = g & 1 ? hyp_high4_avx512(x) : hyp_low4_avx512(x);
    }
}

HYP_INLINE void hyp_q5_k_avx512(const uint8_t *rec, int g, __m512i *w)
{
    hyp_nibble_group_avx512(rec + 768, g, w);
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        const __m512i h = hyp_load_avx512(rec + 256 + 64 * v);
        w[v] = hyp_or_and_avx512(w[v], hyp_move_bit_avx512(h, g, 4), _mm512_set1_epi8(16));
    }
}

/* A 2-bit code looks its product up in the 16 bytes of its 128-bit lane: 4 rows x 4 codes. `products` has the four
 * products of a row in that row's 32-bit lane. */
HYP_INLINE __m512i hyp_lookup2_avx512(__m512i products, __m512i codes, int shift)
{
    const __m512i row = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    const __m512i index = hyp_or_and_avx512(row, _mm512_srli_epi32(codes, (unsigned)shift), _mm512_set1_epi8(3));
    return _mm512_shuffle_epi8(products, index);
}

HYP_INLINE void hyp_q2_k_avx512(const uint8_t *rec, int g, hyp_block_avx512 *b)
{
    const __m128i s0 = hyp_bytes16_avx512(rec + 64 + 32 * g), s1 = hyp_bytes16_avx512(rec + 80 + 32 * g);
    const __m512i times = _mm512_set1_epi32(0x03020100); /* at most 3*15: no carry from byte to byte */
    const __m512i low = _mm512_mullo_epi32(hyp_widen_avx512(hyp_field_avx512(s0, 0, 15)), times);
    const __m512i high = _mm512_mullo_epi32(hyp_widen_avx512(hyp_field_avx512(s1, 0, 15)), times);
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        const __m512i x = hyp_load_avx512(rec + 320 + 512 * (g / 4) + 64 * v);
        b->w[v] = hyp_lookup2_avx512(v < 4 ? low : high, x, 2 * (g & 3));
    }
    b->d = hyp_half16_avx512(rec);
    b->p = hyp_half16_avx512(rec + 32);
    b->q = _mm512_or_si512(hyp_widen_avx512(hyp_field_avx512(s0, 4, 15)),
                           _mm512_slli_epi32(hyp_widen_avx512(hyp_field_avx512(s1, 4, 15)), 16));
}

/* The products of a Q3_K scale (sc, one byte a row) with -4..-1, + 124; and 4*sc in all four bytes. */
HYP_INLINE __m512i hyp_q3_products_avx512(__m128i sc, __m512i *four)
{
    const __m512i spread = _mm512_shuffle_epi8(hyp_widen_avx512(sc), _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12)));
    const __m512i one = _mm512_sub_epi8(_mm512_setzero_si512(), spread), two = _mm512_add_epi8(one, one);
    /* bytes of a lane, low to high: 4, 3, 2, 1 times -sc */
    __m512i r = _mm512_maskz_mov_epi8(0x7777777777777777u, two);
    r = _mm512_mask_add_epi8(r, 0x1111111111111111u, r, two);
    r = _mm512_mask_add_epi8(r, 0xaaaaaaaaaaaaaaaau, r, one);
    *four = _mm512_sub_epi8(_mm512_setzero_si512(), _mm512_add_epi8(two, two));
    return _mm512_add_epi8(r, _mm512_set1_epi8(124));
}

/* The scales of group g's halves, less 32: one signed byte a row. */
HYP_INLINE void hyp_q3_scales_avx512(const uint8_t *rec, int g, __m128i *s0, __m128i *s1)
{
    const __m128i lo = hyp_bytes16_avx512(rec + 32 + 16 * g), hi = hyp_bytes16_avx512(rec + 160 + 16 * (g / 2));
    const __m128i bias = _mm_set1_epi8(32);
    const int at = 4 * (g & 1);
    *s0 = _mm_or_si128(hyp_field_avx512(lo, 0, 15), _mm_slli_epi16(hyp_field_avx512(hi, at, 3), 4));
    *s1 = _mm_or_si128(hyp_field_avx512(lo, 4, 15), _mm_slli_epi16(hyp_field_avx512(hi, at + 2, 3), 4));
    *s0 = _mm_sub_epi8(*s0, bias);
    *s1 = _mm_sub_epi8(*s1, bias);
}

HYP_INLINE void hyp_q3_k_avx512(const uint8_t *rec, int g, hyp_block_avx512 *b)
{
    __m128i s0, s1;
    __m512i four[2];
    hyp_q3_scales_avx512(rec, g, &s0, &s1);
    const __m512i low = hyp_q3_products_avx512(s0, &four[0]);
    const __m512i high = hyp_q3_products_avx512(s1, &four[1]);
    const __m512i bit = _mm512_set1_epi8((char)(1 << g));
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        const __m512i h = hyp_load_avx512(rec + 224 + 64 * v), x = hyp_load_avx512(rec + 736 + 512 * (g / 4) + 64 * v);
        const __m512i w = hyp_lookup2_avx512(v < 4 ? low : high, x, 2 * (g & 3));
        b->w[v] = _mm512_mask_add_epi8(w, _mm512_test_epi8_mask(h, bit), w, four[v / 4]);
    }
    b->d = hyp_half16_avx512(rec);
}

HYP_INLINE void hyp_q6_k_avx512(const uint8_t *rec, int g, hyp_block_avx512 *b)
{
    const int n = g / 4, c = g & 1, high = (g >> 1) & 1;
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        const __m512i l = hyp_load_avx512(rec + 288 + 1024 * n + 512 * c + 64 * v);
        const __m512i h = hyp_load_avx512(rec + 2336 + 512 * n + 64 * v);
        b->w[v] = hyp_or_and_avx512(high ? hyp_high4_avx512(l) : hyp_low4_avx512(l), hyp_move_bit_avx512(h, 2 * (g & 3), 4),
                                    _mm512_set1_epi8(0x30));
    }
    b->d = hyp_half16_avx512(rec);
    b->p = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(hyp_bytes16_avx512(rec + 32 + 32 * g)));
    b->q = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(hyp_bytes16_avx512(rec + 48 + 32 * g))));
}

/* ---- Any type ------------------------------------------------------------------------------------------------------ */

/* Block g (0 for the types of 32) of a record; `type` and `g` must be constants after inlining. */
HYP_INLINE void hyp_block_load_avx512(int type, const uint8_t *rec, int g, hyp_block_avx512 *b)
{
    b->p = _mm512_setzero_ps();
    b->q = _mm512_setzero_si512();
    switch (type) {
    case HYP_Q4_0:
        b->d = hyp_half16_avx512(rec);
        hyp_nibbles_avx512(rec + 32, b->w);
        break;
    case HYP_IQ4_NL:
        b->d = hyp_half16_avx512(rec);
        hyp_iq4_nl_avx512(rec + 32, b->w);
        break;
    case HYP_Q4_1:
        b->d = hyp_half16_avx512(rec);
        b->p = hyp_half16_avx512(rec + 32);
        hyp_nibbles_avx512(rec + 64, b->w);
        break;
    case HYP_Q5_0:
        b->d = hyp_half16_avx512(rec);
        hyp_nibbles_avx512(rec + 96, b->w);
        hyp_fifth_bits_avx512(rec + 32, b->w);
        break;
    case HYP_Q5_1:
        b->d = hyp_half16_avx512(rec);
        b->p = hyp_half16_avx512(rec + 32);
        hyp_nibbles_avx512(rec + 128, b->w);
        hyp_fifth_bits_avx512(rec + 64, b->w);
        break;
    case HYP_Q8_0:
        b->d = hyp_half16_avx512(rec);
        HYP_UNROLL
        for (int v = 0; v < 8; v++) b->w[v] = hyp_load_avx512(rec + 32 + 64 * v);
        break;
    case HYP_Q2_K: hyp_q2_k_avx512(rec, g, b); break;
    case HYP_Q3_K: hyp_q3_k_avx512(rec, g, b); break;
    case HYP_Q4_K:
        hyp_scale_min_avx512(rec, g, b);
        hyp_nibble_group_avx512(rec + 256, g, b->w);
        break;
    case HYP_Q5_K:
        hyp_scale_min_avx512(rec, g, b);
        hyp_q5_k_avx512(rec, g, b->w);
        break;
    case HYP_Q6_K: hyp_q6_k_avx512(rec, g, b); break;
    default: break;
    }
}

/* Lanes of the rows that exist, of 16 from `row` on. */
HYP_INLINE __mmask16 hyp_rows_avx512(size_t rows, size_t row)
{
    return rows - row >= HYP_PANEL ? 0xffff : (__mmask16)((1u << (rows - row)) - 1);
}

HYP_INLINE int32_t hyp_word_avx512(const void *p)
{
    int32_t v;
    memcpy(&v, p, 4);
    return v;
}

HYP_INLINE __m512i hyp_spread_avx512(const void *p)
{
    return _mm512_set1_epi32(hyp_word_avx512(p));
}

HYP_INLINE __m512 hyp_spread_f32_avx512(const void *p)
{
    float v;
    memcpy(&v, p, 4);
    return _mm512_set1_ps(v);
}

#endif
