/* Block types of 256 weights (K types), AVX-VNNI: vpdpbusd on ymm registers. */
#include "matmul_ymm.h"

#if HYP_HAVE_AVXVNNI
#define HYP_YMM_VNNI 1
#include "ymm_kquant.h"

HYP_YMM_K_KERNEL(hyp_mul_q2_k_avxvnni, HYP_Q2_K)
HYP_YMM_K_KERNEL(hyp_mul_q3_k_avxvnni, HYP_Q3_K)
HYP_YMM_K_KERNEL(hyp_mul_q4_k_avxvnni, HYP_Q4_K)
HYP_YMM_K_KERNEL(hyp_mul_q5_k_avxvnni, HYP_Q5_K)
HYP_YMM_K_KERNEL(hyp_mul_q6_k_avxvnni, HYP_Q6_K)

void hyp_matmul_fill_kquant_avxvnni(hyp_table *t)
{
    t->mul[HYP_Q2_K] = hyp_mul_q2_k_avxvnni;
    t->mul[HYP_Q3_K] = hyp_mul_q3_k_avxvnni;
    t->mul[HYP_Q4_K] = hyp_mul_q4_k_avxvnni;
    t->mul[HYP_Q5_K] = hyp_mul_q5_k_avxvnni;
    t->mul[HYP_Q6_K] = hyp_mul_q6_k_avxvnni;
}
#else
void hyp_matmul_fill_kquant_avxvnni(hyp_table *t) { (void)t; }
#endif
