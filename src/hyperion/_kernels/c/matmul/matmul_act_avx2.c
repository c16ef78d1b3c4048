/* Activations into the layouts of panel.h, AVX2. */
#include <immintrin.h>

#include "matmul_ymm.h"
#include "reach_avx2.h"

/* Without the sign, floats order as integers do, and NaN is above all: it survives into the scale. */
HYP_INLINE __m256i act_magnitudes_avx2(__m256i most, const float *x, size_t n)
{
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    for (size_t i = 0; i < n; i += 8)
        most = _mm256_max_epi32(most, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(const void *)(x + i)), magnitude));
    return most;
}

/* The scale of n values; 0 where their codes are 0, and then *d is what the record gets. */
HYP_INLINE float act_scale_avx2(const float *x, size_t n, float *d)
{
    const __m256i most = act_magnitudes_avx2(_mm256_setzero_si256(), x, n);
    __m128i max = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    max = _mm_max_epi32(max, _mm_shuffle_epi32(max, 0x4e));
    max = _mm_max_epi32(max, _mm_shuffle_epi32(max, 0xb1));
    const float scale = _mm_cvtss_f32(_mm_castsi128_ps(max)) / 127.0f;
    *d = scale;
    if (scale >= 1.17549435e-38f && scale <= 3.4028234663852886e38f) return scale;
    /* No usable scale: zero where it is not a normal float; infinity and NaN become NaN. */
    *d = scale < 1.17549435e-38f ? 0.0f : scale - scale;
    return 0.0f;
}

/* 32 codes and the sums of their halves. */
HYP_INLINE void act_block_avx2(const float *x, float scale, int8_t *q, int32_t *s)
{
    if (scale == 0.0f) {
        memset(q, 0, HYP_BLOCK);
        s[0] = s[1] = 0;
        return;
    }
    const __m256 by = _mm256_set1_ps(scale);
    __m256i bits[4];
    for (int i = 0; i < 4; i++) bits[i] = _mm256_cvtps_epi32(_mm256_div_ps(_mm256_loadu_ps(x + 8 * i), by));
    /* Packing works in 128-bit lanes: dwords come out as 0 2 4 6 1 3 5 7 of the wanted order. */
    const __m256i words = _mm256_packs_epi16(_mm256_packs_epi32(bits[0], bits[1]), _mm256_packs_epi32(bits[2], bits[3]));
    const __m256i codes = _mm256_permutevar8x32_epi32(words, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, codes);
    const __m256i four = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), codes), _mm256_set1_epi16(1));
    __m256i sum = _mm256_add_epi32(four, _mm256_shuffle_epi32(four, 0x4e));
    sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xb1));
    s[0] = _mm_cvtsi128_si32(_mm256_castsi256_si128(sum));
    s[1] = _mm_cvtsi128_si32(_mm256_extracti128_si256(sum, 1));
}

/* Token t's codes, scale and sums of 32 K. */
HYP_INLINE void act_by_32_avx2(const float *x, uint8_t *rec, size_t tile, size_t t)
{
    float d;
    int32_t s[2];
    const float scale = act_scale_avx2(x, HYP_BLOCK, &d);
    act_block_avx2(x, scale, (int8_t *)rec + t * HYP_BLOCK, s);
    memcpy(rec + tile * HYP_BLOCK + 4 * t, &d, 4);
    memcpy(rec + tile * (HYP_BLOCK + 4) + 8 * t, s, 8);
}

/* And of 128 K, in four records. */
HYP_INLINE void act_by_128_avx2(const float *x, uint8_t *rec, size_t tile, size_t t)
{
    const size_t bytes = tile * (HYP_BLOCK + 12);
    float d;
    int32_t reach = 0;
    uint8_t *to_reach = rec + HYP_ACT_REACH * bytes + tile * HYP_BLOCK + 4 * t;
    const float scale = act_scale_avx2(x, HYP_SPAN, &d);
    for (size_t i = 0; i < HYP_SPAN; i += 2 * HYP_BLOCK, rec += 2 * bytes) {
        int32_t s[2][2];
        act_block_avx2(x + i, scale, (int8_t *)rec + t * HYP_BLOCK, s[0]);
        act_block_avx2(x + i + HYP_BLOCK, scale, (int8_t *)rec + bytes + t * HYP_BLOCK, s[1]);
        const uint32_t pair = hyp_act_words(s[0][0] + s[0][1], s[1][0] + s[1][1]);
        for (size_t n = 0; n < 2; n++) {
            const uint32_t half = hyp_act_words(s[n][0], s[n][1]);
            const int32_t own = hyp_reach_avx2(rec + n * bytes + t * HYP_BLOCK, s[n]);
            uint8_t *to = rec + n * bytes + tile * HYP_BLOCK + 4 * t;
            reach = own > reach ? own : reach;
            memcpy(to, &d, 4);
            memcpy(to + 4 * tile, &half, 4);
            memcpy(to + 8 * tile, &pair, 4);
        }
    }
    memcpy(to_reach, &reach, 4);
}

/* `len`: the K of a scale. */
HYP_INLINE void act_quantize_avx2(size_t len, const float *x, size_t ldx, size_t m, size_t k, uint8_t *out)
{
    const size_t tile = hyp_act_tile(m), bytes = hyp_act_group_bytes(0, tile, len);
    for (size_t t0 = 0; t0 < m; t0 += tile) {
        const size_t tokens = m - t0 < tile ? m - t0 : tile;
        for (size_t i = 0; i < k; i += len, out += bytes) {
            if (tokens < tile) memset(out, 0, bytes);
            for (size_t t = 0; t < tokens; t++) {
                if (len == HYP_BLOCK) act_by_32_avx2(x + (t0 + t) * ldx + i, out, tile, t);
                else act_by_128_avx2(x + (t0 + t) * ldx + i, out, tile, t);
            }
        }
    }
}

static void hyp_act_by_32_avx2(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    act_quantize_avx2(HYP_BLOCK, x, ldx, m, k, dst);
}

static void hyp_act_by_128_avx2(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    act_quantize_avx2(HYP_SPAN, x, ldx, m, k, dst);
}

/* dst[k][16] from 8 rows of x, 8 values each: an 8 x 8 transposition. */
HYP_INLINE void act_transpose8_avx2(const float *x, size_t ldx, float *dst)
{
    __m256 r[8], s[8];
    for (int i = 0; i < 8; i++) r[i] = _mm256_loadu_ps(x + (size_t)i * ldx);
    for (int i = 0; i < 4; i++) {
        s[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        s[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(s[4 * i], s[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(s[4 * i + 1], s[4 * i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        _mm256_storeu_ps(dst + i * HYP_ACT_TILE, _mm256_permute2f128_ps(r[i], r[4 + i], 0x20));
        _mm256_storeu_ps(dst + (4 + i) * HYP_ACT_TILE, _mm256_permute2f128_ps(r[i], r[4 + i], 0x31));
    }
}

static void act_group_float_avx2(const float *x, size_t ldx, size_t tokens, size_t k, float *dst)
{
    size_t t = 0;
    for (; t + 8 <= tokens; t += 8) {
        size_t i = 0;
        for (; i + 8 <= k; i += 8) act_transpose8_avx2(x + t * ldx + i, ldx, dst + i * HYP_ACT_TILE + t);
        for (; i < k; i++)
            for (size_t j = t; j < t + 8; j++) dst[i * HYP_ACT_TILE + j] = x[j * ldx + i];
    }
    if (t == HYP_ACT_TILE) return;
    for (size_t i = 0; i < k; i++)
        for (size_t j = t; j < HYP_ACT_TILE; j++) dst[i * HYP_ACT_TILE + j] = j < tokens ? x[j * ldx + i] : 0.0f;
}

static void hyp_act_float_avx2(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    if (m == 1) {
        memcpy(dst, x, k * sizeof *x);
        return;
    }
    for (size_t t = 0; t < m; t += HYP_ACT_TILE)
        act_group_float_avx2(x + t * ldx, ldx, m - t < HYP_ACT_TILE ? m - t : HYP_ACT_TILE, k, (float *)dst + t * k);
}

void hyp_matmul_fill_act_avx2(hyp_table *t)
{
    t->act[HYP_ACT_FLOAT] = hyp_act_float_avx2;
    t->act[HYP_ACT_BY_32] = hyp_act_by_32_avx2;
    t->act[HYP_ACT_BY_128] = hyp_act_by_128_avx2;
}
