/* Two to sixteen tokens, up to eight at a time: what is taken out of a record goes from registers into the products and is
 * forgotten, panel after panel as for one token. A strip (products_avx512.h) would not pay: its stores and its second reading take
 * as long as two tokens' products, and memory waits meanwhile.
 *
 * Every number of tokens has code of its own, for a token that does not exist costs as much as one that does. More than eight go
 * in two parts, as their sums would not stay in registers; codes are taken out twice, on ports that the products leave idle.
 *
 * The arithmetic fills the window of instructions, so that no read of weights comes early: they are prefetched by software, to the
 * second-level cache (the first has no room beside the activations: Q6_K and two tokens then reach half of the speed), and a line
 * at a time: gcc gathers the prefetches of unrolled code into bursts; what is volatile it leaves apart. */
#ifndef HYP_FEW_AVX512_H
#define HYP_FEW_AVX512_H

#include "matmul/products_avx512.h"

#if defined(__GNUC__)
#define HYP_PREFETCH_L2(p) __asm__ volatile("prefetcht1 %0" : : "m"(*(const char *)(p)))
#else
#define HYP_PREFETCH_L2(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
#endif

enum { HYP_FEW_PART = 8 };

typedef struct {
    const uint8_t *act; /* the group's */
    size_t k, first;    /* the part's first token */
    size_t ahead;       /* bytes between what is multiplied and what is prefetched */
    float *out;         /* the first token's place */
    size_t ldo;
    __mmask16 lanes;
} hyp_few_part;

typedef void (*hyp_few_fn)(const uint8_t *panel, const hyp_few_part *part);

/* times[n] multiplies a panel with n tokens. */
HYP_INLINE void hyp_few_avx512(int type, const hyp_few_fn *times, size_t ahead, const uint8_t *w, size_t rows, size_t k,
                               const void *act, size_t m, float *out, size_t ldo)
{
    const size_t stride = hyp_panel_bytes(type, k), parts = m > HYP_FEW_PART ? 2 : 1, most = (m + parts - 1) / parts;
    hyp_few_part part = {.act = act, .k = k, .ldo = ldo};
    for (size_t row = 0; row < rows; row += HYP_PANEL, w += stride) {
        part.lanes = hyp_rows_avx512(rows, row);
        for (part.first = 0; part.first < m; part.first += most) {
            const size_t left = m - part.first;
            part.out = out + part.first * ldo + row;
            part.ahead = part.first ? stride : ahead; /* the second part has its panel in L2, and fetches the next one */
            times[left < most ? left : most](w, &part);
        }
    }
}

HYP_INLINE void hyp_few_store_avx512(const hyp_few_part *part, int tokens, const __m512 *acc)
{
    HYP_UNROLL
    for (int t = 0; t < tokens; t++) _mm512_mask_storeu_ps(part->out + (size_t)t * part->ldo, part->lanes, acc[t]);
}

#define HYP_FEW_TOKENS(function, name, type, tokens)                                                                    \
    static void name##_##tokens(const uint8_t *panel, const hyp_few_part *part) { function(type, tokens, panel, part); }

/* hyp_few_<name>_avx512 from function(type, tokens, panel, part), which takes both numbers as constants. */
#define HYP_FEW(function, name, type, ahead)                                                                            \
    HYP_FEW_TOKENS(function, name, type, 2)                                                                             \
    HYP_FEW_TOKENS(function, name, type, 3)                                                                             \
    HYP_FEW_TOKENS(function, name, type, 4)                                                                             \
    HYP_FEW_TOKENS(function, name, type, 5)                                                                             \
    HYP_FEW_TOKENS(function, name, type, 6)                                                                             \
    HYP_FEW_TOKENS(function, name, type, 7)                                                                             \
    HYP_FEW_TOKENS(function, name, type, 8)                                                                             \
    void hyp_few_##name##_avx512(const uint8_t *w, size_t rows, size_t k, const void *act, size_t m, float *out,        \
                                 size_t ldo)                                                                            \
    {                                                                                                                   \
        static const hyp_few_fn times[HYP_FEW_PART + 1] = {NULL,     NULL,     name##_2, name##_3, name##_4,            \
                                                           name##_5, name##_6, name##_7, name##_8};                     \
        hyp_few_avx512(type, times, ahead, w, rows, k, act, m, out, ldo);                                               \
    }

#endif
