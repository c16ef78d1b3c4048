/* Groups of 32 K of a K type's record, taken out into registers: the AVX-512 products start from them.
 *
 * The 16 rows are the 32-bit lanes. Codes stay unsigned, as vpdpbusd wants its first operand, and half a record's sum of codes
 * times activations under the groups' scales (S in panel.h) grows in an integer a lane. What multiplies stands in one of three ways:
 *
 *  Q4_K Q5_K   a group's sum times its scale, one multiplication a group
 *  Q6_K        a half group's sum, which starts at -32 * (sum a), times its scale
 *  Q2_K Q3_K   nothing: code times scale fits a byte, 15*3 = 45 and -32*-4 + 124 = 252 (for many tokens; one token's
 *              products leave the codes where they are in their bytes) */
#ifndef HYP_KQUANT_AVX512_H
#define HYP_KQUANT_AVX512_H

#include "matmul/tokens_avx512.h"

enum {
    HYP_Q3_OFFSET = 124, /* of Q3_K's scaled codes */
    HYP_Q6_ZERO = 32
};

/* Where the codes' low bits start in a record, and their high bits (0 where there are none). */
HYP_INLINE size_t hyp_k_low(int type)
{
    return type == HYP_Q2_K ? 320 : type == HYP_Q3_K ? 736 : type == HYP_Q4_K ? 256 : type == HYP_Q5_K ? 768 : 288;
}

HYP_INLINE size_t hyp_k_high(int type)
{
    return type == HYP_Q3_K ? 224 : type == HYP_Q5_K ? 256 : type == HYP_Q6_K ? 2336 : 0;
}

/* ---- Scales -------------------------------------------------------------------------------------------------------- */

/* One byte a row to one 32-bit lane a row. */
HYP_INLINE __m512i hyp_widen_avx512(__m128i v)
{
    return _mm512_cvtepu8_epi32(v);
}

HYP_INLINE __m512i hyp_widen_signed_avx512(__m128i v)
{
    return _mm512_cvtepi8_epi32(v);
}

/* Two unsigned bytes a row to two int16 a row. */
HYP_INLINE __m512i hyp_word_pairs_avx512(__m128i low, __m128i high)
{
    const __m256i bytes = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi8(low, high)), _mm_unpackhi_epi8(low, high), 1);
    return _mm512_cvtepu8_epi16(bytes);
}

HYP_INLINE __m128i hyp_field_avx512(__m128i v, int shift, int mask)
{
    return _mm_and_si128(_mm_srli_epi16(v, shift), _mm_set1_epi8((char)mask));
}

/* Scale and min of group g of Q4_K and Q5_K. */
HYP_INLINE void hyp_scale_min_avx512(const uint8_t *rec, int g, __m128i *scale, __m128i *min)
{
    const __m128i lo = hyp_bytes16_avx512(rec + 64 + 16 * g), hi = hyp_bytes16_avx512(rec + 192 + 16 * (g / 2));
    const int at = 4 * (g & 1);
    *scale = _mm_or_si128(hyp_field_avx512(lo, 0, 15), _mm_slli_epi16(hyp_field_avx512(hi, at, 3), 4));
    *min = _mm_or_si128(hyp_field_avx512(lo, 4, 15), _mm_slli_epi16(hyp_field_avx512(hi, at + 2, 3), 4));
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

/* The mins of Q2_K's group g: two int16 a lane. */
HYP_INLINE __m512i hyp_q2_mins_avx512(const uint8_t *rec, int g)
{
    const __m128i s0 = hyp_bytes16_avx512(rec + 64 + 32 * g), s1 = hyp_bytes16_avx512(rec + 80 + 32 * g);
    return hyp_word_pairs_avx512(hyp_field_avx512(s0, 4, 15), hyp_field_avx512(s1, 4, 15));
}

/* Those of groups 2n and 2n + 1 of Q4_K and Q5_K, and the groups' scales. */
HYP_INLINE __m512i hyp_pair_scales_avx512(const uint8_t *rec, int n, __m512i *s0, __m512i *s1)
{
    __m128i scale[2], min[2];
    hyp_scale_min_avx512(rec, 2 * n, &scale[0], &min[0]);
    hyp_scale_min_avx512(rec, 2 * n + 1, &scale[1], &min[1]);
    *s0 = hyp_widen_avx512(scale[0]);
    *s1 = hyp_widen_avx512(scale[1]);
    return hyp_word_pairs_avx512(min[0], min[1]);
}

/* ---- Codes, for several tokens --------------------------------------------------------------------------------------- */

/* A 2-bit code looks its product up in the 16 bytes of its 128-bit lane: 4 rows x 4 codes. `products` has the four
 * products of a row in that row's 32-bit lane. */
HYP_INLINE __m512i hyp_lookup2_avx512(__m512i products, __m512i codes, int shift)
{
    const __m512i row = _mm512_broadcast_i32x4(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c));
    const __m512i index = hyp_or_and_avx512(row, _mm512_srli_epi32(codes, (unsigned)shift), _mm512_set1_epi8(3));
    return _mm512_shuffle_epi8(products, index);
}

/* The products of a Q2_K scale (low nibbles, one byte a row) with 0..3. */
HYP_INLINE __m512i hyp_q2_products_avx512(__m128i s)
{
    const __m512i times = _mm512_set1_epi32(0x03020100); /* at most 3*15: no carry from byte to byte */
    return _mm512_mullo_epi32(hyp_widen_avx512(hyp_field_avx512(s, 0, 15)), times);
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
    return _mm512_add_epi8(r, _mm512_set1_epi8(HYP_Q3_OFFSET));
}

/* A group of a record: where its bits are, and what makes codes of them. */
typedef struct {
    const uint8_t *low, *high;
    __m512i products[2]; /* Q2_K, Q3_K: of the halves */
    __m512i four[2];     /* Q3_K: what the high bit adds */
    __m512i bit;         /* Q3_K: the high bit; Q5_K: to the right by how much it is rotated */
} hyp_group_avx512;

/* Group j of half h of a record; `type` and `j` must be constants after inlining. */
HYP_INLINE hyp_group_avx512 hyp_group_at_avx512(int type, const uint8_t *rec, int h, int j)
{
    const int g = 4 * h + j, pairs = type == HYP_Q4_K || type == HYP_Q5_K;
    hyp_group_avx512 group;
    group.low = rec + hyp_k_low(type) + (pairs ? 512 * (g / 2) : type == HYP_Q6_K ? 1024 * h + 512 * (j & 1) : 512 * h);
    group.high = rec + hyp_k_high(type) + (type == HYP_Q6_K ? 512 * h : 0);
    if (type == HYP_Q5_K) group.bit = _mm512_set1_epi32(g - 4);
    if (type == HYP_Q2_K) {
        group.products[0] = hyp_q2_products_avx512(hyp_bytes16_avx512(rec + 64 + 32 * g));
        group.products[1] = hyp_q2_products_avx512(hyp_bytes16_avx512(rec + 80 + 32 * g));
    }
    if (type == HYP_Q3_K) {
        __m128i s0, s1;
        hyp_q3_scales_avx512(rec, g, &s0, &s1);
        group.products[0] = hyp_q3_products_avx512(s0, &group.four[0]);
        group.products[1] = hyp_q3_products_avx512(s1, &group.four[1]);
        group.bit = _mm512_set1_epi8((char)(1 << g));
    }
    return group;
}

/* Its vector v: K = 4v..4v+3 of the group. */
HYP_INLINE __m512i hyp_group_codes_avx512(int type, const hyp_group_avx512 *group, int j, int v)
{
    const __m512i x = hyp_load_avx512(group->low + 64 * v);
    if (type == HYP_Q2_K || type == HYP_Q3_K) {
        const __m512i q = hyp_lookup2_avx512(group->products[v / 4], x, 2 * j);
        if (type == HYP_Q2_K) return q;
        return _mm512_mask_add_epi8(q, _mm512_test_epi8_mask(hyp_load_avx512(group->high + 64 * v), group->bit), q, group->four[v / 4]);
    }
    const __m512i q = (type == HYP_Q6_K ? j >> 1 : j & 1) ? hyp_high4_avx512(x) : hyp_low4_avx512(x);
    if (type == HYP_Q4_K) return q;
    const __m512i h = hyp_load_avx512(group->high + 64 * v);
    if (type == HYP_Q5_K) return hyp_or_and_avx512(q, _mm512_rorv_epi32(h, group->bit), _mm512_set1_epi8(16));
    return hyp_or_and_avx512(q, hyp_move_bit_avx512(h, 2 * j, 4), _mm512_set1_epi8(0x30));
}

/* Group g of a record; `type` and `g` must be constants after inlining. */
HYP_INLINE void hyp_group_load_avx512(int type, const uint8_t *rec, int g, __m512i *w)
{
    const hyp_group_avx512 group = hyp_group_at_avx512(type, rec, g / 4, g % 4);
    HYP_UNROLL
    for (int v = 0; v < 8; v++) w[v] = hyp_group_codes_avx512(type, &group, g % 4, v);
}

/* ---- Sums to floats ----------------------------------------------------------------------------------------- */

/* acc + da * (d*S - dmin*M), as panel.h has it; `mins`: M, of the types that have it. */
HYP_INLINE __m512 hyp_add_half_avx512(int type, __m512 d, __m512 dmin, __m512 da, __m512i sum, __m512i mins, __m512 acc)
{
    __m512 t = _mm512_mul_ps(d, _mm512_cvtepi32_ps(sum));
    if (hyp_has_mins(type)) t = _mm512_fnmadd_ps(dmin, _mm512_cvtepi32_ps(mins), t);
    return _mm512_fmadd_ps(da, t, acc);
}

/* acc + what a token's sum of half h of the record is worth; `words`: its scale in the half's first group of activations. */
HYP_INLINE __m512 hyp_finish_half_avx512(int type, const hyp_strip_super *b, int h, const uint8_t *words, __m512i sum, __m512 acc)
{
    const int n = type == HYP_Q2_K ? 4 : 2, sums = (type == HYP_Q2_K ? HYP_ACT_S : HYP_ACT_PAIR) - HYP_ACT_D;
    __m512i mins = _mm512_setzero_si512();
    if (hyp_has_mins(type)) {
        HYP_UNROLL
        for (int i = 0; i < n; i++) {
            const __m512i pair = hyp_spread_avx512(words + sums + 4 / n * i * HYP_ACT_RECORD);
            mins = _mm512_dpwssd_epi32(mins, _mm512_load_si512(b->min[n * h + i]), pair);
        }
    }
    return hyp_add_half_avx512(type, _mm512_load_ps(b->d), _mm512_load_ps(b->dmin), hyp_spread_f32_avx512(words), sum, mins, acc);
}

#endif
