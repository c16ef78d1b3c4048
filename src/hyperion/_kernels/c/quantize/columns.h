/* Arrays whose last axis has params of its own for each index: [rows, 1, columns] as kernels that take a param a value see them. */
#ifndef HYP_QUANTIZE_COLUMNS_H
#define HYP_QUANTIZE_COLUMNS_H

#include "quantize/driver.h"

/* Whether the last dimension has one value, and its neighbours have params of their own. */
HYP_INLINE int hyp_is_columns(const hyp_affine *job)
{
    return job->x.n[2] == 1 && job->x.n[1] > 1;
}

/* Fill in scales and zeros from the columns' extremes. */
int hyp_columns_ranges(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job);

/* With the params that are there; `backwards` starts with the last rows, which have been read last. */
int hyp_columns_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job, int backwards);
int hyp_columns_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job);

#endif
