/* Quantizers of the formats without a search: every rounding is the one that the format's reference makes, so that the
 * blocks are the same to the bit (tests compare with the gguf package). */
#ifndef HYP_QUANTIZE_LEGACY_H
#define HYP_QUANTIZE_LEGACY_H

static float float_of(int32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

/* The value of largest magnitude with its sign; of two that differ in sign the first. */
HYP_INLINE float signed_extreme(const float *x, size_t n)
{
    float low, high;
    lanes_extremes(x, n, &low, &high);
    const float extreme = -low > high ? low : high; /* a selection: the sign is as good as random */
    if (-low == high)
        while (*x != low && *x != high) ++x;
    return -low == high ? *x : extreme;
}

/* 1 / d, and 0 where that is no number: such a d is 0 in f16 as well. */
static float inverse_of(float d)
{
    const float inverse = d == 0.0f ? 0.0f : 1.0f / d;
    return inverse - inverse == 0.0f ? inverse : 0.0f;
}

/* trunc((x - offset) * scale + shift) within 0 .. top; a NaN, of a range that overflows, becomes 0. */
HYP_INLINE void codes_of(const float *x, float offset, float scale, float shift, float top, uint8_t q[32])
{
    for (int i = 0; i < 32; i += LANES) {
        const lanes v = lanes_mul(lanes_sub(lanes_load(x + i), lanes_set(offset)), lanes_set(scale));
        lanes_bytes(lanes_min(lanes_max(lanes_add(v, lanes_set(shift)), lanes_set(0.0f)), lanes_set(top)), q + i);
    }
}

static void put_half(uint8_t *p, float f)
{
    const uint16_t h = to_half(f);
    memcpy(p, &h, 2);
}

static void put_nibbles(const uint8_t q[32], uint8_t *dst)
{
    for (int i = 0; i < 16; ++i) dst[i] = (uint8_t)((q[i] & 15) | (q[i + 16] & 15) << 4);
}

static void put_fifths(const uint8_t q[32], uint8_t *dst)
{
    const uint32_t h = fifth_bits(q);
    memcpy(dst, &h, 4);
}

static void quantize_q4_0(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 32, dst += 18) {
        uint8_t q[32];
        const float d = signed_extreme(x, 32) / -8.0f;
        codes_of(x, 0.0f, inverse_of(d), 8.5f, 15.0f, q);
        put_half(dst, d);
        put_nibbles(q, dst + 2);
    }
}

static void quantize_q4_1(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 32, dst += 20) {
        uint8_t q[32];
        float least, greatest;
        lanes_extremes(x, 32, &least, &greatest);
        const float d = (greatest - least) / 15.0f;
        codes_of(x, least, inverse_of(d), 0.5f, 15.0f, q);
        put_half(dst, d);
        put_half(dst + 2, least);
        put_nibbles(q, dst + 4);
    }
}

static void quantize_q5_0(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 32, dst += 22) {
        uint8_t q[32];
        const float d = signed_extreme(x, 32) / -16.0f;
        codes_of(x, 0.0f, inverse_of(d), 16.5f, 31.0f, q);
        put_half(dst, d);
        put_fifths(q, dst + 2);
        put_nibbles(q, dst + 6);
    }
}

static void quantize_q5_1(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 32, dst += 24) {
        uint8_t q[32];
        float least, greatest;
        lanes_extremes(x, 32, &least, &greatest);
        const float d = (greatest - least) / 31.0f;
        codes_of(x, least, inverse_of(d), 0.5f, 31.0f, q);
        put_half(dst, d);
        put_half(dst + 2, least);
        put_fifths(q, dst + 4);
        put_nibbles(q, dst + 8);
    }
}

static void quantize_q8_0(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 32, dst += 34) {
        int8_t q[32];
        float low, high;
        lanes_extremes(x, 32, &low, &high);
        const float most = -low > high ? -low : high, d = (most > 0.0f ? most : 0.0f) / 127.0f, inverse = inverse_of(d);
        for (int i = 0; i < 32; i += LANES) {
            /* Halves go away from zero: what was rounded to even is corrected where v lies halfway (v - even is exact)
             * on the outer side. The limit is the float below one half. */
            const lanes v = lanes_mul(lanes_load(x + i), lanes_set(inverse)), magic = lanes_set(ROUND_MAGIC);
            const lanes even = lanes_sub(lanes_add(v, magic), magic), rest = lanes_sub(v, even), none = lanes_set(0.0f);
            const lanes limit = lanes_set(0.49999997f);
            lanes code = lanes_add_if_above(lanes_min(rest, v), limit, even, lanes_set(1.0f));
            code = lanes_add_if_above(lanes_min(lanes_sub(none, rest), lanes_sub(none, v)), limit, code, lanes_set(-1.0f));
            lanes_bytes(code, q + i);
        }
        put_half(dst, d);
        memcpy(dst + 2, q, 32);
    }
}

static void quantize_f32(const float *x, size_t blocks, uint8_t *dst)
{
    memcpy(dst, x, 4 * blocks);
}

static void quantize_f16(const float *x, size_t blocks, uint8_t *dst)
{
    store_f16(x, blocks, dst);
}

static void quantize_bf16(const float *x, size_t blocks, uint8_t *dst)
{
    store_bf16(x, blocks, dst);
}

#endif
