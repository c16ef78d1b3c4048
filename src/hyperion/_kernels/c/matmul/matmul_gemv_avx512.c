/* One token: stream the panels at memory speed, which is a matter of who prefetches.
 *
 * Zen 4: one panel at a time, for two streams of reads confuse its prefetchers (26 of 32 GB/s), and nothing by software. Intel's
 * cores: two panels, for as many reads in flight, and by software. (K types are in matmul_kgemv_avx512.c.) */
#include "matmul/products_avx512.h"

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

HYP_INLINE __m512 block_times_token(int type, const uint8_t *rec, const uint8_t *act, __m512 acc)
{
    const activation a = activation_at(act);
    const int zero = hyp_zero_avx512(type);
    hyp_block_avx512 b;
    hyp_block_load_avx512(type, rec, &b);
    __m512i low = zero ? _mm512_set1_epi32(-zero * (a.s0 + a.s1)) : _mm512_setzero_si512(), high = _mm512_setzero_si512();
    HYP_UNROLL
    for (int v = 0; v < 4; v++) {
        low = _mm512_dpbusd_epi32(low, b.w[v], hyp_spread_avx512(a.codes + 4 * v));
        high = _mm512_dpbusd_epi32(high, b.w[4 + v], hyp_spread_avx512(a.codes + 16 + 4 * v));
    }
    const __m512 dw = _mm512_mul_ps(b.d, _mm512_set1_ps(a.d));
    acc = _mm512_fmadd_ps(dw, _mm512_cvtepi32_ps(_mm512_add_epi32(low, high)), acc);
    if (hyp_shape_avx512(type) != HYP_SHAPE_MIN) return acc;
    return _mm512_fmadd_ps(b.p, _mm512_set1_ps(a.d * (float)(a.s0 + a.s1)), acc);
}

/* One record of `panels` panels, `stride` bytes apart. */
HYP_INLINE void record_times_token(int type, int panels, const uint8_t *rec, size_t stride, const uint8_t *act, __m512 *acc,
                                   size_t lead)
{
    HYP_UNROLL
    for (int p = 0; p < panels; p++, rec += stride) {
        for (int line = 0; lead && line < HYP_PANEL * (int)hyp_block_bytes(type); line += 64)
            _mm_prefetch((const char *)rec + lead + line, _MM_HINT_T0);
        acc[p] = block_times_token(type, rec, act, acc[p]);
    }
}

/* `panels` (1 or 2) panels of `stride` bytes; rows: those left from the first of them on. */
HYP_INLINE void gemv_panels(int type, int panels, const uint8_t *w, size_t stride, size_t rows, size_t k, const uint8_t *act,
                            float *out, size_t lead)
{
    __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i < k; i += HYP_BLOCK, w += HYP_PANEL * hyp_block_bytes(type), act += ACT_RECORD)
        record_times_token(type, panels, w, stride, act, acc, lead);
    for (int p = 0; p < panels; p++)
        _mm512_mask_storeu_ps(out + HYP_PANEL * p, hyp_rows_avx512(rows, HYP_PANEL * (size_t)p), acc[p]);
}

HYP_INLINE size_t gemv_lead(int type, int intel)
{
    (void)type;
    return intel ? 768 : 0;
}

#include "matmul/gemv_avx512.h"
HYP_TYPES_OF_32_AVX512(GEMV)

/* ---- Sparse panels ----------------------------------------------------------------------------------------------------
 * Their records follow each other in memory whatever blocks they are, from the first panel to the last: one stream, like that
 * of dense panels, while the activations that it picks from stay in the first-level cache. */

HYP_INLINE void gemv_sparse(int type, const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k, const uint8_t *act, float *out)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type);
    for (size_t row = 0; row < rows; row += HYP_PANEL) {
        const hyp_sparse_panel s = hyp_sparse_panel_at(type, w, offsets, row / HYP_PANEL);
        __m512 acc = _mm512_setzero_ps();
        for (size_t j = 0; j < s.n; j++)
            acc = block_times_token(type, s.records + j * record, act + hyp_sparse_block(&s, j, k / HYP_BLOCK) * ACT_RECORD, acc);
        _mm512_mask_storeu_ps(out + row, hyp_rows_avx512(rows, row), acc);
    }
}

#define GEMV_SPARSE(name, type)                                                                                         \
    void hyp_gemv_sparse_##name##_avx512(const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k,              \
                                         const void *act, float *out)                                                   \
    {                                                                                                                   \
        gemv_sparse(type, w, offsets, rows, k, act, out);                                                               \
    }
HYP_SPARSE_TYPES_AVX512(GEMV_SPARSE)
