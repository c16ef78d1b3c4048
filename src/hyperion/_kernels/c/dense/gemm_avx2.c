/* The tile of the float32 product, AVX2: 6 x 16, 12 accumulators, two vectors of b and a's broadcast in 16 registers. */
#include "common/table.h"
#include <immintrin.h>

#define MR 6
#define WIDTH 8

/* `rows` is a constant wherever this is inlined. */
HYP_INLINE void tile_avx2(const size_t rows, size_t k, const float *a, const float *b, size_t ldb, float *c, ptrdiff_t ldc,
                         int first, size_t ahead)
{
    __m256 sum[MR][2];
#pragma GCC unroll 6
    for (size_t i = 0; i < rows; i++) {
        const float *row = c + (ptrdiff_t)i * ldc;
        sum[i][0] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(row);
        sum[i][1] = first ? _mm256_setzero_ps() : _mm256_loadu_ps(row + WIDTH);
    }
    if (ahead) {
        for (size_t i = 0; i < rows; i++) { /* the next tile's, to the second cache: in the first its rows may share one set */
            const char *next = (const char *)(c + (ptrdiff_t)(i + MR) * ldc);
            _mm_prefetch(next, _MM_HINT_T1);
            _mm_prefetch(next + 64, _MM_HINT_T1);
        }
    }
    for (size_t p = 0; p < k; p++, a += MR, b += ldb) {
        const __m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + WIDTH);
        if (ahead) {
            _mm_prefetch((const char *)b + ahead, _MM_HINT_T0);
            if (WIDTH == 16) _mm_prefetch((const char *)b + ahead + 64, _MM_HINT_T0);
            _mm_prefetch((const char *)a + ahead, _MM_HINT_T0);
        }
#pragma GCC unroll 6
        for (size_t i = 0; i < rows; i++) {
            const __m256 v = _mm256_set1_ps(a[i]);
            sum[i][0] = _mm256_fmadd_ps(v, b0, sum[i][0]);
            sum[i][1] = _mm256_fmadd_ps(v, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 6
    for (size_t i = 0; i < rows; i++) {
        float *row = c + (ptrdiff_t)i * ldc;
        _mm256_storeu_ps(row, sum[i][0]);
        _mm256_storeu_ps(row + WIDTH, sum[i][1]);
    }
}

static void hyp_gemm_tile_avx2(size_t rows, size_t k, const float *a, const float *b, size_t ldb, float *c, ptrdiff_t ldc,
                              int first, size_t ahead)
{
    switch (rows) {
    case 1: tile_avx2(1, k, a, b, ldb, c, ldc, first, ahead); break;
    case 2: tile_avx2(2, k, a, b, ldb, c, ldc, first, ahead); break;
    case 3: tile_avx2(3, k, a, b, ldb, c, ldc, first, ahead); break;
    case 4: tile_avx2(4, k, a, b, ldb, c, ldc, first, ahead); break;
    case 5: tile_avx2(5, k, a, b, ldb, c, ldc, first, ahead); break;
    default:
        if (ahead) tile_avx2(MR, k, a, b, ldb, c, ldc, first, ahead);
        else tile_avx2(MR, k, a, b, ldb, c, ldc, first, 0);
    }
}

void hyp_gemm_fill_avx2(hyp_table *t)
{
    t->gemm.mr = MR, t->gemm.nr = 2 * WIDTH;
    t->gemm.tile = hyp_gemm_tile_avx2;
}
