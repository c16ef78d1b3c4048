/* One token: stream the panels at memory speed. Panels go two by two: twice as many independent loads and chains of
 * vpdpbusd in flight, and one broadcast of the activations for both. */
#include "matmul/products_avx512.h"

/* Bytes ahead of the current record to prefetch; 0 leaves it to the hardware, which is best on the machines measured
 * with huge pages. */
#ifndef HYP_GEMV_PREFETCH
#define HYP_GEMV_PREFETCH 0
#endif

enum { ACT_RECORD = HYP_BLOCK + 4 + 8 };

/* The activations' side of one block. */
typedef struct {
    const uint8_t *codes;
    float d;
    int32_t s0, s1;
} activation;

HYP_INLINE activation activation_at(const uint8_t *rec)
{
    activation a;
    a.codes = rec;
    memcpy(&a.d, rec + 32, 4);
    a.s0 = hyp_word_avx512(rec + 36);
    a.s1 = hyp_word_avx512(rec + 40);
    return a;
}

HYP_INLINE __m512 block_times_token(int type, const hyp_block_avx512 *b, activation a, __m512 acc)
{
    const int zero = hyp_zero_avx512(type), shape = hyp_shape_avx512(type);
    const int halves = shape == HYP_SHAPE_HALVES;
    const __m512 da = _mm512_set1_ps(a.d), dw = _mm512_mul_ps(b->d, da);
    __m512i low = _mm512_setzero_si512(), high = low;
    if (zero) low = _mm512_set1_epi32(-zero * (halves ? a.s0 : a.s0 + a.s1));
    if (halves) high = _mm512_set1_epi32(-zero * a.s1);
    HYP_UNROLL
    for (int v = 0; v < 4; v++) {
        low = _mm512_dpbusd_epi32(low, b->w[v], hyp_spread_avx512(a.codes + 4 * v));
        high = _mm512_dpbusd_epi32(high, b->w[4 + v], hyp_spread_avx512(a.codes + 16 + 4 * v));
    }
    if (halves) {
        const __m512 part = _mm512_mul_ps(_mm512_castsi512_ps(b->q), _mm512_cvtepi32_ps(high));
        return _mm512_fmadd_ps(dw, _mm512_fmadd_ps(b->p, _mm512_cvtepi32_ps(low), part), acc);
    }
    acc = _mm512_fmadd_ps(dw, _mm512_cvtepi32_ps(_mm512_add_epi32(low, high)), acc);
    if (shape == HYP_SHAPE_MIN) acc = _mm512_fmadd_ps(b->p, _mm512_set1_ps(a.d * (float)(a.s0 + a.s1)), acc);
    if (shape == HYP_SHAPE_PAIRS) {
        const __m512i pair = _mm512_set1_epi32((int32_t)(((uint32_t)a.s0 & 0xffffu) | (uint32_t)a.s1 << 16));
        acc = _mm512_fnmadd_ps(_mm512_mul_ps(b->p, da), _mm512_cvtepi32_ps(_mm512_madd_epi16(b->q, pair)), acc);
    }
    return acc;
}

/* `panels` (1 or 2) panels of `stride` bytes; rows: those left from the first of them on. */
HYP_INLINE void gemv_panels(int type, int panels, const uint8_t *w, size_t stride, size_t rows, size_t k, const uint8_t *act,
                            float *out)
{
    const int groups = (int)(hyp_block_len(type) / HYP_BLOCK);
    const size_t record = HYP_PANEL * hyp_block_bytes(type), records = k / hyp_block_len(type);
    __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i < records; i++, w += record) {
        if (HYP_GEMV_PREFETCH) {
            for (int p = 0; p < panels; p++)
                for (size_t at = 0; at < record; at += 64)
                    _mm_prefetch((const char *)w + (size_t)p * stride + HYP_GEMV_PREFETCH + at, _MM_HINT_T0);
        }
        HYP_UNROLL
        for (int g = 0; g < groups; g++, act += ACT_RECORD) {
            const activation a = activation_at(act);
            HYP_UNROLL
            for (int p = 0; p < panels; p++) {
                hyp_block_avx512 b;
                hyp_block_load_avx512(type, w + (size_t)p * stride, g, &b);
                acc[p] = block_times_token(type, &b, a, acc[p]);
            }
        }
    }
    for (int p = 0; p < panels; p++)
        _mm512_mask_storeu_ps(out + HYP_PANEL * p, hyp_rows_avx512(rows, HYP_PANEL * (size_t)p), acc[p]);
}

HYP_INLINE void gemv(int type, const uint8_t *w, size_t rows, size_t k, const void *act, float *out)
{
    const size_t stride = hyp_panel_bytes(type, k);
    size_t row = 0;
    for (; row + HYP_PANEL < rows; row += 2 * HYP_PANEL)
        gemv_panels(type, 2, w + row / HYP_PANEL * stride, stride, rows - row, k, act, out + row);
    if (row < rows) gemv_panels(type, 1, w + row / HYP_PANEL * stride, stride, rows - row, k, act, out + row);
}

#define GEMV(name, type)                                                                                                \
    void hyp_gemv_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, float *out)                 \
    {                                                                                                                   \
        gemv(type, w, rows, k, act, out);                                                                               \
    }
HYP_BLOCK_TYPES_AVX512(GEMV)
