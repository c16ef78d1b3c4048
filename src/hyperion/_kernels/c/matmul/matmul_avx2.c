/* The AVX2 level's entries of the table. */
#include "matmul_ymm.h"

void hyp_matmul_fill_avx2(hyp_table *t)
{
    hyp_matmul_fill_legacy_avx2(t);
    hyp_matmul_fill_kquant_avx2(t);
    hyp_matmul_fill_float_avx2(t);
    hyp_matmul_fill_act_avx2(t);
}
