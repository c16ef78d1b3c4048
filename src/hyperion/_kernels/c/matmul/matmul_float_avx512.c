/* Float weights: one fma a K, in order of K, for every path. A panel's 16 rows are the lanes. */
#include "matmul/products_avx512.h"

enum {
    TOKENS = 8,      /* with two panels 16 accumulators: 16 fma on 10 loads, and more than the latency of two ports needs */
    RUN = 4,         /* K unrolled */
    X_AHEAD = 32,    /* K by which activations are fetched from L2 */
    GEMV_PANELS = 4  /* chains of dependent fma in flight */
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

HYP_INLINE void unpack(int type, const uint8_t *rec, size_t n, hyp_strip *strip)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type);
    for (size_t i = 0; i < n; i++) _mm512_store_ps(strip->row[i].w, weights(type, rec + i * record));
}

/* acc += one K of the strips times `tokens` tokens at x, which has 16 tokens a K. */
HYP_INLINE void one_k(int panels, int tokens, const hyp_strip *strip, size_t i, const float *x, __m512 (*acc)[TOKENS])
{
    __m512 w[HYP_STRIP_PANELS];
    HYP_UNROLL
    for (int p = 0; p < panels; p++) w[p] = _mm512_load_ps(strip[p].row[i].w);
    HYP_UNROLL
    for (int u = 0; u < tokens; u++) {
        const __m512 xu = _mm512_set1_ps(x[u]);
        HYP_UNROLL
        for (int p = 0; p < panels; p++) acc[p][u] = _mm512_fmadd_ps(w[p], xu, acc[p][u]);
    }
}

/* `tokens` (a constant, at most TOKENS) tokens from t on. */
HYP_INLINE void strip_times(int panels, int tokens, const hyp_strip *strip, size_t n, const float *x, size_t t,
                            hyp_strip_sums *sums, const hyp_ahead *ahead)
{
    __m512 acc[HYP_STRIP_PANELS][TOKENS];
    HYP_UNROLL
    for (int p = 0; p < panels; p++) {
        HYP_UNROLL
        for (int u = 0; u < tokens; u++) acc[p][u] = _mm512_load_ps(sums[p * HYP_STRIP_GROUPS].at[t + (size_t)u]);
    }
    x += t;
    size_t i = 0;
    for (; i + RUN <= n; i += RUN) { /* unrolled: the loop's own operations take ports 0 and 5 too */
        if (t == 0)
            for (int p = 0; p < panels; p++) hyp_fetch_ahead_avx512(ahead, (size_t)p, i, RUN);
        HYP_UNROLL
        for (int j = 0; j < RUN; j++, x += HYP_ACT_TILE) {
            if (t == 0) _mm_prefetch((const char *)(x + X_AHEAD * HYP_ACT_TILE), _MM_HINT_T0);
            one_k(panels, tokens, strip, i + (size_t)j, x, acc);
        }
    }
    for (; i < n; i++, x += HYP_ACT_TILE) one_k(panels, tokens, strip, i, x, acc);
    HYP_UNROLL
    for (int p = 0; p < panels; p++) {
        HYP_UNROLL
        for (int u = 0; u < tokens; u++) _mm512_store_ps(sums[p * HYP_STRIP_GROUPS].at[t + (size_t)u], acc[p][u]);
    }
}

static void strip_mul(const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens, hyp_strip_sums *sums,
                      const hyp_ahead *ahead)
{
    const float *x = (const float *)(const void *)act;
    for (size_t t = 0; t < tokens; t += TOKENS) {
        if (panels == 1) strip_times(1, TOKENS, strip, n, x, t, sums, ahead);
        else if (tokens - t <= 4) strip_times(2, 4, strip, n, x, t, sums, ahead);
        else strip_times(2, TOKENS, strip, n, x, t, sums, ahead);
    }
}

#define MUL(name, type)                                                                                                 \
    static void unpack_##name(const uint8_t *rec, size_t n, hyp_strip *strip)                                           \
    {                                                                                                                   \
        unpack(type, rec, n, strip);                                                                                    \
    }                                                                                                                   \
    void hyp_mul_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo)                                                                            \
    {                                                                                                                   \
        const hyp_strips strips = {type, unpack_##name, strip_mul, 1};                                                     \
        if (m == 1) gemv(type, w, rows, k, act, out);                                                                   \
        else hyp_strips_mul_avx512(&strips, w, rows, k, act, m, out, ldo);                                              \
    }
MUL(f32, HYP_F32)
MUL(f16, HYP_F16)
MUL(bf16, HYP_BF16)
