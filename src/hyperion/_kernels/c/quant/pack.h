/* Between GGUF blocks and packed panels. */
#ifndef HYP_PACK_H
#define HYP_PACK_H

#include "common/panel.h"

/* Pack `rows` source rows (1..16; missing ones become zero bytes) of `row_bytes` each at src, `stride` bytes apart, into
 * one panel at dst. */
int hyp_pack_panel(int type, const uint8_t *src, size_t stride, size_t rows, size_t cols, uint8_t *dst);

/* The inverse: rebuild the source bytes of row r of a panel. */
int hyp_unpack_row(int type, const uint8_t *panel, size_t r, size_t cols, uint8_t *dst);

/* Source blocks to floats (exactly GGUF's values). */
int hyp_dequantize_row(int type, const uint8_t *src, size_t cols, float *dst);

/* Row r of a panel to floats: equal to unpacking and dequantizing. */
int hyp_dequantize_panel_row(int type, const uint8_t *panel, size_t r, size_t cols, float *dst);

/* Index of the first block whose scale (or float value) is NaN or infinite, or -1. */
int64_t hyp_find_nonfinite(int type, const uint8_t *src, size_t blocks);

/* ---- Block-sparse panels (see panel.h) ----------------------------------------------------------------------------- */

/* Leave out the blocks of a dense panel for which keep is 0; returns the bytes at dst, hyp_sparse_panel_bytes of those kept. */
size_t hyp_sparse_pack_panel(int type, const uint8_t *panel, size_t cols, const uint8_t *keep, uint8_t *dst);

/* The inverse; blocks that are not there become zeros: scale 0 and the codes of 0. The sparse panel must be sound. */
void hyp_sparse_expand_panel(int type, const uint8_t *panel, size_t bytes, size_t cols, uint8_t *dst);

/* Whether bytes from a file are a sparse panel: a size that some number of blocks has, and indices that rise and are within the
 * row. */
int hyp_sparse_is_sound(int type, const uint8_t *panel, size_t bytes, size_t cols);

#endif
