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

/* n values a step of bytes apart, to or from values side by side. */
HYP_INLINE void gather_items(const char *p, ptrdiff_t step, size_t item, size_t n, char *to)
{
    switch (item) { /* a size that the compiler knows is one move */
    case 2: for (size_t j = 0; j < n; ++j) memcpy(to + 2 * j, p + (ptrdiff_t)j * step, 2); break;
    case 4: for (size_t j = 0; j < n; ++j) memcpy(to + 4 * j, p + (ptrdiff_t)j * step, 4); break;
    default: for (size_t j = 0; j < n; ++j) memcpy(to + 8 * j, p + (ptrdiff_t)j * step, 8);
    }
}

HYP_INLINE void scatter_items(const char *from, size_t item, size_t n, char *p, ptrdiff_t step)
{
    switch (item) {
    case 2: for (size_t j = 0; j < n; ++j) memcpy(p + (ptrdiff_t)j * step, from + 2 * j, 2); break;
    case 4: for (size_t j = 0; j < n; ++j) memcpy(p + (ptrdiff_t)j * step, from + 4 * j, 4); break;
    default: for (size_t j = 0; j < n; ++j) memcpy(p + (ptrdiff_t)j * step, from + 8 * j, 8);
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
    for (size_t at = 0; at < n; at += 64, p += 64 * step) {
        const size_t count = smaller(n - at, 64);
        gather_items(p, step, item, count, gathered);
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
    for (size_t at = 0; at < n; at += 64, p += 64 * step) {
        const size_t count = smaller(n - at, 64);
        store_packed(kernels, a->kind, x + at, count, scattered);
        scatter_items(scattered, item, count, p, step);
    }
}

/* ---- Turned arrays: those whose last dimension is far apart in memory, while another's values lie side by side ---------------- */

enum {
    TURNED = 64,  /* rows that are turned together: four cache lines of each place along the last dimension */
    ACROSS = 256, /* values of them at a time; a group may need more, and then there are fewer rows */
    PITCH = 16    /* floats between such rows: lines that are a power of two apart would share a set of the first-level cache */
};
enum { TILE = TURNED * (ACROSS + PITCH) }; /* floats of a buffer: 68 KiB */

/* The dimension whose values lie side by side, 0 or 1, or -1 if that is the last one or none. */
HYP_INLINE int turned_axis(const hyp_array *a)
{
    const ptrdiff_t item = (ptrdiff_t)item_bytes(a->kind);
    if (a->n[2] == 1 || a->stride[2] == item) return -1;
    for (int axis = 1; axis >= 0; --axis)
        if (a->n[axis] > 1 && a->stride[axis] == item) return axis;
    return -1;
}

/* n values of each of `rows` rows from [o, k, i] on as rows of n + PITCH floats; the rows lie side by side. */
HYP_INLINE void load_turned(const hyp_quantize_kernels *kernels, const hyp_array *a, size_t o, size_t k, size_t i, size_t rows, size_t n, float *x)
{
    enum { LINES = 16 };
    const char *p = place(a, o, k, i);
    const ptrdiff_t step = a->stride[2], pitch = (ptrdiff_t)n + PITCH;
    float lines[LINES][TURNED];
    if (a->kind == HYP_F32 && (uintptr_t)p % 4 == 0 && step % 4 == 0) {
        kernels->turn((const float *)(const void *)p, step / 4, rows, n, x, pitch);
        return;
    }
    for (size_t at = 0; at < n; at += LINES) {
        const size_t count = smaller(n - at, LINES);
        for (size_t j = 0; j < count; ++j) load_packed(kernels, a->kind, p + (ptrdiff_t)(at + j) * step, rows, lines[j]);
        kernels->turn(lines[0], TURNED, rows, count, x + at, pitch);
    }
}

HYP_INLINE void store_turned(const hyp_quantize_kernels *kernels, const hyp_array *a, size_t o, size_t k, size_t i, size_t rows, size_t n, const float *x)
{
    enum { LINES = 16 };
    char *p = place(a, o, k, i);
    const ptrdiff_t step = a->stride[2], pitch = (ptrdiff_t)n + PITCH;
    float lines[LINES][TURNED];
    if (a->kind == HYP_F32 && (uintptr_t)p % 4 == 0 && step % 4 == 0) {
        kernels->turn(x, pitch, n, rows, (float *)(void *)p, step / 4);
        return;
    }
    for (size_t at = 0; at < n; at += LINES) {
        const size_t count = smaller(n - at, LINES);
        kernels->turn(x + at, pitch, count, rows, lines[0], TURNED);
        for (size_t j = 0; j < count; ++j) store_packed(kernels, a->kind, lines[j], rows, p + (ptrdiff_t)(at + j) * step);
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

/* Tasks are pieces of rows; a row is [o, k]. Many short rows make one task. Of a turned array a task is a piece of several rows. */
typedef struct {
    size_t piece, pieces, total, grain;
    int turned, axis;    /* along which the rows of a task lie */
    size_t rows, strips; /* of a task, and tasks along the axis */
} cutting;

/* Pieces have whole units if these are no longer than STAGE. */
HYP_INLINE cutting cut_array(const hyp_array *a, size_t unit)
{
    const int axis = turned_axis(a);
    cutting c;
    c.turned = axis >= 0, c.axis = axis == 0 ? 0 : 1;
    c.piece = unit > STAGE ? STAGE : STAGE / unit * unit;
    if (c.turned) c.piece = unit > STAGE ? ACROSS : unit > ACROSS ? unit : ACROSS / unit * unit;
    c.rows = c.turned ? smaller(TURNED, TILE / (c.piece + PITCH)) : 1;
    c.pieces = ceil_div(a->n[2], c.piece);
    c.strips = ceil_div(a->n[c.axis], c.rows);
    c.total = a->n[1 - c.axis] * c.strips * c.pieces;
    c.grain = TASK / (smaller(c.piece, a->n[2]) * c.rows);
    if (c.grain == 0) c.grain = 1;
    return c;
}

/* Values [begin, end) of row [o, k], and of the rows after it along the axis. */
typedef struct {
    size_t o, k, rows, begin, end;
} piece;

HYP_INLINE piece piece_at(const cutting *c, const hyp_array *a, size_t item)
{
    const size_t line = item / c->pieces, first = line % c->strips * c->rows, other = line / c->strips;
    piece p;
    p.o = c->axis ? other : first;
    p.k = c->axis ? first : other;
    p.rows = smaller(c->rows, a->n[c->axis] - first);
    p.begin = item % c->pieces * c->piece;
    p.end = smaller(p.begin + c->piece, a->n[2]);
    return p;
}

/* The next row of the piece. */
HYP_INLINE void piece_down(const cutting *c, piece *p)
{
    if (c->axis) ++p->k;
    else ++p->o;
}

/* Items of a task whose work is little more than reading: memory likes long runs, and threads at the end's sake several tasks. */
HYP_INLINE size_t long_grain(const hyp_threads_api *api, const hyp_team *team, size_t total, size_t grain)
{
    const size_t share = total / (8 * api->size(team));
    return share < grain ? grain : smaller(share, 4 * grain);
}

#endif
