/* Least and greatest, or largest magnitude, of sixteen groups of floats at a time: what a group's own lanes hold is folded across
 * groups, so that each shuffle serves two of them. Found for one group after the other, the horizontal steps would take most of a
 * quantizer's time. */
#ifndef HYP_QUANTIZE_RANGES_H
#define HYP_QUANTIZE_RANGES_H

/* ranges_of and magnitudes_of: of n <= 16 groups of g floats, g a multiple of LANES; past n the last one's again. Where both zeros
 * occur in a group, either may come out. Both return what `lanes_most` makes of all magnitudes: lanes_not_finite tells of a NaN,
 * with which the results mean nothing. */

enum { LEAST, GREATEST, MOST };

HYP_INLINE lanes widen(lanes a, lanes b, int what)
{
    return what == LEAST ? lanes_min(a, b) : what == GREATEST ? lanes_max(a, b) : lanes_most(a, b);
}

/* Least and greatest of the lanes of g floats; `most` grows. */
HYP_INLINE void lanes_range(const float *x, size_t g, lanes *low, lanes *high, lanes *most)
{
    *low = *high = lanes_load(x);
    *most = lanes_most(lanes_magnitude(*low), *most);
    for (size_t i = LANES; i < g; i += LANES) {
        const lanes v = lanes_load(x + i);
        *low = lanes_min(v, *low);
        *high = lanes_max(v, *high);
        *most = lanes_most(lanes_magnitude(v), *most);
    }
}

HYP_INLINE lanes lanes_magnitudes(const float *x, size_t g)
{
    lanes most = lanes_magnitude(lanes_load(x));
    for (size_t i = LANES; i < g; i += LANES) most = lanes_most(lanes_magnitude(lanes_load(x + i)), most);
    return most;
}

#if defined(HYP_QUANTIZE_AVX512)

/* Fold halves, quarters, pairs and neighbours; each result holds twice as many groups. */
HYP_INLINE lanes fold_8(lanes a, lanes b, int what)
{
    return widen(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee), what);
}
HYP_INLINE lanes fold_4(lanes a, lanes b, int what)
{
    return widen(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd), what);
}
HYP_INLINE lanes fold_2(lanes a, lanes b, int what)
{
    return widen(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee), what);
}
/* The last fold leaves group 4k + q in quarter q. */
HYP_INLINE lanes fold_1(lanes a, lanes b, int what)
{
    const lanes v = widen(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd), what);
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), v);
}
/* a[j] holds groups 2j and 2j + 1 already. Neighbours are folded, so that groups are read in the order of memory. */
HYP_INLINE lanes folded(lanes a[8], int what)
{
    for (int j = 0; j < 4; ++j) a[j] = fold_4(a[2 * j], a[2 * j + 1], what);
    for (int j = 0; j < 2; ++j) a[j] = fold_2(a[2 * j], a[2 * j + 1], what);
    return fold_1(a[0], a[1], what);
}

HYP_INLINE lanes ranges_of(const float *x, size_t n, size_t g, float least[LANES], float greatest[LANES])
{
    lanes low[8], high[8], upper_low, upper_high, most = lanes_set(0.0f);
    for (size_t j = 0; j < 8; ++j) {
        lanes_range(x + (2 * j < n ? 2 * j : n - 1) * g, g, &low[j], &high[j], &most);
        lanes_range(x + (2 * j + 1 < n ? 2 * j + 1 : n - 1) * g, g, &upper_low, &upper_high, &most);
        low[j] = fold_8(low[j], upper_low, LEAST), high[j] = fold_8(high[j], upper_high, GREATEST);
    }
    lanes_store(least, folded(low, LEAST));
    lanes_store(greatest, folded(high, GREATEST));
    return most;
}

HYP_INLINE lanes magnitudes_of(const float *x, size_t n, size_t g)
{
    lanes most[8];
    for (size_t j = 0; j < 8; ++j) {
        const lanes a = lanes_magnitudes(x + (2 * j < n ? 2 * j : n - 1) * g, g);
        most[j] = fold_8(a, lanes_magnitudes(x + (2 * j + 1 < n ? 2 * j + 1 : n - 1) * g, g), MOST);
    }
    return folded(most, MOST);
}

#elif defined(HYP_QUANTIZE_AVX2)

HYP_INLINE __m256 widen_8(__m256 a, __m256 b, int what)
{
    return what == LEAST ? _mm256_min_ps(a, b) : what == GREATEST ? _mm256_max_ps(a, b) : most_of_8(a, b);
}

HYP_INLINE __m256 fold_4(__m256 a, __m256 b, int what)
{
    return widen_8(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31), what);
}
HYP_INLINE __m256 fold_2(__m256 a, __m256 b, int what)
{
    return widen_8(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee), what);
}
HYP_INLINE __m256 fold_1(__m256 a, __m256 b, int what) /* leaves the order 0 2 1 3 in each half */
{
    return _mm256_permute_ps(widen_8(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd), what), 0xd8);
}
HYP_INLINE __m256 folded(__m256 a[8], int what)
{
    for (int j = 0; j < 4; ++j) a[j] = fold_4(a[j], a[j + 4], what);
    for (int j = 0; j < 2; ++j) a[j] = fold_2(a[j], a[j + 2], what);
    return fold_1(a[0], a[1], what);
}

HYP_INLINE lanes ranges_of(const float *x, size_t n, size_t g, float least[LANES], float greatest[LANES])
{
    lanes most = lanes_set(0.0f);
    for (size_t first = 0; first < LANES; first += 8) {
        __m256 low[8], high[8];
        for (size_t j = 0; j < 8; ++j) {
            lanes l, h;
            lanes_range(x + (first + j < n ? first + j : n - 1) * g, g, &l, &h, &most);
            low[j] = widen_8(l.a, l.b, LEAST), high[j] = widen_8(h.a, h.b, GREATEST);
        }
        _mm256_storeu_ps(least + first, folded(low, LEAST));
        _mm256_storeu_ps(greatest + first, folded(high, GREATEST));
    }
    return most;
}

HYP_INLINE __m256 magnitudes_of_8(const float *x, size_t first, size_t n, size_t g)
{
    __m256 most[8];
    for (size_t j = 0; j < 8; ++j) {
        const lanes a = lanes_magnitudes(x + (first + j < n ? first + j : n - 1) * g, g);
        most[j] = most_of_8(a.a, a.b);
    }
    return folded(most, MOST);
}

HYP_INLINE lanes magnitudes_of(const float *x, size_t n, size_t g)
{
    return lanes_of(magnitudes_of_8(x, 0, n, g), magnitudes_of_8(x, 8, n, g));
}

#else

HYP_INLINE lanes ranges_of(const float *x, size_t n, size_t g, float least[LANES], float greatest[LANES])
{
    lanes most = lanes_set(0.0f);
    for (size_t j = 0; j < LANES; ++j) {
        lanes low, high;
        lanes_range(x + (j < n ? j : n - 1) * g, g, &low, &high, &most);
        least[j] = lanes_least(low), greatest[j] = lanes_greatest(high);
    }
    return most;
}

HYP_INLINE lanes magnitudes_of(const float *x, size_t n, size_t g)
{
    float most[LANES];
    for (size_t j = 0; j < LANES; ++j) {
        lanes a = lanes_magnitudes(x + (j < n ? j : n - 1) * g, g);
        for (int i = 1; i < LANES; ++i) a.v[0] = bits_of(a.v[i]) > bits_of(a.v[0]) ? a.v[i] : a.v[0];
        most[j] = a.v[0];
    }
    return lanes_load(most);
}

#endif
#endif
