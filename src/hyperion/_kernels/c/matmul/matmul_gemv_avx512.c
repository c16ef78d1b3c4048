/* One token: stream the panels at memory speed. Panels go two by two: twice as many independent loads and chains of
 * vpdpbusd in flight, and one broadcast of the activations for both. */
#include "matmul/products_avx512.h"

enum { ACT_RECORD = HYP_BLOCK + 4 + 8, AHEAD = 768 };

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

/* For one token, Q2_K and Q3_K do not look products up: their codes stay where they lie in the byte, `place` bits up,
 * which takes one or three operations a vector, and the scales of the two halves carry 2^-place, which is exact. */
HYP_INLINE int place(int type, int g)
{
    return type == HYP_Q2_K ? 2 * (g & 3) : type == HYP_Q3_K ? ((g & 3) == 3 ? 5 : 2 * (g & 3)) : 0;
}

HYP_INLINE __m512 scale_of_half(__m128i scale, int bits)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scale)), _mm512_set1_ps(1.0f / (float)(1 << bits)));
}

HYP_INLINE void load_q2_k(const uint8_t *rec, int g, hyp_block_avx512 *b, __m512 *dmin, __m512i *mins)
{
    const __m128i s0 = hyp_bytes16_avx512(rec + 64 + 32 * g), s1 = hyp_bytes16_avx512(rec + 80 + 32 * g);
    const int at = place(HYP_Q2_K, g);
    HYP_UNROLL
    for (int v = 0; v < 8; v++)
        b->w[v] = _mm512_and_si512(hyp_load_avx512(rec + 320 + 512 * (g / 4) + 64 * v), _mm512_set1_epi8((char)(3 << at)));
    b->d = hyp_half16_avx512(rec);
    b->p = scale_of_half(hyp_field_avx512(s0, 0, 15), at);
    b->q = _mm512_castps_si512(scale_of_half(hyp_field_avx512(s1, 0, 15), at));
    *dmin = hyp_half16_avx512(rec + 32);
    *mins = _mm512_or_si512(hyp_widen_avx512(hyp_field_avx512(s0, 4, 15)),
                            _mm512_slli_epi32(hyp_widen_avx512(hyp_field_avx512(s1, 4, 15)), 16));
}

HYP_INLINE void load_q3_k(const uint8_t *rec, int g, hyp_block_avx512 *b)
{
    __m128i s0, s1;
    const int at = place(HYP_Q3_K, g), last = (g & 3) == 3;
    hyp_q3_scales_avx512(rec, g, &s0, &s1);
    HYP_UNROLL
    for (int v = 0; v < 8; v++) {
        const __m512i h = hyp_load_avx512(rec + 224 + 64 * v), x = hyp_load_avx512(rec + 736 + 512 * (g / 4) + 64 * v);
        const __m512i two = _mm512_and_si512(last ? _mm512_srli_epi32(x, 1) : x, _mm512_set1_epi8((char)(3 << at)));
        b->w[v] = hyp_or_and_avx512(two, hyp_move_bit_avx512(h, g, at + 2), _mm512_set1_epi8((char)(4 << at)));
    }
    b->d = hyp_half16_avx512(rec);
    b->p = scale_of_half(s0, at);
    b->q = _mm512_castps_si512(scale_of_half(s1, at));
}

/* Block g of a record times one token. */
HYP_INLINE __m512 block_times_token(int type, const uint8_t *rec, int g, activation a, __m512 acc)
{
    const int shape = type == HYP_Q2_K || type == HYP_Q3_K ? HYP_SHAPE_HALVES : hyp_shape_avx512(type);
    const int zero = type == HYP_Q3_K ? 4 << place(type, g) : hyp_zero_avx512(type), halves = shape == HYP_SHAPE_HALVES;
    hyp_block_avx512 b;
    __m512 dmin = _mm512_setzero_ps();
    __m512i mins = _mm512_setzero_si512(), low = mins, high = mins;
    if (type == HYP_Q2_K) load_q2_k(rec, g, &b, &dmin, &mins);
    else if (type == HYP_Q3_K) load_q3_k(rec, g, &b);
    else hyp_block_load_avx512(type, rec, g, &b);
    if (zero) low = _mm512_set1_epi32(-zero * (halves ? a.s0 : a.s0 + a.s1));
    if (zero && halves) high = _mm512_set1_epi32(-zero * a.s1);
    HYP_UNROLL
    for (int v = 0; v < 4; v++) {
        low = _mm512_dpbusd_epi32(low, b.w[v], hyp_spread_avx512(a.codes + 4 * v));
        high = _mm512_dpbusd_epi32(high, b.w[4 + v], hyp_spread_avx512(a.codes + 16 + 4 * v));
    }
    const __m512 da = _mm512_set1_ps(a.d), dw = _mm512_mul_ps(b.d, da);
    if (halves) {
        const __m512 part = _mm512_mul_ps(_mm512_castsi512_ps(b.q), _mm512_cvtepi32_ps(high));
        acc = _mm512_fmadd_ps(dw, _mm512_fmadd_ps(b.p, _mm512_cvtepi32_ps(low), part), acc);
    } else {
        acc = _mm512_fmadd_ps(dw, _mm512_cvtepi32_ps(_mm512_add_epi32(low, high)), acc);
    }
    if (shape == HYP_SHAPE_MIN) acc = _mm512_fmadd_ps(b.p, _mm512_set1_ps(a.d * (float)(a.s0 + a.s1)), acc);
    if (type == HYP_Q2_K) {
        const __m512i pair = _mm512_set1_epi32((int32_t)(((uint32_t)a.s0 & 0xffffu) | (uint32_t)a.s1 << 16));
        acc = _mm512_fnmadd_ps(_mm512_mul_ps(dmin, da), _mm512_cvtepi32_ps(_mm512_madd_epi16(mins, pair)), acc);
    }
    return acc;
}

/* The lines of [from, to) into the first-level cache. */
HYP_INLINE void fetch(const uint8_t *from, const uint8_t *to)
{
    for (from = (const uint8_t *)(((uintptr_t)from + 63) & ~(uintptr_t)63); from < to; from += 64)
        _mm_prefetch((const char *)from, _MM_HINT_T0);
}

/* `panels` (1 or 2) panels of `stride` bytes; rows: those left from the first of them on. */
HYP_INLINE void gemv_panels(int type, int panels, const uint8_t *w, size_t stride, size_t rows, size_t k, const uint8_t *act,
                            float *out, int ahead)
{
    const int groups = (int)(hyp_block_len(type) / HYP_BLOCK);
    const size_t record = HYP_PANEL * hyp_block_bytes(type), records = k / hyp_block_len(type);
    /* A record of 256 is not read in the order of its bytes, so that the whole of the next one is fetched meanwhile. */
    const size_t lead = groups > 1 ? record + 256 : AHEAD, part = record / (size_t)groups;
    __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i < records; i++, w += record) {
        HYP_UNROLL
        for (int g = 0; g < groups; g++, act += ACT_RECORD) {
            const activation a = activation_at(act);
            HYP_UNROLL
            for (int p = 0; p < panels; p++) {
                const uint8_t *rec = w + (size_t)p * stride, *share = rec + lead + (size_t)g * part;
                if (ahead) fetch(share, share + part);
                acc[p] = block_times_token(type, rec, g, a, acc[p]);
            }
        }
    }
    for (int p = 0; p < panels; p++)
        _mm512_mask_storeu_ps(out + HYP_PANEL * p, hyp_rows_avx512(rows, HYP_PANEL * (size_t)p), acc[p]);
}

HYP_INLINE void gemv(int type, const uint8_t *w, size_t rows, size_t k, const void *act, float *out,
                     int ahead)
{
    const size_t stride = hyp_panel_bytes(type, k);
    size_t row = 0;
    for (; row + HYP_PANEL < rows; row += 2 * HYP_PANEL)
        gemv_panels(type, 2, w + row / HYP_PANEL * stride, stride, rows - row, k, act, out + row, ahead);
    if (row < rows) gemv_panels(type, 1, w + row / HYP_PANEL * stride, stride, rows - row, k, act, out + row, ahead);
}

#define GEMV(name, type)                                                                                                \
    void hyp_gemv_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, float *out, int ahead)   \
    {                                                                                                                   \
        gemv(type, w, rows, k, act, out, ahead);                                                                        \
    }
HYP_BLOCK_TYPES_AVX512(GEMV)
