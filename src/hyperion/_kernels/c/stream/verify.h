/* Checks of packed panels as they come from a file: every panel has its own checksum, so that any run of panels, however
 * a plan cuts the weights, can be verified where it lands, without reading anything twice. */
#ifndef HYP_VERIFY_H
#define HYP_VERIFY_H

#include "common/panel.h"

/* The low half of XXH64 with seed 0 (the xxHash specification): four multiplications in flight a cycle keep up with
 * memory on every 64-bit processor, which a table-driven CRC does not. */
uint32_t hyp_checksum(const uint8_t *data, size_t n);

/* Index of the first of n panels whose checksum is not sums[i], or -1. */
int64_t hyp_find_damaged_panel(const uint8_t *panels, size_t panel_bytes, size_t n, const uint32_t *sums);

/* Whether a panel has a scale (float types: a value) that is NaN or infinite. */
int hyp_panel_is_nonfinite(int type, const uint8_t *panel, size_t cols);

#endif
