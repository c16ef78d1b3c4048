/* Codes of 4 and 8 bits: value = scale * (code - zero), code in -8..7 or -128..127, zero any float (0 where symmetric).
 *
 * A code is x * (1 / scale) + zero, clamped and rounded to nearest even. Codes are made 64 at a time: their way from floats to bytes
 * or nibbles takes one packing instruction for 16 values. */
#ifndef HYP_QUANTIZE_AFFINE_H
#define HYP_QUANTIZE_AFFINE_H

enum { STRIP = 4 * LANES };

HYP_INLINE float code_low(int bits) { return bits == 4 ? -8.0f : -128.0f; }
HYP_INLINE float code_high(int bits) { return bits == 4 ? 7.0f : 127.0f; }

/* ---- Ranges --------------------------------------------------------------------------------------------------------------- */

/* Widen mm[0..1] to the least and greatest of x; nonzero if one is not finite. */
static int affine_extremes(const float *x, size_t n, float mm[2])
{
    lanes low = lanes_set(FLT_MAX), high = lanes_set(-FLT_MAX), most = lanes_set(0.0f);
    float rest[LANES] = {0.0f};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const lanes v = lanes_load(x + i);
        lanes_ahead(x + i);
        low = lanes_min(v, low);
        high = lanes_max(v, high);
        most = lanes_most(lanes_magnitude(v), most);
    }
    memcpy(rest, x + i, (n - i) * sizeof(float));
    most = lanes_most(lanes_magnitude(lanes_load(rest)), most);
    const float least = lanes_least(low), greatest = lanes_greatest(high);
    mm[0] = least < mm[0] ? least : mm[0];
    mm[1] = greatest > mm[1] ? greatest : mm[1];
    for (; i < n; ++i) {
        mm[0] = x[i] < mm[0] ? x[i] : mm[0];
        mm[1] = x[i] > mm[1] ? x[i] : mm[1];
    }
    return lanes_not_finite(most);
}

/* The same for n separate ranges of `rows` values: what is known of a range is read and written once for all of them. */
HYP_INLINE lanes extremes_of_rows(const float *x, ptrdiff_t step, int rows, size_t n, float *least, float *greatest, lanes most)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        lanes low = lanes_load(least + i), high = lanes_load(greatest + i);
        for (int r = 0; r < rows; ++r) {
            const float *at = x + r * step + (ptrdiff_t)i;
            const lanes v = lanes_load(at);
            lanes_ahead(at);
            low = lanes_min(v, low);
            high = lanes_max(v, high);
            most = lanes_most(lanes_magnitude(v), most);
        }
        lanes_store(least + i, low);
        lanes_store(greatest + i, high);
    }
    for (int r = 0; r < rows && i < n; ++r) {
        float rest[LANES] = {0.0f};
        memcpy(rest, x + r * step + (ptrdiff_t)i, (n - i) * sizeof(float));
        most = lanes_most(lanes_magnitude(lanes_load(rest)), most);
        for (size_t j = i; j < n; ++j) {
            least[j] = rest[j - i] < least[j] ? rest[j - i] : least[j];
            greatest[j] = rest[j - i] > greatest[j] ? rest[j - i] : greatest[j];
        }
    }
    return most;
}

static int affine_extremes_each(const float *x, ptrdiff_t step, size_t rows, size_t n, float *least, float *greatest)
{
    lanes most = lanes_set(0.0f);
    for (; rows >= 4; rows -= 4, x += 4 * step) most = extremes_of_rows(x, step, 4, n, least, greatest, most);
    for (; rows; --rows, x += step) most = extremes_of_rows(x, step, 1, n, least, greatest, most);
    return lanes_not_finite(most);
}

HYP_INLINE float magnitude_of(float f)
{
    return f < 0.0f ? -f : f;
}

/* Scale and zero for which the codes' range is that of the values. */
HYP_INLINE void range_params(const float mm[2], int bits, int symmetric, float *scale, float *zero)
{
    const float low = code_low(bits), high = code_high(bits);
    const float a = magnitude_of(mm[0]), b = magnitude_of(mm[1]), top = a > b ? a : b;
    if (symmetric) {
        const float s = top / high;
        *scale = s < FLT_MIN ? 0.0f : s; /* its inverse would overflow */
        *zero = 0.0f;
        return;
    }
    const float s = (float)(((double)mm[1] - (double)mm[0]) / (double)(high - low));
    if (s >= FLT_MIN && top <= s * 16777216.0f) {
        *scale = s;
        *zero = low - mm[0] / s;
        return;
    }
    /* The values are one value as far as floats can tell: code 0 stands for it. */
    const float middle = (float)(0.5 * ((double)mm[0] + (double)mm[1]));
    *scale = magnitude_of(middle) < FLT_MIN ? 0.0f : magnitude_of(middle);
    *zero = *scale == 0.0f ? 0.0f : middle < 0.0f ? 1.0f : -1.0f;
}

static void affine_range(const float mm[2], int bits, int symmetric, float *scale, float *zero)
{
    range_params(mm, bits, symmetric, scale, zero);
}

/* range_params of sixteen ranges that are not symmetric; one by one if one of them is as good as a single value. */
HYP_INLINE void ranges_params(const float least[LANES], const float greatest[LANES], int bits, float scale[LANES],
                              float zero[LANES])
{
    const float low = code_low(bits), high = code_high(bits);
    int narrow = 0;
    for (int j = 0; j < LANES; ++j) {
        const float a = magnitude_of(least[j]), b = magnitude_of(greatest[j]), top = a > b ? a : b;
        const float s = (float)(((double)greatest[j] - (double)least[j]) / (double)(high - low));
        scale[j] = s;
        zero[j] = low - least[j] / s;
        narrow |= !(s >= FLT_MIN) | !(top <= s * 16777216.0f);
    }
    for (int j = 0; j < LANES && narrow; ++j) {
        const float mm[2] = {least[j], greatest[j]};
        range_params(mm, bits, 0, scale + j, zero + j);
    }
}

/* ---- Codes ---------------------------------------------------------------------------------------------------------------- */

/* Bytes from a value whose code is made to what is prefetched. A long group has just been read for its range: what comes next from
 * memory is the next group, which is brought while codes are made, unless a group is more than the caches hold. */
HYP_INLINE ptrdiff_t ahead_of(size_t g)
{
    enum { LONG = AHEAD / sizeof(float), LONGEST_HELD = 1 << 17 };
    return g >= LONG && g <= LONGEST_HELD ? (ptrdiff_t)(g * sizeof(float)) : AHEAD;
}

/* Codes of 64 values, in groups of g, which is 16, 32 or at least 64: bytes, or 32 bytes of nibbles. `most` grows as in ranges_of. */
HYP_INLINE void codes_64(const float *x, size_t g, const float *inverse, const float *zero, int bits, int packed, ptrdiff_t ahead,
                         uint8_t *q, lanes *most)
{
    lanes v[4];
    for (size_t j = 0; j < 4; ++j) {
        const size_t group = j * LANES / g;
        const lanes w = lanes_load(x + j * LANES);
        lanes_fetch(x + j * LANES, ahead);
        *most = lanes_most(lanes_magnitude(w), *most);
        v[j] = lanes_add(lanes_mul(w, lanes_set(inverse[group])), lanes_set(zero[group]));
        v[j] = lanes_min(lanes_set(code_high(bits)), v[j]);
    }
    if (packed) lanes_nibbles_64(v, q);
    else lanes_codes_64(v, (int8_t)code_low(bits), q);
}

/* Codes of n values of a group of g; a half byte at the end is filled with 0. */
HYP_INLINE void codes_run(const float *x, size_t n, size_t g, float inverse, float zero, int bits, int packed, uint8_t *q, lanes *most)
{
    const ptrdiff_t ahead = ahead_of(g);
    size_t i = 0;
    for (; i + STRIP <= n; i += STRIP) codes_64(x + i, STRIP, &inverse, &zero, bits, packed, ahead, q + (packed ? i / 2 : i), most);
    if (i == n) return;
    float rest[STRIP] = {0.0f};
    uint8_t codes[STRIP];
    memcpy(rest, x + i, (n - i) * sizeof(float));
    codes_64(rest, STRIP, &inverse, &zero, bits, packed, ahead, codes, most);
    if (packed && n % 2) codes[(n - i) / 2] &= 15;
    memcpy(q + (packed ? i / 2 : i), codes, packed ? (n - i + 1) / 2 : n - i);
}

/* n groups of g. */
HYP_INLINE void codes_groups(const float *x, size_t n, size_t g, const float *inverse, const float *zero, int bits, int packed,
                             uint8_t *q, lanes *most)
{
    size_t j = 0;
    if (g == LANES || g == 2 * LANES)
        for (; j + STRIP / g <= n; j += STRIP / g)
            codes_64(x + j * g, g, inverse + j, zero + j, bits, packed, AHEAD, q + (packed ? j * g / 2 : j * g), most);
    for (; j < n; ++j) codes_run(x + j * g, g, g, inverse[j], zero[j], bits, packed, q + (packed ? j * g / 2 : j * g), most);
}

/* Groups of g (the last may be shorter) with given params. */
HYP_INLINE int given_groups_body(const float *x, size_t n, size_t g, int bits, int packed, const float *scales, const float *zeros,
                                 uint8_t *q)
{
    lanes most = lanes_set(0.0f);
    while (n) {
        const size_t whole = n / g, count = whole == 0 ? 1 : whole < LANES ? whole : LANES, length = whole ? count * g : n;
        float inverse[LANES] = {0.0f}, zero[LANES] = {0.0f};
        memcpy(inverse, scales, count * sizeof(float));
        lanes_store(inverse, lanes_inverse(lanes_load(inverse)));
        if (zeros) memcpy(zero, zeros, count * sizeof(float));
        if (whole) codes_groups(x, count, g, inverse, zero, bits, packed, q, &most);
        else codes_run(x, n, g, inverse[0], zero[0], bits, packed, q, &most);
        x += length, n -= length, q += packed ? length / 2 : length, scales += count;
        if (zeros) zeros += count;
    }
    return lanes_not_finite(most);
}

/* The usual group sizes, and bytes and nibbles, are compiled on their own: the loops are unrolled and have no tails. */
#define HYP_FOR_STORED(g, bits, packed, call) \
    if (packed) call(g, 4, 1);                \
    if (bits == 8) call(g, 8, 0);             \
    call(g, 4, 0)
#define HYP_FOR_GROUP(g, bits, packed, call)                      \
    switch (g) {                                                  \
    case 32: HYP_FOR_STORED(32, bits, packed, call);              \
    case 64: HYP_FOR_STORED(64, bits, packed, call);              \
    case 128: HYP_FOR_STORED(128, bits, packed, call);            \
    default: HYP_FOR_STORED(g, bits, packed, call);               \
    }

static int affine_codes(const float *x, size_t n, size_t g, int bits, int packed, const float *scales, const float *zeros, uint8_t *q)
{
#define HYP_CALL(size, width, nibbles) return given_groups_body(x, n, size, width, nibbles, scales, zeros, q)
    HYP_FOR_GROUP(g, bits, packed, HYP_CALL)
#undef HYP_CALL
}

/* 1 / scale, 0 where there is none. */
static void affine_inverses(const float *scales, size_t n, float *inverse)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) lanes_store(inverse + i, lanes_inverse(lanes_load(scales + i)));
    for (; i < n; ++i) inverse[i] = inverse_of(scales[i]);
}

HYP_INLINE lanes each_values(const float *x, const float *inverse, const float *zeros, float high, lanes *most)
{
    const lanes v = lanes_load(x), scaled = lanes_mul(v, lanes_load(inverse));
    lanes_ahead(x);
    *most = lanes_most(lanes_magnitude(v), *most);
    return lanes_min(lanes_set(high), lanes_add(scaled, zeros ? lanes_load(zeros) : lanes_set(0.0f)));
}

HYP_INLINE void each_64(const float *x, int bits, int packed, const float *inverse, const float *zeros, uint8_t *q, lanes *most)
{
    lanes v[4];
    for (int j = 0; j < 4; ++j)
        v[j] = each_values(x + j * LANES, inverse + j * LANES, zeros ? zeros + j * LANES : NULL, code_high(bits), most);
    if (packed) lanes_nibbles_64(v, q);
    else lanes_codes_64(v, (int8_t)code_low(bits), q);
}

HYP_INLINE int each_body(const float *x, size_t n, int bits, int packed, const float *inverse, const float *zeros, uint8_t *q)
{
    lanes most = lanes_set(0.0f);
    size_t i = 0;
    for (; i + STRIP <= n; i += STRIP)
        each_64(x + i, bits, packed, inverse + i, zeros ? zeros + i : NULL, q + (packed ? i / 2 : i), &most);
    if (i < n) {
        float rest[3][STRIP] = {{0.0f}};
        uint8_t codes[STRIP];
        memcpy(rest[0], x + i, (n - i) * sizeof(float));
        memcpy(rest[1], inverse + i, (n - i) * sizeof(float));
        if (zeros) memcpy(rest[2], zeros + i, (n - i) * sizeof(float));
        each_64(rest[0], bits, packed, rest[1], rest[2], codes, &most);
        memcpy(q + (packed ? i / 2 : i), codes, packed ? (n - i + 1) / 2 : n - i);
    }
    return lanes_not_finite(most);
}

/* Params of their own for each value, the inverses of the scales. */
static int affine_codes_each(const float *x, size_t n, int bits, int packed, const float *inverse, const float *zeros, uint8_t *q)
{
    if (packed) return each_body(x, n, 4, 1, inverse, zeros, q);
    return bits == 8 ? each_body(x, n, 8, 0, inverse, zeros, q) : each_body(x, n, 4, 0, inverse, zeros, q);
}

/* Params of n <= 16 groups, and their inverses and zeros; what magnitudes_of returns. */
HYP_INLINE lanes params_together(const float *x, size_t n, size_t g, int bits, float *scales, float *zeros, float inverse[LANES],
                                 float zero[LANES])
{
    float scale[LANES];
    lanes most;
    if (zeros) {
        float least[LANES], greatest[LANES];
        most = ranges_of(x, n, g, least, greatest);
        ranges_params(least, greatest, bits, scale, zero);
        memcpy(zeros, zero, n * sizeof(float));
    } else {
        most = magnitudes_of(x, n, g);
        lanes_store(scale, lanes_least_or_0(lanes_div(most, lanes_set(code_high(bits))), lanes_set(FLT_MIN)));
    }
    memcpy(scales, scale, n * sizeof(float));
    lanes_store(inverse, lanes_inverse(lanes_load(scale)));
    return most;
}

/* Find the params of groups from their extremes and quantize them while they are in the cache. */
HYP_INLINE int range_groups_body(const float *x, size_t n, size_t g, int bits, int packed, float *scales, float *zeros, uint8_t *q)
{
    enum {
        FEW = 6,         /* groups that are quicker one by one */
        MANY = 4 * LANES /* groups whose params are found first, so that their divisions do not wait for each other */
    };
    float inverse[MANY], zero[MANY] = {0.0f};
    size_t at = 0;
    while (g % LANES == 0 && (n - at) / g >= FEW) {
        const size_t count = (n - at) / g < MANY ? (n - at) / g : MANY;
        lanes most = lanes_set(0.0f);
        for (size_t j = 0; j < count; j += LANES) {
            const size_t some = count - j < LANES ? count - j : LANES;
            const lanes m = params_together(x + at + j * g, some, g, bits, scales + j, zeros ? zeros + j : NULL, inverse + j, zero + j);
            most = lanes_most(m, most);
        }
        if (lanes_not_finite(most)) return 1;
        codes_groups(x + at, count, g, inverse, zero, bits, packed, q + (packed ? at / 2 : at), &most);
        at += count * g, scales += count;
        if (zeros) zeros += count;
    }
    for (; at < n; at += g, ++scales) {
        const size_t length = n - at < g ? n - at : g;
        float mm[2] = {FLT_MAX, -FLT_MAX}, zero;
        lanes most;
        if (affine_extremes(x + at, length, mm)) return 1;
        range_params(mm, bits, !zeros, scales, &zero);
        most = lanes_set(0.0f);
        codes_run(x + at, length, g, inverse_of(*scales), zero, bits, packed, q + (packed ? at / 2 : at), &most);
        if (zeros) *zeros++ = zero;
    }
    return 0;
}

static int affine_range_groups(const float *x, size_t n, size_t g, int bits, int packed, float *scales, float *zeros, uint8_t *q)
{
#define HYP_CALL(size, width, nibbles) return range_groups_body(x, n, size, width, nibbles, scales, zeros, q)
    HYP_FOR_GROUP(g, bits, packed, HYP_CALL)
#undef HYP_CALL
}

/* ---- Values --------------------------------------------------------------------------------------------------------------- */

/* Values of n codes from an even place on, bytes or packed nibbles: 32 at a time. With `each` scales and zeros belong to the values,
 * else the first ones to all of them; without zeros they are 0. */
HYP_INLINE void values_body(const uint8_t *q, int packed, size_t n, int each, const float *scales, const float *zeros, float *x)
{
    const lanes scale = lanes_set(*scales), zero = lanes_set(zeros ? *zeros : 0.0f);
    size_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        lanes v[2];
        if (packed) lanes_from_nibbles(q + i / 2, v);
        else for (int j = 0; j < 2; ++j) v[j] = lanes_from_bytes((const int8_t *)q + i + j * LANES);
        for (size_t j = 0, at = i; j < 2; ++j, at += LANES) {
            const lanes shifted = lanes_sub(v[j], each && zeros ? lanes_load(zeros + at) : zero);
            lanes_store(x + at, lanes_mul(shifted, each ? lanes_load(scales + at) : scale));
        }
    }
    for (; i < n; ++i) {
        const size_t at = each ? i : 0;
        const int nibble = packed ? (q[i / 2] >> (i % 2 * 4) & 15) : 0, code = packed ? (nibble ^ 8) - 8 : (int8_t)q[i];
        x[i] = ((float)code - (zeros ? zeros[at] : 0.0f)) * scales[at];
    }
}

HYP_INLINE void values_groups_body(const uint8_t *q, int packed, size_t n, size_t g, const float *scales, const float *zeros, float *x)
{
    for (size_t at = 0; at < n; at += g, ++scales, zeros += zeros != NULL)
        values_body(q + (packed ? at / 2 : at), packed, n - at < g ? n - at : g, 0, scales, zeros, x + at);
}

static void affine_values(const uint8_t *q, int packed, size_t n, size_t g, const float *scales, const float *zeros, float *x)
{
#define HYP_CALL(size, nibbles) if (g == (size) && packed == (nibbles)) { values_groups_body(q, nibbles, n, size, scales, zeros, x); return; }
    HYP_CALL(32, 0)
    HYP_CALL(32, 1)
    HYP_CALL(64, 0)
    HYP_CALL(64, 1)
#undef HYP_CALL
    if (packed) values_groups_body(q, 1, n, g, scales, zeros, x);
    else values_groups_body(q, 0, n, g, scales, zeros, x);
}

static void affine_values_each(const uint8_t *q, int packed, size_t n, const float *scales, const float *zeros, float *x)
{
    if (packed) values_body(q, 1, n, 1, scales, zeros, x);
    else values_body(q, 0, n, 1, scales, zeros, x);
}

/* ---- Nibbles: the low one first, two's complement --------------------------------------------------------------------- */

static void affine_pack4(const int8_t *HYP_RESTRICT q, size_t n, uint8_t *HYP_RESTRICT p)
{
    for (size_t i = 0; i < n / 2; ++i) { /* a pair as one integer: a loop of 16-bit lanes */
        const uint8_t low = (uint8_t)q[2 * i], high = (uint8_t)q[2 * i + 1];
        p[i] = (uint8_t)((low & 15) | high << 4);
    }
    if (n % 2) p[n / 2] = (uint8_t)(q[n - 1] & 15);
}

static void affine_unpack4(const uint8_t *HYP_RESTRICT p, size_t n, int8_t *HYP_RESTRICT q)
{
    for (size_t i = 0; i < n / 2; ++i) {
        q[2 * i] = (int8_t)(((p[i] & 15) ^ 8) - 8);
        q[2 * i + 1] = (int8_t)(((p[i] >> 4) ^ 8) - 8);
    }
    if (n % 2) q[n - 1] = (int8_t)(((p[n / 2] & 15) ^ 8) - 8);
}

#endif
