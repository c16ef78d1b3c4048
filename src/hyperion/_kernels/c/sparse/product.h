/* Products of a sparse matrix with dense ones, on a thread team. */
#ifndef HYP_SPARSE_PRODUCT_H
#define HYP_SPARSE_PRODUCT_H

#include "common/table.h"
#include "threads/threads.h"

/* Values as codes: value i is (code i - zeros[i / group]) * scales[i / group]. */
typedef struct {
    const void *codes;   /* int8, or two to a byte where bits is 4, the earlier one low; NULL: values are floats */
    int bits;
    size_t group;
    const float *scales, *zeros; /* zeros NULL where symmetric */
} hyp_sparse_codes;

/* Rows of values or of blocks [height][width]; height = width = 1 are compressed rows. Indices are checked by whoever makes it:
 * in range, and indptr rises from 0 to their number. */
typedef struct {
    size_t rows, cols;       /* of values; the last row and column of blocks may reach past them */
    size_t height, width;
    const int32_t *indptr, *indices;
    const float *values;
    hyp_sparse_codes codes;
} hyp_sparse;

/* Compressed rows cut in tiles of HYP_SPARSE_TILE columns, up to HYP_SPARSE_ROWS rows at a time: the values of a tile lie
 * together, in the order in which they are used. Tables have one more row than parts, which says where they end. */
typedef struct {
    size_t rows, cols;
    size_t parts;
    const int64_t *table;    /* [parts + 1][4]: first row, first tile, first visit, first value */
    const uint32_t *tiles;   /* [.][2]: number of the tile, visits in it; tiles without values are left out */
    const hyp_sparse_visit *visits;
    const uint8_t *offsets;
    const float *values;
} hyp_sparse_tiles;

/* Any strides, in floats. */
typedef struct {
    float *data;
    size_t rows, cols;
    ptrdiff_t row, col;
} hyp_dense;

/* Bytes of scratch that the product of either (the other is NULL) with b needs; 0 where sizes overflow. 64-byte aligned. */
size_t hyp_sparse_scratch(const hyp_sparse *a, const hyp_sparse_tiles *tiles, const hyp_dense *b, size_t threads);

/* out = a b. out must not overlap b. */
int hyp_sparse_multiply(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a,
                        const hyp_sparse_tiles *tiles, const hyp_dense *b, const hyp_dense *out, void *scratch);

/* out = a^T x for compressed rows and few columns: values are added where their index says. Scratch of
 * hyp_sparse_scatter_scratch bytes. */
size_t hyp_sparse_scatter_scratch(const hyp_sparse *a);
int hyp_sparse_scatter(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const hyp_dense *x,
                       const hyp_dense *out, void *scratch);

#endif
