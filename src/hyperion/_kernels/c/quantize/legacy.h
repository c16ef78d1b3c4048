/* Quantizers of the formats without a search: every rounding is the one that the format's reference makes, so that the
 * blocks are the same to the bit (tests compare with the gguf package). */
#ifndef HYP_QUANTIZE_LEGACY_H
#define HYP_QUANTIZE_LEGACY_H

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

/* signed_extreme of n <= 16 blocks; `most` grows. */
HYP_INLINE lanes signed_extremes(const float *x, size_t n, lanes *most)
{
    float low[LANES], high[LANES], extreme[LANES];
    int ties = 0;
    *most = lanes_most(ranges_of(x, n, 32, low, high), *most);
    for (int j = 0; j < LANES; ++j) {
        extreme[j] = -low[j] > high[j] ? low[j] : high[j];
        ties |= -low[j] == high[j];
    }
    for (size_t j = 0; j < n && ties; ++j)
        if (-low[j] == high[j]) extreme[j] = signed_extreme(x + 32 * j, 32);
    return lanes_load(extreme);
}

/* Least and greatest of n <= 16 blocks, as lanes_extremes finds them: the sign of a zero is part of a format's minimum.
 * `most` grows. */
HYP_INLINE void block_ranges(const float *x, size_t n, lanes *least, lanes *greatest, lanes *most)
{
    float low[LANES], high[LANES];
    int zeros = 0;
    *most = lanes_most(ranges_of(x, n, 32, low, high), *most);
    for (int j = 0; j < LANES; ++j) zeros |= (low[j] == 0.0f) | (high[j] == 0.0f);
    for (size_t j = 0; j < n && zeros; ++j)
        if (low[j] == 0.0f || high[j] == 0.0f) lanes_extremes(x + 32 * j, 32, low + j, high + j);
    *least = lanes_load(low), *greatest = lanes_load(high);
}

/* (x - offset) * scale + shift within 0 .. top; a NaN, of a range that overflows, becomes 0. To be truncated. */
HYP_INLINE lanes codes_of(const float *x, float offset, float scale, float shift, float top)
{
    lanes_ahead(x);
    const lanes v = lanes_mul(lanes_sub(lanes_load(x), lanes_set(offset)), lanes_set(scale));
    return lanes_within(lanes_add(v, lanes_set(shift)), lanes_set(0.0f), lanes_set(top));
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

/* The greatest of magnitudes; a NaN where one is not finite. */
HYP_INLINE float largest_of(lanes most)
{
    return lanes_not_finite(most) ? float_of(0x7fc00000) : lanes_greatest(most);
}

/* Blocks are quantized so many at a time: the params of all first, whose divisions then do not wait for each other. */
enum { BATCH = 4 * LANES };

/* Blocks with a scale alone: d, the fifth bits where there are any, nibbles. */
HYP_INLINE float quantize_scaled(const float *x, size_t blocks, float half, size_t bytes, uint8_t *dst)
{
    lanes most = lanes_set(0.0f);
    for (size_t n; blocks; blocks -= n) {
        float inverse[BATCH];
        uint16_t d[BATCH];
        n = blocks < BATCH ? blocks : BATCH;
        for (size_t j = 0; j < n; j += LANES) {
            const lanes step = lanes_div(signed_extremes(x + 32 * j, n - j < LANES ? n - j : LANES, &most), lanes_set(-half));
            lanes_store(inverse + j, lanes_inverse(step));
            lanes_halves(step, d + j);
        }
        for (size_t j = 0; j < n; ++j, x += 32, dst += bytes) {
            const lanes low = codes_of(x, 0.0f, inverse[j], half + 0.5f, 2.0f * half - 1.0f);
            const lanes high = codes_of(x + LANES, 0.0f, inverse[j], half + 0.5f, 2.0f * half - 1.0f);
            memcpy(dst, d + j, 2);
            if (half == 16.0f) {
                const uint32_t fifths = lanes_fifths(low, high);
                memcpy(dst + 2, &fifths, 4);
            }
            lanes_nibbles(low, high, dst + bytes - 16);
        }
    }
    return largest_of(most);
}

/* Blocks with a scale and a minimum. */
HYP_INLINE float quantize_ranged(const float *x, size_t blocks, float top, size_t bytes, uint8_t *dst)
{
    lanes most = lanes_set(0.0f);
    for (size_t n; blocks; blocks -= n) {
        float inverse[BATCH], offset[BATCH];
        uint16_t d[BATCH], m[BATCH];
        n = blocks < BATCH ? blocks : BATCH;
        for (size_t j = 0; j < n; j += LANES) {
            lanes least, greatest;
            block_ranges(x + 32 * j, n - j < LANES ? n - j : LANES, &least, &greatest, &most);
            const lanes step = lanes_div(lanes_sub(greatest, least), lanes_set(top));
            lanes_store(inverse + j, lanes_inverse(step));
            lanes_store(offset + j, least);
            lanes_halves(step, d + j);
            lanes_halves(least, m + j);
        }
        for (size_t j = 0; j < n; ++j, x += 32, dst += bytes) {
            const lanes low = codes_of(x, offset[j], inverse[j], 0.5f, top);
            const lanes high = codes_of(x + LANES, offset[j], inverse[j], 0.5f, top);
            memcpy(dst, d + j, 2);
            memcpy(dst + 2, m + j, 2);
            if (top == 31.0f) {
                const uint32_t fifths = lanes_fifths(low, high);
                memcpy(dst + 4, &fifths, 4);
            }
            lanes_nibbles(low, high, dst + bytes - 16);
        }
    }
    return largest_of(most);
}

static float quantize_q4_0(const float *x, size_t blocks, uint8_t *dst) { return quantize_scaled(x, blocks, 8.0f, 18, dst); }
static float quantize_q5_0(const float *x, size_t blocks, uint8_t *dst) { return quantize_scaled(x, blocks, 16.0f, 22, dst); }
static float quantize_q4_1(const float *x, size_t blocks, uint8_t *dst) { return quantize_ranged(x, blocks, 15.0f, 20, dst); }
static float quantize_q5_1(const float *x, size_t blocks, uint8_t *dst) { return quantize_ranged(x, blocks, 31.0f, 24, dst); }

static float quantize_q8_0(const float *x, size_t blocks, uint8_t *dst)
{
    lanes most = lanes_set(0.0f);
    for (size_t n; blocks; blocks -= n) {
        float inverse[BATCH];
        uint16_t d[BATCH];
        n = blocks < BATCH ? blocks : BATCH;
        for (size_t j = 0; j < n; j += LANES) {
            const lanes magnitudes = magnitudes_of(x + 32 * j, n - j < LANES ? n - j : LANES, 32);
            const lanes step = lanes_div(magnitudes, lanes_set(127.0f));
            most = lanes_most(magnitudes, most);
            lanes_store(inverse + j, lanes_inverse(step));
            lanes_halves(step, d + j);
        }
        for (size_t j = 0; j < n; ++j, dst += 34) {
            memcpy(dst, d + j, 2);
            for (int i = 0; i < 32; i += LANES, x += LANES) {
                /* Halves go away from zero: the float below one half is added on the outer side, and the rest cut off. A float
                 * below a half's magnitude by one step stays below the next integer, a half itself rounds up to it. */
                lanes_ahead(x);
                const lanes v = lanes_mul(lanes_load(x), lanes_set(inverse[j]));
                lanes_bytes(lanes_add(v, lanes_signed(0.49999997f, v)), dst + 2 + i);
            }
        }
    }
    return largest_of(most);
}

/* The largest magnitude of n floats. */
HYP_INLINE float largest_in(const float *x, size_t n)
{
    lanes most = lanes_set(0.0f);
    float rest[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) most = lanes_most(lanes_magnitude(lanes_load(x + i)), most);
    memcpy(rest, x + i, (n - i) * sizeof(float));
    return largest_of(lanes_most(lanes_magnitude(lanes_load(rest)), most));
}

static float quantize_f32(const float *x, size_t blocks, uint8_t *dst)
{
    memcpy(dst, x, 4 * blocks);
    return largest_in(x, blocks);
}

static float quantize_f16(const float *x, size_t blocks, uint8_t *dst)
{
    store_f16(x, blocks, dst);
    return largest_in(x, blocks);
}

static float quantize_bf16(const float *x, size_t blocks, uint8_t *dst)
{
    store_bf16(x, blocks, dst);
    return largest_in(x, blocks);
}

#endif
