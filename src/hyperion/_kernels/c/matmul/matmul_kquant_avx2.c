/* Block types of 256 weights (K types), AVX2: vpmaddubsw + vpmaddwd. */
#define HYP_YMM_VNNI 0
#include "ymm_kquant.h"

#include "matmul_ymm.h"

HYP_YMM_K_KERNEL(hyp_mul_q2_k_avx2, HYP_Q2_K)
HYP_YMM_K_KERNEL(hyp_mul_q3_k_avx2, HYP_Q3_K)
HYP_YMM_K_KERNEL(hyp_mul_q4_k_avx2, HYP_Q4_K)
HYP_YMM_K_KERNEL(hyp_mul_q5_k_avx2, HYP_Q5_K)
HYP_YMM_K_KERNEL(hyp_mul_q6_k_avx2, HYP_Q6_K)

void hyp_matmul_fill_kquant_avx2(hyp_table *t)
{
    t->mul[HYP_Q2_K] = hyp_mul_q2_k_avx2;
    t->mul[HYP_Q3_K] = hyp_mul_q3_k_avx2;
    t->mul[HYP_Q4_K] = hyp_mul_q4_k_avx2;
    t->mul[HYP_Q5_K] = hyp_mul_q5_k_avx2;
    t->mul[HYP_Q6_K] = hyp_mul_q6_k_avx2;
}
