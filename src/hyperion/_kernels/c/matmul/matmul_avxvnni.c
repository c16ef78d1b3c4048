/* The AVX-VNNI level's entries of the table: integer products; floats and activations are those of AVX2. */
#include "matmul_ymm.h"

void hyp_matmul_fill_avxvnni(hyp_table *t)
{
    const int ahead = hyp_matmul_ahead_avx2();
    hyp_matmul_fill_legacy_avxvnni(t, ahead);
    hyp_matmul_fill_kquant_avxvnni(t);
    hyp_matmul_fill_sparse_avxvnni(t);
}
