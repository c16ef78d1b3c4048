/* The AVX2 level's entries of the table. */
#include "matmul_ymm.h"

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

int hyp_matmul_ahead_avx2(void)
{
    unsigned vendor = 0; /* EBX of leaf 0: the first four letters of "GenuineIntel" */
#if defined(_MSC_VER)
    int leaf[4];
    __cpuid(leaf, 0);
    vendor = (unsigned)leaf[1];
#else
    unsigned a, c, d;
    if (!__get_cpuid(0, &a, &vendor, &c, &d)) return 0;
#endif
    return vendor == 0x756e6547u;
}

void hyp_matmul_fill_avx2(hyp_table *t)
{
    const int ahead = hyp_matmul_ahead_avx2();
    hyp_matmul_fill_legacy_avx2(t, ahead);
    hyp_matmul_fill_kquant_avx2(t);
    hyp_matmul_fill_float_avx2(t, ahead);
    hyp_matmul_fill_act_avx2(t);
    hyp_matmul_fill_sparse_avx2(t);
}
