/* One block of 32 K of a panel, taken out of its record into registers: what every AVX-512 product starts from. (The
 * groups of K types are in kquant_avx512.h.)
 *
 * vpdpbusd wants its first operand unsigned, so codes stay unsigned and carry a zero point; vector v holds K = 4v..4v+3
 * of each of the 16 rows, one row a 32-bit lane. Types meet in two shapes:
 *
 *  SYM    acc = fma(d*da, f32(sum w*a - zero*(sum a)), acc)                     Q4_0 Q5_0 Q8_0 IQ4_NL
 *  MIN    SYM without a zero point, then acc = fma(p, da*f32(sum a), acc)       Q4_1 Q5_1 */
#ifndef HYP_BLOCK_AVX512_H
#define HYP_BLOCK_AVX512_H

#include <immintrin.h>

#include "common/table.h"

#if defined(__clang__)
#define HYP_UNROLL _Pragma("unroll")
#define HYP_ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define HYP_UNROLL _Pragma("GCC unroll 16")
#define HYP_ROLLED _Pragma("GCC unroll 1")
#else
#define HYP_UNROLL
#define HYP_ROLLED
#endif

/* To the second-level cache, and not moved by the compiler: gcc gathers the prefetches of unrolled code into bursts. */
#if defined(__GNUC__)
#define HYP_PREFETCH_L2(p) __asm__ volatile("prefetcht1 %0" : : "m"(*(const char *)(p)))
#else
#define HYP_PREFETCH_L2(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
#endif

enum { HYP_SHAPE_SYM, HYP_SHAPE_MIN };

HYP_INLINE int hyp_shape_avx512(int type)
{
    return type == HYP_Q4_1 || type == HYP_Q5_1 ? HYP_SHAPE_MIN : HYP_SHAPE_SYM;
}

/* What hyp_block_load_avx512 adds to the signed codes. */
HYP_INLINE int hyp_zero_avx512(int type)
{
    switch (type) {
    case HYP_Q4_0: return 8;
    case HYP_Q5_0: return 16;
    case HYP_Q8_0: case HYP_IQ4_NL: return 128;
    default: return 0;
    }
}

typedef struct {
    __m512i w[8];
    __m512 d, p;
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

/* ---- Any type ------------------------------------------------------------------------------------------------------ */

/* A record of a type of 32; `type` must be a constant after inlining. */
HYP_INLINE void hyp_block_load_avx512(int type, const uint8_t *rec, hyp_block_avx512 *b)
{
    b->p = _mm512_setzero_ps();
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
