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

#define PRODUCT(function, name, type, ahead)                                                                            \
    void function(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out, size_t ldo)           \
    {                                                                                                                   \
        const hyp_strips strips = {type, hyp_unpack_##name##_avx512, hyp_strip_mul_avx512(type),                        \
                                   hyp_strip_passes_avx512(type)};                                                      \
        if (m == 1) hyp_gemv_##name##_avx512(w, rows, k, act, out, ahead);                                              \
        else if (m <= HYP_FEW_TOKENS) hyp_few_##name##_avx512(w, rows, k, act, m, out, ldo);                            \
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
