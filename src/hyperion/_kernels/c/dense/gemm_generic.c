/* The tiles of the float32 product in plain C: 4 x 8, which a compiler keeps in 16 vectors of 4. */
#include "common/table.h"

#define MR 4
#define NR 8
#define DEEP 4    /* rows of b that go together where a row is longer than */
#define LONG 32

HYP_INLINE void tile_generic(const size_t rows, const size_t cols, const hyp_tile *t)
{
    const float *a = t->a, *b = t->b;
    float sum[MR][NR];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) sum[i][j] = t->first ? 0.0f : t->c[(ptrdiff_t)i * t->c_row + (ptrdiff_t)j];
    for (size_t p = 0; p < t->k; p++, a += t->a_col, b += t->b_row) {
        if (t->places) b = t->b + t->places[p];
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < cols; j++) sum[i][j] += a[(ptrdiff_t)i * t->a_row] * b[j];
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) t->c[(ptrdiff_t)i * t->c_row + (ptrdiff_t)j] = sum[i][j];
}

/* Plain C cannot prefetch. */
static void hyp_gemm_tile_generic(size_t rows, size_t cols, const hyp_tile *t)
{
    if (cols < NR) {
        tile_generic(rows, cols, t);
        return;
    }
    switch (rows) {
    case 1: tile_generic(1, NR, t); break;
    case 2: tile_generic(2, NR, t); break;
    case 3: tile_generic(3, NR, t); break;
    default: tile_generic(MR, NR, t);
    }
}

/* A few rows of b, each in the order of memory, added to c, which stays in the first cache. */
HYP_INLINE void deep_generic(const size_t rows, size_t cols, size_t p, const hyp_tile *t)
{
    const float *a = t->a + (ptrdiff_t)p * t->a_col, *b = t->b + (ptrdiff_t)p * t->b_row;
    float *HYP_RESTRICT c = t->c;
    float x[DEEP];
    for (size_t i = 0; i < rows; i++) x[i] = a[(ptrdiff_t)i * t->a_col];
    if (t->first && p == 0)
        for (size_t j = 0; j < cols; j++) c[j] = 0.0f;
    for (size_t j = 0; j < cols; j++) {
        float sum = c[j];
        for (size_t i = 0; i < rows; i++) sum += x[i] * b[(ptrdiff_t)i * t->b_row + (ptrdiff_t)j];
        c[j] = sum;
    }
}

static void hyp_gemm_row_generic(size_t cols, const hyp_tile *t)
{
    hyp_tile part = *t;
    size_t j = 0, p = 0;
    if (cols > LONG && !t->places) {
        for (; t->k - p >= DEEP; p += DEEP) deep_generic(DEEP, cols, p, t);
        for (; p < t->k; p++) deep_generic(1, cols, p, t);
        return;
    }
    for (; cols - j >= 4 * NR; j += 4 * NR, part.b += 4 * NR, part.c += 4 * NR) {
        const float *b = part.b;
        float sum[4 * NR];
        for (size_t i = 0; i < 4 * NR; i++) sum[i] = t->first ? 0.0f : part.c[i];
        for (size_t p = 0; p < t->k; p++, b += t->b_row) {
            if (t->places) b = part.b + t->places[p];
            for (size_t i = 0; i < 4 * NR; i++) sum[i] += t->a[(ptrdiff_t)p * t->a_col] * b[i];
        }
        memcpy(part.c, sum, sizeof sum);
    }
    for (; j < cols; j += NR, part.b += NR, part.c += NR) hyp_gemm_tile_generic(1, cols - j < NR ? cols - j : NR, &part);
}

/* Eight chains of additions at a time: each waits for its last one. */
static void hyp_gemm_dots_generic(size_t cols, const hyp_tile *t)
{
    for (size_t j = 0; j < cols; j += NR) {
        const size_t n = cols - j < NR ? cols - j : NR;
        const float *row[NR];
        float sum[NR];
        for (size_t i = 0; i < NR; i++) {
            row[i] = t->b + (ptrdiff_t)(j + (i < n ? i : n - 1)) * t->b_row;
            sum[i] = t->first ? 0.0f : t->c[j + (i < n ? i : n - 1)];
        }
        for (size_t p = 0; p < t->k; p++)
            for (size_t i = 0; i < NR; i++) sum[i] += t->a[(ptrdiff_t)p * t->a_col] * row[i][p];
        memcpy(t->c + j, sum, n * sizeof(float));
    }
}

/* ---- Packing ------------------------------------------------------------------------------------------------------- */

/* Four rows to four columns: 16 bytes of each row are read, and 16 of each column written, at a time. */
static void pack_4(const float *HYP_RESTRICT from, ptrdiff_t stride, size_t k, size_t width, float *HYP_RESTRICT to)
{
    size_t p = 0;
    for (; p + 4 <= k; p += 4, from += 4, to += 4 * width) {
        float tile[4][4];
        for (int i = 0; i < 4; i++) memcpy(tile[i], from + i * stride, sizeof tile[i]);
        for (int q = 0; q < 4; q++) {
            const float column[4] = {tile[0][q], tile[1][q], tile[2][q], tile[3][q]};
            memcpy(to + (size_t)q * width, column, sizeof column);
        }
    }
    for (; p < k; p++, from++, to += width)
        for (int i = 0; i < 4; i++) to[i] = from[i * stride];
}

static void hyp_gemm_pack_generic(const float *from, ptrdiff_t stride, size_t count, size_t k, size_t width, float *to)
{
    size_t i = 0;
    for (; i + 4 <= count; i += 4) pack_4(from + (ptrdiff_t)i * stride, stride, k, width, to + i);
    if (i < count && count >= 4) pack_4(from + (ptrdiff_t)(count - 4) * stride, stride, k, width, to + count - 4);
    else
        for (; i < count; i++)
            for (size_t p = 0; p < k; p++) to[p * width + i] = from[(ptrdiff_t)i * stride + (ptrdiff_t)p];
}

void hyp_gemm_fill_generic(hyp_table *t)
{
    t->gemm.mr = MR, t->gemm.nr = NR;
    t->gemm.tile = hyp_gemm_tile_generic;
    t->gemm.row = hyp_gemm_row_generic;
    t->gemm.dots = hyp_gemm_dots_generic;
    t->gemm.pack = hyp_gemm_pack_generic;
}
