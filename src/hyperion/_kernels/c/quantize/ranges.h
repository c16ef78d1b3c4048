/* Least and greatest of sixteen groups of floats at a time: what a group's own lanes hold is folded across groups, so that each
 * shuffle serves two of them. Found for one group after the other, the horizontal steps would take most of a quantizer's time. */
#ifndef HYP_QUANTIZE_RANGES_H
#define HYP_QUANTIZE_RANGES_H

/* ranges_of: of n <= 16 groups of g floats (none a NaN), g a multiple of LANES; past n the last one's again. Where both zeros occur
 * in a group, either may come out. */

/* Least and greatest of the lanes of g floats. */
HYP_INLINE void lanes_range(const float *x, size_t g, lanes *low, lanes *high)
{
    *low = *high = lanes_load(x);
    for (size_t i = LANES; i < g; i += LANES) {
        const lanes v = lanes_load(x + i);
        *low = lanes_min(v, *low);
        *high = lanes_max(v, *high);
    }
}

#if defined(HYP_QUANTIZE_AVX512)

HYP_INLINE __m512 chosen(__m512 a, __m512 b, int most) { return most ? _mm512_max_ps(a, b) : _mm512_min_ps(a, b); }

/* Fold halves, quarters, pairs and neighbours; each result holds twice as many groups. */
HYP_INLINE __m512 fold_8(__m512 a, __m512 b, int most)
{
    return chosen(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee), most);
}
HYP_INLINE __m512 fold_4(__m512 a, __m512 b, int most)
{
    return chosen(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd), most);
}
HYP_INLINE __m512 fold_2(__m512 a, __m512 b, int most)
{
    return chosen(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee), most);
}
/* The last fold leaves both the quarters and what is in them in the order 0 2 1 3. */
HYP_INLINE __m512 fold_1(__m512 a, __m512 b, int most)
{
    const __m512 v = chosen(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd), most);
    const __m512 w = _mm512_permute_ps(v, 0xd8);
    return _mm512_shuffle_f32x4(w, w, 0xd8);
}

HYP_INLINE void ranges_of(const float *x, size_t n, size_t g, float least[LANES], float greatest[LANES])
{
    __m512 low[8], high[8], upper_low, upper_high;
    for (size_t j = 0; j < 8; ++j) {
        lanes_range(x + (j < n ? j : n - 1) * g, g, &low[j], &high[j]);
        lanes_range(x + (j + 8 < n ? j + 8 : n - 1) * g, g, &upper_low, &upper_high);
        low[j] = fold_8(low[j], upper_low, 0), high[j] = fold_8(high[j], upper_high, 1);
    }
    for (int j = 0; j < 4; ++j) low[j] = fold_4(low[j], low[j + 4], 0), high[j] = fold_4(high[j], high[j + 4], 1);
    for (int j = 0; j < 2; ++j) low[j] = fold_2(low[j], low[j + 2], 0), high[j] = fold_2(high[j], high[j + 2], 1);
    _mm512_storeu_ps(least, fold_1(low[0], low[1], 0));
    _mm512_storeu_ps(greatest, fold_1(high[0], high[1], 1));
}

#elif defined(HYP_QUANTIZE_AVX2)

HYP_INLINE __m256 chosen(__m256 a, __m256 b, int most) { return most ? _mm256_max_ps(a, b) : _mm256_min_ps(a, b); }

HYP_INLINE __m256 fold_4(__m256 a, __m256 b, int most)
{
    return chosen(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31), most);
}
HYP_INLINE __m256 fold_2(__m256 a, __m256 b, int most)
{
    return chosen(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee), most);
}
HYP_INLINE __m256 fold_1(__m256 a, __m256 b, int most) /* leaves the order 0 2 1 3 in each half */
{
    return _mm256_permute_ps(chosen(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd), most), 0xd8);
}

HYP_INLINE void ranges_of(const float *x, size_t n, size_t g, float least[LANES], float greatest[LANES])
{
    for (size_t first = 0; first < LANES; first += 8) {
        __m256 low[8], high[8];
        for (size_t j = 0; j < 8; ++j) {
            lanes l, h;
            lanes_range(x + (first + j < n ? first + j : n - 1) * g, g, &l, &h);
            low[j] = chosen(l.a, l.b, 0), high[j] = chosen(h.a, h.b, 1);
        }
        for (int j = 0; j < 4; ++j) low[j] = fold_4(low[j], low[j + 4], 0), high[j] = fold_4(high[j], high[j + 4], 1);
        for (int j = 0; j < 2; ++j) low[j] = fold_2(low[j], low[j + 2], 0), high[j] = fold_2(high[j], high[j + 2], 1);
        _mm256_storeu_ps(least + first, fold_1(low[0], low[1], 0));
        _mm256_storeu_ps(greatest + first, fold_1(high[0], high[1], 1));
    }
}

#else

HYP_INLINE void ranges_of(const float *x, size_t n, size_t g, float least[LANES], float greatest[LANES])
{
    for (size_t j = 0; j < LANES; ++j) lanes_extremes(x + (j < n ? j : n - 1) * g, g, least + j, greatest + j);
}

#endif
#endif
