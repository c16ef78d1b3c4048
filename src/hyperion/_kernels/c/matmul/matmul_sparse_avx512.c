/* Block-sparse panels with vpdpbusd, two or more tokens: a panel is so small that it stays in the first-level cache for all groups
 * of tokens, and the accumulators of one panel and one group stay in registers from its first block to its last. */
#include "matmul/tokens_avx512.h"

enum { ACT_BYTES = 1 << 20 }; /* of activations that stay in the second-level cache while the panels pass by */

/* One panel times one group, of which `count` tokens exist; `tokens` (a constant) is that rounded up. */
HYP_INLINE void sparse_group(int type, int tokens, const hyp_sparse_panel *s, size_t blocks, const uint8_t *act, size_t count,
                             float *out, size_t ldo, __mmask16 rows)
{
    const size_t record = HYP_PANEL * hyp_block_bytes(type);
    hyp_token_values values[HYP_STRIP_BLOCKS];
    __m512 acc[HYP_ACT_TILE];
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) acc[t] = _mm512_setzero_ps();
    for (size_t j = 0; j < s->n; j += HYP_STRIP_BLOCKS) {
        const size_t n = s->n - j < HYP_STRIP_BLOCKS ? s->n - j : HYP_STRIP_BLOCKS;
        const uint8_t *at[HYP_STRIP_BLOCKS];
        for (size_t i = 0; i < n; i++) {
            at[i] = act + hyp_sparse_block(s, j + i, blocks) * HYP_ACT_RECORD;
            hyp_token_values_avx512(type, at[i], &values[i]);
        }
        for (size_t i = 0; i < n; i++) {
            hyp_block_avx512 b;
            hyp_block_load_avx512(type, s->records + (j + i) * record, &b);
            hyp_block_times_tokens_avx512(type, tokens, &b, values + i, at[i], acc);
        }
    }
    HYP_ALIGN64 float sums[HYP_ACT_TILE][HYP_PANEL]; /* acc is not indexed by a variable, so it stays in registers */
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) _mm512_store_ps(sums[t], acc[t]);
    for (size_t t = 0; t < count; t++) _mm512_mask_storeu_ps(out + t * ldo, rows, _mm512_load_ps(sums[t]));
}

HYP_INLINE void sparse_group_of(int type, const hyp_sparse_panel *s, size_t blocks, const uint8_t *act, size_t count, float *out,
                                size_t ldo, __mmask16 rows)
{
    if (count <= 4) sparse_group(type, 4, s, blocks, act, count, out, ldo, rows);
    else if (count <= 8) sparse_group(type, 8, s, blocks, act, count, out, ldo, rows);
    else if (count <= 12) sparse_group(type, 12, s, blocks, act, count, out, ldo, rows);
    else sparse_group(type, 16, s, blocks, act, count, out, ldo, rows);
}

HYP_INLINE void mul_sparse(int type, const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k, const uint8_t *act, size_t m,
                           float *out, size_t ldo)
{
    const size_t panels = (rows + HYP_PANEL - 1) / HYP_PANEL, blocks = k / HYP_BLOCK;
    const size_t group_bytes = blocks * HYP_ACT_RECORD, fit = ACT_BYTES / group_bytes + 1, step = fit * HYP_ACT_TILE;
    for (size_t t0 = 0; t0 < m; t0 += step, act += fit * group_bytes) {
        const size_t end = m - t0 < step ? m - t0 : step;
        for (size_t p = 0; p < panels; p++) {
            const hyp_sparse_panel s = hyp_sparse_panel_at(type, w, offsets, p);
            const size_t row = p * HYP_PANEL;
            for (size_t t = 0; t < end; t += HYP_ACT_TILE)
                sparse_group_of(type, &s, blocks, act + t / HYP_ACT_TILE * group_bytes, end - t < HYP_ACT_TILE ? end - t : HYP_ACT_TILE,
                                out + (t0 + t) * ldo + row, ldo, hyp_rows_avx512(rows, row));
        }
    }
}

#define MUL_SPARSE(name, type)                                                                                          \
    void hyp_mul_sparse_##name##_avx512(const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k,               \
                                        const void *act, size_t m, float *out, size_t ldo)                              \
    {                                                                                                                   \
        if (m == 1) hyp_gemv_sparse_##name##_avx512(w, offsets, rows, k, act, out);                                     \
        else mul_sparse(type, w, offsets, rows, k, act, m, out, ldo);                                                   \
    }
HYP_SPARSE_TYPES_AVX512(MUL_SPARSE)
