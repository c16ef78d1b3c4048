/* Between floats and the types in which arrays are stored. Rows in memory need not be aligned: everything goes by memcpy. */
#ifndef HYP_QUANTIZE_CONVERT_H
#define HYP_QUANTIZE_CONVERT_H

#if defined(HYP_QUANTIZE_AVX2) || defined(HYP_QUANTIZE_AVX512)
static uint16_t to_half(float f)
{
    return (uint16_t)_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static void store_f16(const float *x, size_t n, void *dst)
{
    uint8_t *p = dst;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128((__m128i *)(p + 2 * i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < n; ++i) {
        const uint16_t h = to_half(x[i]);
        memcpy(p + 2 * i, &h, 2);
    }
}

static void load_f16(const void *src, size_t n, float *x)
{
    const uint8_t *p = src;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p + 2 * i))));
    for (; i < n; ++i) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        x[i] = hyp_half_to_float(h);
    }
}
#else
static uint16_t to_half(float f)
{
    return hyp_float_to_half(f);
}

static void store_f16(const float *x, size_t n, void *dst)
{
    uint8_t *p = dst;
    for (size_t i = 0; i < n; ++i) {
        const uint16_t h = hyp_float_to_half(x[i]);
        memcpy(p + 2 * i, &h, 2);
    }
}

static void load_f16(const void *src, size_t n, float *x)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; ++i) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        x[i] = hyp_half_to_float(h);
    }
}
#endif

static void load_bf16(const void *src, size_t n, float *x)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; ++i) {
        uint16_t h;
        memcpy(&h, p + 2 * i, 2);
        x[i] = hyp_bf16_to_float(h);
    }
}

/* Nearest, ties to even; the values are finite. */
static void store_bf16(const float *x, size_t n, void *dst)
{
    uint8_t *p = dst;
    for (size_t i = 0; i < n; ++i) {
        uint32_t b;
        memcpy(&b, x + i, 4);
        const uint16_t h = (uint16_t)((b + 0x7fffu + ((b >> 16) & 1u)) >> 16);
        memcpy(p + 2 * i, &h, 2);
    }
}

static void load_f64(const void *src, size_t n, float *x)
{
    const uint8_t *p = src;
    for (size_t i = 0; i < n; ++i) {
        double d;
        memcpy(&d, p + 8 * i, 8);
        x[i] = (float)d;
    }
}

static void store_f64(const float *x, size_t n, void *dst)
{
    uint8_t *p = dst;
    for (size_t i = 0; i < n; ++i) {
        const double d = (double)x[i];
        memcpy(p + 8 * i, &d, 8);
    }
}

#endif
