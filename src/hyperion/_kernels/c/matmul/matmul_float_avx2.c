/* F32, F16 and BF16 panels, AVX2 and FMA. One accumulator a row and token, K in order: the same bits in every path. */
#include <immintrin.h>

#include "matmul_ymm.h"

#define FLOAT_K 128     /* K converted at a time: 8 KiB of floats, in L1 beside 8 KiB of activations */
#define FLOAT_TOKENS 64 /* tokens that share what is converted */

HYP_INLINE size_t float_bytes_avx2(int type)
{
    return type == HYP_F32 ? 4 : 2;
}

/* 8 of the 16 rows at one K. */
HYP_INLINE __m256 float_load_avx2(int type, const uint8_t *w, int half)
{
    if (type == HYP_F32) return _mm256_loadu_ps((const float *)(const void *)w + 8 * half);
    const __m128i h = _mm_loadu_si128((const __m128i *)(w + 16 * half));
    if (type == HYP_F16) return _mm256_cvtph_ps(h);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

HYP_INLINE void float_store_avx2(float *out, size_t n, __m256 low, __m256 high)
{
    if (n >= HYP_PANEL) {
        _mm256_storeu_ps(out, low);
        _mm256_storeu_ps(out + 8, high);
        return;
    }
    float rows[HYP_PANEL];
    _mm256_storeu_ps(rows, low);
    _mm256_storeu_ps(rows + 8, high);
    memcpy(out, rows, n * sizeof *out);
}

/* One token, `panels` panels side by side: a row's sum is one chain of fma (4 cycles each), so two registers would hold
 * 16-bit weights to 8 bytes a cycle, below what DRAM gives. Steps of one line of every panel; `ahead` as in ymm_mul.h. */
HYP_INLINE void float_one_avx2(int type, int panels, const uint8_t *w, size_t bytes, size_t rows, size_t k, const float *x,
                               float *out, size_t ahead)
{
    __m256 acc[4][2];
    const size_t step = HYP_PANEL * float_bytes_avx2(type), line = 64 / step;
    for (int p = 0; p < panels; p++) acc[p][0] = acc[p][1] = _mm256_setzero_ps();
    for (size_t i = 0; i < k; i += line) {
        const uint8_t *at = w + i * step;
        if (ahead) {
            const uint8_t *next = at + ahead + (i * step + ahead < bytes ? 0 : (size_t)(panels - 1) * bytes);
            for (int p = 0; p < panels; p++) _mm_prefetch((const char *)next + (size_t)p * bytes, _MM_HINT_T1);
        }
        const size_t n = k - i < line ? k - i : line;
        for (size_t j = 0; j < n; j++, at += step) {
            const __m256 a = _mm256_broadcast_ss(x + i + j);
            for (int p = 0; p < panels; p++) {
                acc[p][0] = _mm256_fmadd_ps(float_load_avx2(type, at + (size_t)p * bytes, 0), a, acc[p][0]);
                acc[p][1] = _mm256_fmadd_ps(float_load_avx2(type, at + (size_t)p * bytes, 1), a, acc[p][1]);
            }
        }
    }
    for (int p = 0; p < panels; p++) {
        const size_t row = (size_t)p * HYP_PANEL;
        float_store_avx2(out + row, rows - row, acc[p][0], acc[p][1]);
    }
}

HYP_INLINE void float_mul_one_avx2(int type, const uint8_t *w, size_t rows, size_t k, const float *x, float *out, size_t ahead)
{
    const size_t bytes = hyp_panel_bytes(type, k);
    size_t row = 0, left = (rows + HYP_PANEL - 1) / HYP_PANEL;
    for (; left >= 4; left -= 4, row += 4 * HYP_PANEL, w += 4 * bytes)
        float_one_avx2(type, 4, w, bytes, rows - row, k, x, out + row, ahead);
    if (left >= 2) {
        float_one_avx2(type, 2, w, bytes, rows - row, k, x, out + row, 0);
        left -= 2, row += 2 * HYP_PANEL, w += 2 * bytes;
    }
    if (left) float_one_avx2(type, 1, w, bytes, rows - row, k, x, out + row, 0);
}

/* n <= 6 tokens x 16 rows over k positions: 12 accumulators hide the latency of fma on both of its ports. */
HYP_INLINE void float_tile_avx2(int type, int n, const uint8_t *w, size_t k, const float *x, float *acc)
{
    const size_t step = HYP_PANEL * float_bytes_avx2(type);
    __m256 s[6][2];
    for (int t = 0; t < n; t++) {
        s[t][0] = _mm256_loadu_ps(acc + t * HYP_PANEL);
        s[t][1] = _mm256_loadu_ps(acc + t * HYP_PANEL + 8);
    }
    for (size_t i = 0; i < k; i++, w += step, x += HYP_ACT_TILE) {
        const __m256 w0 = float_load_avx2(type, w, 0), w1 = float_load_avx2(type, w, 1);
        for (int t = 0; t < n; t++) {
            const __m256 a = _mm256_broadcast_ss(x + t);
            s[t][0] = _mm256_fmadd_ps(w0, a, s[t][0]);
            s[t][1] = _mm256_fmadd_ps(w1, a, s[t][1]);
        }
    }
    for (int t = 0; t < n; t++) {
        _mm256_storeu_ps(acc + t * HYP_PANEL, s[t][0]);
        _mm256_storeu_ps(acc + t * HYP_PANEL + 8, s[t][1]);
    }
}

HYP_INLINE void float_tokens_avx2(int type, size_t n, const uint8_t *w, size_t k, const float *x, float *acc)
{
    switch (n) {
    case 1: float_tile_avx2(type, 1, w, k, x, acc); break;
    case 2: float_tile_avx2(type, 2, w, k, x, acc); break;
    case 3: float_tile_avx2(type, 3, w, k, x, acc); break;
    case 4: float_tile_avx2(type, 4, w, k, x, acc); break;
    case 5: float_tile_avx2(type, 5, w, k, x, acc); break;
    default: float_tile_avx2(type, 6, w, k, x, acc); break;
    }
}

/* A group of up to 16 tokens in even parts of at most 6. */
static void float_group_avx2(const float *w, size_t tokens, size_t k, const float *x, float *acc)
{
    for (size_t parts = (tokens + 5) / 6, t = 0; parts; parts--) {
        const size_t n = (tokens - t + parts - 1) / parts;
        float_tokens_avx2(HYP_F32, n, (const uint8_t *)w, k, x + t, acc + t * HYP_PANEL);
        t += n;
    }
}

/* One panel, up to 64 tokens. */
HYP_INLINE void float_panel_avx2(int type, const uint8_t *w, size_t rows, size_t k, const float *x, size_t m, float *out, size_t ldo)
{
    HYP_ALIGN64 float acc[FLOAT_TOKENS][HYP_PANEL], scratch[FLOAT_K * HYP_PANEL];
    const size_t step = HYP_PANEL * float_bytes_avx2(type);
    memset(acc, 0, m * sizeof acc[0]);
    for (size_t i = 0; i < k; i += FLOAT_K) {
        const size_t n = k - i < FLOAT_K ? k - i : FLOAT_K;
        const uint8_t *at = w + i * step;
        if (type != HYP_F32 && m <= 6) { /* one pass over the weights: convert on the way */
            float_tokens_avx2(type, m, at, n, x + i * HYP_ACT_TILE, acc[0]);
            continue;
        }
        const float *weights = (const float *)(const void *)at;
        if (type != HYP_F32) {
            for (size_t j = 0; j < n; j++) {
                _mm256_store_ps(scratch + j * HYP_PANEL, float_load_avx2(type, at + j * step, 0));
                _mm256_store_ps(scratch + j * HYP_PANEL + 8, float_load_avx2(type, at + j * step, 1));
            }
            weights = scratch;
        }
        for (size_t t = 0; t < m; t += HYP_ACT_TILE)
            float_group_avx2(weights, m - t < HYP_ACT_TILE ? m - t : HYP_ACT_TILE, n, x + t * k + i * HYP_ACT_TILE, acc[t]);
    }
    for (size_t t = 0; t < m; t++)
        float_store_avx2(out + t * ldo, rows, _mm256_load_ps(acc[t]), _mm256_load_ps(acc[t] + 8));
}

HYP_INLINE void float_mul_avx2(int type, const uint8_t *w, size_t rows, size_t k, const float *x, size_t m, float *out, size_t ldo,
                               size_t ahead)
{
    if (m == 1) {
        float_mul_one_avx2(type, w, rows, k, x, out, ahead);
        return;
    }
    const size_t bytes = hyp_panel_bytes(type, k);
    for (size_t t = 0; t < m; t += FLOAT_TOKENS) {
        const uint8_t *panel = w;
        for (size_t row = 0; row < rows; row += HYP_PANEL, panel += bytes)
            float_panel_avx2(type, panel, rows - row, k, x + t * k, m - t < FLOAT_TOKENS ? m - t : FLOAT_TOKENS,
                             out + t * ldo + row, ldo);
    }
}

#define HYP_FLOAT_KERNEL(name, type)                                                                                           \
    static void name##_run(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo,         \
                           size_t ahead)                                                                                       \
    {                                                                                                                          \
        float_mul_avx2(type, w, rows, k, (const float *)act, m, out, ldo, ahead);                                              \
    }                                                                                                                          \
    static void name(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)               \
    {                                                                                                                          \
        name##_run(w, rows, k, act, m, out, ldo, 0);                                                                           \
    }                                                                                                                          \
    static void name##_ahead(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)       \
    {                                                                                                                          \
        name##_run(w, rows, k, act, m, out, ldo, HYP_YMM_AHEAD);                                                               \
    }

HYP_FLOAT_KERNEL(hyp_mul_f32_avx2, HYP_F32)
HYP_FLOAT_KERNEL(hyp_mul_f16_avx2, HYP_F16)
HYP_FLOAT_KERNEL(hyp_mul_bf16_avx2, HYP_BF16)

void hyp_matmul_fill_float_avx2(hyp_table *t, int ahead)
{
    t->mul[HYP_F32] = ahead ? hyp_mul_f32_avx2_ahead : hyp_mul_f32_avx2;
    t->mul[HYP_F16] = ahead ? hyp_mul_f16_avx2_ahead : hyp_mul_f16_avx2;
    t->mul[HYP_BF16] = ahead ? hyp_mul_bf16_avx2_ahead : hyp_mul_bf16_avx2;
}
