/* Between dense and block-sparse panels. */
#include "quant/pack.h"

size_t hyp_sparse_pack_panel(int type, const uint8_t *panel, size_t cols, const uint8_t *keep, uint8_t *dst)
{
    const size_t blocks = cols / HYP_BLOCK, record = HYP_PANEL * hyp_block_bytes(type);
    size_t n = 0;
    for (size_t b = 0; b < blocks; b++) n += keep[b] != 0;
    uint8_t *to = dst + hyp_sparse_index_bytes(n);
    memset(dst, 0, (size_t)(to - dst));
    for (size_t b = 0, j = 0; b < blocks; b++) {
        if (!keep[b]) continue;
        const uint16_t at = (uint16_t)b;
        memcpy(dst + 2 * j++, &at, 2);
        memcpy(to, panel + b * record, record);
        to += record;
    }
    return (size_t)(to - dst);
}

void hyp_sparse_expand_panel(int type, const uint8_t *panel, size_t bytes, size_t cols, uint8_t *dst)
{
    const uint64_t offsets[2] = {0, bytes};
    const size_t blocks = cols / HYP_BLOCK, record = HYP_PANEL * hyp_block_bytes(type), scales = 2 * HYP_PANEL;
    const hyp_sparse_panel s = hyp_sparse_panel_at(type, panel, offsets, 0);
    for (size_t b = 0, j = 0; b < blocks; b++, dst += record) {
        if (j < s.n && hyp_sparse_block(&s, j, blocks) == b) {
            memcpy(dst, s.records + j++ * record, record);
        } else {
            memset(dst, 0, scales);
            memset(dst + scales, type == HYP_Q4_0 ? 0x88 : 0x80, record - scales);
        }
    }
}

int hyp_sparse_is_sound(int type, const uint8_t *panel, size_t bytes, size_t cols)
{
    const uint64_t offsets[2] = {0, bytes};
    const size_t blocks = cols / HYP_BLOCK, n = hyp_sparse_count(type, bytes);
    if (n > blocks || bytes != hyp_sparse_panel_bytes(type, n)) return 0;
    const hyp_sparse_panel s = hyp_sparse_panel_at(type, panel, offsets, 0);
    int32_t last = -1;
    for (size_t j = 0; j < n; j++) {
        uint16_t b;
        memcpy(&b, s.at + 2 * j, 2);
        if ((int32_t)b <= last || b >= blocks) return 0;
        last = b;
    }
    return 1;
}
