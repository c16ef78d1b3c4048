/* Quantizers that search: IQ4_NL and the K types. All minimise the plain sum of squared errors.
 *
 * A group's scale (and minimum) comes from a grid of candidates, each followed by a least-squares fit for the codes that it
 * gave. A superblock then has its one or two f16 scales fitted to all its codes and its integer scales chosen anew for
 * them, group by group and among neighbours, as long as the error falls. Sums run in 16 lanes in a fixed order, so that
 * every instruction set finds the same blocks. */
#ifndef HYP_QUANTIZE_SEARCH_H
#define HYP_QUANTIZE_SEARCH_H

enum { ROUNDS = 4, GRID = 16 };

HYP_INLINE int integer_within(float v, int low, int high)
{
    return (int)rounded_within(v, (float)low, (float)high);
}

static float through_half(float f)
{
    return hyp_half_to_float(to_half(f));
}

/* ---- Groups with a minimum: x ~ scale * q - min, q in 0..top, min >= 0 ------------------------------------------------ */

typedef struct {
    float q, qq, xq; /* sums of q, q^2, x*q */
} moments;

HYP_INLINE moments affine_moments(const float *x, int n, float offset, float inverse, float top)
{
    const lanes low = lanes_set(0.0f), high = lanes_set(top), shift = lanes_set(offset), scale = lanes_set(inverse);
    lanes q = low, qq = low, xq = low;
    for (int i = 0; i < n; i += LANES) {
        const lanes v = lanes_load(x + i), code = lanes_code(lanes_mul(lanes_sub(v, shift), scale), low, high);
        q = lanes_add(q, code);
        qq = lanes_add(qq, lanes_mul(code, code));
        xq = lanes_add(xq, lanes_mul(code, v));
    }
    const moments m = {lanes_sum(q), lanes_sum(qq), lanes_sum(xq)};
    return m;
}

HYP_INLINE float affine_error(const float *x, int n, float scale, float inverse, float min, float top)
{
    const lanes low = lanes_set(0.0f), high = lanes_set(top), shift = lanes_set(min);
    lanes e = low;
    for (int i = 0; i < n; i += LANES) {
        const lanes v = lanes_load(x + i), code = lanes_code(lanes_mul(lanes_add(v, shift), lanes_set(inverse)), low, high);
        const lanes d = lanes_sub(v, lanes_sub(lanes_mul(lanes_set(scale), code), shift));
        e = lanes_add(e, lanes_mul(d, d));
    }
    return lanes_sum(e);
}

HYP_INLINE float sum_of(const float *x, int n)
{
    lanes s = lanes_load(x);
    for (int i = LANES; i < n; i += LANES) s = lanes_add(s, lanes_load(x + i));
    return lanes_sum(s);
}

HYP_INLINE void fit_affine(const float *x, int n, int top, float *scale, float *min)
{
    float low, high;
    lanes_extremes(x, (size_t)n, &low, &high);
    const double sum = (double)sum_of(x, n), count = (double)n;
    low = low < 0.0f ? low : 0.0f;
    *min = -low;
    *scale = 0.0f;
    if (!(high > low)) return;
    *scale = (high - low) / (float)top;
    if (inverse_of(*scale) == 0.0f) {
        *scale = 0.0f;
        return;
    }
    float best = affine_error(x, n, *scale, 1.0f / *scale, *min, (float)top);
    for (int step = 0; step < GRID; ++step) {
        /* from a tenth finer than the whole range to steps that cut the ends off by a fourth */
        float inverse = ((float)top * (0.9f + 0.025f * (float)step) + 0.25f) / (high - low), offset = low;
        for (int pass = 0; pass < 2; ++pass) {
            const moments m = affine_moments(x, n, offset, inverse, (float)top);
            const double det = count * m.qq - (double)m.q * m.q;
            if (!(det > 0.0)) break;
            float s = (float)((count * m.xq - sum * m.q) / det), o = (float)((sum * m.qq - (double)m.q * m.xq) / det);
            if (o > 0.0f) { /* a minimum has no sign */
                o = 0.0f;
                s = m.xq / m.qq;
            }
            const float back = inverse_of(s);
            if (!(s > 0.0f) || back == 0.0f) break;
            const float error = affine_error(x, n, s, back, -o, (float)top);
            if (error < best) {
                best = error;
                *scale = s;
                *min = -o;
            }
            inverse = back;
            offset = o;
        }
    }
}

/* A superblock's scales as they are stored. */
typedef struct {
    float d, dmin; /* rounded to f16 */
    int scale[16], min[16];
} super_scales;

/* Choose each group's integer scale and min for d and dmin, near what the free fit gave; the sum of squared errors. */
HYP_INLINE double choose_affine(const float *x, int groups, int n, int top, int limit, const float *scale, const float *min,
                                super_scales *s)
{
    const float up = inverse_of(s->d), up_min = inverse_of(s->dmin);
    double total = 0.0;
    for (int g = 0; g < groups; ++g) {
        const int s0 = integer_within(scale[g] * up, 0, limit), m0 = integer_within(min[g] * up_min, 0, limit);
        float best = -1.0f;
        for (int a = s0 > 0 ? s0 - 1 : 0; a <= s0 + 1 && a <= limit; ++a)
            for (int c = m0 > 0 ? m0 - 1 : 0; c <= m0 + 1 && c <= limit; ++c) {
                const float step = s->d * (float)a;
                const float error = affine_error(x + g * n, n, step, inverse_of(step), s->dmin * (float)c, (float)top);
                if (best >= 0.0f && error >= best) continue;
                best = error;
                s->scale[g] = a;
                s->min[g] = c;
            }
        total += (double)best;
    }
    return total;
}

/* The d and dmin that fit the codes best: x ~ d * (scale q) - dmin * min. */
HYP_INLINE int refit_affine(const float *x, int groups, int n, int top, super_scales *s)
{
    double aa = 0.0, ab = 0.0, bb = 0.0, xa = 0.0, xb = 0.0;
    for (int g = 0; g < groups; ++g) {
        const float step = s->d * (float)s->scale[g], offset = s->dmin * (float)s->min[g];
        const moments m = affine_moments(x + g * n, n, -offset, inverse_of(step), (float)top);
        const double a = (double)s->scale[g], b = (double)s->min[g];
        aa += a * a * m.qq;
        ab += a * b * m.q;
        bb += b * b * n;
        xa += a * m.xq;
        xb += b * (double)sum_of(x + g * n, n);
    }
    const double det = aa * bb - ab * ab;
    double d = 0.0, dmin = 0.0;
    if (det > 1e-12 * aa * bb && bb > 0.0) {
        d = (xa * bb - ab * xb) / det;
        dmin = (xa * ab - aa * xb) / det;
    } else if (aa > 0.0) {
        d = xa / aa;
    }
    const float new_d = through_half((float)d), new_dmin = through_half((float)dmin);
    if (!(new_d > 0.0f) || !(new_dmin >= 0.0f)) return 0;
    const int changed = new_d != s->d || new_dmin != s->dmin;
    s->d = new_d;
    s->dmin = new_dmin;
    return changed;
}

/* Fit a superblock of `groups` groups of n and write its codes. */
HYP_INLINE void super_affine(const float *x, int groups, int n, int top, int limit, super_scales *s, uint8_t q[256])
{
    float scale[16], min[16], most = 0.0f, most_min = 0.0f;
    for (int g = 0; g < groups; ++g) {
        fit_affine(x + g * n, n, top, &scale[g], &min[g]);
        most = scale[g] > most ? scale[g] : most;
        most_min = min[g] > most_min ? min[g] : most_min;
    }
    super_scales now = {through_half(most / (float)limit), through_half(most_min / (float)limit), {0}, {0}};
    double best = choose_affine(x, groups, n, top, limit, scale, min, &now);
    *s = now;
    for (int round = 0; round < ROUNDS; ++round) {
        if (!refit_affine(x, groups, n, top, &now)) break;
        const double total = choose_affine(x, groups, n, top, limit, scale, min, &now);
        if (total >= best) break;
        best = total;
        *s = now;
    }
    for (int g = 0; g < groups; ++g) {
        const float inverse = inverse_of(s->d * (float)s->scale[g]), offset = s->dmin * (float)s->min[g];
        for (int i = g * n; i < (g + 1) * n; i += LANES) {
            const lanes v = lanes_mul(lanes_add(lanes_load(x + i), lanes_set(offset)), lanes_set(inverse));
            lanes_bytes(lanes_code(v, lanes_set(0.0f), lanes_set((float)top)), q + i);
        }
    }
}

/* ---- Groups of 16 without a minimum: x ~ scale * q, q in -half .. half - 1 --------------------------------------------- */

HYP_INLINE lanes plain_codes(const float *x, float inverse, float half)
{
    return lanes_code(lanes_mul(lanes_load(x), lanes_set(inverse)), lanes_set(-half), lanes_set(half - 1.0f));
}

HYP_INLINE moments plain_moments(const float *x, float inverse, float half)
{
    const lanes q = plain_codes(x, inverse, half);
    const moments m = {0.0f, lanes_sum(lanes_mul(q, q)), lanes_sum(lanes_mul(q, lanes_load(x)))};
    return m;
}

HYP_INLINE float plain_error(const float *x, float scale, float inverse, float half)
{
    const lanes d = lanes_sub(lanes_load(x), lanes_mul(lanes_set(scale), plain_codes(x, inverse, half)));
    return lanes_sum(lanes_mul(d, d));
}

HYP_INLINE float fit_plain(const float *x, float half)
{
    const float extreme = signed_extreme(x, LANES), back = inverse_of(extreme);
    float best = -1.0f, scale = 0.0f;
    if (back == 0.0f) return 0.0f;
    for (int side = 0; side < 2; ++side)
        for (int step = 0; step < GRID; ++step) {
            const float reach = (side ? half - 1.0f : half) + (half > 8.0f ? 0.2f : 0.1f) * (float)(step - GRID / 2);
            float inverse = (side ? reach : -reach) * back;
            for (int pass = 0; pass < 2; ++pass) {
                const moments m = plain_moments(x, inverse, half);
                if (!(m.qq > 0.0f)) break;
                const float fitted = m.xq / m.qq;
                inverse = inverse_of(fitted);
                if (inverse == 0.0f) break;
                const float error = plain_error(x, fitted, inverse, half);
                if (best >= 0.0f && error >= best) continue;
                best = error;
                scale = fitted;
            }
        }
    return scale;
}

HYP_INLINE double choose_plain(const float *x, float half, int limit, const float *scale, float d, int8_t chosen[16])
{
    const float up = inverse_of(d);
    double total = 0.0;
    for (int g = 0; g < 16; ++g) {
        const int s0 = integer_within(scale[g] * up, -limit, limit - 1);
        float best = -1.0f;
        for (int a = s0 > -limit ? s0 - 1 : s0; a <= s0 + 1 && a < limit; ++a) {
            const float step = d * (float)a, error = plain_error(x + 16 * g, step, inverse_of(step), half);
            if (best >= 0.0f && error >= best) continue;
            best = error;
            chosen[g] = (int8_t)a;
        }
        total += (double)best;
    }
    return total;
}

/* Fit 16 groups of 16 with integer scales -limit .. limit - 1; codes without their sign: q + half. */
HYP_INLINE float super_plain(const float *x, int half, int limit, int8_t scales[16], uint8_t q[256])
{
    const float bound = (float)half;
    float scale[16], extreme = 0.0f, d;
    int8_t now[16];
    for (int g = 0; g < 16; ++g) {
        scale[g] = fit_plain(x + 16 * g, bound);
        if ((scale[g] < 0.0f ? -scale[g] : scale[g]) > (extreme < 0.0f ? -extreme : extreme)) extreme = scale[g];
    }
    float trial = through_half(extreme / (float)-limit);
    double best = choose_plain(x, bound, limit, scale, d = trial, scales);
    memcpy(now, scales, sizeof now);
    for (int round = 0; round < ROUNDS; ++round) {
        double aa = 0.0, xa = 0.0;
        for (int g = 0; g < 16; ++g) {
            const double a = (double)now[g];
            const moments m = plain_moments(x + 16 * g, inverse_of(trial * (float)now[g]), bound);
            aa += a * a * m.qq;
            xa += a * m.xq;
        }
        if (!(aa > 0.0)) break;
        const float next = through_half((float)(xa / aa));
        if (next == trial || inverse_of(next) == 0.0f) break;
        trial = next;
        const double total = choose_plain(x, bound, limit, scale, trial, now);
        if (total >= best) break;
        best = total;
        d = trial;
        memcpy(scales, now, sizeof now);
    }
    for (int g = 0; g < 16; ++g)
        lanes_bytes(lanes_add(plain_codes(x + 16 * g, inverse_of(d * (float)scales[g]), bound), lanes_set(bound)), q + 16 * g);
    return d;
}

/* ---- The types -------------------------------------------------------------------------------------------------------- */

static void quantize_q2_k(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 256, dst += 84) {
        super_scales s;
        uint8_t q[256];
        super_affine(x, 16, 16, 3, 15, &s, q);
        for (int g = 0; g < 16; ++g) dst[g] = (uint8_t)(s.scale[g] | s.min[g] << 4);
        for (int i = 0; i < 64; ++i) {
            const uint8_t *c = q + i / 32 * 128 + i % 32;
            dst[16 + i] = (uint8_t)(c[0] | c[32] << 2 | c[64] << 4 | c[96] << 6);
        }
        put_half(dst + 80, s.d);
        put_half(dst + 82, s.dmin);
    }
}

static void quantize_q3_k(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 256, dst += 110) {
        int8_t scales[16];
        uint8_t q[256], *s = dst + 96;
        const float d = super_plain(x, 4, 32, scales, q);
        for (int i = 0; i < 32; ++i) {
            uint8_t h = 0;
            for (int g = 0; g < 8; ++g) h |= (uint8_t)((q[32 * g + i] >> 2) << g);
            dst[i] = h;
        }
        for (int i = 0; i < 64; ++i) {
            const uint8_t *c = q + i / 32 * 128 + i % 32;
            dst[32 + i] = (uint8_t)((c[0] & 3) | (c[32] & 3) << 2 | (c[64] & 3) << 4 | (c[96] & 3) << 6);
        }
        memset(s, 0, 12);
        for (int g = 0; g < 16; ++g) {
            const int v = scales[g] + 32;
            s[g % 8] |= (uint8_t)((v & 15) << (g / 8 * 4));
            s[8 + g % 4] |= (uint8_t)((v >> 4) << (g / 4 * 2));
        }
        put_half(dst + 108, d);
    }
}

/* The 12 bytes of Q4_K and Q5_K: 8 scales and 8 minima of 6 bits. */
static void put_k_scales(const super_scales *s, uint8_t b[12])
{
    for (int g = 0; g < 4; ++g) {
        b[g] = (uint8_t)(s->scale[g] | (s->scale[g + 4] >> 4) << 6);
        b[g + 4] = (uint8_t)(s->min[g] | (s->min[g + 4] >> 4) << 6);
        b[g + 8] = (uint8_t)((s->scale[g + 4] & 15) | (s->min[g + 4] & 15) << 4);
    }
}

static void put_k_nibbles(const uint8_t q[256], uint8_t *dst)
{
    for (int i = 0; i < 128; ++i) {
        const uint8_t *c = q + i / 32 * 64 + i % 32;
        dst[i] = (uint8_t)((c[0] & 15) | (c[32] & 15) << 4);
    }
}

static void quantize_q4_k(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 256, dst += 144) {
        super_scales s;
        uint8_t q[256];
        super_affine(x, 8, 32, 15, 63, &s, q);
        put_half(dst, s.d);
        put_half(dst + 2, s.dmin);
        put_k_scales(&s, dst + 4);
        put_k_nibbles(q, dst + 16);
    }
}

static void quantize_q5_k(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 256, dst += 176) {
        super_scales s;
        uint8_t q[256];
        super_affine(x, 8, 32, 31, 63, &s, q);
        put_half(dst, s.d);
        put_half(dst + 2, s.dmin);
        put_k_scales(&s, dst + 4);
        for (int i = 0; i < 32; ++i) {
            uint8_t h = 0;
            for (int g = 0; g < 8; ++g) h |= (uint8_t)((q[32 * g + i] >> 4) << g);
            dst[16 + i] = h;
        }
        put_k_nibbles(q, dst + 48);
    }
}

static void quantize_q6_k(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 256, dst += 210) {
        int8_t scales[16];
        uint8_t q[256];
        const float d = super_plain(x, 32, 128, scales, q);
        for (int i = 0; i < 128; ++i) {
            const uint8_t *c = q + i / 64 * 128 + i % 64;
            dst[i] = (uint8_t)((c[0] & 15) | (c[64] & 15) << 4);
        }
        for (int i = 0; i < 64; ++i) {
            const uint8_t *c = q + i / 32 * 128 + i % 32;
            dst[128 + i] = (uint8_t)(c[0] >> 4 | (c[32] >> 4) << 2 | (c[64] >> 4) << 4 | (c[96] >> 4) << 6);
        }
        memcpy(dst + 192, scales, 16);
        put_half(dst + 208, d);
    }
}

/* ---- IQ4_NL: 16 values that are not evenly spaced ---------------------------------------------------------------------- */

static const float NL_VALUES[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Twice the midpoint of each pair of neighbours, which is an integer. */
static const float NL_TWICE_MID[15] = {-231, -187, -148, -114, -84, -57, -32, -9, 14, 38, 63, 91, 122, 158, 202};

/* Codes, and the values that they stand for: the value starts at the first and takes a step at every midpoint passed. */
HYP_INLINE void nl_codes(const float x[32], float inverse, lanes code[2], lanes value[2])
{
    for (int h = 0; h < 2; ++h) {
        const lanes at = lanes_mul(lanes_load(x + LANES * h), lanes_set(2.0f * inverse));
        lanes q = lanes_set(0.0f), v = lanes_set(NL_VALUES[0]);
        for (int k = 0; k < 15; ++k) {
            const lanes limit = lanes_set(NL_TWICE_MID[k]);
            v = lanes_add_if_above(at, limit, v, lanes_set(NL_VALUES[k + 1] - NL_VALUES[k]));
            q = lanes_add_if_above(at, limit, q, lanes_set(1.0f));
        }
        code[h] = q;
        value[h] = v;
    }
}

HYP_INLINE float nl_dot(const lanes a[2], const lanes b[2])
{
    return lanes_sum(lanes_add(lanes_mul(a[0], b[0]), lanes_mul(a[1], b[1])));
}

static void quantize_iq4_nl(const float *x, size_t blocks, uint8_t *dst)
{
    for (; blocks; --blocks, x += 32, dst += 18) {
        uint8_t codes[32] = {8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8};
        const lanes w[2] = {lanes_load(x), lanes_load(x + LANES)};
        lanes q[2], value[2];
        float best = -1.0f, d = 0.0f;
        const float back = inverse_of(signed_extreme(x, 32));
        if (back != 0.0f)
            for (int step = 0; step < 2 * GRID; ++step) {
                /* the largest value lands between 0.85 and 1.3 of an end of the table, of either */
                const float end = step < GRID ? NL_VALUES[0] : NL_VALUES[15];
                float inverse = end * back * (0.85f + 0.03f * (float)(step % GRID));
                for (int pass = 0; pass < 2; ++pass) {
                    nl_codes(x, inverse, q, value);
                    const float fitted = through_half(nl_dot(w, value) / nl_dot(value, value));
                    inverse = inverse_of(fitted);
                    if (inverse == 0.0f) break;
                    nl_codes(x, inverse, q, value);
                    const lanes scale = lanes_set(fitted);
                    const lanes e[2] = {lanes_sub(w[0], lanes_mul(scale, value[0])), lanes_sub(w[1], lanes_mul(scale, value[1]))};
                    const float error = nl_dot(e, e);
                    if (best >= 0.0f && error >= best) continue;
                    best = error;
                    d = fitted;
                    lanes_bytes(q[0], codes);
                    lanes_bytes(q[1], codes + LANES);
                }
            }
        put_half(dst, d);
        put_nibbles(codes, dst + 2);
    }
}

#endif
