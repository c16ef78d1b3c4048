/* Block types of 32 weights, AVX-VNNI: vpdpbusd on ymm registers. */
#include "matmul_ymm.h"

#if HYP_HAVE_AVXVNNI
#define HYP_YMM_VNNI 1
#include "ymm_mul.h"

HYP_YMM_KERNEL(hyp_mul_q4_0_avxvnni, HYP_Q4_0)
HYP_YMM_KERNEL(hyp_mul_q4_1_avxvnni, HYP_Q4_1)
HYP_YMM_KERNEL(hyp_mul_q5_0_avxvnni, HYP_Q5_0)
HYP_YMM_KERNEL(hyp_mul_q5_1_avxvnni, HYP_Q5_1)
HYP_YMM_KERNEL(hyp_mul_q8_0_avxvnni, HYP_Q8_0)
HYP_YMM_KERNEL(hyp_mul_iq4_nl_avxvnni, HYP_IQ4_NL)

void hyp_matmul_fill_legacy_avxvnni(hyp_table *t, int ahead)
{
    t->mul[HYP_Q4_0] = ahead ? hyp_mul_q4_0_avxvnni_ahead : hyp_mul_q4_0_avxvnni;
    t->mul[HYP_Q4_1] = ahead ? hyp_mul_q4_1_avxvnni_ahead : hyp_mul_q4_1_avxvnni;
    t->mul[HYP_Q5_0] = ahead ? hyp_mul_q5_0_avxvnni_ahead : hyp_mul_q5_0_avxvnni;
    t->mul[HYP_Q5_1] = ahead ? hyp_mul_q5_1_avxvnni_ahead : hyp_mul_q5_1_avxvnni;
    t->mul[HYP_Q8_0] = ahead ? hyp_mul_q8_0_avxvnni_ahead : hyp_mul_q8_0_avxvnni;
    t->mul[HYP_IQ4_NL] = ahead ? hyp_mul_iq4_nl_avxvnni_ahead : hyp_mul_iq4_nl_avxvnni;
}
#else
void hyp_matmul_fill_legacy_avxvnni(hyp_table *t, int ahead) { (void)t, (void)ahead; }
#endif
