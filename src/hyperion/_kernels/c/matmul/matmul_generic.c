/* Packed weights times packed activations in portable C: the twin of every vector kernel, and what arm64 runs.
 *
 * One template serves the types of 32 (K types are in matmul_kquant_generic.c). A block of 32 K of a panel is unpacked once, to int16 in the panel's own order
 * (8 vectors of 16 rows x 4 K), and multiplied with each token of a group of 16; loops run over 64 neighbouring lanes, so
 * that any compiler's vectoriser finds them. The arithmetic is panel.h's, one accumulator a row and token, for a single
 * token and for many alike. */
#include "matmul/portable.h"

typedef struct {
    int16_t w[8][LANES];      /* the block's codes, zero point subtracted where the type has a fixed one */
    float d[HYP_PANEL];       /* factor of the integer sum */
    float m[HYP_PANEL];       /* factor of the sum of activations, sign included */
} block;

/* How a type's sums become floats (see panel.h). */
typedef enum {
    PLAIN,   /* d * sum */
    WITH_MIN /* d * sum + m * sum of activations */
} kind;

/* ---- Loaders of a record: `record` its factors, `load` its codes ----------------------------------------------------- */

HYP_INLINE void load_nibbles(const uint8_t *HYP_RESTRICT q, int zero, block *HYP_RESTRICT b)
{
    for (int v = 0; v < 4; ++v)
        for (int n = 0; n < LANES; ++n) {
            b->w[v][n] = (int16_t)((q[v * LANES + n] & 15) - zero);
            b->w[v + 4][n] = (int16_t)((q[v * LANES + n] >> 4) - zero);
        }
}

/* Nibbles with a fifth bit: bit v of h[n] belongs to vector v. */
HYP_INLINE void load_five(const uint8_t *HYP_RESTRICT q, const uint8_t *HYP_RESTRICT h, int zero, block *HYP_RESTRICT b)
{
    for (int v = 0; v < 4; ++v)
        for (int n = 0; n < LANES; ++n) {
            b->w[v][n] = (int16_t)(((q[v * LANES + n] & 15) | (((h[n] >> v) & 1) << 4)) - zero);
            b->w[v + 4][n] = (int16_t)(((q[v * LANES + n] >> 4) | (((h[n] >> (v + 4)) & 1) << 4)) - zero);
        }
}

HYP_INLINE void record_d(const uint8_t *rec, block *b)
{
    load_halves(rec, b->d);
}

HYP_INLINE void record_d_m(const uint8_t *rec, block *b)
{
    load_halves(rec, b->d);
    load_halves(rec + 32, b->m);
}

HYP_INLINE void load_q4_0(const uint8_t *rec, block *b)
{
    load_nibbles(rec + 32, 8, b);
}

HYP_INLINE void load_q4_1(const uint8_t *rec, block *b)
{
    load_nibbles(rec + 64, 0, b);
}

HYP_INLINE void load_q5_0(const uint8_t *rec, block *b)
{
    load_five(rec + 96, rec + 32, 16, b);
}

HYP_INLINE void load_q5_1(const uint8_t *rec, block *b)
{
    load_five(rec + 128, rec + 64, 0, b);
}

HYP_INLINE void load_q8_0(const uint8_t *HYP_RESTRICT rec, block *HYP_RESTRICT b)
{
    for (int v = 0; v < 8; ++v)
        for (int n = 0; n < LANES; ++n) b->w[v][n] = (int16_t)(rec[32 + v * LANES + n] - 128);
}

HYP_INLINE void load_iq4_nl(const uint8_t *HYP_RESTRICT rec, block *HYP_RESTRICT b)
{
    static const int8_t values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    for (int v = 0; v < 4; ++v)
        for (int n = 0; n < LANES; ++n) {
            b->w[v][n] = values[rec[32 + v * LANES + n] & 15];
            b->w[v + 4][n] = values[rec[32 + v * LANES + n] >> 4];
        }
}

/* ---- The template -------------------------------------------------------------------------------------------------- */

HYP_INLINE void add_block(kind k, const block *b, const int8_t *a, float da, int32_t s0, int32_t s1,
                          float acc[HYP_PANEL])
{
    int32_t sum[HYP_PANEL];
    dot(b->w, a, 8, sum);
    for (int r = 0; r < HYP_PANEL; ++r) acc[r] += (b->d[r] * da) * (float)sum[r];
    if (k == WITH_MIN) {
        const float x = da * (float)(s0 + s1);
        for (int r = 0; r < HYP_PANEL; ++r) acc[r] += b->m[r] * x;
    }
}

typedef void (*record_fn)(const uint8_t *rec, block *b);
typedef void (*load_fn)(const uint8_t *rec, block *b);

/* One panel and one group of `tokens` <= tile tokens; `sparse`: the panel, where its records are not all blocks of K. */
HYP_INLINE void mul_group(int type, kind kd, record_fn record, load_fn load, const uint8_t *w, const hyp_sparse_panel *sparse,
                          size_t rows, size_t k, const uint8_t *act, size_t tile, size_t tokens, float *out, size_t ldo)
{
    const size_t record_bytes = HYP_PANEL * hyp_block_bytes(type);
    const size_t act_bytes = hyp_act_group_bytes(0, tile, HYP_BLOCK), blocks = k / HYP_BLOCK;
    float acc[HYP_ACT_TILE][HYP_PANEL] = {{0}};
    block b;
    for (size_t i = 0; i < (sparse ? sparse->n : blocks); ++i) {
        const uint8_t *rec = w + i * record_bytes;
        record(rec, &b);
        load(rec, &b);
        const uint8_t *a = act + (sparse ? hyp_sparse_block(sparse, i, blocks) : i) * act_bytes;
        const float *d = (const float *)(a + tile * HYP_BLOCK);
        const int32_t *s = (const int32_t *)(a + tile * (HYP_BLOCK + 4));
        for (size_t t = 0; t < tokens; ++t)
            add_block(kd, &b, (const int8_t *)a + t * HYP_BLOCK, d[t], s[2 * t], s[2 * t + 1], acc[t]);
    }
    for (size_t t = 0; t < tokens; ++t)
        for (size_t r = 0; r < rows; ++r) out[t * ldo + r] = acc[t][r];
}

HYP_INLINE void mul_all(int type, kind kd, record_fn record, load_fn load, const uint8_t *w, const uint64_t *offsets,
                        size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)
{
    const size_t tile = hyp_act_tile(m), group_bytes = hyp_act_group_bytes(0, tile, k);
    const size_t panel_bytes = hyp_panel_bytes(type, k);
    for (size_t row = 0; row < rows; row += HYP_PANEL) {
        const size_t p = row / HYP_PANEL, n = rows - row < HYP_PANEL ? rows - row : HYP_PANEL;
        const hyp_sparse_panel sparse = offsets ? hyp_sparse_panel_at(type, w, offsets, p) : (hyp_sparse_panel){NULL, NULL, 0};
        const uint8_t *group = act, *records = offsets ? sparse.records : w + p * panel_bytes;
        for (size_t t = 0; t < m; t += tile, group += group_bytes)
            mul_group(type, kd, record, load, records, offsets ? &sparse : NULL, n, k, group, tile, m - t < tile ? m - t : tile,
                      out + t * ldo + row, ldo);
    }
}

#define MUL(name, type, kd, record, load)                                                                             \
    static void hyp_mul_##name##_generic(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m,          \
                                         float *out, size_t ldo)                                                      \
    {                                                                                                                 \
        mul_all(type, kd, record, load, w, NULL, rows, k, act, m, out, ldo);                                          \
    }

MUL(q4_0, HYP_Q4_0, PLAIN, record_d, load_q4_0)
MUL(q4_1, HYP_Q4_1, WITH_MIN, record_d_m, load_q4_1)
MUL(q5_0, HYP_Q5_0, PLAIN, record_d, load_q5_0)
MUL(q5_1, HYP_Q5_1, WITH_MIN, record_d_m, load_q5_1)
MUL(q8_0, HYP_Q8_0, PLAIN, record_d, load_q8_0)
MUL(iq4_nl, HYP_IQ4_NL, PLAIN, record_d, load_iq4_nl)

#define MUL_SPARSE(name, type, load)                                                                                  \
    static void hyp_mul_sparse_##name##_generic(const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k,     \
                                                const void *act, size_t m, float *out, size_t ldo)                    \
    {                                                                                                                 \
        mul_all(type, PLAIN, record_d, load, w, offsets, rows, k, act, m, out, ldo);                                  \
    }

MUL_SPARSE(q4_0, HYP_Q4_0, load_q4_0)
MUL_SPARSE(q8_0, HYP_Q8_0, load_q8_0)

/* ---- Float weights ------------------------------------------------------------------------------------------------- */

#define FLOAT_STEP 32 /* K widened at a time: 2 KiB, in L1 beside the activations of 16 tokens */

/* Four rows. gcc leaves an array of sums in memory between two K; vectors of the language stay in registers. */
#if defined(__GNUC__)
typedef float four __attribute__((vector_size(16)));

HYP_INLINE four add_product(four sum, four w, float x)
{
    return sum + w * x;
}
#else
typedef struct {
    float row[4];
} four;

HYP_INLINE four add_product(four sum, four w, float x)
{
    for (int i = 0; i < 4; ++i) sum.row[i] += w.row[i] * x;
    return sum;
}
#endif

/* n K of 16 rows. */
HYP_INLINE void widen(int type, const uint8_t *HYP_RESTRICT w, size_t n, four *HYP_RESTRICT f)
{
    if (type == HYP_F32) {
        memcpy(f, w, n * HYP_PANEL * 4);
        return;
    }
    uint16_t h[FLOAT_STEP * HYP_PANEL];
    float wide[FLOAT_STEP * HYP_PANEL];
    memcpy(h, w, n * HYP_PANEL * 2);
    for (size_t i = 0; i < n * HYP_PANEL; ++i)
        wide[i] = type == HYP_F16 ? hyp_half_to_float(h[i]) : hyp_bf16_to_float(h[i]);
    memcpy(f, wide, n * HYP_PANEL * 4);
}

HYP_INLINE void mul_float(int type, const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,
                          size_t ldo)
{
    const size_t tile = hyp_act_tile(m), size = hyp_block_bytes(type), panel_bytes = hyp_panel_bytes(type, k);
    four f[FLOAT_STEP * 4], acc[HYP_ACT_TILE][4];
    for (size_t row = 0; row < rows; row += HYP_PANEL, w += panel_bytes) {
        const size_t n = rows - row < HYP_PANEL ? rows - row : HYP_PANEL;
        const float *x = act;
        for (size_t t0 = 0; t0 < m; t0 += tile, x += tile * k) {
            const size_t tokens = m - t0 < tile ? m - t0 : tile;
            memset(acc, 0, sizeof acc);
            for (size_t i = 0; i < k; i += FLOAT_STEP) {
                const size_t step = k - i < FLOAT_STEP ? k - i : FLOAT_STEP;
                widen(type, w + i * HYP_PANEL * size, step, f);
                for (size_t t = 0; t < tokens; ++t) {
                    four s0 = acc[t][0], s1 = acc[t][1], s2 = acc[t][2], s3 = acc[t][3];
                    for (size_t j = 0; j < step; ++j) {
                        const float xj = x[(i + j) * tile + t];
                        s0 = add_product(s0, f[4 * j], xj);
                        s1 = add_product(s1, f[4 * j + 1], xj);
                        s2 = add_product(s2, f[4 * j + 2], xj);
                        s3 = add_product(s3, f[4 * j + 3], xj);
                    }
                    acc[t][0] = s0, acc[t][1] = s1, acc[t][2] = s2, acc[t][3] = s3;
                }
            }
            for (size_t t = 0; t < tokens; ++t) memcpy(out + (t0 + t) * ldo + row, acc[t], n * sizeof(float));
        }
    }
}

static void hyp_mul_f32_generic(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)
{
    mul_float(HYP_F32, w, rows, k, act, m, out, ldo);
}

static void hyp_mul_f16_generic(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)
{
    mul_float(HYP_F16, w, rows, k, act, m, out, ldo);
}

static void hyp_mul_bf16_generic(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)
{
    mul_float(HYP_BF16, w, rows, k, act, m, out, ldo);
}

void hyp_matmul_fill_generic(hyp_table *t)
{
    t->mul[HYP_F32] = hyp_mul_f32_generic;
    t->mul[HYP_F16] = hyp_mul_f16_generic;
    t->mul[HYP_BF16] = hyp_mul_bf16_generic;
    t->mul[HYP_Q4_0] = hyp_mul_q4_0_generic;
    t->mul[HYP_Q4_1] = hyp_mul_q4_1_generic;
    t->mul[HYP_Q5_0] = hyp_mul_q5_0_generic;
    t->mul[HYP_Q5_1] = hyp_mul_q5_1_generic;
    t->mul[HYP_Q8_0] = hyp_mul_q8_0_generic;
    t->mul[HYP_IQ4_NL] = hyp_mul_iq4_nl_generic;
    t->mul_sparse[HYP_Q4_0] = hyp_mul_sparse_q4_0_generic;
    t->mul_sparse[HYP_Q8_0] = hyp_mul_sparse_q8_0_generic;
    hyp_matmul_fill_kquant_generic(t);
    hyp_matmul_fill_act_generic(t);
}
