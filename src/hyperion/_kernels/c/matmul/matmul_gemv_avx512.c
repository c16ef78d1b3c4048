/* One token: stream the panels at memory speed, which is a matter of who prefetches.
 *
 * Zen 4, records of 32: one panel at a time, for two streams of reads confuse its prefetchers (26 of 32 GB/s), and nothing by
 * software. Records of 256 are not read in the order of their bytes, which costs the hardware's prefetch up to two thirds; there
 * it is done by software, three records ahead. Intel's cores: two panels, for as many reads in flight, and by software always. */
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

/* ---- Sums of a group under its scales ---------------------------------------------------------------------------------- */

/* What a group's sums are multiplied with: see the shapes in block_avx512.h. Q2_K and Q3_K have the shape HALVES here. */
typedef struct {
    __m512 d, p, q;
    __m512 dmin;  /* Q2_K */
    __m512i mins; /* Q2_K: two int16 a lane */
} factors;

/* For one token, Q2_K and Q3_K do not look products up: their codes stay where they lie in the byte, `place` bits up,
 * which takes one or three operations a vector, and the scales of the two halves carry 2^-place, which is exact. */
HYP_INLINE int place(int type, int g)
{
    return type == HYP_Q2_K ? 2 * (g & 3) : type == HYP_Q3_K ? ((g & 3) == 3 ? 5 : 2 * (g & 3)) : 0;
}

HYP_INLINE int shape_of(int type)
{
    return type == HYP_Q2_K || type == HYP_Q3_K ? HYP_SHAPE_HALVES : hyp_shape_avx512(type);
}

HYP_INLINE int zero_of(int type, int g)
{
    return type == HYP_Q3_K ? 4 << place(type, g) : hyp_zero_avx512(type);
}

HYP_INLINE __m512 scale_of_half(__m128i scale, int bits)
{
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scale)), _mm512_set1_ps(1.0f / (float)(1 << bits)));
}

/* Of group g of a record of 256. */
HYP_INLINE void group_factors(int type, const uint8_t *rec, int g, factors *f)
{
    const int at = place(type, g);
    hyp_block_avx512 b;
    __m128i s0, s1;
    f->d = hyp_half16_avx512(rec);
    switch (type) {
    case HYP_Q4_K: case HYP_Q5_K:
        hyp_scale_min_avx512(rec, g, &b);
        f->d = b.d;
        f->p = b.p;
        return;
    case HYP_Q2_K:
        s0 = hyp_bytes16_avx512(rec + 64 + 32 * g), s1 = hyp_bytes16_avx512(rec + 80 + 32 * g);
        f->dmin = hyp_half16_avx512(rec + 32);
        f->mins = _mm512_or_si512(hyp_widen_avx512(hyp_field_avx512(s0, 4, 15)),
                                  _mm512_slli_epi32(hyp_widen_avx512(hyp_field_avx512(s1, 4, 15)), 16));
        s0 = hyp_field_avx512(s0, 0, 15), s1 = hyp_field_avx512(s1, 0, 15);
        break;
    case HYP_Q3_K: hyp_q3_scales_avx512(rec, g, &s0, &s1); break;
    default: s0 = hyp_bytes16_avx512(rec + 32 + 32 * g), s1 = hyp_bytes16_avx512(rec + 48 + 32 * g); break; /* Q6_K */
    }
    f->p = scale_of_half(s0, at);
    f->q = scale_of_half(s1, at);
}

/* acc + the group's product, in the order that panel.h fixes. */
HYP_INLINE __m512 scaled(int type, const factors *f, activation a, __m512i low, __m512i high, __m512 acc)
{
    const int shape = shape_of(type);
    const __m512 da = _mm512_set1_ps(a.d), dw = _mm512_mul_ps(f->d, da);
    if (shape == HYP_SHAPE_HALVES) {
        const __m512 part = _mm512_mul_ps(f->q, _mm512_cvtepi32_ps(high));
        acc = _mm512_fmadd_ps(dw, _mm512_fmadd_ps(f->p, _mm512_cvtepi32_ps(low), part), acc);
    } else {
        acc = _mm512_fmadd_ps(dw, _mm512_cvtepi32_ps(_mm512_add_epi32(low, high)), acc);
    }
    if (shape == HYP_SHAPE_MIN) acc = _mm512_fmadd_ps(f->p, _mm512_set1_ps(a.d * (float)(a.s0 + a.s1)), acc);
    if (type == HYP_Q2_K) {
        const __m512i pair = _mm512_set1_epi32((int32_t)(((uint32_t)a.s0 & 0xffffu) | (uint32_t)a.s1 << 16));
        acc = _mm512_fnmadd_ps(_mm512_mul_ps(f->dmin, da), _mm512_cvtepi32_ps(_mm512_madd_epi16(f->mins, pair)), acc);
    }
    return acc;
}

/* Where the integer sums of a group start. */
HYP_INLINE __m512i start_low(int type, int g, activation a)
{
    const int zero = zero_of(type, g);
    return zero ? _mm512_set1_epi32(-zero * (shape_of(type) == HYP_SHAPE_HALVES ? a.s0 : a.s0 + a.s1)) : _mm512_setzero_si512();
}

HYP_INLINE __m512i start_high(int type, int g, activation a)
{
    const int zero = zero_of(type, g);
    return zero && shape_of(type) == HYP_SHAPE_HALVES ? _mm512_set1_epi32(-zero * a.s1) : _mm512_setzero_si512();
}

/* ---- Records of 32 -------------------------------------------------------------------------------------------------- */

HYP_INLINE __m512 block_times_token(int type, const uint8_t *rec, const uint8_t *act, __m512 acc)
{
    const activation a = activation_at(act);
    hyp_block_avx512 b;
    hyp_block_load_avx512(type, rec, 0, &b);
    __m512i low = start_low(type, 0, a), high = start_high(type, 0, a);
    HYP_UNROLL
    for (int v = 0; v < 4; v++) {
        low = _mm512_dpbusd_epi32(low, b.w[v], hyp_spread_avx512(a.codes + 4 * v));
        high = _mm512_dpbusd_epi32(high, b.w[4 + v], hyp_spread_avx512(a.codes + 16 + 4 * v));
    }
    const factors f = {.d = b.d, .p = b.p};
    return scaled(type, &f, a, low, high, acc);
}

/* ---- Records of 256 --------------------------------------------------------------------------------------------------
 * A run is 8 vectors one after another, which hold 2 groups (4 in Q2_K and Q3_K) in different bits: each vector is read once.
 * Runs are loops on purpose. Unrolled, gcc gathers a record's prefetches into one burst, which costs half of the
 * bandwidth, and no load sees the small steps from one address to the next that the processor's prefetcher follows. */

#if defined(__clang__)
#define ROLLED _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define ROLLED _Pragma("GCC unroll 1")
#else
#define ROLLED
#endif

enum { MOST_GROUPS = 4 };

/* Groups of a part: the runs whose groups follow each other. */
HYP_INLINE int part_groups(int type)
{
    return type == HYP_Q4_K || type == HYP_Q5_K ? 2 : 4;
}

/* Where the codes' low bits start in a record. */
HYP_INLINE size_t low_bits(int type)
{
    return type == HYP_Q2_K ? 320 : type == HYP_Q3_K ? 736 : type == HYP_Q4_K ? 256 : type == HYP_Q5_K ? 768 : 288;
}

/* Where the high bits of part u are: 8 vectors, the same for all parts but in Q6_K. */
HYP_INLINE size_t high_bits(int type, int u)
{
    return type == HYP_Q3_K ? 224 : type == HYP_Q5_K ? 256 : 2336 + 512 * (size_t)u;
}

/* Right by how much the high bits of group j of part u have to be rotated. */
HYP_INLINE int high_turn(int type, int u, int j)
{
    return type == HYP_Q3_K ? 4 * u + j - place(type, j) - 2 : type == HYP_Q5_K ? 2 * u + j - 4 : 2 * j - 4;
}

/* A vector of group j of a part, from its low bits and its high bits, which are `turn` left of their place. */
HYP_INLINE __m512i codes_of(int type, int j, __m512i x, __m512i h, __m512i turn)
{
    const int at = place(type, j);
    const int upper = type == HYP_Q6_K ? j >> 1 : j; /* the upper nibble */
    if (type == HYP_Q2_K) return _mm512_and_si512(x, _mm512_set1_epi8((char)(3 << at)));
    if (type == HYP_Q3_K) x = _mm512_and_si512(j == 3 ? _mm512_srli_epi32(x, 1) : x, _mm512_set1_epi8((char)(3 << at)));
    else x = upper ? hyp_high4_avx512(x) : hyp_low4_avx512(x);
    if (type == HYP_Q4_K) return x;
    const int mask = type == HYP_Q3_K ? 4 << at : type == HYP_Q5_K ? 16 : 0x30;
    return hyp_or_and_avx512(x, _mm512_rorv_epi32(h, turn), _mm512_set1_epi8((char)mask));
}

/* Part u: the integer sums of its groups in two loops, then their scales in order. */
HYP_INLINE __m512 part_times_token(int type, const uint8_t *rec, int u, const uint8_t *act, __m512 acc, size_t lead)
{
    const int n = part_groups(type), runs = type == HYP_Q6_K ? 2 : 1;
    const int step = HYP_PANEL * (int)hyp_block_bytes(type) / (8 * runs * 8 / n); /* bytes of a record for each vector */
    const uint8_t *q = rec + low_bits(type) + 512 * runs * u, *next = rec + lead + 8 * runs * u * step;
    __m512i sum[MOST_GROUPS][2];
    ROLLED
    for (int r = 0; r < runs; r++) {
        const uint8_t *h = rec + high_bits(type, u), *codes = act;
        ROLLED
        for (int half = 0; half < 2; half++) {
            __m512i s[MOST_GROUPS], turn[MOST_GROUPS];
            HYP_UNROLL
            for (int j = 0; j < n; j += runs) {
                const activation a = activation_at(act + (j + r) * ACT_RECORD);
                turn[j] = _mm512_set1_epi32(high_turn(type, u, j + r));
                s[j] = half ? start_high(type, j, a) : start_low(type, j, a);
            }
            ROLLED
            for (int v = 0; v < 4; v++, q += 64, h += 64, codes += 4, next += step) {
                const __m512i x = hyp_load_avx512(q);
                const __m512i b = type == HYP_Q2_K || type == HYP_Q4_K ? x : hyp_load_avx512(h);
                HYP_UNROLL
                for (int line = 0; lead && line < step; line += 64) _mm_prefetch((const char *)next + line, _MM_HINT_T0);
                HYP_UNROLL
                for (int j = 0; j < n; j += runs)
                    s[j] = _mm512_dpbusd_epi32(s[j], codes_of(type, j, x, b, turn[j]),
                                               hyp_spread_avx512(codes + (j + r) * ACT_RECORD));
            }
            HYP_UNROLL
            for (int j = 0; j < n; j += runs) sum[j + r][half] = s[j];
        }
    }
    HYP_UNROLL
    for (int j = 0; j < n; j++) {
        factors f;
        group_factors(type, rec, u * n + j, &f);
        acc = scaled(type, &f, activation_at(act + j * ACT_RECORD), sum[j][0], sum[j][1], acc);
    }
    return acc;
}

/* One record of `panels` panels, `stride` bytes apart. */
HYP_INLINE void record_times_token(int type, int panels, const uint8_t *rec, size_t stride, const uint8_t *act, __m512 *acc,
                                   size_t lead)
{
    const int n = part_groups(type);
    if (hyp_block_len(type) == HYP_BLOCK) {
        HYP_UNROLL
        for (int p = 0; p < panels; p++, rec += stride) {
            for (int line = 0; lead && line < HYP_PANEL * (int)hyp_block_bytes(type); line += 64)
                _mm_prefetch((const char *)rec + lead + line, _MM_HINT_T0);
            acc[p] = block_times_token(type, rec, act, acc[p]);
        }
        return;
    }
    HYP_UNROLL
    for (int p = 0; p < panels; p++, rec += stride) {
        ROLLED
        for (int u = 0; u < 8 / n; u++)
            acc[p] = part_times_token(type, rec, u, act + u * n * ACT_RECORD, acc[p], lead);
    }
}

/* `panels` (1 or 2) panels of `stride` bytes; rows: those left from the first of them on. */
HYP_INLINE void gemv_panels(int type, int panels, const uint8_t *w, size_t stride, size_t rows, size_t k, const uint8_t *act,
                            float *out, size_t lead)
{
    const size_t len = hyp_block_len(type), record = HYP_PANEL * hyp_block_bytes(type);
    __m512 acc[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t i = 0; i < k; i += len, w += record, act += len / HYP_BLOCK * ACT_RECORD)
        record_times_token(type, panels, w, stride, act, acc, lead);
    for (int p = 0; p < panels; p++)
        _mm512_mask_storeu_ps(out + HYP_PANEL * p, hyp_rows_avx512(rows, HYP_PANEL * (size_t)p), acc[p]);
}

HYP_INLINE void gemv(int type, const uint8_t *w, size_t rows, size_t k, const void *act, float *out, int intel)
{
    const size_t stride = hyp_panel_bytes(type, k), record = HYP_PANEL * hyp_block_bytes(type);
    const size_t lead = hyp_block_len(type) == HYP_BLOCK ? (intel ? 768 : 0) : intel ? record + 256 : 3 * record;
    size_t row = 0;
    for (; intel && row + HYP_PANEL < rows; row += 2 * HYP_PANEL)
        gemv_panels(type, 2, w + row / HYP_PANEL * stride, stride, rows - row, k, act, out + row, lead);
    for (; row < rows; row += HYP_PANEL)
        gemv_panels(type, 1, w + row / HYP_PANEL * stride, stride, rows - row, k, act, out + row, lead);
}

#define GEMV(name, type)                                                                                                \
    void hyp_gemv_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, float *out, int intel)      \
    {                                                                                                                   \
        if (intel) gemv(type, w, rows, k, act, out, 1);                                                                 \
        else gemv(type, w, rows, k, act, out, 0);                                                                       \
    }
HYP_BLOCK_TYPES_AVX512(GEMV)

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
