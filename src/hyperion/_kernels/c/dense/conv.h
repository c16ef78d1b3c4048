/* Convolution of one image without laying out its windows: the image, with its border of zeros, is cut into planes in which the
 * values that neighbouring windows see at one place of the kernel are neighbours, so that every term of all windows is a row of a
 * plane, shifted.
 *
 * With a step of s, plane (y, x) of a channel has the image's places (i * s + y, j * s + x), for those y and x that the kernel
 * reaches; a channel's planes are one after another. Windows are counted through the planes' rows: the few at the end of each row
 * that run over into the next one are computed and dropped.
 *
 * Every sum is one chain of multiply-adds over (channel, row, column) of the kernel, as in dense/gemm.h; the bias comes last. */
#ifndef HYP_DENSE_CONV_H
#define HYP_DENSE_CONV_H

#include "dense/gemm.h"

/* One dimension, [0] rows and [1] columns of an image or kernel. */
typedef struct {
    size_t in, out, kernel, step, gap, pad;
} hyp_conv_dim;

/* Strides are in floats, may be negative, and are 1 in the last dimension of filters and results; filters are contiguous. */
typedef struct {
    size_t channels, filters, groups;
    hyp_conv_dim dim[2];
    const float *x, *filter, *bias; /* bias: NULL for none */
    ptrdiff_t x_channel, x_at[2];
    float *out;
    ptrdiff_t out_filter, out_row;
} hyp_conv;

/* Bytes for a team of so many threads. */
size_t hyp_conv_buffer(const hyp_table *t, const hyp_conv *conv, size_t threads);

/* buffer: hyp_conv_buffer bytes, aligned to 64. */
int hyp_conv_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_conv *conv, const hyp_blocks *blocks,
                 void *buffer);

#endif
