/* Block-sparse panels, AVX-VNNI. */
#include "matmul_ymm.h"

#if HYP_HAVE_AVXVNNI
#define HYP_YMM_VNNI 1
#include "ymm_sparse.h"

HYP_YMM_SPARSE_KERNEL(hyp_mul_sparse_q4_0_avxvnni, HYP_Q4_0)
HYP_YMM_SPARSE_KERNEL(hyp_mul_sparse_q8_0_avxvnni, HYP_Q8_0)

void hyp_matmul_fill_sparse_avxvnni(hyp_table *t)
{
    t->mul_sparse[HYP_Q4_0] = hyp_mul_sparse_q4_0_avxvnni;
    t->mul_sparse[HYP_Q8_0] = hyp_mul_sparse_q8_0_avxvnni;
}
#else
void hyp_matmul_fill_sparse_avxvnni(hyp_table *t) { (void)t; }
#endif
