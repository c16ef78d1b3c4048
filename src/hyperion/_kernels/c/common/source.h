/* Weights that come piece by piece: what a stream gives and a forward pass takes. */
#ifndef HYP_SOURCE_H
#define HYP_SOURCE_H

#include "common/hyp.h"

/* A piece: panels, or rows as GGUF has them. Whoever multiplies packs rows, a panel at a time and right before it is used: then
 * the panel comes from the core's own cache, and nothing is written that another core will read. */
typedef struct {
    const uint8_t *panels; /* NULL where the piece is rows */
    const uint8_t *rows;
    uint8_t *temp;         /* room to pack in, hyp_temp_bytes of the largest panel for each worker, 64-aligned */
    size_t temp_bytes;
} hyp_taken;

enum { HYP_PACKED_TOGETHER = 2 }; /* kernels for several tokens take panels in pairs */

HYP_INLINE size_t hyp_whole_lines(size_t n) { return (n + 63) / 64 * 64; }

/* Room for a panel's rows, and behind them for the panels that are packed together. */
HYP_INLINE size_t hyp_temp_bytes(size_t panel)
{
    return hyp_whole_lines(panel) + hyp_whole_lines(HYP_PACKED_TOGETHER * panel);
}

typedef struct {
    void *self;
    /* Wait for piece i; HYP_OK, HYP_CANCELLED or an error that Python fetches from `self`. */
    int (*acquire)(void *self, size_t piece, hyp_taken *taken);
    void (*release)(void *self, size_t piece);
} hyp_source;

#endif
