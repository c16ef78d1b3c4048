/* The AVX-512 (VNNI) level of the matrix products: one token streams the panels, two or more go through strips. */
#include "matmul/products_avx512.h"

enum {
    GROUPS = 32,                /* token groups whose accumulators are held at once */
    L2_BYTES = 1 << 20,         /* activations kept in the second-level cache while all panels pass by */
    PANELS = 2                  /* panels that share an activation strip in L1 */
};

typedef struct {
    HYP_ALIGN64 hyp_strip_block strip[PANELS][HYP_STRIP_BLOCKS];
    float acc[PANELS][GROUPS][HYP_ACT_TILE][HYP_PANEL];
} work_area;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* One or two panels times `groups` groups of activations, m tokens together. */
static void panels_times_groups(const hyp_strips *s, const uint8_t *w, size_t panels, size_t k, const uint8_t *act,
                                size_t groups, size_t m, work_area *area)
{
    const size_t len = hyp_block_len(s->type), record = HYP_PANEL * hyp_block_bytes(s->type);
    const size_t stride = hyp_panel_bytes(s->type, k), group_bytes = hyp_act_group_bytes(0, HYP_ACT_TILE, k);
    const size_t act_record = HYP_ACT_TILE * (HYP_BLOCK + 4 + 8), blocks = k / HYP_BLOCK;
    for (size_t p = 0; p < panels; p++) memset(area->acc[p], 0, groups * sizeof area->acc[p][0]);
    for (size_t b = 0; b < blocks; b += HYP_STRIP_BLOCKS) {
        const size_t n = smaller(HYP_STRIP_BLOCKS, blocks - b);
        for (size_t p = 0; p < panels; p++) s->unpack(w + p * stride + b * HYP_BLOCK / len * record, n, area->strip[p]);
        for (size_t g = 0; g < groups; g++) {
            const uint8_t *a = act + g * group_bytes + b * act_record;
            for (size_t p = 0; p < panels; p++)
                s->mul(area->strip[p], n, a, smaller(HYP_ACT_TILE, m - g * HYP_ACT_TILE), area->acc[p][g]);
        }
    }
}

void hyp_strips_mul_avx512(const hyp_strips *s, const uint8_t *w, size_t rows, size_t k, const void *act, size_t m,
                           float *out, size_t ldo)
{
    const size_t group_bytes = hyp_act_group_bytes(0, HYP_ACT_TILE, k), stride = hyp_panel_bytes(s->type, k);
    const size_t all = (m + HYP_ACT_TILE - 1) / HYP_ACT_TILE, fit = L2_BYTES / (group_bytes + 1);
    const size_t most = fit < 1 ? 1 : smaller(fit, GROUPS);
    const size_t rounds = (all + most - 1) / most, groups = rounds ? (all + rounds - 1) / rounds : 0;
    work_area area;
    for (size_t g = 0; g < all; g += groups) {
        const size_t n = smaller(groups, all - g), first = g * HYP_ACT_TILE, tokens = smaller(n * HYP_ACT_TILE, m - first);
        for (size_t row = 0; row < rows; row += PANELS * HYP_PANEL) {
            const size_t panels = rows - row > HYP_PANEL ? 2 : 1;
            panels_times_groups(s, w + row / HYP_PANEL * stride, panels, k, (const uint8_t *)act + g * group_bytes, n, tokens,
                                &area);
            for (size_t p = 0; p < panels; p++) {
                const size_t at = row + p * HYP_PANEL;
                const __mmask16 lanes = hyp_rows_avx512(rows, at);
                const float(*acc)[HYP_PANEL] = (const float(*)[HYP_PANEL])area.acc[p];
                for (size_t t = 0; t < tokens; t++)
                    _mm512_mask_storeu_ps(out + (first + t) * ldo + at, lanes, _mm512_load_ps(acc[t]));
            }
        }
    }
}

#define MUL(name, type)                                                                                                 \
    static void mul_##name(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)  \
    {                                                                                                                   \
        const hyp_strips strips = {type, hyp_unpack_##name##_avx512, hyp_strip_mul_avx512(type)};                       \
        if (m == 1) hyp_gemv_##name##_avx512(w, rows, k, act, out);                                                     \
        else hyp_strips_mul_avx512(&strips, w, rows, k, act, m, out, ldo);                                              \
    }
HYP_BLOCK_TYPES_AVX512(MUL)

#define ENTRY(name, type) t->mul[type] = mul_##name;

void hyp_matmul_fill_avx512(hyp_table *t)
{
    HYP_BLOCK_TYPES_AVX512(ENTRY)
    t->mul[HYP_F32] = hyp_mul_f32_avx512;
    t->mul[HYP_F16] = hyp_mul_f16_avx512;
    t->mul[HYP_BF16] = hyp_mul_bf16_avx512;
    t->act_quantize = hyp_act_quantize_avx512;
    t->act_float = hyp_act_float_avx512;
}
