/* Sixteen floats: one register of AVX-512, two of AVX2, an array elsewhere. All give the same bits: no fused operation,
 * and one order of additions in a sum. */
#ifndef HYP_QUANTIZE_LANES_H
#define HYP_QUANTIZE_LANES_H

enum { LANES = 16 };

#if defined(HYP_QUANTIZE_AVX2) || defined(HYP_QUANTIZE_AVX512)
#include <immintrin.h>

/* The order of every sum: eight on eight, four on four, two on two, one on one. */
HYP_INLINE float sum_of_8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

/* Bit 4 of each of 32 bytes: shifted to the bytes' signs, whatever comes from their neighbours stays below. */
HYP_INLINE uint32_t fifth_bits(const uint8_t q[32])
{
    return (uint32_t)_mm256_movemask_epi8(_mm256_slli_epi16(_mm256_loadu_si256((const __m256i *)(const void *)q), 3));
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
#endif

#if defined(HYP_QUANTIZE_AVX512)

typedef __m512 lanes;

HYP_INLINE lanes lanes_load(const float *x) { return _mm512_loadu_ps(x); }
HYP_INLINE void lanes_store(float *x, lanes a) { _mm512_storeu_ps(x, a); }
HYP_INLINE lanes lanes_set(float f) { return _mm512_set1_ps(f); }
HYP_INLINE lanes lanes_add(lanes a, lanes b) { return _mm512_add_ps(a, b); }
HYP_INLINE lanes lanes_sub(lanes a, lanes b) { return _mm512_sub_ps(a, b); }
HYP_INLINE lanes lanes_mul(lanes a, lanes b) { return _mm512_mul_ps(a, b); }
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
HYP_INLINE lanes lanes_from_bytes(const int8_t *q)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)q)));
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
HYP_INLINE lanes lanes_from_bytes(const int8_t *q)
{
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)q);
    return lanes_of(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(v, 8))));
}
HYP_INLINE float lanes_sum(lanes v) { return sum_of_8(_mm256_add_ps(v.a, v.b)); }
HYP_INLINE float lanes_least(lanes v) { return least_of_8(_mm256_min_ps(v.a, v.b)); }
HYP_INLINE float lanes_greatest(lanes v) { return greatest_of_8(_mm256_max_ps(v.a, v.b)); }

#else

HYP_INLINE uint32_t fifth_bits(const uint8_t q[32])
{
    uint32_t h = 0;
    for (int i = 0; i < 32; ++i) h |= (uint32_t)((q[i] >> 4) & 1) << i;
    return h;
}

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
HYP_LANES(lanes_max, (lanes a, lanes b), a.v[i] > b.v[i] ? a.v[i] : b.v[i])
HYP_LANES(lanes_min, (lanes a, lanes b), a.v[i] < b.v[i] ? a.v[i] : b.v[i])
HYP_LANES(lanes_add_if_above, (lanes a, lanes limit, lanes sum, lanes term), a.v[i] > limit.v[i] ? sum.v[i] + term.v[i] : sum.v[i])
HYP_LANES(lanes_from_bytes, (const int8_t *q), (float)q[i])
#undef HYP_LANES
HYP_INLINE void lanes_store(float *x, lanes a) { memcpy(x, a.v, sizeof a.v); }
HYP_INLINE void lanes_bytes(lanes a, void *dst)
{
    int8_t *q = dst;
    for (int i = 0; i < LANES; ++i) q[i] = (int8_t)(int32_t)a.v[i];
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

/* Adding and subtracting 1.5 * 2^23 rounds to nearest even where |v| < 2^22. */
#define ROUND_MAGIC 12582912.0f

/* Clamped and rounded to nearest even; a NaN becomes low. */
HYP_INLINE lanes lanes_code(lanes v, lanes low, lanes high)
{
    const lanes magic = lanes_set(ROUND_MAGIC);
    return lanes_sub(lanes_add(lanes_min(lanes_max(v, low), high), magic), magic);
}

HYP_INLINE float rounded_within(float v, float low, float high)
{
    v = v > low ? v : low;
    v = v < high ? v : high;
    return (v + ROUND_MAGIC) - ROUND_MAGIC;
}

#endif
