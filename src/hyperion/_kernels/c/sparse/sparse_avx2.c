/* The sparse kernels of the avx2 level: a vector is two registers. */
#include <immintrin.h>

#include "common/table.h"

#define SPARSE_VECTORS 4 /* 8 of 16 registers */
#define BLOCK_ROWS 4
#define BLOCK_VECTORS 1 /* 8 registers of results, 2 of the dense operand */

typedef struct {
    __m256 low, high;
} vec;

HYP_INLINE vec vec_load(const float *x)
{
    const vec a = {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
    return a;
}

HYP_INLINE void vec_store(float *x, vec a)
{
    _mm256_storeu_ps(x, a.low);
    _mm256_storeu_ps(x + 8, a.high);
}

HYP_INLINE vec vec_set(float f)
{
    const vec a = {_mm256_set1_ps(f), _mm256_set1_ps(f)};
    return a;
}

HYP_INLINE vec vec_madd(vec a, vec b, vec c)
{
    const vec d = {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
    return d;
}

HYP_INLINE float sum_of_8(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

HYP_INLINE float vec_sum(vec a) { return sum_of_8(_mm256_add_ps(a.low, a.high)); }

HYP_INLINE __m256 product_of_8(const int32_t *indices, const float *values, const float *x, __m256 sum)
{
    const __m256 part = _mm256_i32gather_ps(x, _mm256_loadu_si256((const __m256i *)(const void *)indices), 4);
    return _mm256_fmadd_ps(_mm256_loadu_ps(values), part, sum);
}

static void dots(const int32_t *indptr, const int32_t *indices, const float *values, size_t rows, const float *x, float *y,
                 ptrdiff_t stride)
{
    for (size_t r = 0; r < rows; ++r, y += stride) {
        const size_t end = (size_t)(indptr[r + 1] - indptr[0]);
        size_t p = (size_t)(indptr[r] - indptr[0]);
        __m256 a = _mm256_setzero_ps(), b = a;
        float rest = 0;
        for (; p + 16 <= end; p += 16) {
            a = product_of_8(indices + p, values + p, x, a);
            b = product_of_8(indices + p + 8, values + p + 8, x, b);
        }
        for (; p < end; ++p) rest += values[p] * x[indices[p]];
        *y = sum_of_8(_mm256_add_ps(a, b)) + rest;
    }
}

#include "sparse/kernels.h"

void hyp_sparse_fill_avx2(hyp_table *t)
{
    fill_sparse(&t->sparse);
}
