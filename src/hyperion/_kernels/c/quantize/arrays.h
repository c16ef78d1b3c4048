/* Reading and writing runs of an array of any type and strides as contiguous floats; for the quantizers' baseline code. */
#ifndef HYP_QUANTIZE_ARRAYS_H
#define HYP_QUANTIZE_ARRAYS_H

#include "quantize/driver.h"

enum {
    STAGE = 4096,       /* values in a piece: 16 KiB of floats */
    TASK = 4 * STAGE     /* values that pay for a task */
};

HYP_INLINE size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

HYP_INLINE size_t ceil_div(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

HYP_INLINE size_t item_bytes(int kind)
{
    return kind == HYP_F64 ? 8 : kind == HYP_F32 ? 4 : 2;
}

HYP_INLINE char *place(const hyp_array *a, size_t o, size_t k, size_t i)
{
    return a->data + (ptrdiff_t)o * a->stride[0] + (ptrdiff_t)k * a->stride[1] + (ptrdiff_t)i * a->stride[2];
}

/* Whether a run is floats in memory as the kernels take them. */
HYP_INLINE int is_plain(const hyp_array *a, const char *p)
{
    return a->kind == HYP_F32 && a->stride[2] == 4 && (uintptr_t)p % 4 == 0;
}

HYP_INLINE void load_packed(const hyp_quantize_kernels *k, int kind, const void *p, size_t n, float *x)
{
    switch (kind) {
    case HYP_F16: k->load_f16(p, n, x); break;
    case HYP_BF16: k->load_bf16(p, n, x); break;
    case HYP_F64: k->load_f64(p, n, x); break;
    default: memcpy(x, p, 4 * n);
    }
}

HYP_INLINE void store_packed(const hyp_quantize_kernels *k, int kind, const float *x, size_t n, void *p)
{
    switch (kind) {
    case HYP_F16: k->store_f16(x, n, p); break;
    case HYP_BF16: k->store_bf16(x, n, p); break;
    case HYP_F64: k->store_f64(x, n, p); break;
    default: memcpy(p, x, 4 * n);
    }
}

/* n <= STAGE values from [o, k, i] on along the last dimension: where they lie if they are plain, else in x. */
HYP_INLINE const float *load_run(const hyp_quantize_kernels *kernels, const hyp_array *a, size_t o, size_t k, size_t i, size_t n, float *x)
{
    const char *p = place(a, o, k, i);
    const size_t item = item_bytes(a->kind);
    const ptrdiff_t step = a->stride[2];
    if (is_plain(a, p)) return (const float *)(const void *)p;
    if (step == (ptrdiff_t)item) {
        load_packed(kernels, a->kind, p, n, x);
        return x;
    }
    char gathered[64 * 8];
    for (size_t at = 0; at < n; at += 64) {
        const size_t count = smaller(n - at, 64);
        for (size_t j = 0; j < count; ++j, p += step) memcpy(gathered + j * item, p, item);
        load_packed(kernels, a->kind, gathered, count, x + at);
    }
    return x;
}

/* Where to write n values for [o, k, i]: the place itself if it is plain, else x; then store_run. */
HYP_INLINE float *target_run(const hyp_array *a, size_t o, size_t k, size_t i, float *x)
{
    char *p = place(a, o, k, i);
    return is_plain(a, p) ? (float *)(void *)p : x;
}

HYP_INLINE void store_run(const hyp_quantize_kernels *kernels, const hyp_array *a, size_t o, size_t k, size_t i, size_t n, const float *x)
{
    char *p = place(a, o, k, i);
    const size_t item = item_bytes(a->kind);
    const ptrdiff_t step = a->stride[2];
    if ((const char *)x == p) return;
    if (step == (ptrdiff_t)item) {
        store_packed(kernels, a->kind, x, n, p);
        return;
    }
    char scattered[64 * 8];
    for (size_t at = 0; at < n; at += 64) {
        const size_t count = smaller(n - at, 64);
        store_packed(kernels, a->kind, x + at, count, scattered);
        for (size_t j = 0; j < count; ++j, p += step) memcpy(p, scattered + j * item, item);
    }
}

/* The array with its second dimension as the last: of one whose last has one value. */
HYP_INLINE hyp_array each_view(const hyp_array *a)
{
    hyp_array v = *a;
    v.n[1] = 1, v.n[2] = a->n[1];
    v.stride[2] = a->stride[1];
    return v;
}

/* Tasks are pieces of rows; a row is [o, k]. Many short rows make one task. */
typedef struct {
    size_t piece, pieces, total, grain;
} cutting;

HYP_INLINE cutting cut_rows(size_t rows, size_t length, size_t unit)
{
    cutting c;
    c.piece = unit <= STAGE ? STAGE / unit * unit : STAGE;
    c.pieces = ceil_div(length, c.piece);
    c.total = rows * c.pieces;
    c.grain = TASK / smaller(c.piece, length ? length : 1);
    if (c.grain == 0) c.grain = 1;
    return c;
}

/* Items of a task whose work is little more than reading: memory likes long runs, and threads at the end's sake several tasks. */
HYP_INLINE size_t long_grain(const hyp_threads_api *api, const hyp_team *team, size_t total, size_t grain)
{
    const size_t share = total / (8 * api->size(team));
    return share < grain ? grain : smaller(share, 4 * grain);
}

#endif
