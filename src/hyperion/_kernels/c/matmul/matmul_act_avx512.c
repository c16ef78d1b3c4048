/* Packing of activations: to blocks of 32 codes, or to floats with the tokens side by side. */
#include "matmul/products_avx512.h"

/* One token's block of 32: codes, scale and half sums as panel.h defines them. */
HYP_INLINE void quantize_block(const float *x, uint8_t *codes, float *d, int32_t *sums)
{
    const __m512 a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    /* As integers NaN > infinity > every finite magnitude, so that one maximum finds all three. */
    const __m512i most = _mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), magnitude),
                                          _mm512_and_si512(_mm512_castps_si512(b), magnitude));
    const int32_t bits = _mm512_reduce_max_epi32(most);
    float absmax, scale;
    memcpy(&absmax, &bits, 4);
    scale = absmax / 127.0f;
    if (bits >= 0x7f800000) {
        const int32_t nan = 0x7fc00000;
        memcpy(&scale, &nan, 4);
    }
    const int finite = bits < 0x7f800000, usable = finite && scale >= 1.17549435e-38f;
    if (!usable) {
        memset(codes, 0, HYP_BLOCK);
        *d = finite ? 0.0f : scale;
        sums[0] = sums[1] = 0;
        return;
    }
    const __m512 divisor = _mm512_set1_ps(scale);
    const __m128i low = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_div_ps(a, divisor)));
    const __m128i high = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_div_ps(b, divisor)));
    const __m256i q = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    _mm256_storeu_si256((__m256i *)(void *)codes, q);
    *d = scale;
    __m256i s = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
    sums[0] = _mm256_extract_epi32(s, 0);
    sums[1] = _mm256_extract_epi32(s, 4);
}

HYP_INLINE void quantize_group(const float *x, size_t ldx, size_t tokens, size_t tile, size_t k, uint8_t *dst)
{
    const size_t record = tile * (HYP_BLOCK + 4 + 8);
    for (size_t b = 0; b < k / HYP_BLOCK; b++, dst += record) {
        if (tokens < tile) memset(dst, 0, record);
        for (size_t t = 0; t < tokens; t++) {
            float d;
            int32_t sums[2];
            quantize_block(x + t * ldx + b * HYP_BLOCK, dst + t * HYP_BLOCK, &d, sums);
            memcpy(dst + tile * HYP_BLOCK + 4 * t, &d, 4);
            memcpy(dst + tile * (HYP_BLOCK + 4) + 8 * t, sums, 8);
        }
    }
}

void hyp_act_quantize_avx512(const float *x, size_t ldx, size_t m, size_t k, void *dst)
{
    uint8_t *to = dst;
    if (m == 1) {
        quantize_group(x, ldx, 1, 1, k, to);
        return;
    }
    const size_t bytes = hyp_act_group_bytes(0, HYP_ACT_TILE, k);
    for (size_t t = 0; t < m; t += HYP_ACT_TILE, to += bytes)
        quantize_group(x + t * ldx, ldx, m - t < HYP_ACT_TILE ? m - t : HYP_ACT_TILE, HYP_ACT_TILE, k, to);
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
