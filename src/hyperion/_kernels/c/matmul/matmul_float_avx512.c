/* Float weights: one fma a K, in order of K, for every path. A panel's 16 rows are the lanes. */
#include "matmul/products_avx512.h"

enum {
    STRIP = 128,          /* K of a strip: 2 panels of it as floats are 16 KiB, 16 tokens of it 8 KiB: both stay in L1 */
    PANELS = 2,
    TOKENS = 8,           /* 2 x 8 accumulators: 16 fma on 10 loads, more than the two fma ports' latency needs */
    GEMV_PANELS = 4,      /* chains of dependent fma in flight */
    GROUPS = 32,
    L2_BYTES = 1 << 20
};

/* 16 weights of one K as floats. */
HYP_INLINE __m512 weights(int type, const uint8_t *w)
{
    if (type == HYP_F16) return hyp_half16_avx512(w);
    if (type == HYP_BF16) {
        const __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)w);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
    }
    return _mm512_loadu_ps((const float *)(const void *)w);
}

HYP_INLINE void gemv_panels(int type, int panels, const uint8_t *w, size_t stride, size_t rows, size_t k, const float *x,
                            float *out)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type);
    __m512 acc[GEMV_PANELS];
    HYP_UNROLL
    for (int p = 0; p < panels; p++) acc[p] = _mm512_setzero_ps();
    for (size_t i = 0; i < k; i++, w += record) {
        const __m512 xi = _mm512_set1_ps(x[i]);
        HYP_UNROLL
        for (int p = 0; p < panels; p++) acc[p] = _mm512_fmadd_ps(weights(type, w + (size_t)p * stride), xi, acc[p]);
    }
    HYP_UNROLL
    for (int p = 0; p < panels; p++)
        _mm512_mask_storeu_ps(out + HYP_PANEL * p, hyp_rows_avx512(rows, HYP_PANEL * (size_t)p), acc[p]);
}

HYP_INLINE void gemv(int type, const uint8_t *w, size_t rows, size_t k, const float *x, float *out)
{
    const size_t stride = hyp_panel_bytes(type, k);
    size_t row = 0;
    for (; row + (GEMV_PANELS - 1) * HYP_PANEL < rows; row += GEMV_PANELS * HYP_PANEL)
        gemv_panels(type, GEMV_PANELS, w + row / HYP_PANEL * stride, stride, rows - row, k, x, out + row);
    for (; row < rows; row += HYP_PANEL)
        gemv_panels(type, 1, w + row / HYP_PANEL * stride, stride, rows - row, k, x, out + row);
}

typedef struct {
    HYP_ALIGN64 float strip[PANELS][STRIP][HYP_PANEL];
    float acc[PANELS][GROUPS][HYP_ACT_TILE][HYP_PANEL];
} work_area;

/* acc[panel][token] += strip x `tokens` (a constant) tokens at x, which has 16 tokens a K. */
HYP_INLINE void strip_times(int panels, int tokens, const float *const *w, size_t n, const float *x,
                            float (*const *out)[HYP_PANEL])
{
    __m512 acc[PANELS][TOKENS];
    HYP_UNROLL
    for (int p = 0; p < panels; p++) {
        HYP_UNROLL
        for (int t = 0; t < tokens; t++) acc[p][t] = _mm512_load_ps(out[p][t]);
    }
    for (size_t i = 0; i < n; i++, x += HYP_ACT_TILE) {
        __m512 wi[PANELS];
        HYP_UNROLL
        for (int p = 0; p < panels; p++) wi[p] = _mm512_loadu_ps(w[p] + i * HYP_PANEL);
        HYP_UNROLL
        for (int t = 0; t < tokens; t++) {
            const __m512 xt = _mm512_set1_ps(x[t]);
            HYP_UNROLL
            for (int p = 0; p < panels; p++) acc[p][t] = _mm512_fmadd_ps(wi[p], xt, acc[p][t]);
        }
    }
    HYP_UNROLL
    for (int p = 0; p < panels; p++) {
        HYP_UNROLL
        for (int t = 0; t < tokens; t++) _mm512_store_ps(out[p][t], acc[p][t]);
    }
}

static void strip_times_group(size_t panels, const float *const *w, size_t n, const float *x, size_t tokens,
                              float (*const *acc)[HYP_PANEL])
{
    for (size_t t = 0; t < tokens; t += TOKENS) {
        float(*out[PANELS])[HYP_PANEL] = {acc[0] + t, acc[1] + t};
        float(*const *o)[HYP_PANEL] = (float(*const *)[HYP_PANEL])out;
        if (panels == 2 && tokens - t > 4) strip_times(2, TOKENS, w, n, x + t, o);
        else if (panels == 2) strip_times(2, 4, w, n, x + t, o);
        else strip_times(1, TOKENS, w, n, x + t, o);
    }
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

HYP_INLINE void panels_times_groups(int type, const uint8_t *w, size_t panels, size_t k, const float *x, size_t groups,
                                    size_t m, work_area *area)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type), stride = hyp_panel_bytes(type, k);
    for (size_t p = 0; p < panels; p++) memset(area->acc[p], 0, groups * sizeof area->acc[p][0]);
    for (size_t i = 0; i < k; i += STRIP) {
        const size_t n = smaller(STRIP, k - i);
        const float *from[PANELS] = {area->strip[0][0], area->strip[1][0]};
        for (size_t p = 0; p < panels; p++) {
            const uint8_t *source = w + p * stride + i * record;
            for (size_t j = 0; j < n; j++) _mm512_store_ps(area->strip[p][j], weights(type, source + j * record));
        }
        for (size_t g = 0; g < groups; g++) {
            float(*acc[PANELS])[HYP_PANEL] = {area->acc[0][g], area->acc[1][g]};
            strip_times_group(panels, from, n, x + (g * k + i) * HYP_ACT_TILE, smaller(HYP_ACT_TILE, m - g * HYP_ACT_TILE),
                              (float(*const *)[HYP_PANEL])acc);
        }
    }
}

HYP_INLINE void mul(int type, const uint8_t *w, size_t rows, size_t k, const float *x, size_t m, float *out, size_t ldo)
{
    if (m == 1) {
        gemv(type, w, rows, k, x, out);
        return;
    }
    const size_t group_bytes = hyp_act_group_bytes(1, HYP_ACT_TILE, k), stride = hyp_panel_bytes(type, k);
    const size_t all = (m + HYP_ACT_TILE - 1) / HYP_ACT_TILE, fit = L2_BYTES / (group_bytes + 1);
    const size_t most = fit < 1 ? 1 : smaller(fit, GROUPS);
    const size_t rounds = (all + most - 1) / most, groups = rounds ? (all + rounds - 1) / rounds : 0;
    work_area area;
    for (size_t g = 0; g < all; g += groups) {
        const size_t n = smaller(groups, all - g), first = g * HYP_ACT_TILE, tokens = smaller(n * HYP_ACT_TILE, m - first);
        for (size_t row = 0; row < rows; row += PANELS * HYP_PANEL) {
            const size_t panels = rows - row > HYP_PANEL ? 2 : 1;
            panels_times_groups(type, w + row / HYP_PANEL * stride, panels, k, x + g * HYP_ACT_TILE * k, n, tokens, &area);
            for (size_t p = 0; p < panels; p++) {
                const size_t at = row + p * HYP_PANEL;
                const __mmask16 lanes = hyp_rows_avx512(rows, at);
                const float(*acc)[HYP_PANEL] = (const float(*)[HYP_PANEL])area.acc[p];
                for (size_t t = 0; t < tokens; t++)
                    _mm512_mask_storeu_ps(out + (first + t) * ldo + at, lanes, _mm512_load_ps(acc[t]));
            }
        }
    }
}

#define MUL(name, type)                                                                                                 \
    void hyp_mul_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo)                                                                            \
    {                                                                                                                   \
        mul(type, w, rows, k, act, m, out, ldo);                                                                        \
    }
MUL(f32, HYP_F32)
MUL(f16, HYP_F16)
MUL(bf16, HYP_BF16)
