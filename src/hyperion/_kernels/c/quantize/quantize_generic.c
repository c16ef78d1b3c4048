/* The quantizing kernels of the generic level. */
#include "quantize/kernels.h"

void hyp_quantize_fill_generic(hyp_table *t)
{
    fill_quantize(t);
}
