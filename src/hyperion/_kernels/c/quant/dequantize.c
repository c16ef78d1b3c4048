/* GGUF blocks to floats: the values that every other path is measured against, rounded where the format's own definition
 * rounds (a product, then a sum: never fused). */
#include "quant/pack.h"
#include "quant/blocks.h"

static block_fn block_of(int type)
{
    switch (type) {
    case HYP_Q4_0: return block_q4_0;
    case HYP_Q4_1: return block_q4_1;
    case HYP_Q5_0: return block_q5_0;
    case HYP_Q5_1: return block_q5_1;
    case HYP_Q8_0: return block_q8_0;
    case HYP_Q2_K: return block_q2_k;
    case HYP_Q3_K: return block_q3_k;
    case HYP_Q4_K: return block_q4_k;
    case HYP_Q5_K: return block_q5_k;
    case HYP_Q6_K: return block_q6_k;
    case HYP_IQ4_NL: return block_iq4_nl;
    default: return NULL;
    }
}

int hyp_dequantize_row(int type, const uint8_t *src, size_t cols, float *dst)
{
    const size_t len = hyp_block_len(type), bytes = hyp_block_bytes(type);
    if (len == 0 || cols % len != 0) return HYP_ERROR_ARGUMENT;
    switch (type) {
    case HYP_F32: memcpy(dst, src, cols * 4); return HYP_OK;
    case HYP_F16:
        for (size_t i = 0; i < cols; ++i) dst[i] = half_at(src + 2 * i);
        return HYP_OK;
    case HYP_BF16:
        for (size_t i = 0; i < cols; ++i) dst[i] = hyp_bf16_to_float(get16(src + 2 * i));
        return HYP_OK;
    default: break;
    }
    const block_fn block = block_of(type);
    for (size_t i = 0; i < cols / len; ++i) block(src + i * bytes, dst + i * len);
    return HYP_OK;
}

int hyp_dequantize_panel_row(int type, const uint8_t *panel, size_t r, size_t cols, float *dst)
{
    const size_t len = hyp_block_len(type), bytes = hyp_block_bytes(type), step = len == 1 ? 64 : len;
    uint8_t source[64 * 4 > MAX_BLOCK_BYTES ? 64 * 4 : MAX_BLOCK_BYTES];
    if (len == 0 || cols % len != 0 || r >= HYP_PANEL) return HYP_ERROR_ARGUMENT;
    for (size_t i = 0; i < cols; i += step) {
        const size_t n = cols - i < step ? cols - i : step;
        hyp_unpack_row(type, panel + i / len * bytes * HYP_PANEL, r, n, source);
        hyp_dequantize_row(type, source, n, dst + i);
    }
    return HYP_OK;
}

/* ---- Hostile scales --------------------------------------------------------------------------------------------------- */

HYP_INLINE int half_is_bad(const uint8_t *p)
{
    return (get16(p) & 0x7c00u) == 0x7c00u;
}

int64_t hyp_find_nonfinite(int type, const uint8_t *src, size_t blocks)
{
    const size_t bytes = hyp_block_bytes(type);
    size_t d = 0, m; /* where the block's scale and minimum are; the same place if it has only one */
    switch (type) {
    case HYP_F32: /* the last two bytes hold sign, exponent and high mantissa */
        for (size_t i = 0; i < blocks; ++i)
            if ((get16(src + 4 * i + 2) & 0x7f80u) == 0x7f80u) return (int64_t)i;
        return -1;
    case HYP_BF16:
        for (size_t i = 0; i < blocks; ++i)
            if ((get16(src + 2 * i) & 0x7f80u) == 0x7f80u) return (int64_t)i;
        return -1;
    case HYP_F16: case HYP_Q4_0: case HYP_Q5_0: case HYP_Q8_0: case HYP_IQ4_NL: m = 0; break;
    case HYP_Q4_1: case HYP_Q5_1: case HYP_Q4_K: case HYP_Q5_K: m = 2; break;
    case HYP_Q2_K: d = 80, m = 82; break;
    case HYP_Q3_K: d = m = 108; break;
    case HYP_Q6_K: d = m = 208; break;
    default: return -1;
    }
    for (size_t i = 0; i < blocks; ++i)
        if (half_is_bad(src + i * bytes + d) || half_is_bad(src + i * bytes + m)) return (int64_t)i;
    return -1;
}
