/* Between dense arrays, compressed rows, rows of blocks and tiles.
 *
 * What makes a structure comes in two steps: one counts (each row's, block row's or part's), the caller adds the counts up,
 * checks that they can be indexed and allocates, and the other fills. Rows are independent, so any cut gives the same result. */
#ifndef HYP_SPARSE_CONVERT_H
#define HYP_SPARSE_CONVERT_H

#include "sparse/product.h"

/* What is wrong with indices; `where` is the row (of indptr) or position (of indices). */
enum {
    HYP_SPARSE_CANONICAL = 0,
    HYP_SPARSE_UNSORTED,
    HYP_SPARSE_DUPLICATE,
    HYP_SPARSE_START,
    HYP_SPARSE_FALLS,
    HYP_SPARSE_END,
    HYP_SPARSE_RANGE
};
int hyp_sparse_check(const int32_t *indptr, const int32_t *indices, size_t major, size_t minor, size_t n, size_t *where);

/* Whether a structure that was canonical once can still be read: nonzero if its arrays, which others may write, have changed so
 * that a product would leave them. */
int hyp_sparse_unsafe(const int32_t *indptr, const int32_t *indices, size_t major, size_t minor, size_t n);

/* Values of x that are not zero (a NaN is not): counts[row], then indices and values from indptr[row] on. */
int hyp_dense_count(const hyp_threads_api *api, hyp_team *team, const hyp_dense *x, int32_t *counts);
int hyp_dense_fill(const hyp_threads_api *api, hyp_team *team, const hyp_dense *x, const int32_t *indptr, int32_t *indices,
                   float *values);

/* The stored values to a zeroed dense array. */
int hyp_sparse_to_dense(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const hyp_dense *out);

/* Rows to columns: the structure of the transpose with its values, which may be any four bytes. `borders` holds
 * hyp_transpose_borders(minor) * major integers. */
size_t hyp_transpose_borders(size_t minor);
int hyp_transpose(const hyp_threads_api *api, hyp_team *team, const int32_t *indptr, const int32_t *indices, const void *values,
                  size_t major, size_t minor, int32_t *borders, int32_t *new_indptr, int32_t *new_indices, void *new_values);

/* Blocks [height][width] as [width][height]; block i of the result is block from[i]. */
int hyp_blocks_transpose(const hyp_threads_api *api, hyp_team *team, const float *values, const int32_t *from, size_t n,
                         size_t height, size_t width, float *to);

/* Compressed rows to rows of blocks that hold a stored value. `cursors` has one place for each row of values; the count of block
 * row i is left in cursors[i * height]. Values are zero before they are filled. */
int hyp_to_blocks_count(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t height, size_t width,
                        int32_t *cursors);
int hyp_to_blocks_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t height, size_t width,
                       int32_t *cursors, const int32_t *indptr, int32_t *indices, float *values);

/* Blocks to compressed rows of their values that are not zero. */
int hyp_from_blocks_count(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, int32_t *counts);
int hyp_from_blocks_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const int32_t *indptr, int32_t *indices,
                         float *values);

/* Where to cut compressed rows into parts for tiles: the first rows of parts in column 0 of table [.][4]; the number of parts,
 * at most hyp_tiles_most(a). */
size_t hyp_tiles_most(const hyp_sparse *a);
size_t hyp_tiles_cut(const hyp_sparse *a, int64_t *table);
/* With tiles NULL: each part's tiles and visits to columns 1 and 2 of table. Otherwise these columns are where each part
 * begins, and everything is filled. */
int hyp_tiles_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t parts, int64_t *table, uint32_t *tiles,
                   hyp_sparse_visit *visits, uint8_t *offsets, float *values);

/* c = a b of compressed rows (Gustavson 1978). `room`: hyp_sparse_sparse_room(b, threads) bytes. With indices NULL the rows'
 * numbers of values go to counts; otherwise rows are written from indptr on, in the order of their indices. */
size_t hyp_sparse_sparse_room(const hyp_sparse *b, size_t threads);
int hyp_sparse_sparse(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const hyp_sparse *b, void *room,
                      int32_t *counts, const int32_t *indptr, int32_t *indices, float *values);

#endif
