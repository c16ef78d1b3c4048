/* The tile of the float32 product, AVX-512: 14 x 32, 28 accumulators and two vectors of b in 32 registers; a is broadcast from memory. */
#include "common/table.h"
#include <immintrin.h>

#define MR 14
#define WIDTH 16

/* `rows` is a constant wherever this is inlined. */
HYP_INLINE void tile_avx512(const size_t rows, size_t k, const float *a, const float *b, size_t ldb, float *c, ptrdiff_t ldc,
                         int first, size_t ahead)
{
    __m512 sum[MR][2];
#pragma GCC unroll 14
    for (size_t i = 0; i < rows; i++) {
        const float *row = c + (ptrdiff_t)i * ldc;
        sum[i][0] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(row);
        sum[i][1] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(row + WIDTH);
    }
    if (ahead) {
        for (size_t i = 0; i < rows; i++) { /* the next tile's, to the second cache: in the first its rows may share one set */
            const char *next = (const char *)(c + (ptrdiff_t)(i + MR) * ldc);
            _mm_prefetch(next, _MM_HINT_T1);
            _mm_prefetch(next + 64, _MM_HINT_T1);
        }
    }
    for (size_t p = 0; p < k; p++, a += MR, b += ldb) {
        const __m512 b0 = _mm512_loadu_ps(b), b1 = _mm512_loadu_ps(b + WIDTH);
        if (ahead) {
            _mm_prefetch((const char *)b + ahead, _MM_HINT_T0);
            if (WIDTH == 16) _mm_prefetch((const char *)b + ahead + 64, _MM_HINT_T0);
            _mm_prefetch((const char *)a + ahead, _MM_HINT_T0);
        }
#pragma GCC unroll 14
        for (size_t i = 0; i < rows; i++) {
            const __m512 v = _mm512_set1_ps(a[i]);
            sum[i][0] = _mm512_fmadd_ps(v, b0, sum[i][0]);
            sum[i][1] = _mm512_fmadd_ps(v, b1, sum[i][1]);
        }
    }
#pragma GCC unroll 14
    for (size_t i = 0; i < rows; i++) {
        float *row = c + (ptrdiff_t)i * ldc;
        _mm512_storeu_ps(row, sum[i][0]);
        _mm512_storeu_ps(row + WIDTH, sum[i][1]);
    }
}

static void hyp_gemm_tile_avx512(size_t rows, size_t k, const float *a, const float *b, size_t ldb, float *c, ptrdiff_t ldc,
                              int first, size_t ahead)
{
    switch (rows) {
    case 1: tile_avx512(1, k, a, b, ldb, c, ldc, first, ahead); break;
    case 2: tile_avx512(2, k, a, b, ldb, c, ldc, first, ahead); break;
    case 3: tile_avx512(3, k, a, b, ldb, c, ldc, first, ahead); break;
    case 4: tile_avx512(4, k, a, b, ldb, c, ldc, first, ahead); break;
    case 5: tile_avx512(5, k, a, b, ldb, c, ldc, first, ahead); break;
    case 6: tile_avx512(6, k, a, b, ldb, c, ldc, first, ahead); break;
    case 7: tile_avx512(7, k, a, b, ldb, c, ldc, first, ahead); break;
    case 8: tile_avx512(8, k, a, b, ldb, c, ldc, first, ahead); break;
    case 9: tile_avx512(9, k, a, b, ldb, c, ldc, first, ahead); break;
    case 10: tile_avx512(10, k, a, b, ldb, c, ldc, first, ahead); break;
    case 11: tile_avx512(11, k, a, b, ldb, c, ldc, first, ahead); break;
    case 12: tile_avx512(12, k, a, b, ldb, c, ldc, first, ahead); break;
    case 13: tile_avx512(13, k, a, b, ldb, c, ldc, first, ahead); break;
    default:
        if (ahead) tile_avx512(MR, k, a, b, ldb, c, ldc, first, ahead);
        else tile_avx512(MR, k, a, b, ldb, c, ldc, first, 0);
    }
}

void hyp_gemm_fill_avx512(hyp_table *t)
{
    t->gemm.mr = MR, t->gemm.nr = 2 * WIDTH;
    t->gemm.tile = hyp_gemm_tile_avx512;
}
