/* Attention over quantized keys and values on x86: a function for each type and number of queries, so that the compiler
 * keeps their accumulators in registers. An including file defines first:
 *
 *   keys_block(kv, nq, hd, keys, a, c, ahead)                     4 tiles of keys times nq queries
 *   values_block(kv, nq, hd, rows, a, c, start, scales, ahead)    64 rows of values times nq queries' weights
 */
#ifndef HYP_ATTENTION_QUANTIZED_H
#define HYP_ATTENTION_QUANTIZED_H

/* The rows' scales as floats [64][hd / 32]: a broadcast load then brings one where it is needed. */
HYP_INLINE void attn_expand_scales(int kv, size_t hd, const uint8_t *rows, float *scales)
{
    const size_t row_bytes = hyp_v_row_bytes(kv, hd), blocks = hd / 32;
    for (size_t p = 0; p < HYP_ATTN_TILE; p++, rows += row_bytes, scales += blocks) {
        for (size_t b = 0; b < blocks; b += 2) {
            int32_t two;
            memcpy(&two, rows + 2 * b, 4);
            _mm_storel_pi((__m64 *)(scales + b), _mm_cvtph_ps(_mm_cvtsi32_si128(two)));
        }
    }
}

#define QUANTIZED(suffix, kv, nq)                                                                                  \
    static void keys_##suffix(size_t hd, const uint8_t *keys, const float *const *a, float *const *c,              \
                              hyp_ahead ahead)                                                                     \
    {                                                                                                              \
        keys_block(kv, nq, hd, keys, a, c, ahead);                                                                 \
    }                                                                                                              \
    static void values_##suffix(size_t hd, const uint8_t *rows, const float *const *a, float *const *c,            \
                                const float *start, const float *scales, hyp_ahead ahead)                          \
    {                                                                                                              \
        values_block(kv, nq, hd, rows, a, c, start, scales, ahead);                                                \
    }
QUANTIZED(q8_0_1, HYP_KV_Q8_0, 1)
QUANTIZED(q8_0_2, HYP_KV_Q8_0, 2)
QUANTIZED(q8_0_4, HYP_KV_Q8_0, 4)
QUANTIZED(q4_0_1, HYP_KV_Q4_0, 1)
QUANTIZED(q4_0_2, HYP_KV_Q4_0, 2)
QUANTIZED(q4_0_4, HYP_KV_Q4_0, 4)

HYP_INLINE void attn_keys(int kv, size_t nq, size_t hd, const uint8_t *keys, const float *const *a, float *const *c,
                          hyp_ahead ahead)
{
    if (kv == HYP_KV_Q8_0) (nq == 4 ? keys_q8_0_4 : nq == 2 ? keys_q8_0_2 : keys_q8_0_1)(hd, keys, a, c, ahead);
    else (nq == 4 ? keys_q4_0_4 : nq == 2 ? keys_q4_0_2 : keys_q4_0_1)(hd, keys, a, c, ahead);
}

HYP_INLINE void attn_values(int kv, size_t nq, size_t hd, const uint8_t *rows, const float *const *a, float *const *c,
                            const float *start, const float *scales, hyp_ahead ahead)
{
    if (kv == HYP_KV_Q8_0)
        (nq == 4 ? values_q8_0_4 : nq == 2 ? values_q8_0_2 : values_q8_0_1)(hd, rows, a, c, start, scales, ahead);
    else
        (nq == 4 ? values_q4_0_4 : nq == 2 ? values_q4_0_2 : values_q4_0_1)(hd, rows, a, c, start, scales, ahead);
}

#undef QUANTIZED
#endif
