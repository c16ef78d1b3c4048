/* The tiles of the float32 product, AVX-512: 14 x 32, 28 accumulators and two vectors of b in 32 registers; a is broadcast from
 * memory. */
#include "common/table.h"
#include <immintrin.h>

#define MR 14
#define WIDTH 16
#define WIDE 16 /* vectors of one row that stay in registers */
#define DEEP 8  /* rows of b that go together where a row is longer */
#define CROWD 1024 /* bytes of which a multiple, from row to row, brings 16 rows to few sets of the first cache */
#define SPAN 512 /* values of a row that are asked for together */

HYP_INLINE __mmask16 tail_mask(size_t n)
{
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1u);
}

/* The rows of a by three, so that addresses are a base and once or twice the stride: fourteen pointers would not fit in registers. */
typedef struct {
    const char *base[(MR + 2) / 3];
    ptrdiff_t row, col;
} lines;

HYP_INLINE lines lines_of(size_t rows, const hyp_tile *t)
{
    lines l;
    l.row = t->a_row * (ptrdiff_t)sizeof(float), l.col = t->a_col * (ptrdiff_t)sizeof(float);
#pragma GCC unroll 5
    for (size_t g = 0; 3 * g < rows; g++) l.base[g] = (const char *)t->a + (ptrdiff_t)(3 * g) * l.row;
    return l;
}

/* rows, vectors and masked are constants wherever this is inlined; `last` is the mask of the last vector. */
HYP_INLINE void tile_avx512(const size_t rows, const size_t vectors, const int masked, __mmask16 last, const hyp_tile *t, size_t ahead)
{
    __m512 sum[MR][2];
    const float *b = t->b;
    lines l = lines_of(rows, t);
    const size_t end = vectors - 1;
#pragma GCC unroll 14
    for (size_t i = 0; i < rows; i++) {
        const float *row = t->c + (ptrdiff_t)i * t->c_row;
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++) {
            if (t->first) sum[i][v] = _mm512_setzero_ps();
            else if (masked && v == end) sum[i][v] = _mm512_maskz_loadu_ps(last, row + v * WIDTH);
            else sum[i][v] = _mm512_loadu_ps(row + v * WIDTH);
        }
        if (ahead && !masked) { /* the next tile's, to the second cache: in the first its rows may share one set */
            const char *next = (const char *)(row + MR * t->c_row);
            _mm_prefetch(next, _MM_HINT_T1);
            _mm_prefetch(next + 64, _MM_HINT_T1);
        }
    }
    for (size_t p = 0; p < t->k; p++, b += t->b_row) {
        __m512 col[2];
        if (t->places) b = t->b + t->places[p];
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++) {
            col[v] = masked && v == end ? _mm512_maskz_loadu_ps(last, b + v * WIDTH) : _mm512_loadu_ps(b + v * WIDTH);
            if (ahead) _mm_prefetch((const char *)(b + v * WIDTH) + ahead, _MM_HINT_T0);
        }
        if (ahead) _mm_prefetch(l.base[0] + ahead, _MM_HINT_T0);
#pragma GCC unroll 14
        for (size_t i = 0; i < rows; i++) {
            const __m512 v = _mm512_set1_ps(*(const float *)(l.base[i / 3] + (ptrdiff_t)(i % 3) * l.row));
#pragma GCC unroll 2
            for (size_t w = 0; w < vectors; w++) sum[i][w] = _mm512_fmadd_ps(v, col[w], sum[i][w]);
        }
#pragma GCC unroll 5
        for (size_t g = 0; 3 * g < rows; g++) l.base[g] += l.col;
    }
#pragma GCC unroll 14
    for (size_t i = 0; i < rows; i++) {
        float *row = t->c + (ptrdiff_t)i * t->c_row;
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++) {
            if (masked && v == end) _mm512_mask_storeu_ps(row + v * WIDTH, last, sum[i][v]);
            else _mm512_storeu_ps(row + v * WIDTH, sum[i][v]);
        }
    }
}

#define TILES(name, vectors, masked, ahead)                                                   \
    static void name(size_t rows, __mmask16 last, const hyp_tile *t)                          \
    {                                                                                         \
        switch (rows) {                                                                       \
        case 1: tile_avx512(1, vectors, masked, last, t, ahead); break;                       \
        case 2: tile_avx512(2, vectors, masked, last, t, ahead); break;                       \
        case 3: tile_avx512(3, vectors, masked, last, t, ahead); break;                       \
        case 4: tile_avx512(4, vectors, masked, last, t, ahead); break;                       \
        case 5: tile_avx512(5, vectors, masked, last, t, ahead); break;                       \
        case 6: tile_avx512(6, vectors, masked, last, t, ahead); break;                       \
        case 7: tile_avx512(7, vectors, masked, last, t, ahead); break;                       \
        case 8: tile_avx512(8, vectors, masked, last, t, ahead); break;                       \
        case 9: tile_avx512(9, vectors, masked, last, t, ahead); break;                       \
        case 10: tile_avx512(10, vectors, masked, last, t, ahead); break;                     \
        case 11: tile_avx512(11, vectors, masked, last, t, ahead); break;                     \
        case 12: tile_avx512(12, vectors, masked, last, t, ahead); break;                     \
        case 13: tile_avx512(13, vectors, masked, last, t, ahead); break;                     \
        default: tile_avx512(MR, vectors, masked, last, t, ahead);                            \
        }                                                                                     \
    }
TILES(whole_avx512, 2, 0, 0)
TILES(cut_avx512, 2, 1, 0)
TILES(narrow_avx512, 1, 1, 0)

static void hyp_gemm_tile_avx512(size_t rows, size_t cols, const hyp_tile *t)
{
    if (cols <= WIDTH) narrow_avx512(rows, tail_mask(cols), t);
    else if (cols < 2 * WIDTH) cut_avx512(rows, tail_mask(cols - WIDTH), t);
    else if (rows == MR && t->ahead) tile_avx512(MR, 2, 0, 0, t, t->ahead);
    else whole_avx512(rows, 0, t);
}

/* ---- One row ------------------------------------------------------------------------------------------------------- */

HYP_INLINE void row_avx512(const size_t vectors, __mmask16 last, const float *b, float *c, const hyp_tile *t)
{
    __m512 sum[WIDE];
    const float *a = t->a, *from = b;
#pragma GCC unroll 16
    for (size_t v = 0; v < vectors; v++) {
        const __mmask16 mask = v == vectors - 1 ? last : (__mmask16)0xffff;
        sum[v] = t->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, c + v * WIDTH);
    }
    for (size_t p = 0; p < t->k; p++, a += t->a_col, from += t->b_row) {
        const __m512 x = _mm512_set1_ps(*a);
        if (t->places) from = b + t->places[p];
#pragma GCC unroll 16
        for (size_t v = 0; v < vectors; v++) {
            const __mmask16 mask = v == vectors - 1 ? last : (__mmask16)0xffff;
            sum[v] = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(mask, from + v * WIDTH), sum[v]);
        }
    }
#pragma GCC unroll 16
    for (size_t v = 0; v < vectors; v++) _mm512_mask_storeu_ps(c + v * WIDTH, v == vectors - 1 ? last : (__mmask16)0xffff, sum[v]);
}

/* A few rows of b, each in the order of memory, added to c, which stays in the first cache; cols is a multiple of two vectors. */
HYP_INLINE void deep_avx512(const size_t rows, size_t cols, size_t p, const hyp_tile *t)
{
    const float *a = t->a + (ptrdiff_t)p * t->a_col, *b = t->b + (ptrdiff_t)p * t->b_row;
    const int first = t->first && p == 0;
    float *c = t->c;
    __m512 x[DEEP];
#pragma GCC unroll 8
    for (size_t i = 0; i < rows; i++) x[i] = _mm512_set1_ps(a[(ptrdiff_t)i * t->a_col]);
    for (; cols; cols -= 2 * WIDTH, b += 2 * WIDTH, c += 2 * WIDTH) {
        __m512 low = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c), high = first ? low : _mm512_loadu_ps(c + WIDTH);
#pragma GCC unroll 8
        for (size_t i = 0; i < rows; i++) {
            low = _mm512_fmadd_ps(x[i], _mm512_loadu_ps(b + (ptrdiff_t)i * t->b_row), low);
            high = _mm512_fmadd_ps(x[i], _mm512_loadu_ps(b + (ptrdiff_t)i * t->b_row + WIDTH), high);
        }
        _mm512_storeu_ps(c, low);
        _mm512_storeu_ps(c + WIDTH, high);
    }
}

static void hyp_gemm_row_avx512(size_t cols, const hyp_tile *t)
{
    const __mmask16 all = (__mmask16)0xffff;
    size_t j = 0, p = 0;
    if (cols > WIDE * WIDTH && !t->places) {
        j = cols / (2 * WIDTH) * (2 * WIDTH);
        for (; t->k - p >= DEEP; p += DEEP) deep_avx512(DEEP, j, p, t);
        for (; p < t->k; p++) deep_avx512(1, j, p, t);
    }
    for (; cols - j >= WIDE * WIDTH; j += WIDE * WIDTH) row_avx512(WIDE, all, t->b + j, t->c + j, t);
    for (; cols - j >= 4 * WIDTH; j += 4 * WIDTH) row_avx512(4, all, t->b + j, t->c + j, t);
    for (; j < cols; j += WIDTH) row_avx512(1, tail_mask(cols - j), t->b + j, t->c + j, t);
}

/* ---- One row by a transposed matrix -------------------------------------------------------------------------------- */

/* Pointers to `count` rows, the last one repeated up to 16. */
HYP_INLINE void rows_from(const float *from, ptrdiff_t stride, size_t count, const float *rows[16])
{
    for (size_t i = 0; i < 16; i++) rows[i] = from + (ptrdiff_t)(i < count ? i : count - 1) * stride;
}

/* Columns p.. of 16 rows to 16 vectors, those that `mask` has. */
HYP_INLINE void load_square_avx512(const float *const rows[16], size_t p, __mmask16 mask, __m512 to[16])
{
    __m512 r[16], t[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) r[i] = _mm512_maskz_loadu_ps(mask, rows[i] + p);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) { /* pairs of rows */
        t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) /* four rows: lane l of r[i + q] is their column 4 l + q */
#pragma GCC unroll 2
        for (int q = 0; q < 2; q++) {
            const __m512d even = _mm512_castps_pd(t[i + q]), odd = _mm512_castps_pd(t[i + 2 + q]);
            r[i + 2 * q] = _mm512_castpd_ps(_mm512_unpacklo_pd(even, odd));
            r[i + 2 * q + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(even, odd));
        }
#pragma GCC unroll 4
    for (int q = 0; q < 4; q++) { /* lanes of all rows together */
        const __m512 low02 = _mm512_shuffle_f32x4(r[q], r[4 + q], 0x88), low13 = _mm512_shuffle_f32x4(r[q], r[4 + q], 0xdd);
        const __m512 high02 = _mm512_shuffle_f32x4(r[8 + q], r[12 + q], 0x88), high13 = _mm512_shuffle_f32x4(r[8 + q], r[12 + q], 0xdd);
        to[q] = _mm512_shuffle_f32x4(low02, high02, 0x88), to[8 + q] = _mm512_shuffle_f32x4(low02, high02, 0xdd);
        to[4 + q] = _mm512_shuffle_f32x4(low13, high13, 0x88), to[12 + q] = _mm512_shuffle_f32x4(low13, high13, 0xdd);
    }
}

/* Add up to 16 terms, from p on, of lines that are read whole, once, whatever else their sets of the first cache hold. */
HYP_INLINE __m512 dots_square(const float *const rows[16], size_t p, size_t n, const hyp_tile *t, __m512 sum)
{
    const float *a = t->a + (ptrdiff_t)p * t->a_col;
    __m512 v[16];
    load_square_avx512(rows, p, tail_mask(n), v);
#pragma GCC unroll 16
    for (size_t q = 0; q < 16; q++, a += t->a_col) {
        if (q >= n) break;
        sum = _mm512_fmadd_ps(_mm512_set1_ps(*a), v[q], sum);
    }
    return sum;
}

/* Add four terms. Rows i, 4 + i, 8 + i, 12 + i come to the lanes of one vector as they are loaded, which leaves four values by four
 * to transpose in every lane: half the shuffles of whole rows, and no loads across two lines where rows begin at different ones. */
HYP_INLINE __m512 dots_step(const float *const rows[16], size_t p, const hyp_tile *t, __m512 sum)
{
    const float *a = t->a + (ptrdiff_t)p * t->a_col;
    __m512 r[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_castps128_ps512(_mm_loadu_ps(rows[i] + p));
        r[i] = _mm512_mask_broadcast_f32x4(r[i], 0x00f0, _mm_loadu_ps(rows[4 + i] + p));
        r[i] = _mm512_mask_broadcast_f32x4(r[i], 0x0f00, _mm_loadu_ps(rows[8 + i] + p));
        r[i] = _mm512_mask_broadcast_f32x4(r[i], 0xf000, _mm_loadu_ps(rows[12 + i] + p));
    }
    const __m512 low0 = _mm512_unpacklo_ps(r[0], r[1]), high0 = _mm512_unpackhi_ps(r[0], r[1]);
    const __m512 low1 = _mm512_unpacklo_ps(r[2], r[3]), high1 = _mm512_unpackhi_ps(r[2], r[3]);
    sum = _mm512_fmadd_ps(_mm512_set1_ps(a[0]), _mm512_shuffle_ps(low0, low1, 0x44), sum);
    sum = _mm512_fmadd_ps(_mm512_set1_ps(a[t->a_col]), _mm512_shuffle_ps(low0, low1, 0xee), sum);
    sum = _mm512_fmadd_ps(_mm512_set1_ps(a[2 * t->a_col]), _mm512_shuffle_ps(high0, high1, 0x44), sum);
    return _mm512_fmadd_ps(_mm512_set1_ps(a[3 * t->a_col]), _mm512_shuffle_ps(high0, high1, 0xee), sum);
}

/* After p terms ask for some lines of the next SPAN values, of these rows or at the end of the next ones, of one row after the other:
 * memory gives what is read in order sooner. */
HYP_INLINE void dots_ask(const size_t lines, const float *const rows[16], size_t p, const hyp_tile *t)
{
    const size_t span = p / SPAN * SPAN + SPAN, line = p % SPAN;
    const ptrdiff_t next = span < t->k ? (ptrdiff_t)span : 16 * t->b_row;
    const char *at = (const char *)(rows[line / (SPAN / 16)] + next + (ptrdiff_t)(line % (SPAN / 16) * 16));
#pragma GCC unroll 16
    for (size_t q = 0; q < lines; q++) _mm_prefetch(at + 64 * q, _MM_HINT_T1);
}

static void hyp_gemm_dots_avx512(size_t cols, const hyp_tile *t)
{
    const int squares = t->b_row % (CROWD / (ptrdiff_t)sizeof(float)) == 0;
    const size_t before = squares ? (0 - (uintptr_t)t->b) % 64 / sizeof(float) : 0, head = before < t->k ? before : t->k;
    for (size_t j = 0; j < cols; j += 16) {
        const __mmask16 mask = tail_mask(cols - j);
        const float *rows[16];
        rows_from(t->b + (ptrdiff_t)j * t->b_row, t->b_row, cols - j, rows);
        __m512 sum = t->first ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, t->c + j);
        size_t p = head;
        if (head) sum = dots_square(rows, 0, head, t, sum);
        for (; squares && p + 16 <= t->k; p += 16) {
            if (t->ahead) dots_ask(16, rows, p - head, t);
            sum = dots_square(rows, p, 16, t, sum);
        }
        for (; p + 4 <= t->k; p += 4) {
            if (t->ahead) dots_ask(4, rows, p - head, t);
            sum = dots_step(rows, p, t, sum);
        }
        if (p < t->k) sum = dots_square(rows, p, t->k - p, t, sum);
        _mm512_mask_storeu_ps(t->c + j, mask, sum);
    }
}

/* ---- Packing ------------------------------------------------------------------------------------------------------- */

/* Stores run over into the next column, which comes later; the last one must not. */
static void hyp_gemm_pack_avx512(const float *from, ptrdiff_t stride, size_t count, size_t k, size_t width, float *to)
{
    for (size_t i = 0; i < count; i += 16) {
        const __mmask16 own = tail_mask(count - i);
        const int over = i + 16 > width;
        const float *rows[16];
        rows_from(from + (ptrdiff_t)i * stride, stride, count - i, rows);
        size_t n = stride % 16 == 0 ? 16 - (uintptr_t)from % 64 / sizeof(float) : 16; /* from there on lines are read whole, once */
        for (size_t p = 0; p < k; p += n, n = 16) {
            if (n > k - p) n = k - p;
            float *at = to + p * width + i;
            __m512 v[16];
            load_square_avx512(rows, p, tail_mask(n), v);
#pragma GCC unroll 16
            for (size_t q = 0; q < 16; q++) {
                if (q >= n) break;
                if (over && p + q + 1 == k) _mm512_mask_storeu_ps(at + q * width, own, v[q]);
                else _mm512_storeu_ps(at + q * width, v[q]);
            }
        }
    }
}

void hyp_gemm_fill_avx512(hyp_table *t)
{
    t->gemm.mr = MR, t->gemm.nr = 2 * WIDTH;
    t->gemm.tile = hyp_gemm_tile_avx512;
    t->gemm.row = hyp_gemm_row_avx512;
    t->gemm.dots = hyp_gemm_dots_avx512;
    t->gemm.pack = hyp_gemm_pack_avx512;
}
