/* The sparse kernels of the avx512 level: a vector is one register. */
#include <immintrin.h>

#include "common/table.h"

#define SPARSE_VECTORS 4
#define BLOCK_ROWS 4
#define BLOCK_VECTORS 4

typedef __m512 vec;

HYP_INLINE vec vec_load(const float *x) { return _mm512_loadu_ps(x); }
HYP_INLINE void vec_store(float *x, vec a) { _mm512_storeu_ps(x, a); }
HYP_INLINE vec vec_set(float f) { return _mm512_set1_ps(f); }
HYP_INLINE vec vec_madd(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
HYP_INLINE float vec_sum(vec a) { return _mm512_reduce_add_ps(a); }

/* Two chains of gathers; a gather costs about a cycle a value, which is what reading index and value from memory costs. */
static void dots(const int32_t *indptr, const int32_t *indices, const float *values, size_t rows, const float *x, float *y,
                 ptrdiff_t stride)
{
    for (size_t r = 0; r < rows; ++r, y += stride) {
        const size_t end = (size_t)(indptr[r + 1] - indptr[0]);
        size_t p = (size_t)(indptr[r] - indptr[0]);
        __m512 even = _mm512_setzero_ps(), odd = even;
        for (; p + 32 <= end; p += 32) {
            even = _mm512_fmadd_ps(_mm512_loadu_ps(values + p), _mm512_i32gather_ps(_mm512_loadu_si512(indices + p), x, 4), even);
            odd = _mm512_fmadd_ps(_mm512_loadu_ps(values + p + 16), _mm512_i32gather_ps(_mm512_loadu_si512(indices + p + 16), x, 4),
                                  odd);
        }
        for (; p < end; p += 16) {
            const __mmask16 some = end - p >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << (end - p)) - 1);
            const __m512 part = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), some, _mm512_maskz_loadu_epi32(some, indices + p), x, 4);
            even = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(some, values + p), part, even);
        }
        *y = _mm512_reduce_add_ps(_mm512_add_ps(even, odd));
    }
}

#include "sparse/kernels.h"

void hyp_sparse_fill_avx512(hyp_table *t)
{
    fill_sparse(&t->sparse);
}
