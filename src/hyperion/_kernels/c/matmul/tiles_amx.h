/* The shape of the tiles. For the AMX units alone: compiled with their flags. */
#ifndef HYP_TILES_AMX_H
#define HYP_TILES_AMX_H

#include <immintrin.h>

#include "common/panel.h"

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} hyp_tile_config;

/* `sums` tiles of `tokens` rows of 16 int32, one of activations (`tokens` rows of a block's codes), and `weights` tiles of 8 rows of
 * 4 consecutive K of 16 rows; numbered in this order. */
HYP_INLINE void hyp_tiles_configure(int sums, int weights, size_t tokens)
{
    /* volatile: gcc's intrinsic names only the first 8 bytes as its input, and drops the other stores when it inlines */
    volatile hyp_tile_config c = {.palette = 1};
    for (int i = 0; i <= sums; i++) c.rows[i] = (uint8_t)tokens;
    for (int i = 0; i <= sums + weights; i++) c.row_bytes[i] = 64;
    c.row_bytes[sums] = HYP_BLOCK;
    for (int i = 1; i <= weights; i++) c.rows[sums + i] = HYP_BLOCK / 4;
    _tile_loadconfig((const void *)&c);
}

#endif
