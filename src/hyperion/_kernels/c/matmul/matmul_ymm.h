/* What the files of the AVX2 and AVX-VNNI levels give each other: each fills its part of the table. */
#ifndef HYP_MATMUL_YMM_H
#define HYP_MATMUL_YMM_H

#include "common/table.h"

/* The VEX form of vpdpbusd: gcc 11, clang 12, Visual Studio 2022; without it the level is AVX2 under another name. */
#if defined(__AVXVNNI__) || (defined(_MSC_VER) && !defined(__clang__) && _MSC_VER >= 1930)
#define HYP_HAVE_AVXVNNI 1
#else
#define HYP_HAVE_AVXVNNI 0
#endif

/* Records by which a single token's reads of a K type are prefetched, on every processor. */
#ifndef HYP_YMM_K_AHEAD
#define HYP_YMM_K_AHEAD 3
#endif

/* Bytes by which those of the other types are, into L2, where `ahead` is set. */
#ifndef HYP_YMM_AHEAD
#define HYP_YMM_AHEAD 3072
#endif

void hyp_matmul_fill_legacy_avx2(hyp_table *t, int ahead);
void hyp_matmul_fill_kquant_avx2(hyp_table *t);
void hyp_matmul_fill_float_avx2(hyp_table *t, int ahead);
void hyp_matmul_fill_act_avx2(hyp_table *t);
void hyp_matmul_fill_sparse_avx2(hyp_table *t);
void hyp_matmul_fill_sparse_avxvnni(hyp_table *t);
void hyp_matmul_fill_legacy_avxvnni(hyp_table *t, int ahead);
void hyp_matmul_fill_kquant_avxvnni(hyp_table *t);

/* Whether software prefetching pays: on Intel's cores, where one core's reads otherwise stay 30 to 60% below what its L2
 * can have in flight; AMD's hardware prefetchers reach DRAM's speed and prefetching by hand costs them 12 to 16%. */
int hyp_matmul_ahead_avx2(void);

#endif
