/* Activations into the layouts of panel.h, AVX2. */
#include <immintrin.h>

#include "matmul_ymm.h"

/* 32 codes, their scale and the sums of their halves. */
HYP_INLINE void act_block_avx2(const float *x, int8_t *q, float *d, int32_t *s)
{
    __m256i bits[4];
    for (int i = 0; i < 4; i++) bits[i] = _mm256_loadu_si256((const __m256i *)(x + 8 * i));
    /* Without the sign, floats order as integers do, and NaN is above all: it survives into the scale. */
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    __m256i top = _mm256_and_si256(bits[0], magnitude);
    for (int i = 1; i < 4; i++) top = _mm256_max_epi32(top, _mm256_and_si256(bits[i], magnitude));
    __m128i max = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    max = _mm_max_epi32(max, _mm_shuffle_epi32(max, 0x4e));
    max = _mm_max_epi32(max, _mm_shuffle_epi32(max, 0xb1));
    const float scale = _mm_cvtss_f32(_mm_castsi128_ps(max)) / 127.0f;
    /* No usable scale: zero where it is not a normal float; infinity and NaN become NaN. */
    if (!(scale >= 1.17549435e-38f && scale <= 3.4028234663852886e38f)) {
        *d = scale < 1.17549435e-38f ? 0.0f : scale - scale;
        memset(q, 0, HYP_BLOCK);
        s[0] = s[1] = 0;
        return;
    }
    *d = scale;
    const __m256 by = _mm256_set1_ps(scale);
    for (int i = 0; i < 4; i++) bits[i] = _mm256_cvtps_epi32(_mm256_div_ps(_mm256_castsi256_ps(bits[i]), by));
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

static void hyp_act_quantize_avx2(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    const size_t tile = hyp_act_tile(m), blocks = k / HYP_BLOCK, record = tile * (HYP_BLOCK + 12);
    uint8_t *out = (uint8_t *)dst;
    for (size_t t0 = 0; t0 < m; t0 += tile) {
        const size_t tokens = m - t0 < tile ? m - t0 : tile;
        for (size_t b = 0; b < blocks; b++, out += record) {
            float *d = (float *)(void *)(out + tile * HYP_BLOCK);
            int32_t *s = (int32_t *)(void *)(d + tile);
            if (tokens < tile) memset(out, 0, record);
            for (size_t t = 0; t < tokens; t++)
                act_block_avx2(x + (t0 + t) * ldx + b * HYP_BLOCK, (int8_t *)out + t * HYP_BLOCK, d + t, s + 2 * t);
        }
    }
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
    t->act_quantize = hyp_act_quantize_avx2;
    t->act_float = hyp_act_float_avx2;
}
