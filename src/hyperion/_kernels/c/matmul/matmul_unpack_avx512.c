/* Strips: blocks of a panel taken apart into bytes and float scales, once for all the tokens of a call. */
#include "matmul/products_avx512.h"

HYP_INLINE void unpack(int type, const uint8_t *rec, size_t n, hyp_strip *to)
{
    hyp_strip_block *strip = to->block;
    for (size_t i = 0; i < n; i++, strip++, rec += HYP_PANEL * hyp_block_bytes(type)) {
        hyp_block_avx512 b;
        hyp_block_load_avx512(type, rec, &b);
        HYP_UNROLL
        for (int v = 0; v < 8; v++) _mm512_store_si512(strip->w[v], b.w[v]);
        _mm512_store_ps(strip->d, b.d);
        if (hyp_shape_avx512(type) == HYP_SHAPE_MIN) _mm512_store_ps(strip->p, b.p);
    }
}

#define UNPACK(name, type)                                                                                              \
    void hyp_unpack_##name##_avx512(const uint8_t *rec, size_t n, hyp_strip *strip)                                    \
    {                                                                                                                   \
        unpack(type, rec, n, strip);                                                                                    \
    }
HYP_TYPES_OF_32_AVX512(UNPACK)
