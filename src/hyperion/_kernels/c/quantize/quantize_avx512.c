/* The quantizing kernels of the avx512 level. */
#define HYP_QUANTIZE_AVX512 1
#include "quantize/kernels.h"

void hyp_quantize_fill_avx512(hyp_table *t)
{
    fill_quantize(t);
}
