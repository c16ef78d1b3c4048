/* K types at the AMX level. A group of a strip is a B tile as it lies (8 rows of 64 bytes: 4 consecutive K of 16 rows), the codes of
 * 16 tokens are an A tile (16 rows of 32 bytes). Codes are multiplied with their scales when they are unpacked, so that one tile
 * takes the sums of half a record, and the vector unit, which the tile unit leaves one port, sees them once: Q2_K's and Q3_K's
 * products fit a byte, the others' are two bytes in two tiles. The sums are those of AVX-512, and so are the results. */
#include "matmul/kquant_avx512.h"
#include "matmul/tiles_amx.h"

/* Tiles 0 and 1 sums of the low and high bytes of the first half, 2 and 3 of the second, 4 activations, 5 and 6 weights. */
enum { SUM_TILES = 4, WEIGHT_TILES = 2 };

HYP_INLINE int split(int type)
{
    return type != HYP_Q2_K && type != HYP_Q3_K;
}

/* What the tiles sum of half a record: of low bytes and of high bytes. */
typedef struct {
    HYP_ALIGN64 int32_t at[2][HYP_ACT_TILE][HYP_PANEL];
} tile_sums;

HYP_INLINE void multiply_first(int two, const hyp_strip_super *b, const uint8_t *act, tile_sums *to)
{
    _tile_zero(0);
    _tile_zero(1);
    for (int g = 0; g < 4; g++) {
        _tile_loadd(4, act + g * HYP_ACT_RECORD, HYP_BLOCK);
        _tile_loadd(5, b->w[g], 64);
        _tile_dpbssd(0, 4, 5);
        if (!two) continue;
        _tile_loadd(6, b->second[g], 64);
        _tile_dpbssd(1, 4, 6);
    }
    _tile_stored(0, to->at[0], 64);
    if (two) _tile_stored(1, to->at[1], 64);
}

HYP_INLINE void multiply_second(int two, const hyp_strip_super *b, const uint8_t *act, tile_sums *to)
{
    _tile_zero(2);
    _tile_zero(3);
    for (int g = 4; g < 8; g++) {
        _tile_loadd(4, act + g * HYP_ACT_RECORD, HYP_BLOCK);
        _tile_loadd(5, b->w[g], 64);
        _tile_dpbssd(2, 4, 5);
        if (!two) continue;
        _tile_loadd(6, b->second[g], 64);
        _tile_dpbssd(3, 4, 6);
    }
    _tile_stored(2, to->at[0], 64);
    if (two) _tile_stored(3, to->at[1], 64);
}

HYP_INLINE void panel_times(int type, int tokens, const hyp_strip_super *b, const uint8_t *act, hyp_strip_sums *acc,
                            const hyp_ahead *ahead, size_t panel)
{
    tile_sums c[2];
    multiply_first(split(type), b, act, &c[0]);
    multiply_second(split(type), b, act, &c[1]);
    hyp_fetch_ahead_avx512(ahead, panel, 0, 8);
    for (int h = 0; h < 2; h++, act += 4 * HYP_ACT_RECORD) {
        HYP_UNROLL
        for (int t = 0; t < tokens; t++) {
            __m512i sum = _mm512_load_si512(c[h].at[0][t]);
            if (split(type)) sum = _mm512_add_epi32(sum, _mm512_slli_epi32(_mm512_load_si512(c[h].at[1][t]), 8));
            const __m512 a = _mm512_load_ps(acc->at[t]);
            _mm512_store_ps(acc->at[t], hyp_finish_half_avx512(type, b, h, act + HYP_ACT_D + 4 * t, sum, a));
        }
    }
}

HYP_INLINE void strip_times(int type, const hyp_strip *strip, size_t panels, const uint8_t *act, size_t tokens, hyp_strip_sums *acc,
                            const hyp_ahead *ahead)
{
    for (size_t p = 0; p < panels; p++, strip++, acc += HYP_STRIP_GROUPS) {
        if (tokens <= 8) panel_times(type, 8, strip->super, act, acc, ahead, p);
        else panel_times(type, 16, strip->super, act, acc, ahead, p);
    }
}

/* ---- Unpacking to signed products of codes and scales ------------------------------------------------------------------ */

/* Products of a group's codes less `zero` with the scales of its halves, each below 2^15: a low byte, and a high one rounded so that
 * the low one is signed. */
HYP_INLINE void split_group(hyp_strip_super *b, int g, int zero, const int32_t *first, const int32_t *second)
{
    const __m512i low_byte = _mm512_set1_epi16(255), half = _mm512_set1_epi16(128);
    for (int v = 0; v < 8; v++) {
        const __m512i s = _mm512_load_si512(v < 4 ? first : second);
        const __m512i scale = _mm512_mask_blend_epi16(0xaaaaaaaau, s, _mm512_slli_epi32(s, 16));
        const __m512i code = _mm512_sub_epi8(_mm512_load_si512(b->w[g][v]), _mm512_set1_epi8((char)zero));
        const __m512i even = _mm512_mullo_epi16(_mm512_srai_epi16(_mm512_slli_epi16(code, 8), 8), scale);
        const __m512i odd = _mm512_mullo_epi16(_mm512_srai_epi16(code, 8), scale);
        const __m512i high_even = _mm512_srli_epi16(_mm512_add_epi16(even, half), 8);
        const __m512i high_odd = _mm512_andnot_si512(low_byte, _mm512_add_epi16(odd, half));
        _mm512_store_si512(b->w[g][v], _mm512_or_si512(_mm512_and_si512(even, low_byte), _mm512_slli_epi16(odd, 8)));
        _mm512_store_si512(b->second[g][v], _mm512_or_si512(high_even, high_odd));
    }
}

HYP_INLINE void make_signed(int type, hyp_strip_super *b)
{
    for (int g = 0; g < 8; g++) {
        if (type == HYP_Q6_K) split_group(b, g, HYP_Q6_ZERO, b->scale[2 * g], b->scale[2 * g + 1]);
        else if (split(type)) split_group(b, g, 0, b->scale[g], b->scale[g]);
        else if (type == HYP_Q3_K) /* -124..128: negated they fit, and so does the factor's sign: (-d)*(-c) is d*c */
            for (int v = 0; v < 8; v++)
                _mm512_store_si512(b->w[g][v], _mm512_sub_epi8(_mm512_set1_epi8(HYP_Q3_OFFSET), _mm512_load_si512(b->w[g][v])));
    }
    if (type == HYP_Q3_K) _mm512_store_ps(b->d, _mm512_xor_ps(_mm512_load_ps(b->d), _mm512_set1_ps(-0.0f)));
}

/* From how many tokens on the tiles gain more than unpacking costs. */
static size_t least_tokens(int type)
{
    return split(type) ? 17 : 9;
}

#define MUL(name, type)                                                                                                 \
    static void unpack_##name(const uint8_t *rec, size_t n, hyp_strip *strip)                                           \
    {                                                                                                                   \
        hyp_unpack_##name##_avx512(rec, n, strip);                                                                      \
        make_signed(type, strip->super);                                                                                \
    }                                                                                                                   \
    static void strip_##name(const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,        \
                             hyp_strip_sums *acc, const hyp_ahead *ahead)                                               \
    {                                                                                                                   \
        (void)n; /* always one record */                                                                                \
        strip_times(type, strip, panels, act, tokens, acc, ahead);                                                      \
    }                                                                                                                   \
    static void mul_##name(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)  \
    {                                                                                                                   \
        if (m < least_tokens(type)) {                                                                                   \
            hyp_mul_##name##_ahead_avx512(w, rows, k, act, m, out, ldo);                                                \
            return;                                                                                                     \
        }                                                                                                               \
        const hyp_strips strips = {type, unpack_##name, strip_##name, 1};                                                \
        hyp_tiles_configure(SUM_TILES, WEIGHT_TILES, m < HYP_ACT_TILE ? m : HYP_ACT_TILE);                              \
        hyp_strips_mul_avx512(&strips, w, rows, k, act, m, out, ldo);                                                   \
        _tile_release();                                                                                                \
    }
HYP_TYPES_OF_256_AVX512(MUL)

#define ENTRY(name, type) t->mul[type] = mul_##name;

void hyp_matmul_fill_kquant_amx(hyp_table *t)
{
    HYP_TYPES_OF_256_AVX512(ENTRY)
}
