/* The AMX level: strips of many tokens go through the tile unit; a few tokens and float weights stay with AVX-512.
 * (K types are in matmul_kquant_amx.c.)
 *
 * A block of a strip is a B tile as it lies (8 rows of 64 bytes: 4 consecutive K of 16 rows), the codes of 16 tokens are
 * an A tile (16 rows of 32 bytes), and one tdpbssd gives the 16 x 16 integer sums that vpdpbusd would: from there on the
 * arithmetic is that of AVX-512, and the two levels agree to the bit. Codes lose their zero point when they are unpacked.
 *
 * What bounds it (Sapphire Rapids): a tile product or store takes 16 cycles whatever the depth of K, but while tiles are
 * in flight only port 0 takes 512-bit float operations, and scaling 256 sums needs 48 or more of them. So the vector
 * unit is kept busy, and the tile unit runs two blocks ahead; tile registers are not renamed, hence two sets. */
#include "matmul/tiles_amx.h"
#include "matmul/tokens_avx512.h"

enum { AHEAD = 2, SLOTS = 4 }; /* blocks between a product and the use of its sums; sums in memory */

typedef struct {
    HYP_ALIGN64 int32_t at[HYP_ACT_TILE][HYP_PANEL];
} tile_sums;

enum { SUM_TILES = 2, WEIGHT_TILES = 1 }; /* tiles 0 and 1 sums, 2 activations, 3 weights */

HYP_INLINE void multiply(size_t block, const hyp_strip_block *b, const uint8_t *act)
{
    _tile_loadd(2, act, HYP_BLOCK);
    _tile_loadd(3, b->w, 64);
    if (block & 1) {
        _tile_zero(1);
        _tile_dpbssd(1, 2, 3);
    } else {
        _tile_zero(0);
        _tile_dpbssd(0, 2, 3);
    }
}

HYP_INLINE void store(size_t block, tile_sums *to)
{
    if (block & 1) _tile_stored(1, to->at, 64);
    else _tile_stored(0, to->at, 64);
}

/* da * f32(sum a) of 16 tokens. */
HYP_INLINE __m512 min_factors(const uint8_t *act)
{
    const __m512i a = hyp_load_avx512(act + HYP_ACT_S), b = hyp_load_avx512(act + HYP_ACT_S + 64);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b));
    return _mm512_mul_ps(_mm512_loadu_ps((const float *)(const void *)(act + HYP_ACT_D)), _mm512_cvtepi32_ps(sum));
}

HYP_INLINE void scale(int shape, int tokens, const hyp_strip_block *b, const tile_sums *c, const uint8_t *act,
                      const float *min, __m512 *acc)
{
    const __m512 d = _mm512_load_ps(b->d);
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) {
        const __m512 da = hyp_spread_f32_avx512(act + HYP_ACT_D + 4 * t);
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(c->at[t]));
        acc[t] = _mm512_fmadd_ps(_mm512_mul_ps(d, da), sum, acc[t]);
        if (shape == HYP_SHAPE_MIN) acc[t] = _mm512_fmadd_ps(_mm512_load_ps(b->p), hyp_spread_f32_avx512(min + t), acc[t]);
    }
}

HYP_INLINE void panel_times(int shape, int tokens, const hyp_strip_block *b, size_t n, const uint8_t *act,
                            const float (*min)[HYP_ACT_TILE], hyp_strip_sums *sums, const hyp_ahead *ahead, size_t panel)
{
    tile_sums c[SLOTS];
    __m512 acc[HYP_ACT_TILE];
    for (size_t i = 0; i < AHEAD; i++) {
        if (i && i <= n) store(i - 1, &c[i - 1]);
        if (i < n) multiply(i, b + i, act + i * HYP_ACT_RECORD);
    }
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) acc[t] = _mm512_load_ps(sums->at[t]);
    for (size_t i = 0; i < n; i++) {
        if (i + AHEAD - 1 < n) store(i + AHEAD - 1, &c[(i + AHEAD - 1) % SLOTS]);
        if (i + AHEAD < n) multiply(i + AHEAD, b + i + AHEAD, act + (i + AHEAD) * HYP_ACT_RECORD);
        hyp_fetch_ahead_avx512(ahead, panel, i, 1);
        scale(shape, tokens, b + i, &c[i % SLOTS], act + i * HYP_ACT_RECORD, min[i], acc);
    }
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) _mm512_store_ps(sums->at[t], acc[t]);
}

HYP_INLINE void strip_times(int shape, const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,
                            hyp_strip_sums *sums, const hyp_ahead *ahead)
{
    HYP_ALIGN64 float min[HYP_STRIP_BLOCKS][HYP_ACT_TILE];
    if (shape == HYP_SHAPE_MIN)
        for (size_t i = 0; i < n; i++) _mm512_store_ps(min[i], min_factors(act + i * HYP_ACT_RECORD));
    for (size_t p = 0; p < panels; p++, strip++, sums += HYP_STRIP_GROUPS) {
        if (tokens <= 8) panel_times(shape, 8, strip->block, n, act, (const float(*)[HYP_ACT_TILE])min, sums, ahead, p);
        else panel_times(shape, 16, strip->block, n, act, (const float(*)[HYP_ACT_TILE])min, sums, ahead, p);
    }
}

#define STRIP(name, shape)                                                                                              \
    static void strip_##name(const hyp_strip *strip, size_t panels, size_t n, const uint8_t *act, size_t tokens,        \
                             hyp_strip_sums *sums, const hyp_ahead *ahead)                                              \
    {                                                                                                                   \
        strip_times(shape, strip, panels, n, act, tokens, sums, ahead);                                                 \
    }
STRIP(sym, HYP_SHAPE_SYM)
STRIP(min, HYP_SHAPE_MIN)

/* ---- Unpacking to signed codes ------------------------------------------------------------------------------------- */

HYP_INLINE void make_signed(int type, size_t n, hyp_strip *strip)
{
    const int zero = hyp_zero_avx512(type);
    for (size_t i = 0; i < n; i++) {
        hyp_strip_block *b = &strip->block[i];
        for (int v = 0; zero && v < 8; v++)
            _mm512_store_si512(b->w[v], _mm512_sub_epi8(_mm512_load_si512(b->w[v]), _mm512_set1_epi8((char)zero)));
    }
}

enum { LEAST_TOKENS = 9 }; /* from which on the tiles gain more than unpacking to signed codes costs */

#define MUL(name, type)                                                                                                 \
    static void unpack_##name(const uint8_t *rec, size_t n, hyp_strip *strip)                                           \
    {                                                                                                                   \
        hyp_unpack_##name##_avx512(rec, n, strip);                                                                      \
        make_signed(type, n, strip);                                                                                    \
    }                                                                                                                   \
    static void mul_##name(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)  \
    {                                                                                                                   \
        if (m < LEAST_TOKENS) {                                                                                   \
            hyp_mul_##name##_ahead_avx512(w, rows, k, act, m, out, ldo);                                                \
            return;                                                                                                     \
        }                                                                                                               \
        const hyp_strips strips = {type, unpack_##name, hyp_shape_avx512(type) == HYP_SHAPE_MIN ? strip_min : strip_sym, 1};                                                \
        hyp_tiles_configure(SUM_TILES, WEIGHT_TILES, m < HYP_ACT_TILE ? m : HYP_ACT_TILE);                              \
        hyp_strips_mul_avx512(&strips, w, rows, k, act, m, out, ldo);                                                   \
        _tile_release();                                                                                                \
    }
HYP_TYPES_OF_32_AVX512(MUL)

#define ENTRY(name, type) t->mul[type] = mul_##name;

void hyp_matmul_fill_amx(hyp_table *t)
{
    HYP_TYPES_OF_32_AVX512(ENTRY)
    hyp_matmul_fill_kquant_amx(t);
}
