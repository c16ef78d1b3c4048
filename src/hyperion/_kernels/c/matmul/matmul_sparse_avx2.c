/* Block-sparse panels, AVX2. */
#include "matmul_ymm.h"
#define HYP_YMM_VNNI 0
#include "ymm_sparse.h"

HYP_YMM_SPARSE_KERNEL(hyp_mul_sparse_q4_0_avx2, HYP_Q4_0)
HYP_YMM_SPARSE_KERNEL(hyp_mul_sparse_q8_0_avx2, HYP_Q8_0)

void hyp_matmul_fill_sparse_avx2(hyp_table *t)
{
    t->mul_sparse[HYP_Q4_0] = hyp_mul_sparse_q4_0_avx2;
    t->mul_sparse[HYP_Q8_0] = hyp_mul_sparse_q8_0_avx2;
}
