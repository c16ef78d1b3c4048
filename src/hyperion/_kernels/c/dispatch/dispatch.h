/* What the processor and the operating system offer, and the table of kernels of each level. */
#ifndef HYP_DISPATCH_H
#define HYP_DISPATCH_H

#include "common/table.h"

/* Instruction sets that the processor has and whose registers the operating system saves. */
typedef struct {
    int sse4_2, avx, avx2, fma, f16c, avx_vnni;
    int avx512f, avx512bw, avx512vl, avx512dq, avx512_vnni, avx512_bf16;
    int amx_tile, amx_int8, amx_bf16;
    int neon;
} hyp_features;

/* In a build with AMX kernels AMX counts only where the system grants this process the tile registers: detection asks. */
void hyp_detect(hyp_features *features);

/* "generic", "avx2", "avxvnni", "avx512", "amx"; NULL where there is no such level. */
const char *hyp_level_name(int level);

/* Nonzero if this build has kernels of the level and `features` can run them. */
int hyp_level_present(const hyp_features *features, int level);

/* Fill the table of a present level; HYP_ERROR_ARGUMENT if it is absent. */
int hyp_level_table(const hyp_features *features, int level, hyp_table *table);

#endif
