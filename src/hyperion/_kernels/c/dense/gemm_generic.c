/* The tile of the float32 product in plain C: 4 x 8, which a compiler keeps in 16 vectors of 4. */
#include "common/table.h"

#define MR 4
#define NR 8

HYP_INLINE void tile_generic(const size_t rows, size_t k, const float *a, const float *b, size_t ldb, float *c, ptrdiff_t ldc,
                             int first)
{
    float sum[MR][NR];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < NR; j++) sum[i][j] = first ? 0.0f : c[(ptrdiff_t)i * ldc + (ptrdiff_t)j];
    for (size_t p = 0; p < k; p++, a += MR, b += ldb)
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < NR; j++) sum[i][j] += a[i] * b[j];
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < NR; j++) c[(ptrdiff_t)i * ldc + (ptrdiff_t)j] = sum[i][j];
}

static void hyp_gemm_tile_generic(size_t rows, size_t k, const float *a, const float *b, size_t ldb, float *c, ptrdiff_t ldc,
                                  int first, size_t ahead)
{
    (void)ahead; /* plain C cannot prefetch */
    switch (rows) {
    case 1: tile_generic(1, k, a, b, ldb, c, ldc, first); break;
    case 2: tile_generic(2, k, a, b, ldb, c, ldc, first); break;
    case 3: tile_generic(3, k, a, b, ldb, c, ldc, first); break;
    default: tile_generic(MR, k, a, b, ldb, c, ldc, first);
    }
}

void hyp_gemm_fill_generic(hyp_table *t)
{
    t->gemm.mr = MR, t->gemm.nr = NR;
    t->gemm.tile = hyp_gemm_tile_generic;
}
