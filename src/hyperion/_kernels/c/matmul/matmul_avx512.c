/* The AVX-512 (VNNI) level of the matrix products: one token and few tokens stream the panels, more go
 * through strips. */
#include "matmul/products_avx512.h"

#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif

static int is_intel(void)
{
#if defined(_MSC_VER)
    int regs[4];
    __cpuid(regs, 0);
    const unsigned int ebx = (unsigned int)regs[1];
#else
    unsigned int eax = 0, ebx = 0, ecx = 0, edx = 0;
    __cpuid(0, eax, ebx, ecx, edx);
#endif
    return ebx == 0x756e6547u; /* "Genu" */
}

enum { CHUNK = 256 << 10 }; /* bytes of weights that stay in the second-level cache while groups pass by */

/* Up to how many tokens go through registers, group after group: strips cost 1.5 times as much for 17 tokens as for 16. */
HYP_INLINE size_t most_few(int type)
{
    return hyp_block_len(type) == HYP_BLOCK ? 48 : type == HYP_Q4_K ? 24 : type == HYP_Q3_K ? HYP_FEW_TOKENS : 20;
}

static void times_groups(hyp_mul_fn few, size_t stride, const uint8_t *w, size_t rows, size_t k, const uint8_t *act, size_t m, float *out,
                         size_t ldo)
{
    const size_t group = hyp_act_group_bytes(0, HYP_ACT_TILE, k), step = m <= HYP_FEW_TOKENS ? rows : (CHUNK / stride + 1) * HYP_PANEL;
    for (size_t row = 0; row < rows; row += step, w += step / HYP_PANEL * stride) {
        const size_t some = rows - row < step ? rows - row : step;
        for (size_t t = 0; t < m; t += HYP_FEW_TOKENS)
            few(w, some, k, act + t / HYP_FEW_TOKENS * group, m - t < HYP_FEW_TOKENS ? m - t : HYP_FEW_TOKENS, out + t * ldo + row, ldo);
    }
}

#define PRODUCT(function, name, type, ahead)                                                                            \
    void function(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)           \
    {                                                                                                                   \
        const hyp_strips strips = {type, hyp_unpack_##name##_avx512, hyp_strip_mul_avx512(type),                        \
                                   hyp_strip_passes_avx512(type)};                                                      \
        if (m == 1) hyp_gemv_##name##_avx512(w, rows, k, act, out, ahead);                                              \
        else if (m <= most_few(type))                                                                                   \
            times_groups(hyp_few_##name##_avx512, hyp_panel_bytes(type, k), w, rows, k, act, m, out, ldo);              \
        else hyp_strips_mul_avx512(&strips, w, rows, k, act, m, out, ldo);                                              \
    }
#define PRODUCTS(name, type)                                                                                            \
    PRODUCT(hyp_mul_##name##_avx512, name, type, 0)                                                                     \
    PRODUCT(hyp_mul_##name##_ahead_avx512, name, type, 1)
HYP_BLOCK_TYPES_AVX512(PRODUCTS)

#define ENTRY(name, type) t->mul[type] = ahead ? hyp_mul_##name##_ahead_avx512 : hyp_mul_##name##_avx512;

void hyp_matmul_fill_avx512(hyp_table *t)
{
    const int ahead = is_intel();
    HYP_BLOCK_TYPES_AVX512(ENTRY)
    t->mul[HYP_F32] = hyp_mul_f32_avx512;
    t->mul[HYP_F16] = hyp_mul_f16_avx512;
    t->mul[HYP_BF16] = hyp_mul_bf16_avx512;
    t->mul_sparse[HYP_Q4_0] = hyp_mul_sparse_q4_0_avx512;
    t->mul_sparse[HYP_Q8_0] = hyp_mul_sparse_q8_0_avx512;
    t->act[HYP_ACT_FLOAT] = hyp_act_float_avx512;
    t->act[HYP_ACT_BY_32] = hyp_act_by_32_avx512;
    t->act[HYP_ACT_BY_128] = hyp_act_by_128_avx512;
}
