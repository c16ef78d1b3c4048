/* Storing one position of a KV head (layouts in common/table.h). Integer comparisons of the floats' magnitudes and
 * rounding by a magic addition keep the loops free of branches, so that a compiler vectorises them for its target. */
#ifndef HYP_KV_STORE_H
#define HYP_KV_STORE_H

#include "common/table.h"

/* Codes of up to 32 floats: q = x/d to nearest even, clamped to low..high, where d is the f16 that the cache holds; so a
 * scale's rounding costs nothing. Q8_0: d = absmax / 127. Q4_0: d = the value of largest magnitude / -8, which uses the
 * odd code -8. Scales past f16's range saturate. A block with NaN or infinity keeps that by a NaN scale. */
HYP_INLINE uint16_t kv_quantize_block(int kv, const float *x, size_t n, int8_t *q)
{
    HYP_ALIGN64 float v[32];
    int32_t bits[32], largest = 0, positive = 0;
    for (size_t i = 0; i < 32; i++) v[i] = i < n ? x[i] : 0.0f;
    memcpy(bits, v, sizeof bits);
    for (size_t i = 0; i < 32; i++) {
        const int32_t magnitude = bits[i] & 0x7fffffff;
        largest = magnitude > largest ? magnitude : largest;
    }
    for (size_t i = 0; i < 32; i++) positive |= bits[i] == largest;
    float absmax, scale, inverse;
    memcpy(&absmax, &largest, 4);
    memset(q, 0, 32);
    if (largest >= 0x7f800000) return 0x7e00;
    scale = kv == HYP_KV_Q8_0 ? absmax / 127.0f : absmax / 8.0f;
    const uint16_t magnitude = hyp_float_to_half(scale > 65504.0f ? 65504.0f : scale);
    if (magnitude == 0) return 0;
    const uint16_t d = kv == HYP_KV_Q4_0 && positive ? (uint16_t)(magnitude | 0x8000u) : magnitude;
    inverse = 1.0f / hyp_half_to_float(d);
    const float low = kv == HYP_KV_Q8_0 ? -127.0f : -8.0f, high = kv == HYP_KV_Q8_0 ? 127.0f : 7.0f;
    for (size_t i = 0; i < 32; i++) {
        float t = v[i] * inverse;
        t = t < low ? low : t;
        t = t > high ? high : t;
        t += 12582912.0f; /* 1.5 * 2^23: the integer lands in the low bits */
        memcpy(&bits[i], &t, 4);
    }
    for (size_t i = 0; i < 32; i++) q[i] = (int8_t)(bits[i] - 0x4b400000);
    return d;
}

HYP_INLINE void kv_store_quantized(int kv, void *k_cache, void *v_cache, size_t head_dim, size_t pos, const float *k,
                                   const float *v)
{
    const size_t blocks = (head_dim + 31) / 32, lane = pos % HYP_KV_TILE;
    uint8_t *tile = (uint8_t *)k_cache + pos / HYP_KV_TILE * hyp_k_tile_bytes(kv, head_dim);
    uint8_t *row = (uint8_t *)v_cache + pos * hyp_v_row_bytes(kv, head_dim), *codes = row + 2 * blocks;
    int8_t q[32];
    for (size_t b = 0; b < blocks; b++) {
        const size_t left = head_dim - 32 * b < 32 ? head_dim - 32 * b : 32;
        uint16_t d = kv_quantize_block(kv, k + 32 * b, left, q);
        memcpy(tile + 2 * lane, &d, 2);
        tile += 2 * HYP_KV_TILE;
        if (kv == HYP_KV_Q8_0) {
            for (size_t j = 0; j < 32; j++) tile[j * HYP_KV_TILE + lane] = (uint8_t)q[j];
            tile += 32 * HYP_KV_TILE;
        } else {
            for (size_t j = 0; j < 16; j++) tile[j * HYP_KV_TILE + lane] = (uint8_t)((q[j] + 8) | (q[16 + j] + 8) << 4);
            tile += 16 * HYP_KV_TILE;
        }
        d = kv_quantize_block(kv, v + 32 * b, left, q);
        memcpy(row + 2 * b, &d, 2);
        if (kv == HYP_KV_Q8_0) {
            memcpy(codes + 32 * b, q, 32);
        } else {
            for (size_t j = 0; j < 16; j++) codes[16 * b + j] = (uint8_t)((q[j] + 8) | (q[16 + j] + 8) << 4);
        }
    }
}

#endif
