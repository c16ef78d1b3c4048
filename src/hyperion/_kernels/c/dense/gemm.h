/* c = a b in float32 for matrices of any strides: blocked, packed, on a team of threads.
 *
 * Every element of c is one chain of multiply-adds over k in rising order, continued from c where the depth is cut into blocks:
 * its bits depend neither on the block sizes nor on threads, strides, or the element's place. */
#ifndef HYP_DENSE_GEMM_H
#define HYP_DENSE_GEMM_H

#include "common/table.h"
#include "threads/threads.h"

/* Strides are in floats and may be negative; columns of c are contiguous. a is [m, k], b [k, n], none of them 0. */
typedef struct {
    size_t m, n, k;
    const float *a, *b;
    ptrdiff_t a_row, a_col, b_row, b_col;
    float *c;
    ptrdiff_t c_row;
} hyp_gemm;

/* How the work is cut: a `rows` x `depth` block of a stays in a core's second cache while panels of b pass through its first one;
 * `super` rows of a and `cols` columns of b, each `depth` deep, stand packed in what the cores share. */
typedef struct {
    size_t rows, depth, super, cols;
    size_t ahead; /* bytes between what is multiplied and what is prefetched; 0: no prefetching */
    size_t line;  /* bytes of a cache line: packed panels begin at multiples of it */
} hyp_blocks;

/* Bytes of the packed blocks; 0 where both matrices are read where they lie. */
size_t hyp_gemm_buffer(const hyp_table *t, const hyp_gemm *g, const hyp_blocks *blocks);

/* buffer: hyp_gemm_buffer bytes. */
int hyp_gemm_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_gemm *g, const hyp_blocks *blocks,
                 void *buffer);

/* A product of one row, or of one column as the transposed one of one row, in *row; 0 if it is neither, or if b's strides are such
 * that it has to be packed. It needs no buffer. */
int hyp_gemm_as_row(const hyp_gemm *g, hyp_gemm *row);

/* What hyp_gemm_as_row gave. */
int hyp_gemm_row_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_gemm *row, const hyp_blocks *blocks);

#endif
