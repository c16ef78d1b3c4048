/* Codes of 4 and 8 bits: value = scale * (code - zero), code in -8..7 or -128..127, zero any float (0 where symmetric).
 *
 * A code is x * (1 / scale) + zero, clamped and rounded to nearest even. Sums run in 16 lanes, so that every instruction
 * set finds the same scales. */
#ifndef HYP_QUANTIZE_AFFINE_H
#define HYP_QUANTIZE_AFFINE_H

/* log2(1 + t) / t and 2^t on 0..1, fitted at Chebyshev nodes; absolute errors 1.2e-5 and 4e-6. */
#define LOG0 1.44268322f
#define LOG1 -0.720442355f
#define LOG2 0.469301701f
#define LOG3 -0.303389668f
#define LOG4 0.146433607f
#define LOG5 -0.0345952101f
#define EXP0 1.00000358f
#define EXP1 0.692969561f
#define EXP2 0.241621315f
#define EXP3 0.0517177358f
#define EXP4 0.0136839831f

HYP_INLINE float code_low(int bits) { return bits == 4 ? -8.0f : -128.0f; }
HYP_INLINE float code_high(int bits) { return bits == 4 ? 7.0f : 127.0f; }

/* Nonzero if one of x is not finite. */
HYP_INLINE int bad_body(const float *x, size_t n)
{
    int32_t top = 0;
    for (size_t i = 0; i < n; ++i) {
        int32_t b;
        memcpy(&b, x + i, 4);
        b &= 0x7fffffff;
        top = b > top ? b : top;
    }
    return top >= 0x7f800000;
}

/* Widen mm[0..1] to the least and greatest of x; nonzero if one is not finite. */
HYP_INLINE int extremes_body(const float *HYP_RESTRICT x, size_t n, float mm[2])
{
    int32_t low = INT32_MAX, high = INT32_MIN, top = 0;
    for (size_t i = 0; i < n; ++i) {
        int32_t b;
        memcpy(&b, x + i, 4);
        const int32_t a = b & 0x7fffffff, v = b ^ ((b >> 31) & 0x7fffffff); /* integers in the order of the floats */
        top = a > top ? a : top;
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    if (n == 0) return 0;
    const float least = float_of(low ^ ((low >> 31) & 0x7fffffff)), greatest = float_of(high ^ ((high >> 31) & 0x7fffffff));
    mm[0] = least < mm[0] ? least : mm[0];
    mm[1] = greatest > mm[1] ? greatest : mm[1];
    return top >= 0x7f800000;
}

static int affine_extremes(const float *x, size_t n, float mm[2])
{
    return extremes_body(x, n, mm);
}

/* The same for n separate ranges. */
static int affine_extremes_each(const float *x, size_t n, float *least, float *greatest)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const lanes v = lanes_load(x + i);
        lanes_store(least + i, lanes_min(v, lanes_load(least + i)));
        lanes_store(greatest + i, lanes_max(v, lanes_load(greatest + i)));
    }
    for (; i < n; ++i) {
        least[i] = x[i] < least[i] ? x[i] : least[i];
        greatest[i] = x[i] > greatest[i] ? x[i] : greatest[i];
    }
    return bad_body(x, n);
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

HYP_INLINE void codes_body(const float *HYP_RESTRICT x, size_t n, float inverse, float zero, float low, float high,
                          int8_t *HYP_RESTRICT q)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const lanes v = lanes_add(lanes_mul(lanes_load(x + i), lanes_set(inverse)), lanes_set(zero));
        lanes_bytes_nearest(lanes_within(v, lanes_set(low), lanes_set(high)), q + i);
    }
    for (; i < n; ++i) q[i] = (int8_t)(int32_t)rounded_within(x[i] * inverse + zero, low, high);
}

/* Groups of g (the last may be shorter) with given params. */
HYP_INLINE int codes_groups_body(const float *x, size_t n, size_t g, int bits, const float *scales, const float *zeros, int8_t *q)
{
    const float low = code_low(bits), high = code_high(bits);
    size_t at = 0;
    for (; at + g <= n; at += g, ++scales, zeros += zeros != NULL)
        codes_body(x + at, g, inverse_of(*scales), zeros ? *zeros : 0.0f, low, high, q + at);
    if (at < n) codes_body(x + at, n - at, inverse_of(*scales), zeros ? *zeros : 0.0f, low, high, q + at);
    return bad_body(x, n);
}

/* The usual group sizes are compiled on their own: the loops are unrolled and have no tails. */
#define HYP_FOR_GROUP(g, call) \
    switch (g) {               \
    case 32: call(32);         \
    case 64: call(64);         \
    case 128: call(128);       \
    default: call(g);          \
    }

static int affine_codes(const float *x, size_t n, size_t g, int bits, const float *scales, const float *zeros, int8_t *q)
{
#define HYP_CALL(size) return codes_groups_body(x, n, size, bits, scales, zeros, q)
    HYP_FOR_GROUP(g, HYP_CALL)
#undef HYP_CALL
}

/* Params of their own for each value. */
static int affine_codes_each(const float *x, size_t n, int bits, const float *scales, const float *zeros, int8_t *q)
{
    const float low = code_low(bits), high = code_high(bits);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        float inverse[LANES];
        for (int j = 0; j < LANES; ++j) inverse[j] = scales[i + j] == 0.0f ? 0.0f : 1.0f / scales[i + j];
        const lanes zero = zeros ? lanes_load(zeros + i) : lanes_set(0.0f);
        const lanes v = lanes_add(lanes_mul(lanes_load(x + i), lanes_load(inverse)), zero);
        lanes_bytes_nearest(lanes_within(v, lanes_set(low), lanes_set(high)), q + i);
    }
    for (; i < n; ++i)
        q[i] = (int8_t)(int32_t)rounded_within(x[i] * inverse_of(scales[i]) + (zeros ? zeros[i] : 0.0f), low, high);
    return bad_body(x, n);
}

/* Scales of sixteen symmetric ranges, and their inverses. */
HYP_INLINE void range_scales(const float least[LANES], const float greatest[LANES], float top, float scale[LANES], float inverse[LANES])
{
    for (int j = 0; j < LANES; ++j) {
        const float a = magnitude_of(least[j]), b = magnitude_of(greatest[j]), s = (a > b ? a : b) / top;
        scale[j] = s < FLT_MIN ? 0.0f : s; /* as in range_params */
    }
    lanes_store(inverse, lanes_inverse(lanes_load(scale)));
}

/* n <= 16 groups whose ranges are found together. */
HYP_INLINE void range_together_body(const float *x, size_t n, size_t g, int bits, float *scales, float *zeros, int8_t *q)
{
    float least[LANES], greatest[LANES], scale[LANES], inverse[LANES], zero[LANES] = {0.0f};
    ranges_of(x, n, g, least, greatest);
    if (zeros) {
        for (size_t j = 0; j < n; ++j) {
            const float mm[2] = {least[j], greatest[j]};
            range_params(mm, bits, 0, scale + j, zero + j);
            inverse[j] = inverse_of(scale[j]);
        }
        memcpy(zeros, zero, n * sizeof(float));
    } else {
        range_scales(least, greatest, code_high(bits), scale, inverse);
    }
    memcpy(scales, scale, n * sizeof(float));
    for (size_t j = 0; j < n; ++j) codes_body(x + j * g, g, inverse[j], zero[j], code_low(bits), code_high(bits), q + j * g);
}

/* Find the params of groups from their extremes and quantize them while they are in the cache. */
HYP_INLINE int range_groups_body(const float *x, size_t n, size_t g, int bits, int symmetric, float *scales, float *zeros, int8_t *q)
{
    enum { FEW = 6 }; /* groups that are quicker one by one */
    size_t at = 0;
    if (bad_body(x, n)) return 1;
    while (g % LANES == 0 && (n - at) / g >= FEW) {
        const size_t count = (n - at) / g < LANES ? (n - at) / g : LANES;
        range_together_body(x + at, count, g, bits, scales, zeros, q + at);
        at += count * g, scales += count;
        if (zeros) zeros += count;
    }
    for (; at < n; at += g, ++scales) {
        const size_t length = n - at < g ? n - at : g;
        float mm[2] = {FLT_MAX, -FLT_MAX}, zero;
        if (length == g && g % LANES == 0) lanes_extremes(x + at, g, &mm[0], &mm[1]);
        else extremes_body(x + at, length, mm);
        range_params(mm, bits, symmetric, scales, &zero);
        codes_body(x + at, length, inverse_of(*scales), zero, code_low(bits), code_high(bits), q + at);
        if (zeros) *zeros++ = zero;
    }
    return 0;
}

static int affine_range_groups(const float *x, size_t n, size_t g, int bits, int symmetric, float *scales, float *zeros, int8_t *q)
{
#define HYP_CALL(size) return range_groups_body(x, n, size, bits, symmetric, scales, zeros, q)
    HYP_FOR_GROUP(g, HYP_CALL)
#undef HYP_CALL
}

HYP_INLINE void values_body(const int8_t *HYP_RESTRICT q, size_t n, float scale, float zero, float *HYP_RESTRICT x)
{
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        lanes_store(x + i, lanes_mul(lanes_sub(lanes_from_bytes(q + i), lanes_set(zero)), lanes_set(scale)));
    for (; i < n; ++i) x[i] = ((float)q[i] - zero) * scale;
}

HYP_INLINE void values_groups_body(const int8_t *q, size_t n, size_t g, const float *scales, const float *zeros, float *x)
{
    size_t at = 0;
    for (; at + g <= n; at += g, ++scales, zeros += zeros != NULL) values_body(q + at, g, *scales, zeros ? *zeros : 0.0f, x + at);
    if (at < n) values_body(q + at, n - at, *scales, zeros ? *zeros : 0.0f, x + at);
}

static void affine_values(const int8_t *q, size_t n, size_t g, const float *scales, const float *zeros, float *x)
{
#define HYP_CALL(size) values_groups_body(q, n, size, scales, zeros, x); return
    HYP_FOR_GROUP(g, HYP_CALL)
#undef HYP_CALL
}

static void affine_values_each(const int8_t *q, size_t n, const float *scales, const float *zeros, float *x)
{
    for (size_t i = 0; i < n; ++i) x[i] = ((float)q[i] - (zeros ? zeros[i] : 0.0f)) * scales[i];
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

/* ---- Sums for the searches --------------------------------------------------------------------------------------------- */

/* Add to s: squared error, codes, codes^2, x * codes, x. At most some thousand values a call: sums are floats. */
static void affine_fit(const float *x, size_t n, float scale, float zero, int bits, double s[5])
{
    const float inverse = inverse_of(scale), least = code_low(bits), greatest = code_high(bits);
    const lanes low = lanes_set(least), high = lanes_set(greatest), shift = lanes_set(zero);
    lanes e = lanes_set(0.0f), q = e, qq = e, xq = e, sum = e;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const lanes v = lanes_load(x + i);
        const lanes code = lanes_code(lanes_add(lanes_mul(v, lanes_set(inverse)), shift), low, high);
        const lanes d = lanes_sub(v, lanes_mul(lanes_sub(code, shift), lanes_set(scale)));
        e = lanes_add(e, lanes_mul(d, d));
        q = lanes_add(q, code);
        qq = lanes_add(qq, lanes_mul(code, code));
        xq = lanes_add(xq, lanes_mul(v, code));
        sum = lanes_add(sum, v);
    }
    float tail[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (; i < n; ++i) {
        const float v = x[i], code = rounded_within(v * inverse + zero, least, greatest), d = v - (code - zero) * scale;
        tail[0] += d * d;
        tail[1] += code;
        tail[2] += code * code;
        tail[3] += v * code;
        tail[4] += v;
    }
    s[0] += (double)lanes_sum(e) + (double)tail[0];
    s[1] += (double)lanes_sum(q) + (double)tail[1];
    s[2] += (double)lanes_sum(qq) + (double)tail[2];
    s[3] += (double)lanes_sum(xq) + (double)tail[3];
    s[4] += (double)lanes_sum(sum) + (double)tail[4];
}

/* a^0.7 for 2^-60 <= a <= 1e6, relative error below 1e-4. Without a choice: one becomes a branch, and the loop no vectors. */
HYP_INLINE float power_07(float a)
{
    int32_t b;
    memcpy(&b, &a, 4);
    const float exponent = (float)((b >> 23) - 127);
    b = (b & 0x007fffff) | 0x3f800000;
    float m;
    memcpy(&m, &b, 4);
    const float t = m - 1.0f; /* log2(1 + t) = t * polynomial(t) */
    const float log2 = exponent + t * (LOG0 + t * (LOG1 + t * (LOG2 + t * (LOG3 + t * (LOG4 + t * LOG5)))));
    const float y = 0.7f * log2 + 64.0f; /* positive */
    const int32_t whole = (int32_t)y;
    const float f = y - (float)whole;
    const float fraction = EXP0 + f * (EXP1 + f * (EXP2 + f * (EXP3 + f * EXP4)));
    const int32_t shift = (whole - 64 + 127) << 23;
    float power;
    memcpy(&power, &shift, 4);
    return fraction * power;
}

/* For weights v in units of the scale: |error|^0.7, and code - (v - shrunk error). An error below 2^-60 counts as that. */
HYP_INLINE void hqq_lanes(lanes v, lanes zero, int bits, lanes weight, lanes *norm, lanes *shift)
{
    const lanes code = lanes_code(lanes_add(v, zero), lanes_set(code_low(bits)), lanes_set(code_high(bits)));
    const lanes none = lanes_set(0.0f), e = lanes_sub(v, lanes_sub(code, zero)), minus = lanes_sub(none, e);
    const lanes a = lanes_max(e, minus), b = lanes_within(a, lanes_set(8.673617379884035e-19f), lanes_set(1e6f));
    float magnitude[LANES], power[LANES];
    lanes_store(magnitude, b);
    for (int j = 0; j < LANES; ++j) power[j] = power_07(magnitude[j]);
    *norm = lanes_load(power);
    const lanes less = lanes_div(lanes_mul(weight, *norm), b); /* |e|^(p-1) / beta */
    const lanes kept = lanes_max(lanes_sub(a, less), none);
    const lanes back = lanes_add_if_above(minus, none, kept, lanes_mul(kept, lanes_set(-2.0f))); /* with e's sign */
    *shift = lanes_sub(code, lanes_sub(v, back));
}

/* One iteration's sums of HQQ (Badri and Shaji, "Half-Quadratic Quantization", 2023), in units of the scale, so that the
 * result does not depend on the weights' magnitude. s[0]: |error|^0.7 of these params; s[1]: code - (x - shrunk error). */
static void affine_hqq(const float *x, size_t n, float scale, float zero, int bits, float beta, double s[2])
{
    const lanes inverse = lanes_set(inverse_of(scale)), shift = lanes_set(zero), weight = lanes_set(1.0f / beta);
    lanes norms = lanes_set(0.0f), shifts = norms, norm, moved;
    size_t at = 0;
    for (; at + LANES <= n; at += LANES) {
        hqq_lanes(lanes_mul(lanes_load(x + at), inverse), shift, bits, weight, &norm, &moved);
        norms = lanes_add(norms, norm);
        shifts = lanes_add(shifts, moved);
    }
    if (at < n) {
        float rest[LANES] = {0.0f}, last[2][LANES];
        memcpy(rest, x + at, (n - at) * sizeof(float));
        hqq_lanes(lanes_mul(lanes_load(rest), inverse), shift, bits, weight, &norm, &moved);
        lanes_store(last[0], norm), lanes_store(last[1], moved);
        for (size_t j = n - at; j < LANES; ++j) last[0][j] = last[1][j] = 0.0f;
        norms = lanes_add(norms, lanes_load(last[0]));
        shifts = lanes_add(shifts, lanes_load(last[1]));
    }
    s[0] += (double)lanes_sum(norms);
    s[1] += (double)lanes_sum(shifts);
}

/* ---- The same for sixteen groups, one in a lane -------------------------------------------------------------------------- */

HYP_INLINE void add_to(double sums[LANES], lanes v)
{
    float f[LANES];
    lanes_store(f, v);
    for (int j = 0; j < LANES; ++j) sums[j] += (double)f[j];
}

static void affine_fit_each(const float *x, size_t n, const float *scale, const float *zero, int bits, double s[5][LANES])
{
    const lanes low = lanes_set(code_low(bits)), high = lanes_set(code_high(bits));
    const lanes step = lanes_load(scale), inverse = lanes_inverse(step), shift = lanes_load(zero);
    lanes e = lanes_set(0.0f), q = e, qq = e, xq = e, sum = e;
    for (; n; --n, x += LANES) {
        const lanes v = lanes_load(x), code = lanes_code(lanes_add(lanes_mul(v, inverse), shift), low, high);
        const lanes d = lanes_sub(v, lanes_mul(lanes_sub(code, shift), step));
        e = lanes_add(e, lanes_mul(d, d));
        q = lanes_add(q, code);
        qq = lanes_add(qq, lanes_mul(code, code));
        xq = lanes_add(xq, lanes_mul(v, code));
        sum = lanes_add(sum, v);
    }
    add_to(s[0], e), add_to(s[1], q), add_to(s[2], qq), add_to(s[3], xq), add_to(s[4], sum);
}

static void affine_hqq_each(const float *x, size_t n, const float *scale, const float *zero, int bits, float beta,
                            double s[5][LANES])
{
    const lanes inverse = lanes_inverse(lanes_load(scale)), shift = lanes_load(zero), weight = lanes_set(1.0f / beta);
    lanes norms = lanes_set(0.0f), shifts = norms, norm, moved;
    for (; n; --n, x += LANES) {
        hqq_lanes(lanes_mul(lanes_load(x), inverse), shift, bits, weight, &norm, &moved);
        norms = lanes_add(norms, norm);
        shifts = lanes_add(shifts, moved);
    }
    add_to(s[0], norms), add_to(s[1], shifts);
}

#endif
