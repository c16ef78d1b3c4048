/* Packing of activations: to codes by 32 or by 128, or to floats with the tokens side by side. */
#include "matmul/products_avx512.h"
#include "matmul/reach_avx2.h"

/* The scale of a block whose greatest magnitude has these bits; 0 where the codes are 0, and then *d is what the record gets. */
HYP_INLINE float scale_of(int32_t bits, float *d)
{
    const int32_t nan = 0x7fc00000;
    float absmax;
    memcpy(&absmax, &bits, 4);
    const float scale = absmax / 127.0f;
    *d = scale;
    if (bits < 0x7f800000 && scale >= 1.17549435e-38f) return scale;
    *d = 0.0f;
    if (bits >= 0x7f800000) memcpy(d, &nan, 4);
    return 0.0f;
}

/* As integers NaN > infinity > every finite magnitude, so that one maximum finds all three. */
HYP_INLINE __m512i larger_magnitudes(__m512i most, const float *x)
{
    return _mm512_max_epi32(most, _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi32(0x7fffffff)));
}

/* 32 codes, and the sums of their halves. */
HYP_INLINE void quantize_block(const float *x, float scale, uint8_t *codes, int32_t *sums)
{
    if (scale == 0.0f) {
        memset(codes, 0, HYP_BLOCK);
        sums[0] = sums[1] = 0;
        return;
    }
    const __m512 divisor = _mm512_set1_ps(scale);
    const __m128i low = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_div_ps(_mm512_loadu_ps(x), divisor)));
    const __m128i high = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_div_ps(_mm512_loadu_ps(x + 16), divisor)));
    const __m256i q = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    _mm256_storeu_si256((__m256i *)(void *)codes, q);
    __m256i s = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
    sums[0] = _mm256_extract_epi32(s, 0);
    sums[1] = _mm256_extract_epi32(s, 4);
}

/* Token t's codes, scale and sums of 32 K, as panel.h defines them. */
HYP_INLINE void quantize_by_32(const float *x, uint8_t *rec, size_t tile, size_t t)
{
    float d;
    int32_t sums[2];
    const __m512i most = larger_magnitudes(larger_magnitudes(_mm512_setzero_si512(), x), x + 16);
    const float scale = scale_of(_mm512_reduce_max_epi32(most), &d);
    quantize_block(x, scale, rec + t * HYP_BLOCK, sums);
    memcpy(rec + tile * HYP_BLOCK + 4 * t, &d, 4);
    memcpy(rec + tile * (HYP_BLOCK + 4) + 8 * t, sums, 8);
}

/* And of 128 K, in four records. */
HYP_INLINE void quantize_by_128(const float *x, uint8_t *rec, size_t tile, size_t t)
{
    const size_t bytes = tile * (HYP_BLOCK + 4 + 8);
    float d;
    int32_t reach = 0;
    uint8_t *to_reach = rec + HYP_ACT_REACH * bytes + tile * HYP_BLOCK + 4 * t;
    __m512i most = _mm512_setzero_si512();
    for (size_t i = 0; i < HYP_SPAN; i += 16) most = larger_magnitudes(most, x + i);
    const float scale = scale_of(_mm512_reduce_max_epi32(most), &d);
    for (size_t i = 0; i < HYP_SPAN; i += 2 * HYP_BLOCK, rec += 2 * bytes) {
        int32_t s[2][2];
        quantize_block(x + i, scale, rec + t * HYP_BLOCK, s[0]);
        quantize_block(x + i + HYP_BLOCK, scale, rec + bytes + t * HYP_BLOCK, s[1]);
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

/* One group of up to `tile` tokens; `len`: the K of a scale. */
HYP_INLINE void quantize_group(size_t len, const float *x, size_t ldx, size_t tokens, size_t tile, size_t k, uint8_t *dst)
{
    const size_t bytes = hyp_act_group_bytes(0, tile, len);
    for (size_t i = 0; i < k; i += len, dst += bytes) {
        if (tokens < tile) memset(dst, 0, bytes);
        for (size_t t = 0; t < tokens; t++) {
            if (len == HYP_BLOCK) quantize_by_32(x + t * ldx + i, dst, tile, t);
            else quantize_by_128(x + t * ldx + i, dst, tile, t);
        }
    }
}

HYP_INLINE void quantize(size_t len, const float *x, size_t ldx, size_t m, size_t k, uint8_t *to)
{
    if (m == 1) {
        quantize_group(len, x, ldx, 1, 1, k, to);
        return;
    }
    const size_t bytes = hyp_act_group_bytes(0, HYP_ACT_TILE, k);
    for (size_t t = 0; t < m; t += HYP_ACT_TILE, to += bytes)
        quantize_group(len, x + t * ldx, ldx, m - t < HYP_ACT_TILE ? m - t : HYP_ACT_TILE, HYP_ACT_TILE, k, to);
}

void hyp_act_by_32_avx512(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    quantize(HYP_BLOCK, x, ldx, m, k, dst);
}

void hyp_act_by_128_avx512(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    quantize(HYP_SPAN, x, ldx, m, k, dst);
}

/* 16 rows of 16 floats to 16 columns: pairs of lanes, then of pairs, then of 128-bit quarters. */
HYP_INLINE void transpose16(__m512 *r)
{
    __m512 t[16];
    HYP_UNROLL
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    HYP_UNROLL
    for (int i = 0; i < 16; i += 4) {
        HYP_UNROLL
        for (int j = 0; j < 2; j++) {
            const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    HYP_UNROLL
    for (int i = 0; i < 4; i++) {
        const __m512 a = r[i], b = r[4 + i], c = r[8 + i], d = r[12 + i];
        const __m512 ab02 = _mm512_shuffle_f32x4(a, b, 0x88), ab13 = _mm512_shuffle_f32x4(a, b, 0xdd);
        const __m512 cd02 = _mm512_shuffle_f32x4(c, d, 0x88), cd13 = _mm512_shuffle_f32x4(c, d, 0xdd);
        r[i] = _mm512_shuffle_f32x4(ab02, cd02, 0x88);
        r[8 + i] = _mm512_shuffle_f32x4(ab02, cd02, 0xdd);
        r[4 + i] = _mm512_shuffle_f32x4(ab13, cd13, 0x88);
        r[12 + i] = _mm512_shuffle_f32x4(ab13, cd13, 0xdd);
    }
}

void hyp_act_float_avx512(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    float *to = dst;
    if (m == 1) {
        memcpy(to, x, 4 * k);
        return;
    }
    for (size_t t = 0; t < m; t += HYP_ACT_TILE, to += HYP_ACT_TILE * k) {
        const size_t tokens = m - t < HYP_ACT_TILE ? m - t : HYP_ACT_TILE;
        for (size_t i = 0; i < k; i += 16) {
            const size_t n = k - i < 16 ? k - i : 16;
            const __mmask16 lanes = (__mmask16)((1u << n) - 1);
            __m512 r[16];
            HYP_UNROLL
            for (size_t u = 0; u < 16; u++)
                r[u] = u < tokens ? _mm512_maskz_loadu_ps(lanes, x + (t + u) * ldx + i) : _mm512_setzero_ps();
            transpose16(r);
            HYP_UNROLL
            for (size_t u = 0; u < 16; u++)
                if (u < n) _mm512_storeu_ps(to + (i + u) * HYP_ACT_TILE, r[u]);
        }
    }
}
