/* Sizes of work that is cut into parts. */
#ifndef HYP_DENSE_CUT_H
#define HYP_DENSE_CUT_H

#include <stddef.h>

static inline size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t parts(size_t n, size_t size)
{
    return n / size + (n % size != 0);
}

static inline size_t round_up(size_t n, size_t to)
{
    return parts(n, to) * to;
}

#endif
