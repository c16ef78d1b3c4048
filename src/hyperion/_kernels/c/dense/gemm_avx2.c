/* The tiles of the float32 product, AVX2: 6 x 16, 12 accumulators, two vectors of b and a's broadcast in 16 registers. */
#include "common/table.h"
#include <immintrin.h>

#define MR 6
#define WIDTH 8
#define WIDE 8   /* vectors of one row that stay in registers */
#define DEEP 8   /* rows of b that go together where a row is longer */
#define SPAN 512 /* values of a row that are asked for together */

/* Lanes below n. */
HYP_INLINE __m256i tail_mask(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* rows, vectors and masked are constants wherever this is inlined; `last` is the mask of the last vector. Rows of a go by three, so
 * that addresses are a base and once or twice the stride. */
HYP_INLINE void tile_avx2(const size_t rows, const size_t vectors, const int masked, __m256i last, const hyp_tile *t, size_t ahead)
{
    __m256 sum[MR][2];
    const ptrdiff_t a_row = t->a_row * (ptrdiff_t)sizeof(float), a_col = t->a_col * (ptrdiff_t)sizeof(float);
    const char *base[2] = {(const char *)t->a, (const char *)t->a + 3 * a_row};
    const float *b = t->b;
    const size_t end = vectors - 1;
#pragma GCC unroll 6
    for (size_t i = 0; i < rows; i++) {
        const float *row = t->c + (ptrdiff_t)i * t->c_row;
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++) {
            if (t->first) sum[i][v] = _mm256_setzero_ps();
            else if (masked && v == end) sum[i][v] = _mm256_maskload_ps(row + v * WIDTH, last);
            else sum[i][v] = _mm256_loadu_ps(row + v * WIDTH);
        }
        if (ahead && !masked) { /* the next tile's, to the second cache: in the first its rows may share one set */
            const char *next = (const char *)(row + MR * t->c_row);
            _mm_prefetch(next, _MM_HINT_T1);
            _mm_prefetch(next + 64, _MM_HINT_T1);
        }
    }
    for (size_t p = 0; p < t->k; p++, b += t->b_row) {
        __m256 col[2];
        if (t->places) b = t->b + t->places[p];
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++)
            col[v] = masked && v == end ? _mm256_maskload_ps(b + v * WIDTH, last) : _mm256_loadu_ps(b + v * WIDTH);
        if (ahead) {
            _mm_prefetch((const char *)b + ahead, _MM_HINT_T0);
            _mm_prefetch(base[0] + ahead, _MM_HINT_T0);
        }
#pragma GCC unroll 6
        for (size_t i = 0; i < rows; i++) {
            const __m256 v = _mm256_set1_ps(*(const float *)(base[i / 3] + (ptrdiff_t)(i % 3) * a_row));
#pragma GCC unroll 2
            for (size_t w = 0; w < vectors; w++) sum[i][w] = _mm256_fmadd_ps(v, col[w], sum[i][w]);
        }
        base[0] += a_col, base[1] += a_col;
    }
#pragma GCC unroll 6
    for (size_t i = 0; i < rows; i++) {
        float *row = t->c + (ptrdiff_t)i * t->c_row;
#pragma GCC unroll 2
        for (size_t v = 0; v < vectors; v++) {
            if (masked && v == end) _mm256_maskstore_ps(row + v * WIDTH, last, sum[i][v]);
            else _mm256_storeu_ps(row + v * WIDTH, sum[i][v]);
        }
    }
}

#define TILES(name, vectors, masked)                                  \
    static void name(size_t rows, __m256i last, const hyp_tile *t)    \
    {                                                                 \
        switch (rows) {                                               \
        case 1: tile_avx2(1, vectors, masked, last, t, 0); break;     \
        case 2: tile_avx2(2, vectors, masked, last, t, 0); break;     \
        case 3: tile_avx2(3, vectors, masked, last, t, 0); break;     \
        case 4: tile_avx2(4, vectors, masked, last, t, 0); break;     \
        case 5: tile_avx2(5, vectors, masked, last, t, 0); break;     \
        default: tile_avx2(MR, vectors, masked, last, t, 0);          \
        }                                                             \
    }
TILES(whole_avx2, 2, 0)
TILES(cut_avx2, 2, 1)
TILES(narrow_avx2, 1, 1)

static void hyp_gemm_tile_avx2(size_t rows, size_t cols, const hyp_tile *t)
{
    const __m256i none = _mm256_setzero_si256();
    if (cols <= WIDTH) narrow_avx2(rows, tail_mask(cols), t);
    else if (cols < 2 * WIDTH) cut_avx2(rows, tail_mask(cols - WIDTH), t);
    else if (rows == MR && t->ahead) tile_avx2(MR, 2, 0, none, t, t->ahead);
    else whole_avx2(rows, none, t);
}

/* ---- One row ------------------------------------------------------------------------------------------------------- */

HYP_INLINE void row_avx2(const size_t vectors, const float *b, float *c, const hyp_tile *t)
{
    __m256 sum[WIDE];
    const float *a = t->a, *from = b;
#pragma GCC unroll 8
    for (size_t v = 0; v < vectors; v++) sum[v] = t->first ? _mm256_setzero_ps() : _mm256_loadu_ps(c + v * WIDTH);
    for (size_t p = 0; p < t->k; p++, a += t->a_col, from += t->b_row) {
        const __m256 x = _mm256_set1_ps(*a);
        if (t->places) from = b + t->places[p];
#pragma GCC unroll 8
        for (size_t v = 0; v < vectors; v++) sum[v] = _mm256_fmadd_ps(x, _mm256_loadu_ps(from + v * WIDTH), sum[v]);
    }
#pragma GCC unroll 8
    for (size_t v = 0; v < vectors; v++) _mm256_storeu_ps(c + v * WIDTH, sum[v]);
}

/* A few rows of b, each in the order of memory, added to c, which stays in the first cache; cols is a multiple of two vectors. */
HYP_INLINE void deep_avx2(const size_t rows, size_t cols, size_t p, const hyp_tile *t)
{
    const float *a = t->a + (ptrdiff_t)p * t->a_col, *b = t->b + (ptrdiff_t)p * t->b_row;
    const int first = t->first && p == 0;
    float *c = t->c;
    __m256 x[DEEP];
#pragma GCC unroll 8
    for (size_t i = 0; i < rows; i++) x[i] = _mm256_set1_ps(a[(ptrdiff_t)i * t->a_col]);
    for (; cols; cols -= 2 * WIDTH, b += 2 * WIDTH, c += 2 * WIDTH) {
        __m256 low = first ? _mm256_setzero_ps() : _mm256_loadu_ps(c), high = first ? low : _mm256_loadu_ps(c + WIDTH);
#pragma GCC unroll 8
        for (size_t i = 0; i < rows; i++) {
            low = _mm256_fmadd_ps(x[i], _mm256_loadu_ps(b + (ptrdiff_t)i * t->b_row), low);
            high = _mm256_fmadd_ps(x[i], _mm256_loadu_ps(b + (ptrdiff_t)i * t->b_row + WIDTH), high);
        }
        _mm256_storeu_ps(c, low);
        _mm256_storeu_ps(c + WIDTH, high);
    }
}

static void hyp_gemm_row_avx2(size_t cols, const hyp_tile *t)
{
    size_t j = 0, p = 0;
    if (cols > 4 * WIDE * WIDTH && !t->places) {
        j = cols / (2 * WIDTH) * (2 * WIDTH);
        for (; t->k - p >= DEEP; p += DEEP) deep_avx2(DEEP, j, p, t);
        for (; p < t->k; p++) deep_avx2(1, j, p, t);
    }
    for (; cols - j >= WIDE * WIDTH; j += WIDE * WIDTH) row_avx2(WIDE, t->b + j, t->c + j, t);
    for (; cols - j >= WIDTH; j += WIDTH) row_avx2(1, t->b + j, t->c + j, t);
    if (j < cols) {
        hyp_tile rest = *t;
        rest.b += j, rest.c += j;
        narrow_avx2(1, tail_mask(cols - j), &rest);
    }
}

/* ---- One row by a transposed matrix -------------------------------------------------------------------------------- */

/* Four values of each of 8 rows to four vectors of 8: rows i and 4 + i come to the lanes of one vector as they are loaded. */
HYP_INLINE void load_across_avx2(const float *const rows[8], size_t p, __m256 to[4])
{
    __m256 r[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[i] + p)), _mm_loadu_ps(rows[4 + i] + p), 1);
    const __m256 low0 = _mm256_unpacklo_ps(r[0], r[1]), high0 = _mm256_unpackhi_ps(r[0], r[1]);
    const __m256 low1 = _mm256_unpacklo_ps(r[2], r[3]), high1 = _mm256_unpackhi_ps(r[2], r[3]);
    to[0] = _mm256_shuffle_ps(low0, low1, 0x44), to[1] = _mm256_shuffle_ps(low0, low1, 0xee);
    to[2] = _mm256_shuffle_ps(high0, high1, 0x44), to[3] = _mm256_shuffle_ps(high0, high1, 0xee);
}

/* Ask for 4 lines of the next SPAN values, of these rows or at the end of the next ones, of one row after the other: memory gives
 * what is read in order sooner. */
HYP_INLINE void dots_ask(const float *const rows[2][8], size_t p, const hyp_tile *t)
{
    const size_t span = p / SPAN * SPAN + SPAN, line = p % SPAN, row = line / (SPAN / 16);
    const ptrdiff_t next = span < t->k ? (ptrdiff_t)span : 16 * t->b_row;
    const char *at = (const char *)(rows[row / 8][row % 8] + next + (ptrdiff_t)(line % (SPAN / 16) * 16));
#pragma GCC unroll 4
    for (size_t q = 0; q < 4; q++) _mm_prefetch(at + 64 * q, _MM_HINT_T1);
}

/* `groups` times 8 columns, of which those from `cols` on repeat the last one. */
HYP_INLINE void dots_avx2(const size_t groups, size_t cols, const float *b, float *c, const hyp_tile *t)
{
    const float *rows[2][8], *a = t->a;
    __m256 sum[2];
    size_t p = 0;
    for (size_t g = 0; g < groups; g++) {
        for (size_t i = 0; i < 8; i++) rows[g][i] = b + (ptrdiff_t)(8 * g + i < cols ? 8 * g + i : cols - 1) * t->b_row;
        sum[g] = t->first ? _mm256_setzero_ps() : _mm256_maskload_ps(c + 8 * g, tail_mask(cols - 8 * g));
    }
    for (; p + 4 <= t->k; p += 4) {
        if (t->ahead && groups == 2) dots_ask(rows, p, t);
#pragma GCC unroll 2
        for (size_t g = 0; g < groups; g++) {
            __m256 v[4];
            load_across_avx2(rows[g], p, v);
#pragma GCC unroll 4
            for (size_t q = 0; q < 4; q++) sum[g] = _mm256_fmadd_ps(_mm256_set1_ps(a[(ptrdiff_t)(p + q) * t->a_col]), v[q], sum[g]);
        }
    }
    for (; p < t->k; p++) {
        for (size_t g = 0; g < groups; g++) {
            float values[8];
            for (size_t i = 0; i < 8; i++) values[i] = rows[g][i][p];
            sum[g] = _mm256_fmadd_ps(_mm256_set1_ps(a[(ptrdiff_t)p * t->a_col]), _mm256_loadu_ps(values), sum[g]);
        }
    }
    for (size_t g = 0; g < groups; g++) _mm256_maskstore_ps(c + 8 * g, tail_mask(cols - 8 * g), sum[g]);
}

static void hyp_gemm_dots_avx2(size_t cols, const hyp_tile *t)
{
    for (size_t j = 0; j < cols; j += 16) {
        const float *b = t->b + (ptrdiff_t)j * t->b_row;
        if (cols - j > 8) dots_avx2(2, cols - j, b, t->c + j, t);
        else dots_avx2(1, cols - j, b, t->c + j, t);
    }
}

void hyp_gemm_fill_avx2(hyp_table *t)
{
    t->gemm.mr = MR, t->gemm.nr = 2 * WIDTH;
    t->gemm.tile = hyp_gemm_tile_avx2;
    t->gemm.row = hyp_gemm_row_avx2;
    t->gemm.dots = hyp_gemm_dots_avx2;
}
