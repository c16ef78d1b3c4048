/* Sums over values and their codes for the searches of scales and zero points. They run in 16 lanes, so that every instruction set
 * finds the same params. */
#ifndef HYP_QUANTIZE_SUMS_H
#define HYP_QUANTIZE_SUMS_H

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
