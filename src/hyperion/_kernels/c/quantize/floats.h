/* GGUF blocks to floats, sixteen values at a time: codes are put together as bytes and widened once. The formats and roundings are
 * those of quant/blocks.h (a product, then a difference or a sum: never fused). */
#ifndef HYP_QUANTIZE_FLOATS_H
#define HYP_QUANTIZE_FLOATS_H

HYP_INLINE float half_of(const uint8_t *p)
{
    uint16_t h;
    memcpy(&h, p, 2);
#if defined(HYP_QUANTIZE_AVX2) || defined(HYP_QUANTIZE_AVX512)
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(h)));
#else
    return hyp_half_to_float(h);
#endif
}

/* ---- Sixteen bytes ------------------------------------------------------------------------------------------------------
 * bytes_bits: (b >> shift) & mask. bytes_join: a | b << shift, where that is less than 256. bytes_less: a - n. bytes_fifths: 16 where
 * a bit is set. bytes_chosen: of sixteen values those at places below 16. lanes_of_bytes: signed. */

#if defined(HYP_QUANTIZE_AVX2) || defined(HYP_QUANTIZE_AVX512)

typedef __m128i bytes;

HYP_INLINE bytes bytes_load(const void *p) { return _mm_loadu_si128((const __m128i *)p); }
HYP_INLINE bytes bytes_bits(bytes b, int shift, int mask)
{
    return _mm_and_si128(_mm_srl_epi16(b, _mm_cvtsi32_si128(shift)), _mm_set1_epi8((char)mask));
}
HYP_INLINE bytes bytes_join(bytes a, bytes b, int shift) { return _mm_or_si128(a, _mm_sll_epi16(b, _mm_cvtsi32_si128(shift))); }
HYP_INLINE bytes bytes_less(bytes a, int n) { return _mm_sub_epi8(a, _mm_set1_epi8((char)n)); }
HYP_INLINE bytes bytes_fifths(uint32_t bits)
{
    const __m128i each = _mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, (char)128, 1, 2, 4, 8, 16, 32, 64, (char)128);
    const __m128i own = _mm_shuffle_epi8(_mm_cvtsi32_si128((int)bits), _mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    return _mm_and_si128(_mm_cmpeq_epi8(_mm_and_si128(own, each), each), _mm_set1_epi8(16));
}
HYP_INLINE bytes bytes_chosen(const int8_t values[16], bytes at) { return _mm_shuffle_epi8(bytes_load(values), at); }
HYP_INLINE lanes lanes_of_bytes(bytes b)
{
#if defined(HYP_QUANTIZE_AVX512)
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(b));
#else
    return lanes_of(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8))));
#endif
}

#else

typedef struct {
    uint8_t v[16];
} bytes;

#define HYP_BYTES(name, parameters, expression) \
    HYP_INLINE bytes name parameters            \
    {                                           \
        bytes r;                                \
        for (int i = 0; i < 16; ++i) r.v[i] = (uint8_t)(expression); \
        return r;                               \
    }
HYP_BYTES(bytes_load, (const void *p), ((const uint8_t *)p)[i])
HYP_BYTES(bytes_bits, (bytes b, int shift, int mask), b.v[i] >> shift & mask)
HYP_BYTES(bytes_join, (bytes a, bytes b, int shift), a.v[i] | b.v[i] << shift)
HYP_BYTES(bytes_less, (bytes a, int n), a.v[i] - n)
HYP_BYTES(bytes_fifths, (uint32_t bits), (bits >> i & 1) << 4)
HYP_BYTES(bytes_chosen, (const int8_t values[16], bytes at), values[at.v[i]])
#undef HYP_BYTES
HYP_INLINE lanes lanes_of_bytes(bytes b)
{
    lanes r;
    for (int i = 0; i < 16; ++i) r.v[i] = (float)(int8_t)b.v[i];
    return r;
}

#endif

HYP_INLINE void put_scaled(float *y, bytes code, float scale)
{
    lanes_store(y, lanes_mul(lanes_set(scale), lanes_of_bytes(code)));
}
HYP_INLINE void put_above(float *y, bytes code, float scale, float least)
{
    lanes_store(y, lanes_add(lanes_mul(lanes_set(scale), lanes_of_bytes(code)), lanes_set(least)));
}
HYP_INLINE void put_below(float *y, bytes code, float scale, float min)
{
    lanes_store(y, lanes_sub(lanes_mul(lanes_set(scale), lanes_of_bytes(code)), lanes_set(min)));
}

/* ---- Blocks of 32 ------------------------------------------------------------------------------------------------------- */

HYP_INLINE void floats_q4_0(const uint8_t *b, float *y)
{
    const float d = half_of(b);
    for (int j = 0; j < 2; ++j) put_scaled(y + 16 * j, bytes_less(bytes_bits(bytes_load(b + 2), 4 * j, 15), 8), d);
}

HYP_INLINE void floats_q4_1(const uint8_t *b, float *y)
{
    const float d = half_of(b), m = half_of(b + 2);
    for (int j = 0; j < 2; ++j) put_above(y + 16 * j, bytes_bits(bytes_load(b + 4), 4 * j, 15), d, m);
}

HYP_INLINE bytes five_bits(const uint8_t *h, const uint8_t *q, int j)
{
    uint16_t fifths;
    memcpy(&fifths, h + 2 * j, 2);
    return bytes_join(bytes_bits(bytes_load(q), 4 * j, 15), bytes_fifths(fifths), 0);
}

HYP_INLINE void floats_q5_0(const uint8_t *b, float *y)
{
    const float d = half_of(b);
    for (int j = 0; j < 2; ++j) put_scaled(y + 16 * j, bytes_less(five_bits(b + 2, b + 6, j), 16), d);
}

HYP_INLINE void floats_q5_1(const uint8_t *b, float *y)
{
    const float d = half_of(b), m = half_of(b + 2);
    for (int j = 0; j < 2; ++j) put_above(y + 16 * j, five_bits(b + 4, b + 8, j), d, m);
}

HYP_INLINE void floats_q8_0(const uint8_t *b, float *y)
{
    const float d = half_of(b);
    for (int j = 0; j < 2; ++j) put_scaled(y + 16 * j, bytes_load(b + 2 + 16 * j), d);
}

HYP_INLINE void floats_iq4_nl(const uint8_t *b, float *y)
{
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const float d = half_of(b);
    for (int j = 0; j < 2; ++j) put_scaled(y + 16 * j, bytes_chosen(values, bytes_bits(bytes_load(b + 2), 4 * j, 15)), d);
}

/* ---- Blocks of 256 ------------------------------------------------------------------------------------------------------ */

HYP_INLINE void floats_q2_k(const uint8_t *b, float *y)
{
    const float d = half_of(b + 80), dmin = half_of(b + 82);
    for (int g = 0; g < 16; ++g) {
        const bytes q = bytes_load(b + 16 + g / 8 * 32 + g % 2 * 16);
        put_below(y + 16 * g, bytes_bits(q, g % 8 / 2 * 2, 3), d * (float)(b[g] & 15), dmin * (float)(b[g] >> 4));
    }
}

HYP_INLINE void floats_q3_k(const uint8_t *b, float *y)
{
    const float d = half_of(b + 108);
    const uint8_t *s = b + 96;
    for (int g = 0; g < 16; ++g) {
        const int low = g < 8 ? s[g] & 15 : s[g - 8] >> 4, high = (s[8 + g % 4] >> (g / 4 * 2)) & 3;
        const bytes q = bytes_load(b + 32 + g / 8 * 32 + g % 2 * 16), h = bytes_load(b + g % 2 * 16);
        const bytes code = bytes_join(bytes_bits(q, g % 8 / 2 * 2, 3), bytes_bits(h, g / 2, 1), 2);
        put_scaled(y + 16 * g, bytes_less(code, 4), d * (float)((low | high << 4) - 32));
    }
}

/* Scale and min of group g from the 12 bytes of Q4_K and Q5_K. */
HYP_INLINE void scale_and_min(const uint8_t s[12], int g, float d, float dmin, float *scale, float *min)
{
    *scale = d * (float)(g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4);
    *min = dmin * (float)(g < 4 ? s[g + 4] & 63 : (s[g + 4] >> 4) | (s[g] >> 6) << 4);
}

HYP_INLINE void floats_q4_k(const uint8_t *b, float *y)
{
    const float d = half_of(b), dmin = half_of(b + 2);
    for (int g = 0; g < 8; ++g) {
        float scale, min;
        scale_and_min(b + 4, g, d, dmin, &scale, &min);
        for (int j = 0; j < 32; j += 16)
            put_below(y + 32 * g + j, bytes_bits(bytes_load(b + 16 + g / 2 * 32 + j), g % 2 * 4, 15), scale, min);
    }
}

HYP_INLINE void floats_q5_k(const uint8_t *b, float *y)
{
    const float d = half_of(b), dmin = half_of(b + 2);
    for (int g = 0; g < 8; ++g) {
        float scale, min;
        scale_and_min(b + 4, g, d, dmin, &scale, &min);
        for (int j = 0; j < 32; j += 16) {
            const bytes low = bytes_bits(bytes_load(b + 48 + g / 2 * 32 + j), g % 2 * 4, 15);
            put_below(y + 32 * g + j, bytes_join(low, bytes_bits(bytes_load(b + 16 + j), g, 1), 4), scale, min);
        }
    }
}

HYP_INLINE void floats_q6_k(const uint8_t *b, float *y)
{
    const float d = half_of(b + 208);
    for (int g = 0; g < 16; ++g) { /* 16 weights */
        const int part = g % 8 / 2;
        const bytes low = bytes_bits(bytes_load(b + g / 8 * 64 + g % 4 * 16), part / 2 * 4, 15);
        const bytes high = bytes_bits(bytes_load(b + 128 + g / 8 * 32 + g % 2 * 16), part * 2, 3);
        put_scaled(y + 16 * g, bytes_less(bytes_join(low, high, 4), 32), d * (float)(int8_t)b[192 + g]);
    }
}

#endif
