/* GGUF blocks to floats: one function a type, static, so that each unit that includes this has its own, built with its own
 * instruction set. Rounded where the format's own definition rounds (a product, then a sum: never fused). */
#ifndef HYP_QUANT_BLOCKS_H
#define HYP_QUANT_BLOCKS_H

#include "common/panel.h"

#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#define MAX_BLOCK_BYTES 210

HYP_INLINE uint16_t get16(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
    return h;
}

HYP_INLINE float half_at(const uint8_t *p)
{
    return hyp_half_to_float(get16(p));
}

/* ---- Blocks of 32: d, m, a fifth bit and nibbles -------------------------------------------------------------------- */

HYP_INLINE void nibbles(const uint8_t *HYP_RESTRICT q, float d, int zero, float *HYP_RESTRICT y)
{
    for (int i = 0; i < 16; ++i) {
        y[i] = d * (float)((q[i] & 15) - zero);
        y[i + 16] = d * (float)((q[i] >> 4) - zero);
    }
}

static void block_q4_0(const uint8_t *b, float *y)
{
    nibbles(b + 2, half_at(b), 8, y);
}

static void block_q4_1(const uint8_t *b, float *y)
{
    const float m = half_at(b + 2);
    nibbles(b + 4, half_at(b), 0, y);
    for (int i = 0; i < 32; ++i) y[i] += m;
}

static void block_q5_0(const uint8_t *b, float *y)
{
    const float d = half_at(b);
    const uint32_t h = (uint32_t)get16(b + 2) | (uint32_t)get16(b + 4) << 16;
    for (int i = 0; i < 16; ++i) {
        y[i] = d * (float)((int)((b[6 + i] & 15u) | ((h >> i) & 1u) << 4) - 16);
        y[i + 16] = d * (float)((int)((b[6 + i] >> 4) | ((h >> (i + 16)) & 1u) << 4) - 16);
    }
}

static void block_q5_1(const uint8_t *b, float *y)
{
    const float d = half_at(b), m = half_at(b + 2);
    const uint32_t h = (uint32_t)get16(b + 4) | (uint32_t)get16(b + 6) << 16;
    for (int i = 0; i < 16; ++i) {
        y[i] = d * (float)(int)((b[8 + i] & 15u) | ((h >> i) & 1u) << 4) + m;
        y[i + 16] = d * (float)(int)((b[8 + i] >> 4) | ((h >> (i + 16)) & 1u) << 4) + m;
    }
}

static void block_q8_0(const uint8_t *b, float *y)
{
    const float d = half_at(b);
    int8_t q[32];
    memcpy(q, b + 2, sizeof q);
    for (int i = 0; i < 32; ++i) y[i] = d * (float)q[i];
}

static void block_iq4_nl(const uint8_t *b, float *y)
{
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const float d = half_at(b);
    for (int i = 0; i < 16; ++i) {
        y[i] = d * (float)values[b[2 + i] & 15];
        y[i + 16] = d * (float)values[b[2 + i] >> 4];
    }
}

/* ---- Blocks of 256 ---------------------------------------------------------------------------------------------------- */

static void block_q2_k(const uint8_t *b, float *y)
{
    const float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int g = 0; g < 16; ++g) {
        const float scale = d * (float)(b[g] & 15), min = dmin * (float)(b[g] >> 4);
        const uint8_t *q = b + 16 + g / 8 * 32 + g % 2 * 16;
        const int shift = g % 8 / 2 * 2;
        for (int i = 0; i < 16; ++i) y[16 * g + i] = scale * (float)((q[i] >> shift) & 3) - min;
    }
}

static void block_q3_k(const uint8_t *b, float *y)
{
    const float d = half_at(b + 108);
    const uint8_t *s = b + 96;
    for (int g = 0; g < 16; ++g) {
        const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4, high = (s[8 + g % 4] >> (g / 4 * 2)) & 3;
        const float scale = d * (float)((low | high << 4) - 32);
        const uint8_t *h = b + g % 2 * 16, *q = b + 32 + g / 8 * 32 + g % 2 * 16;
        const int shift = g % 8 / 2 * 2;
        for (int i = 0; i < 16; ++i)
            y[16 * g + i] = scale * (float)(((q[i] >> shift) & 3) + ((h[i] >> (g / 2)) & 1) * 4 - 4);
    }
}

/* Scale and min of group g from the 12 bytes of Q4_K and Q5_K. */
HYP_INLINE void k_scale(const uint8_t s[12], int g, int *scale, int *min)
{
    *scale = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
    *min = g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) | (s[g] >> 6) << 4;
}

static void block_q4_k(const uint8_t *b, float *y)
{
    const float d = half_at(b), dmin = half_at(b + 2);
    for (int g = 0; g < 8; ++g) {
        int sc, mn;
        k_scale(b + 4, g, &sc, &mn);
        const float scale = d * (float)sc, min = dmin * (float)mn;
        const uint8_t *q = b + 16 + g / 2 * 32;
        const int shift = g % 2 * 4;
        for (int i = 0; i < 32; ++i) y[32 * g + i] = scale * (float)((q[i] >> shift) & 15) - min;
    }
}

static void block_q5_k(const uint8_t *b, float *y)
{
    const float d = half_at(b), dmin = half_at(b + 2);
    const uint8_t *h = b + 16;
    for (int g = 0; g < 8; ++g) {
        int sc, mn;
        k_scale(b + 4, g, &sc, &mn);
        const float scale = d * (float)sc, min = dmin * (float)mn;
        const uint8_t *q = b + 48 + g / 2 * 32;
        const int shift = g % 2 * 4;
        for (int i = 0; i < 32; ++i)
            y[32 * g + i] = scale * (float)(((q[i] >> shift) & 15) | ((h[i] >> g) & 1) << 4) - min;
    }
}

static void block_q6_k(const uint8_t *b, float *y)
{
    const float d = half_at(b + 208);
    int8_t s[16];
    memcpy(s, b + 192, sizeof s);
    for (int g = 0; g < 8; ++g) { /* 32 weights, two scales */
        const uint8_t *ql = b + g / 4 * 64 + g % 2 * 32, *qh = b + 128 + g / 4 * 32;
        const int low = g % 4 / 2 * 4, high = g % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            const float scale = d * (float)s[2 * g + half];
            for (int i = 16 * half; i < 16 * half + 16; ++i)
                y[32 * g + i] = scale * (float)((((ql[i] >> low) & 15) | ((qh[i] >> high) & 3) << 4) - 32);
        }
    }
}

typedef void (*block_fn)(const uint8_t *b, float *y);

#endif
