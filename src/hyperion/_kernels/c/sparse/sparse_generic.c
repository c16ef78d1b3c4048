/* The sparse kernels in portable C: a vector is an array, which compilers turn into what their target has. */
#include "common/table.h"

#define SPARSE_VECTORS 1 /* four registers of SSE2 or NEON: with more, the results would live on the stack */
#define BLOCK_ROWS 1    /* likewise: two rows were twelve times as slow */
#define BLOCK_VECTORS 1

typedef struct {
    float v[HYP_SPARSE_VECTOR];
} vec;

HYP_INLINE vec vec_load(const float *x)
{
    vec a;
    memcpy(a.v, x, sizeof a.v);
    return a;
}

HYP_INLINE void vec_store(float *x, vec a) { memcpy(x, a.v, sizeof a.v); }

HYP_INLINE vec vec_set(float f)
{
    vec a;
    for (int i = 0; i < HYP_SPARSE_VECTOR; ++i) a.v[i] = f;
    return a;
}

HYP_INLINE vec vec_madd(vec a, vec b, vec c)
{
    for (int i = 0; i < HYP_SPARSE_VECTOR; ++i) c.v[i] += a.v[i] * b.v[i];
    return c;
}

HYP_INLINE float vec_sum(vec a)
{
    for (int width = HYP_SPARSE_VECTOR / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) a.v[i] += a.v[i + width];
    return a.v[0];
}

static void dots(const int32_t *indptr, const int32_t *indices, const float *values, size_t rows, const float *x, float *y,
                 ptrdiff_t stride)
{
    for (size_t r = 0; r < rows; ++r, y += stride) {
        const size_t end = (size_t)(indptr[r + 1] - indptr[0]);
        size_t p = (size_t)(indptr[r] - indptr[0]);
        float a[4] = {0, 0, 0, 0}; /* four chains hide the latency of an addition */
        for (; p + 4 <= end; p += 4)
            for (int i = 0; i < 4; ++i) a[i] += values[p + i] * x[indices[p + i]];
        for (; p < end; ++p) a[0] += values[p] * x[indices[p]];
        *y = (a[0] + a[1]) + (a[2] + a[3]);
    }
}

#include "sparse/kernels.h"

void hyp_sparse_fill_generic(hyp_table *t)
{
    fill_sparse(&t->sparse);
}
