/* Element-wise functions, and softmax and norms of rows, over arrays of any strides, on a team of threads. */
#ifndef HYP_DENSE_MAP_H
#define HYP_DENSE_MAP_H

#include "common/table.h"
#include "threads/threads.h"

#define HYP_DIMS 64 /* NumPy's limit */

/* Two float arrays of one shape; strides are in bytes, may be negative or 0, and need not be multiples of 4. */
typedef struct {
    size_t dims, n[HYP_DIMS];
    ptrdiff_t in[HYP_DIMS], out[HYP_DIMS];
    const char *src;
    char *dst;
} hyp_pair;

/* Reorder and merge dimensions so that memory is walked in the order of `out`; a value's place in the walk changes. */
void hyp_pair_simplify(hyp_pair *pair);

/* out = f(in); the arrays are one and the same or do not overlap. f is that of HYP_MAPS at some level. */
int hyp_map_array(const hyp_threads_api *api, hyp_team *team, const hyp_table *t, int f, const hyp_pair *pair);

/* What is done to each row. weight and bias: of a row's length, for norms; a layer norm's may be NULL. */
enum { HYP_ROW_SOFTMAX = 0, HYP_ROW_RMS_NORM = 1, HYP_ROW_LAYER_NORM = 2 };
typedef struct {
    const hyp_table *table;
    int kind;
    float eps;
    const float *weight, *bias;
} hyp_row_op;

/* op over rows of n values whose first values are `pair`; in and out step from value to value of a row. buffer: where a row is
 * not contiguous hyp_rows_buffer floats a thread, else unused. */
size_t hyp_rows_buffer(size_t n);
int hyp_map_rows(const hyp_threads_api *api, hyp_team *team, const hyp_row_op *op, const hyp_pair *pair, size_t n, ptrdiff_t in,
                 ptrdiff_t out, float *buffer);

#endif
