#include "stream/verify.h"

#include <string.h>

#define P1 UINT64_C(0x9E3779B185EBCA87)
#define P2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define P3 UINT64_C(0x165667B19E3779F9)
#define P4 UINT64_C(0x85EBCA77C2B2AE63)
#define P5 UINT64_C(0x27D4EB2F165667C5)

HYP_INLINE uint64_t rotl(uint64_t x, int n) { return x << n | x >> (64 - n); }

HYP_INLINE uint64_t get64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

HYP_INLINE uint64_t step(uint64_t lane, uint64_t x) { return rotl(lane + x * P2, 31) * P1; }

uint32_t hyp_checksum(const uint8_t *data, size_t n)
{
    const uint8_t *const end = data + n;
    uint64_t h = P5;
    if (n >= 32) {
        uint64_t lane[4] = {P1 + P2, P2, 0, 0 - P1};
        for (; end - data >= 32; data += 32)
            for (int i = 0; i < 4; i++) lane[i] = step(lane[i], get64(data + 8 * i));
        h = rotl(lane[0], 1) + rotl(lane[1], 7) + rotl(lane[2], 12) + rotl(lane[3], 18);
        for (int i = 0; i < 4; i++) h = (h ^ step(0, lane[i])) * P1 + P4;
    }
    h += (uint64_t)n;
    for (; end - data >= 8; data += 8) h = rotl(h ^ step(0, get64(data)), 27) * P1 + P4;
    if (end - data >= 4) {
        uint32_t x;
        memcpy(&x, data, 4);
        h = rotl(h ^ x * P1, 23) * P2 + P3;
        data += 4;
    }
    for (; data < end; data++) h = rotl(h ^ *data * P5, 11) * P1;
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return (uint32_t)(h ^ h >> 32);
}

int64_t hyp_find_damaged_panel(const uint8_t *panels, size_t panel_bytes, size_t n, const uint32_t *sums)
{
    for (size_t i = 0; i < n; i++)
        if (hyp_checksum(panels + i * panel_bytes, panel_bytes) != sums[i]) return (int64_t)i;
    return -1;
}

/* How many vectors of 16 f16 scales a record starts with. */
static size_t scale_vectors(int type)
{
    switch (type) {
    case HYP_Q4_1: case HYP_Q5_1: case HYP_Q2_K: case HYP_Q4_K: case HYP_Q5_K: return 2;
    default: return 1;
    }
}

int hyp_panel_is_nonfinite(int type, const uint8_t *panel, size_t cols)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type), records = cols / hyp_block_len(type);
    const size_t width = type == HYP_F32 ? 4 : 2;
    const size_t values = hyp_act_is_float(type) ? HYP_PANEL : HYP_PANEL * scale_vectors(type);
    const unsigned exponent = type == HYP_F32 || type == HYP_BF16 ? 0x7f80u : 0x7c00u;
    for (size_t r = 0; r < records; r++, panel += record) {
        unsigned bad = 0;
        for (size_t i = 0; i < values; i++) { /* the last two bytes hold the exponent */
            const uint8_t *p = panel + i * width + width - 2;
            bad |= ((p[0] | (unsigned)p[1] << 8) & exponent) == exponent;
        }
        if (bad) return 1;
    }
    return 0;
}
