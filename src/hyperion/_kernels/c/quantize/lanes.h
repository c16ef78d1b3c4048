/* Sixteen floats: one register of AVX-512, two of AVX2, an array elsewhere. All give the same bits: no fused operation,
 * and one order of additions in a sum. */
#ifndef HYP_QUANTIZE_LANES_H
#define HYP_QUANTIZE_LANES_H

enum { LANES = 16 };

enum { AHEAD = 4096 }; /* bytes between what is read and what is prefetched, which may be past the array's end */

HYP_INLINE float float_of(int32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

HYP_INLINE int32_t bits_of(float f)
{
    int32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* lanes_most: the greater of magnitudes as integers, which a NaN survives: it is above infinity. lanes_not_finite asks for either. */

#if defined(HYP_QUANTIZE_AVX2) || defined(HYP_QUANTIZE_AVX512)
#include <immintrin.h>

HYP_INLINE void lanes_fetch(const float *x, ptrdiff_t bytes) { _mm_prefetch((const char *)((uintptr_t)x + (uintptr_t)bytes), _MM_HINT_T0); }

/* The order of every sum: eight on eight, four on four, two on two, one on one. */
HYP_INLINE float sum_of_8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

HYP_INLINE float least_of_8(__m256 v)
{
    __m128 s = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_min_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_min_ss(s, _mm_shuffle_ps(s, s, 1)));
}

HYP_INLINE float greatest_of_8(__m256 v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
#else
HYP_INLINE void lanes_fetch(const float *x, ptrdiff_t bytes) { (void)x, (void)bytes; }
#endif

HYP_INLINE void lanes_ahead(const float *x) { lanes_fetch(x, AHEAD); }

#if defined(HYP_QUANTIZE_AVX512)

typedef __m512 lanes;

HYP_INLINE lanes lanes_load(const float *x) { return _mm512_loadu_ps(x); }
HYP_INLINE void lanes_store(float *x, lanes a) { _mm512_storeu_ps(x, a); }
HYP_INLINE lanes lanes_set(float f) { return _mm512_set1_ps(f); }
HYP_INLINE lanes lanes_add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
HYP_INLINE lanes lanes_sub(lanes a, lanes b) { return _mm512_sub_ps(a, b); }
HYP_INLINE lanes lanes_mul(lanes a, lanes b) { return _mm512_mul_ps(a, b); }
HYP_INLINE lanes lanes_div(lanes a, lanes b) { return _mm512_div_ps(a, b); }
HYP_INLINE lanes lanes_max(lanes a, lanes b) { return _mm512_max_ps(a, b); }
HYP_INLINE lanes lanes_min(lanes a, lanes b) { return _mm512_min_ps(a, b); }
HYP_INLINE lanes lanes_add_if_above(lanes a, lanes limit, lanes sum, lanes term)
{
    return _mm512_mask_add_ps(sum, _mm512_cmp_ps_mask(a, limit, _CMP_GT_OQ), sum, term);
}
HYP_INLINE void lanes_bytes(lanes a, void *dst)
{
    _mm_storeu_si128((__m128i *)dst, _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(a)));
}
/* 64 codes of v <= 127, to nearest even and not below `low`. What is below an int32 converts to the least one; packing saturates. */
HYP_INLINE __m512i bytes_of_64(const lanes v[4], int8_t low)
{
    const __m512i a = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
    const __m512i b = _mm512_packs_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); /* packing works within 128 bits */
    return _mm512_max_epi8(_mm512_permutexvar_epi32(order, _mm512_packs_epi16(a, b)), _mm512_set1_epi8(low));
}
HYP_INLINE void lanes_codes_64(const lanes v[4], int8_t low, uint8_t *dst)
{
    _mm512_storeu_si512(dst, bytes_of_64(v, low));
}
HYP_INLINE void lanes_nibbles_64(const lanes v[4], uint8_t *dst)
{
    const __m512i q = _mm512_and_si512(bytes_of_64(v, -8), _mm512_set1_epi8(15));
    const __m512i pairs = _mm512_maddubs_epi16(q, _mm512_set1_epi16(0x1001)); /* low + 16 high */
    _mm256_storeu_si256((__m256i *)(void *)dst, _mm512_cvtepi16_epi8(pairs));
}
HYP_INLINE void lanes_nibbles(lanes low, lanes high, uint8_t *dst)
{
    const __m512i a = _mm512_and_si512(_mm512_cvttps_epi32(low), _mm512_set1_epi32(15));
    const __m512i b = _mm512_slli_epi32(_mm512_cvttps_epi32(high), 4);
    _mm_storeu_si128((__m128i *)(void *)dst, _mm512_cvtepi32_epi8(_mm512_or_si512(a, b))); /* bits from 8 on fall off */
}
HYP_INLINE uint32_t lanes_fifths(lanes low, lanes high)
{
    const lanes bit = lanes_set(16.0f);
    const uint32_t b = _mm512_cmp_ps_mask(high, bit, _CMP_GE_OQ);
    return _mm512_cmp_ps_mask(low, bit, _CMP_GE_OQ) | b << 16;
}
HYP_INLINE void lanes_halves(lanes a, uint16_t h[LANES])
{
    _mm256_storeu_si256((__m256i *)(void *)h, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
HYP_INLINE lanes lanes_signed(float f, lanes sign) /* f > 0 with the signs of the lanes */
{
    return _mm512_or_ps(lanes_set(f), _mm512_and_ps(sign, lanes_set(-0.0f)));
}
HYP_INLINE lanes lanes_magnitude(lanes a) { return _mm512_andnot_ps(lanes_set(-0.0f), a); }
HYP_INLINE lanes lanes_most(lanes a, lanes b)
{
    return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
HYP_INLINE int lanes_not_finite(lanes a)
{
    return _mm512_cmpge_epi32_mask(_mm512_castps_si512(a), _mm512_set1_epi32(0x7f800000)) != 0;
}
HYP_INLINE lanes lanes_finite_or_0(lanes a)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_sub_ps(a, a), _mm512_setzero_ps(), _CMP_EQ_OQ), a);
}
HYP_INLINE lanes lanes_from_bytes(const int8_t *q)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)q)));
}
/* 32 codes of four bits: a byte's low one first. Its nibbles come into bytes of their own, which choose from the sixteen values. */
HYP_INLINE void lanes_from_nibbles(const uint8_t *p, lanes v[2])
{
    const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
    const __m256i q = _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)), _mm256_set1_epi8(15));
    const lanes values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
    v[0] = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm256_castsi256_si128(q)), values);
    v[1] = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm256_extracti128_si256(q, 1)), values);
}
HYP_INLINE lanes lanes_least_or_0(lanes a, lanes least) /* what is below `least` becomes 0 */
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, least, _CMP_NLT_UQ), a);
}
HYP_INLINE __m256 upper_8(lanes a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
HYP_INLINE float lanes_sum(lanes a) { return sum_of_8(_mm256_add_ps(_mm512_castps512_ps256(a), upper_8(a))); }
HYP_INLINE float lanes_least(lanes a) { return least_of_8(_mm256_min_ps(_mm512_castps512_ps256(a), upper_8(a))); }
HYP_INLINE float lanes_greatest(lanes a) { return greatest_of_8(_mm256_max_ps(_mm512_castps512_ps256(a), upper_8(a))); }

#elif defined(HYP_QUANTIZE_AVX2)

typedef struct {
    __m256 a, b;
} lanes;

HYP_INLINE lanes lanes_of(__m256 a, __m256 b)
{
    const lanes v = {a, b};
    return v;
}
HYP_INLINE lanes lanes_load(const float *x) { return lanes_of(_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)); }
HYP_INLINE void lanes_store(float *x, lanes v)
{
    _mm256_storeu_ps(x, v.a);
    _mm256_storeu_ps(x + 8, v.b);
}
HYP_INLINE lanes lanes_set(float f) { return lanes_of(_mm256_set1_ps(f), _mm256_set1_ps(f)); }
HYP_INLINE lanes lanes_add(lanes x, lanes y) { return lanes_of(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
HYP_INLINE lanes lanes_sub(lanes x, lanes y) { return lanes_of(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
HYP_INLINE lanes lanes_mul(lanes x, lanes y) { return lanes_of(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
HYP_INLINE lanes lanes_div(lanes x, lanes y) { return lanes_of(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
HYP_INLINE lanes lanes_max(lanes x, lanes y) { return lanes_of(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
HYP_INLINE lanes lanes_min(lanes x, lanes y) { return lanes_of(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
HYP_INLINE __m256 add_if_above_8(__m256 a, __m256 limit, __m256 sum, __m256 term)
{
    return _mm256_blendv_ps(sum, _mm256_add_ps(sum, term), _mm256_cmp_ps(a, limit, _CMP_GT_OQ));
}
HYP_INLINE lanes lanes_add_if_above(lanes x, lanes limit, lanes sum, lanes term)
{
    return lanes_of(add_if_above_8(x.a, limit.a, sum.a, term.a), add_if_above_8(x.b, limit.b, sum.b, term.b));
}
HYP_INLINE void lanes_bytes(lanes v, void *dst)
{
    const __m256i words = _mm256_packs_epi32(_mm256_cvttps_epi32(v.a), _mm256_cvttps_epi32(v.b));
    const __m256i order = _mm256_permute4x64_epi64(words, 0xd8); /* packing works within 128 bits */
    _mm_storeu_si128((__m128i *)dst, _mm_packs_epi16(_mm256_castsi256_si128(order), _mm256_extracti128_si256(order, 1)));
}
/* 32 codes of v <= 127, to nearest even and not below `low`. What is below an int32 converts to the least one; packing saturates. */
HYP_INLINE __m256i bytes_of_32(lanes v, lanes w, int8_t low)
{
    const __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b));
    const __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(w.a), _mm256_cvtps_epi32(w.b));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    return _mm256_max_epi8(_mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order), _mm256_set1_epi8(low));
}
HYP_INLINE void lanes_codes_64(const lanes v[4], int8_t low, uint8_t *dst)
{
    _mm256_storeu_si256((__m256i *)(void *)dst, bytes_of_32(v[0], v[1], low));
    _mm256_storeu_si256((__m256i *)(void *)(dst + 32), bytes_of_32(v[2], v[3], low));
}
HYP_INLINE __m256i pairs_of_32(lanes v, lanes w) /* low + 16 high */
{
    const __m256i q = _mm256_and_si256(bytes_of_32(v, w, -8), _mm256_set1_epi8(15));
    return _mm256_maddubs_epi16(q, _mm256_set1_epi16(0x1001));
}
HYP_INLINE void lanes_nibbles_64(const lanes v[4], uint8_t *dst)
{
    const __m256i bytes = _mm256_packus_epi16(pairs_of_32(v[0], v[1]), pairs_of_32(v[2], v[3]));
    _mm256_storeu_si256((__m256i *)(void *)dst, _mm256_permute4x64_epi64(bytes, 0xd8));
}
HYP_INLINE __m256i nibbles_of_8(__m256 low, __m256 high)
{
    const __m256i a = _mm256_and_si256(_mm256_cvttps_epi32(low), _mm256_set1_epi32(15));
    const __m256i b = _mm256_and_si256(_mm256_cvttps_epi32(high), _mm256_set1_epi32(15));
    return _mm256_or_si256(a, _mm256_slli_epi32(b, 4));
}
HYP_INLINE void lanes_nibbles(lanes low, lanes high, uint8_t *dst)
{
    const __m256i words = _mm256_packs_epi32(nibbles_of_8(low.a, high.a), nibbles_of_8(low.b, high.b));
    const __m256i order = _mm256_permute4x64_epi64(words, 0xd8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(order), _mm256_extracti128_si256(order, 1));
    _mm_storeu_si128((__m128i *)(void *)dst, bytes);
}
HYP_INLINE uint32_t fifths_of_8(__m256 a)
{
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(a, _mm256_set1_ps(16.0f), _CMP_GE_OQ));
}
HYP_INLINE uint32_t lanes_fifths(lanes low, lanes high)
{
    return fifths_of_8(low.a) | fifths_of_8(low.b) << 8 | fifths_of_8(high.a) << 16 | fifths_of_8(high.b) << 24;
}
HYP_INLINE void lanes_halves(lanes v, uint16_t h[LANES])
{
    _mm_storeu_si128((__m128i *)(void *)h, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i *)(void *)(h + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
HYP_INLINE lanes lanes_signed(float f, lanes sign)
{
    const __m256 bit = _mm256_set1_ps(-0.0f), v = _mm256_set1_ps(f);
    return lanes_of(_mm256_or_ps(v, _mm256_and_ps(sign.a, bit)), _mm256_or_ps(v, _mm256_and_ps(sign.b, bit)));
}
HYP_INLINE lanes lanes_magnitude(lanes v)
{
    const __m256 bit = _mm256_set1_ps(-0.0f);
    return lanes_of(_mm256_andnot_ps(bit, v.a), _mm256_andnot_ps(bit, v.b));
}
HYP_INLINE __m256 most_of_8(__m256 a, __m256 b)
{
    return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
HYP_INLINE lanes lanes_most(lanes x, lanes y) { return lanes_of(most_of_8(x.a, y.a), most_of_8(x.b, y.b)); }
HYP_INLINE int lanes_not_finite(lanes v)
{
    const __m256i most = _mm256_castps_si256(most_of_8(v.a, v.b)), largest = _mm256_set1_epi32(0x7f7fffff);
    return _mm256_movemask_epi8(_mm256_cmpgt_epi32(most, largest)) != 0;
}
HYP_INLINE __m256 finite_or_0_of_8(__m256 a)
{
    return _mm256_and_ps(a, _mm256_cmp_ps(_mm256_sub_ps(a, a), _mm256_setzero_ps(), _CMP_EQ_OQ));
}
HYP_INLINE lanes lanes_finite_or_0(lanes v) { return lanes_of(finite_or_0_of_8(v.a), finite_or_0_of_8(v.b)); }
HYP_INLINE lanes lanes_least_or_0(lanes v, lanes least) /* what is below `least` becomes 0 */
{
    return lanes_of(_mm256_and_ps(v.a, _mm256_cmp_ps(v.a, least.a, _CMP_NLT_UQ)), _mm256_and_ps(v.b, _mm256_cmp_ps(v.b, least.b, _CMP_NLT_UQ)));
}
HYP_INLINE lanes lanes_from_bytes(const int8_t *q)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)q);
    return lanes_of(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))));
}
HYP_INLINE void lanes_from_nibbles(const uint8_t *p, lanes v[2]) /* 32 codes of four bits: a byte's low one first */
{
    const __m256i pairs = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p)), sign = _mm256_set1_epi8(8);
    const __m256i q = _mm256_and_si256(_mm256_or_si256(pairs, _mm256_slli_epi16(pairs, 4)), _mm256_set1_epi8(15));
    int8_t codes[2 * LANES];
    _mm256_storeu_si256((__m256i *)(void *)codes, _mm256_sub_epi8(_mm256_xor_si256(q, sign), sign));
    v[0] = lanes_from_bytes(codes), v[1] = lanes_from_bytes(codes + LANES);
}
HYP_INLINE float lanes_sum(lanes v) { return sum_of_8(_mm256_add_ps(v.a, v.b)); }
HYP_INLINE float lanes_least(lanes v) { return least_of_8(_mm256_min_ps(v.a, v.b)); }
HYP_INLINE float lanes_greatest(lanes v) { return greatest_of_8(_mm256_max_ps(v.a, v.b)); }

#else

typedef struct {
    float v[LANES];
} lanes;

#define HYP_LANES(name, parameters, expression) \
    HYP_INLINE lanes name parameters            \
    {                                           \
        lanes r;                                \
        for (int i = 0; i < LANES; ++i) r.v[i] = expression; \
        return r;                               \
    }
HYP_LANES(lanes_load, (const float *x), x[i])
HYP_LANES(lanes_set, (float f), f)
HYP_LANES(lanes_add, (lanes a, lanes b), a.v[i] + b.v[i])
HYP_LANES(lanes_sub, (lanes a, lanes b), a.v[i] - b.v[i])
HYP_LANES(lanes_mul, (lanes a, lanes b), a.v[i] * b.v[i])
HYP_LANES(lanes_div, (lanes a, lanes b), a.v[i] / b.v[i])
HYP_LANES(lanes_signed, (float f, lanes sign), sign.v[i] < 0.0f ? -f : f) /* cut off, a zero's is 0 either way */
HYP_LANES(lanes_finite_or_0, (lanes a), a.v[i] - a.v[i] == 0.0f ? a.v[i] : 0.0f)
HYP_LANES(lanes_max, (lanes a, lanes b), a.v[i] > b.v[i] ? a.v[i] : b.v[i])
HYP_LANES(lanes_min, (lanes a, lanes b), a.v[i] < b.v[i] ? a.v[i] : b.v[i])
HYP_LANES(lanes_add_if_above, (lanes a, lanes limit, lanes sum, lanes term), a.v[i] > limit.v[i] ? sum.v[i] + term.v[i] : sum.v[i])
HYP_LANES(lanes_from_bytes, (const int8_t *q), (float)q[i])
HYP_LANES(lanes_magnitude, (lanes a), float_of(bits_of(a.v[i]) & 0x7fffffff))
HYP_LANES(lanes_least_or_0, (lanes a, lanes least), a.v[i] < least.v[i] ? 0.0f : a.v[i]) /* what is below `least` becomes 0 */
HYP_LANES(lanes_most, (lanes a, lanes b), bits_of(a.v[i]) > bits_of(b.v[i]) ? a.v[i] : b.v[i])
#undef HYP_LANES
HYP_INLINE void lanes_store(float *x, lanes a) { memcpy(x, a.v, sizeof a.v); }
HYP_INLINE void lanes_bytes(lanes a, void *dst)
{
    int8_t *q = dst;
    for (int i = 0; i < LANES; ++i) q[i] = (int8_t)(int32_t)a.v[i];
}
HYP_INLINE void lanes_codes_64(const lanes v[4], int8_t low, uint8_t *dst) /* 1.5 * 2^23: adding and subtracting it rounds to even */
{
    const float least = (float)low;
    for (int i = 0; i < 4 * LANES; ++i) {
        const float f = v[i / LANES].v[i % LANES];
        dst[i] = (uint8_t)(int32_t)(((f > least ? f : least) + 12582912.0f) - 12582912.0f);
    }
}
HYP_INLINE void lanes_nibbles_64(const lanes v[4], uint8_t *dst)
{
    uint8_t q[4 * LANES];
    lanes_codes_64(v, -8, q);
    for (int i = 0; i < 2 * LANES; ++i) dst[i] = (uint8_t)((q[2 * i] & 15) | q[2 * i + 1] << 4);
}
HYP_INLINE void lanes_nibbles(lanes low, lanes high, uint8_t *dst)
{
    for (int i = 0; i < LANES; ++i) dst[i] = (uint8_t)(((int32_t)low.v[i] & 15) | ((int32_t)high.v[i] & 15) << 4);
}
HYP_INLINE uint32_t lanes_fifths(lanes low, lanes high)
{
    uint32_t h = 0;
    for (int i = 0; i < LANES; ++i) h |= (uint32_t)(low.v[i] >= 16.0f) << i | (uint32_t)(high.v[i] >= 16.0f) << (i + 16);
    return h;
}
HYP_INLINE void lanes_halves(lanes a, uint16_t h[LANES])
{
    for (int i = 0; i < LANES; ++i) h[i] = hyp_float_to_half(a.v[i]);
}
HYP_INLINE void lanes_from_nibbles(const uint8_t *p, lanes v[2]) /* 32 codes of four bits: a byte's low one first */
{
    for (int i = 0; i < 2 * LANES; ++i) v[i / LANES].v[i % LANES] = (float)(((p[i / 2] >> (i % 2 * 4) & 15) ^ 8) - 8);
}
HYP_INLINE int lanes_not_finite(lanes a)
{
    int32_t top = 0;
    for (int i = 0; i < LANES; ++i) top = bits_of(a.v[i]) > top ? bits_of(a.v[i]) : top;
    return top >= 0x7f800000;
}
HYP_INLINE float lanes_sum(lanes a)
{
    for (int i = 0; i < 8; ++i) a.v[i] += a.v[i + 8];
    for (int i = 0; i < 4; ++i) a.v[i] += a.v[i + 4];
    return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
}
HYP_INLINE float lanes_least(lanes a)
{
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; ++i) a.v[i] = a.v[i] < a.v[i + width] ? a.v[i] : a.v[i + width];
    return a.v[0];
}
HYP_INLINE float lanes_greatest(lanes a)
{
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; ++i) a.v[i] = a.v[i] > a.v[i + width] ? a.v[i] : a.v[i + width];
    return a.v[0];
}

#endif

/* Least and greatest of n floats (none a NaN), n a multiple of LANES and not 0. */
HYP_INLINE void lanes_extremes(const float *x, size_t n, float *least, float *greatest)
{
    lanes low = lanes_load(x), high = low;
    for (size_t i = LANES; i < n; i += LANES) {
        const lanes v = lanes_load(x + i);
        low = lanes_min(v, low);
        high = lanes_max(v, high);
    }
    *least = lanes_least(low);
    *greatest = lanes_greatest(high);
}

/* 1 / d, and 0 where that is no number: such a d is 0 in f16 as well. */
HYP_INLINE lanes lanes_inverse(lanes d)
{
    return lanes_finite_or_0(lanes_div(lanes_set(1.0f), d));
}

/* Adding and subtracting 1.5 * 2^23 rounds to nearest even where |v| < 2^22. */
#define ROUND_MAGIC 12582912.0f

HYP_INLINE lanes lanes_within(lanes v, lanes low, lanes high)
{
    return lanes_min(lanes_max(v, low), high);
}

/* Clamped and rounded to nearest even; a NaN becomes low. */
HYP_INLINE lanes lanes_code(lanes v, lanes low, lanes high)
{
    const lanes magic = lanes_set(ROUND_MAGIC);
    return lanes_sub(lanes_add(lanes_within(v, low, high), magic), magic);
}

HYP_INLINE float rounded_within(float v, float low, float high)
{
    v = v > low ? v : low;
    v = v < high ? v : high;
    return (v + ROUND_MAGIC) - ROUND_MAGIC;
}

#endif
