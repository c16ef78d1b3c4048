/* Whole arrays through the quantizing kernels, on a team of threads. */
#ifndef HYP_QUANTIZE_DRIVER_H
#define HYP_QUANTIZE_DRIVER_H

#include "common/table.h"
#include "threads/threads.h"

#define HYP_F64 28 /* GGUF's number, as of the other types */

/* Statuses beside those of common/hyp.h. */
enum { HYP_NOT_FINITE = 100, HYP_SCALE_OVERFLOW = 101 };

/* An array of floats of any strides, cut to three dimensions: kind is HYP_F32, HYP_F16, HYP_BF16 or HYP_F64; strides are in
 * bytes and may be negative; nothing need be aligned. */
typedef struct {
    char *data;
    int kind;
    size_t n[3];
    ptrdiff_t stride[3];
} hyp_array;

enum { HYP_ABSMAX = 0, HYP_MSE = 1, HYP_HQQ = 2 };

/* Scales belong to groups: group (k, j) is all [o, k, j*group .. (j+1)*group) for every o, and its params are number
 * k * ceil(n[2] / group) + j. codes hold the array in C order: int8, or packed nibbles; packed codes need every row and group to
 * start at an even place (a single row may be odd; with n[2] = 1 a row is [o]). Where find_scale or find_zero is 0 that param is given. */
typedef struct {
    hyp_array x; /* input of quantizing, output of dequantizing */
    size_t group;
    int bits, packed, method, find_scale, find_zero;
    float *scales, *zeros; /* zeros is NULL where symmetric */
    uint8_t *codes;
} hyp_affine;

/* Where the code of value `at` in C order lies; `at` is even where they are packed. */
HYP_INLINE uint8_t *hyp_code_place(const hyp_affine *job, size_t at)
{
    return job->codes + (job->packed ? at / 2 : at);
}

int hyp_affine_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job);
int hyp_affine_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job);

/* Rows are [o, k]: each has n[2] values, a multiple of the block. */
int hyp_blocks_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const hyp_array *x, uint8_t *dst);
int hyp_blocks_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const hyp_array *x,
                          const uint8_t *src);

/* Between int8 and packed nibbles, n codes. */
int hyp_nibbles_pack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const int8_t *q, size_t n, uint8_t *p);
int hyp_nibbles_unpack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const uint8_t *p, size_t n, int8_t *q);

/* Place in C order of the first value that is no finite float32, or -1. One thread. */
int64_t hyp_array_find_nonfinite(const hyp_table *t, const hyp_array *x);

#endif
