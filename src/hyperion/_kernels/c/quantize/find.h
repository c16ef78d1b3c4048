/* Params of groups that are searched for, or of groups that do not lie in one place. */
#ifndef HYP_QUANTIZE_FIND_H
#define HYP_QUANTIZE_FIND_H

#include "quantize/driver.h"

/* Fill in the scales and zeros that are to be found. */
int hyp_find_params(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job);

/* What the two ways of finding share: for a range the params that fit it, as far as they are not given, and from the sums of a fit
 * (see hyp_quantize_kernels) over n values those that fit its codes best in the least-squares sense. */
void hyp_range_start(const hyp_affine *job, const hyp_quantize_kernels *kernels, const float mm[2], float *scale, float *zero);
void hyp_least_squares(const hyp_affine *job, double n, const double sums[5], float *scale, float *zero);

enum { HYP_FIT_TRIALS = 28, HYP_FIT_REFITS = 6, HYP_HQQ_ITERATIONS = 20 };

/* Scale of trial i: the ends are cut off, down to a quarter of the range. */
HYP_INLINE float hyp_trial(float scale, int i)
{
    return scale * (1.0f - 0.75f * (float)i / (float)HYP_FIT_TRIALS);
}

/* Search the params of groups side by side: one in a lane, so that no sum goes across. */
int hyp_find_together(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job);

/* Whether that way is taken: by the groups' place and size alone. */
int hyp_suits_together(const hyp_affine *job);

#endif
