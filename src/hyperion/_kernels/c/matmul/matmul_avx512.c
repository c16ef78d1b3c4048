/* The AVX-512 (VNNI) level of the matrix products: one token streams the panels, two or more go through strips. */
#include "matmul/products_avx512.h"

#define MUL(name, type)                                                                                                 \
    void hyp_mul_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo)                                                                            \
    {                                                                                                                   \
        const hyp_strips strips = {type, hyp_unpack_##name##_avx512, hyp_strip_mul_avx512(type)};                       \
        if (m == 1) hyp_gemv_##name##_avx512(w, rows, k, act, out);                                                     \
        else hyp_strips_mul_avx512(&strips, w, rows, k, act, m, out, ldo);                                              \
    }
HYP_BLOCK_TYPES_AVX512(MUL)

#define ENTRY(name, type) t->mul[type] = hyp_mul_##name##_avx512;

void hyp_matmul_fill_avx512(hyp_table *t)
{
    HYP_BLOCK_TYPES_AVX512(ENTRY)
    t->mul[HYP_F32] = hyp_mul_f32_avx512;
    t->mul[HYP_F16] = hyp_mul_f16_avx512;
    t->mul[HYP_BF16] = hyp_mul_bf16_avx512;
    t->act_quantize = hyp_act_quantize_avx512;
    t->act_float = hyp_act_float_avx512;
}
