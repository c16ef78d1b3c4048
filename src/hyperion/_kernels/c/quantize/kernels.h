/* The text of the quantizing kernels, plain C over lanes.h: each instruction set's file includes it once. The
 * including file sets HYP_QUANTIZE_AVX2 or HYP_QUANTIZE_AVX512, or neither. */
#ifndef HYP_QUANTIZE_KERNELS_H
#define HYP_QUANTIZE_KERNELS_H

#include <float.h>
#include <stddef.h>

#include "common/table.h"

#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#include "quantize/lanes.h"
#include "quantize/ranges.h"

#include "quantize/convert.h"
#include "quantize/turn.h"
#include "quantize/floats.h"
#include "quantize/legacy.h"
#include "quantize/search.h"

#include "quantize/affine.h"
#include "quantize/sums.h"

#define HYP_DEQUANTIZE(name, bytes, length)                                                          \
    static void dequantize_##name(const uint8_t *src, size_t blocks, float *dst)                     \
    {                                                                                                \
        for (; blocks; --blocks, src += (bytes), dst += (length)) floats_##name(src, dst);           \
    }
HYP_DEQUANTIZE(q4_0, 18, 32)
HYP_DEQUANTIZE(q4_1, 20, 32)
HYP_DEQUANTIZE(q5_0, 22, 32)
HYP_DEQUANTIZE(q5_1, 24, 32)
HYP_DEQUANTIZE(q8_0, 34, 32)
HYP_DEQUANTIZE(iq4_nl, 18, 32)
HYP_DEQUANTIZE(q2_k, 84, 256)
HYP_DEQUANTIZE(q3_k, 110, 256)
HYP_DEQUANTIZE(q4_k, 144, 256)
HYP_DEQUANTIZE(q5_k, 176, 256)
HYP_DEQUANTIZE(q6_k, 210, 256)

static void dequantize_f32(const uint8_t *src, size_t n, float *dst) { memcpy(dst, src, 4 * n); }
static void dequantize_f16(const uint8_t *src, size_t n, float *dst) { load_f16(src, n, dst); }
static void dequantize_bf16(const uint8_t *src, size_t n, float *dst) { load_bf16(src, n, dst); }

static void fill_quantize(hyp_table *t)
{
    hyp_quantize_kernels *const k = &t->quantize;
    t->search.fit = affine_fit_each, t->search.hqq = affine_hqq_each;
    k->load_f16 = load_f16, k->load_bf16 = load_bf16, k->load_f64 = load_f64;
    k->store_f16 = store_f16, k->store_bf16 = store_bf16, k->store_f64 = store_f64;
    k->turn = turn;
    k->extremes = affine_extremes, k->extremes_each = affine_extremes_each;
    k->range = affine_range;
    k->range_groups = affine_range_groups;
    k->codes = affine_codes, k->codes_each = affine_codes_each;
    k->inverses = affine_inverses;
    k->values = affine_values, k->values_each = affine_values_each;
    k->pack4 = affine_pack4, k->unpack4 = affine_unpack4;
    k->fit = affine_fit;
    k->hqq = affine_hqq;
#define HYP_TYPE(TYPE, name) k->blocks[TYPE] = quantize_##name, k->floats[TYPE] = dequantize_##name
    HYP_TYPE(HYP_F32, f32);
    HYP_TYPE(HYP_F16, f16);
    HYP_TYPE(HYP_BF16, bf16);
    HYP_TYPE(HYP_Q4_0, q4_0);
    HYP_TYPE(HYP_Q4_1, q4_1);
    HYP_TYPE(HYP_Q5_0, q5_0);
    HYP_TYPE(HYP_Q5_1, q5_1);
    HYP_TYPE(HYP_Q8_0, q8_0);
#undef HYP_TYPE
#define HYP_TYPE(TYPE, name) k->searched[TYPE] = quantize_##name, k->floats[TYPE] = dequantize_##name
    HYP_TYPE(HYP_IQ4_NL, iq4_nl);
    HYP_TYPE(HYP_Q2_K, q2_k);
    HYP_TYPE(HYP_Q3_K, q3_k);
    HYP_TYPE(HYP_Q4_K, q4_k);
    HYP_TYPE(HYP_Q5_K, q5_k);
    HYP_TYPE(HYP_Q6_K, q6_k);
#undef HYP_TYPE
}

#endif
