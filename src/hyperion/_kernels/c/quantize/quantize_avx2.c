/* The quantizing kernels of the avx2 level. */
#define HYP_QUANTIZE_AVX2 1
#include "quantize/kernels.h"

void hyp_quantize_fill_avx2(hyp_table *t)
{
    fill_quantize(t);
}
