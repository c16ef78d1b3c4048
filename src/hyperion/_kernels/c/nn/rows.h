/* Products of weights that are still rows as GGUF has them. */
#ifndef HYP_ROWS_H
#define HYP_ROWS_H

#include "common/source.h"
#include "matmul/linear.h"

/* out = act x W^T, W being taken->rows (product->weight says type and sizes): the same bits as hyp_linear on their panels. */
int hyp_linear_rows(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_product *product,
                    const hyp_taken *taken, const void *act, size_t m);

#endif
