/* What the portable files of the matrix product share. */
#ifndef HYP_MATMUL_PORTABLE_H
#define HYP_MATMUL_PORTABLE_H

#include "common/table.h"

#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

/* Unrolled, the partial sums of the inner loops stay in registers; gcc alone does not see it (measured: twice the speed). */
#if defined(__GNUC__) && !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 8")
#else
#define UNROLL
#endif

#define LANES 64 /* 16 rows x 4 consecutive K: one vector of a panel */

HYP_INLINE void load_halves(const uint8_t *src, float out[HYP_PANEL])
{
    uint16_t h[HYP_PANEL];
    memcpy(h, src, sizeof h);
    for (int r = 0; r < HYP_PANEL; ++r) out[r] = hyp_half_to_float(h[r]);
}

/* sum[r] = sum over `vectors` vectors and their 4 K of w * a. */
HYP_INLINE void dot(const int16_t (*HYP_RESTRICT w)[LANES], const int8_t *HYP_RESTRICT a, int vectors,
                    int32_t sum[HYP_PANEL])
{
    int32_t lane[LANES] = {0};
    UNROLL
    for (int v = 0; v < vectors; ++v) {
        int16_t x[8];
        for (int i = 0; i < 8; ++i) x[i] = a[4 * v + i % 4];
        for (int c = 0; c < LANES; c += 8)
            for (int i = 0; i < 8; ++i) lane[c + i] += (int32_t)w[v][c + i] * x[i];
    }
    for (int r = 0; r < HYP_PANEL; ++r) sum[r] = lane[4 * r] + lane[4 * r + 1] + lane[4 * r + 2] + lane[4 * r + 3];
}

#endif
