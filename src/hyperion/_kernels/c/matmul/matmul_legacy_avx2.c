/* Block types of 32 weights, AVX2: vpmaddubsw + vpmaddwd. */
#define HYP_YMM_VNNI 0
#include "ymm_mul.h"

#include "matmul_ymm.h"

HYP_YMM_KERNEL(hyp_mul_q4_0_avx2, HYP_Q4_0)
HYP_YMM_KERNEL(hyp_mul_q4_1_avx2, HYP_Q4_1)
HYP_YMM_KERNEL(hyp_mul_q5_0_avx2, HYP_Q5_0)
HYP_YMM_KERNEL(hyp_mul_q5_1_avx2, HYP_Q5_1)
HYP_YMM_KERNEL(hyp_mul_q8_0_avx2, HYP_Q8_0)
HYP_YMM_KERNEL(hyp_mul_iq4_nl_avx2, HYP_IQ4_NL)

void hyp_matmul_fill_legacy_avx2(hyp_table *t, int ahead)
{
    t->mul[HYP_Q4_0] = ahead ? hyp_mul_q4_0_avx2_ahead : hyp_mul_q4_0_avx2;
    t->mul[HYP_Q4_1] = ahead ? hyp_mul_q4_1_avx2_ahead : hyp_mul_q4_1_avx2;
    t->mul[HYP_Q5_0] = ahead ? hyp_mul_q5_0_avx2_ahead : hyp_mul_q5_0_avx2;
    t->mul[HYP_Q5_1] = ahead ? hyp_mul_q5_1_avx2_ahead : hyp_mul_q5_1_avx2;
    t->mul[HYP_Q8_0] = ahead ? hyp_mul_q8_0_avx2_ahead : hyp_mul_q8_0_avx2;
    t->mul[HYP_IQ4_NL] = ahead ? hyp_mul_iq4_nl_avx2_ahead : hyp_mul_iq4_nl_avx2;
}
