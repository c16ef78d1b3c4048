/* Stored values as floats, expanded a piece at a time where they are codes. */
#ifndef HYP_SPARSE_VALUES_H
#define HYP_SPARSE_VALUES_H

#include "sparse/product.h"

enum { HYP_SPARSE_PIECE = 4096 }; /* values expanded at a time: 16 KiB, half of a first-level cache */

/* Room to expand `n` values; 64-byte aligned parts. */
HYP_INLINE size_t hyp_sparse_room(size_t n)
{
    return (4 * n + n + 2 + 63) / 64 * 64;
}

/* Values begin .. end-1: where they are, or expanded into `room` of hyp_sparse_room(end - begin) bytes. */
HYP_INLINE const float *hyp_sparse_values(const hyp_quantize_kernels *k, const hyp_sparse *a, size_t begin, size_t end, void *room)
{
    const hyp_sparse_codes *c = &a->codes;
    if (!c->codes) return a->values + begin;
    float *x = room, *to = x;
    const int8_t *q = (const int8_t *)c->codes + begin;
    if (c->bits == 4) {
        int8_t *unpacked = (int8_t *)(x + (end - begin));
        k->unpack4((const uint8_t *)c->codes + begin / 2, end - begin / 2 * 2, unpacked);
        q = unpacked + begin % 2;
    }
    while (begin < end) { /* a group that began earlier, then all whole ones and the last */
        const size_t group = begin / c->group, inside = begin % c->group;
        size_t n = end - begin;
        if (inside && n > c->group - inside) n = c->group - inside;
        const size_t g = inside || n < c->group ? n : c->group;
        k->values((const uint8_t *)q, 0, n, g, c->scales + group, c->zeros ? c->zeros + group : NULL, to);
        q += n, to += n, begin += n;
    }
    return x;
}

#endif
