/* Block-sparse panels with ymm registers: shared text of the AVX2 and AVX-VNNI kernels, after ymm_mul.h. */
#ifndef HYP_YMM_SPARSE_H
#define HYP_YMM_SPARSE_H

#include "ymm_mul.h"

/* One token and one panel. */
HYP_INLINE void ymm_sparse_one(int type, const hyp_sparse_panel *s, size_t n_rows, size_t blocks, const uint8_t *act, float *out)
{
    const size_t bytes = HYP_PANEL * hyp_block_bytes(type);
    __m256 acc[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    for (size_t j = 0; j < s->n; j++) {
        const uint8_t *a = act + hyp_sparse_block(s, j, blocks) * YMM_ONE_RECORD;
        ymm_one_block(type, 1, s->records + j * bytes, 0, a, NULL, acc);
    }
    ymm_store_rows(out, n_rows, acc[0], acc[1]);
}

/* One panel times up to 64 tokens. */
HYP_INLINE void ymm_sparse_groups(int type, const hyp_sparse_panel *s, size_t n_rows, size_t blocks, const uint8_t *act, size_t m,
                                  float *out, size_t ldo)
{
    HYP_ALIGN64 float acc[YMM_GROUPS * HYP_ACT_TILE][HYP_PANEL];
    HYP_ALIGN64 hyp_ymm_half tile[YMM_K_BLOCKS][2];
    const size_t bytes = HYP_PANEL * hyp_block_bytes(type), group_bytes = blocks * YMM_TILE_RECORD;
    memset(acc, 0, (m + 3) / 4 * 4 * sizeof acc[0]);
    for (size_t j = 0; j < s->n; j += YMM_K_BLOCKS) {
        const size_t n = s->n - j < YMM_K_BLOCKS ? s->n - j : YMM_K_BLOCKS;
        ymm_unpack_tile(type, s->records + j * bytes, n, tile);
        for (size_t t = 0; t < m; t += HYP_ACT_TILE) {
            const uint8_t *a = act + t / HYP_ACT_TILE * group_bytes;
            const size_t tokens = m - t < HYP_ACT_TILE ? m - t : HYP_ACT_TILE;
            for (size_t i = 0; i < n; i++)
                ymm_group_block(type, tile[i], a + hyp_sparse_block(s, j + i, blocks) * YMM_TILE_RECORD, tokens, acc[t]);
        }
    }
    for (size_t t = 0; t < m; t++)
        ymm_store_rows(out + t * ldo, n_rows, _mm256_load_ps(acc[t]), _mm256_load_ps(acc[t] + 8));
}

HYP_INLINE void ymm_mul_sparse(int type, const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k, const uint8_t *act, size_t m,
                               float *out, size_t ldo)
{
    const size_t panels = (rows + HYP_PANEL - 1) / HYP_PANEL, blocks = k / HYP_BLOCK, step = YMM_GROUPS * HYP_ACT_TILE;
    for (size_t t = 0; t < m; t += step)
        for (size_t p = 0; p < panels; p++) {
            const hyp_sparse_panel s = hyp_sparse_panel_at(type, w, offsets, p);
            const size_t row = p * HYP_PANEL;
            if (m == 1) ymm_sparse_one(type, &s, rows - row, blocks, act, out + row);
            else
                ymm_sparse_groups(type, &s, rows - row, blocks, act + t / HYP_ACT_TILE * blocks * YMM_TILE_RECORD,
                                  m - t < step ? m - t : step, out + t * ldo + row, ldo);
        }
}

#define HYP_YMM_SPARSE_KERNEL(name, type)                                                                                      \
    static void name(const uint8_t *w, const uint64_t *offsets, size_t rows, size_t k, const void *act, size_t m, float *out,  \
                     size_t ldo)                                                                                               \
    {                                                                                                                          \
        ymm_mul_sparse(type, w, offsets, rows, k, act, m, out, ldo);                                                           \
    }

#endif
