/* The packed panel: the one layout in which weights are multiplied, the same for every instruction set.
 *
 * A matrix [rows, cols] becomes ceil(rows / 16) panels of 16 rows (the last one padded with zero bytes). A panel holds
 * its K blocks in order, one record a block; a record is 16 source blocks (one a row, as in GGUF) with their bytes
 * interleaved, and takes exactly the bytes of the 16: packing moves bytes and changes no value, except that Q8_0 codes
 * are stored with the sign bit flipped (code + 128, unsigned).
 *
 * Below, r is the row in the panel (0..15), i the byte in a 4-byte group (0..3), and [a][16][4] is a bytes array of
 * a 64-byte vectors: one vector carries 4 consecutive K of each of 16 rows. All scales are f16, little-endian.
 *
 *  F32, F16, BF16    one record a K:  value[16]
 *  Q4_0, IQ4_NL 288  d[16] | q[4][16][4]: low nibble K = 4j+i, high nibble K = 16+4j+i          value d*(q-8) | d*table[q]
 *  Q4_1         320  d[16] m[16] | q as Q4_0                                                    value d*q + m
 *  Q5_0         352  d[16] | h[16][4]: bit v is bit 4 of K = 4v+i | q as Q4_0                   value d*(q-16)
 *  Q5_1         384  d[16] m[16] | h | q as Q5_0                                                value d*q + m
 *  Q8_0         544  d[16] | q[8][16][4]: K = 4v+i, stored + 128                                value d*(q-128)
 *
 * K types: 256 weights a record, group g = 32 consecutive K (g = 0..7), half group = 16 consecutive K.
 *  Q2_K        1344  d[16] dmin[16] | s[16 half groups][16]: low nibble scale, high nibble min
 *                    | q[16][16][4]: vector 8h+j, bits 2p..2p+1 are K = 128h+32p+4j+i           value d*sc*q - dmin*m
 *  Q3_K        1760  d[16] | lo[8][16]: low nibble = low 4 bits of half group 2n's scale, high nibble those of 2n+1
 *                    | hi[4][16]: bits 2c..2c+1 = high 2 bits of half group 4n+c's scale
 *                    | h[8][16][4]: vector j, bit g is bit 2 of K = 32g+4j+i | q as Q2_K        value d*(sc-32)*(q-4)
 *  Q4_K        2304  d[16] dmin[16] | lo[8][16]: low nibble = low 4 bits of group g's scale, high nibble of its min
 *                    | hi[4][16]: for group 2n bits 0-1 scale high, 2-3 min high; for 2n+1 bits 4-5 and 6-7
 *                    | q[4 pairs][8][16][4]: low nibble K = 64n+4j+i, high nibble K = 64n+32+4j+i
 *                                                                                               value d*sc*q - dmin*m
 *  Q5_K        2816  d[16] dmin[16] | lo | hi as Q4_K | h[8][16][4]: vector j, bit g is bit 4 of K = 32g+4j+i
 *                    | q as Q4_K                                                                value d*sc*q - dmin*m
 *  Q6_K        3360  d[16] | s[16 half groups][16] int8 | ql[2][2][8][16][4]: [n][c] low nibble K = 128n+32c+4j+i,
 *                    high nibble K = 128n+64+32c+4j+i
 *                    | qh[2][8][16][4]: bits 2c..2c+1 are bits 4-5 of K = 128n+32c+4j+i         value d*sc*(q-32)
 *
 * In Q3_K q = 2 bits | h << 2. Arithmetic, the same in every path of one instruction set (acc starts at 0, one
 * accumulator a row and token, records in order; da and a[] are the activations' scale and codes, which belong to 32 K
 * in the types of 32 and to 128 K, half a record, in the K types):
 *  Q4_0 Q5_0 Q8_0 IQ4_NL   acc = fma(f32(d)*da, f32(sum (q-zero)*a), acc)            (IQ4_NL: sum table[q]*a)
 *  Q4_1 Q5_1               acc = fma(f32(d)*da, f32(sum q*a), acc);  acc = fma(f32(m), da*f32(sum a), acc)
 *  K types, for each half of a record:
 *                          t = f32(d)*f32(S), S = sum over its groups or half groups of sc * (sum (q-zero)*a);
 *                          Q2_K, Q4_K, Q5_K: t = fma(-f32(dmin), f32(M), t), M = sum over them of m * (sum a);
 *                          acc = fma(da, t, acc)
 * Integer sums are exact in any order: |S| is largest in Q6_K, 128*32*127*128 < 2^26, and M is below 2^20. f32 rounds to
 * nearest even.
 *  F32 F16 BF16            acc = fma(f32(w), x, acc) for each K in order
 * Where an instruction set has no fma (generic C), fma(a,b,c) is a*b rounded, then + c rounded.
 */
#ifndef HYP_PANEL_H
#define HYP_PANEL_H

#include "hyp.h"

#define HYP_PANEL 16 /* rows in a panel */
#define HYP_BLOCK 32 /* activations in a block */
#define HYP_SUPER 256 /* K in a record of a K type */
#define HYP_SPAN 128 /* and the activations that share a scale there */

/* K positions in one record, and bytes of one source block; 0 where the type is unknown. */
HYP_INLINE size_t hyp_block_len(int type)
{
    switch (type) {
    case HYP_F32: case HYP_F16: case HYP_BF16: return 1;
    case HYP_Q4_0: case HYP_Q4_1: case HYP_Q5_0: case HYP_Q5_1: case HYP_Q8_0: case HYP_IQ4_NL: return 32;
    case HYP_Q2_K: case HYP_Q3_K: case HYP_Q4_K: case HYP_Q5_K: case HYP_Q6_K: return 256;
    default: return 0;
    }
}

HYP_INLINE size_t hyp_block_bytes(int type)
{
    switch (type) {
    case HYP_F32: return 4;
    case HYP_F16: case HYP_BF16: return 2;
    case HYP_Q4_0: case HYP_IQ4_NL: return 18;
    case HYP_Q4_1: return 20;
    case HYP_Q5_0: return 22;
    case HYP_Q5_1: return 24;
    case HYP_Q8_0: return 34;
    case HYP_Q2_K: return 84;
    case HYP_Q3_K: return 110;
    case HYP_Q4_K: return 144;
    case HYP_Q5_K: return 176;
    case HYP_Q6_K: return 210;
    default: return 0;
    }
}

/* K types whose value is d*sc*q - dmin*m. */
HYP_INLINE int hyp_has_mins(int type)
{
    return type != HYP_Q3_K && type != HYP_Q6_K;
}

/* Bytes of one row in the source format; cols must be a multiple of the block. */
HYP_INLINE size_t hyp_row_bytes(int type, size_t cols)
{
    return cols / hyp_block_len(type) * hyp_block_bytes(type);
}

HYP_INLINE size_t hyp_panel_bytes(int type, size_t cols)
{
    return HYP_PANEL * hyp_row_bytes(type, cols);
}

/* ---- Block-sparse panels -----------------------------------------------------------------------------------------
 * Q4_0 and Q8_0 panels may leave out the blocks (16 rows x 32 K) that are zero. Such a panel is
 *        uint16 at[n]: the blocks that are there, rising | zero bytes up to a multiple of 32 | n records, as above
 * and its bytes say what n is. Panels differ in size, so that a matrix has an array of offsets besides, one a panel and one for
 * the end. The products are those of the dense panel with zeros, to the bit: adding a zero never changes an accumulator, which
 * starts at +0 and cannot become -0. (A token whose activations are not finite spoils a dense row by 0 * NaN; a block that is
 * not there spoils nothing.) */
enum { HYP_SPARSE_ALIGN = 32, HYP_SPARSE_BLOCKS = 1 << 16 };

HYP_INLINE int hyp_can_be_sparse(int type)
{
    return type == HYP_Q4_0 || type == HYP_Q8_0;
}

HYP_INLINE size_t hyp_sparse_index_bytes(size_t n)
{
    return (2 * n + HYP_SPARSE_ALIGN - 1) / HYP_SPARSE_ALIGN * HYP_SPARSE_ALIGN;
}

HYP_INLINE size_t hyp_sparse_panel_bytes(int type, size_t n)
{
    return hyp_sparse_index_bytes(n) + n * HYP_PANEL * hyp_block_bytes(type);
}

/* How many blocks a sparse panel of so many bytes has: the padding is less than a record. */
HYP_INLINE size_t hyp_sparse_count(int type, size_t bytes)
{
    return bytes / (HYP_PANEL * hyp_block_bytes(type) + 2);
}

typedef struct {
    const uint8_t *at, *records;
    size_t n;
} hyp_sparse_panel;

/* Panel p of those that begin at w. */
HYP_INLINE hyp_sparse_panel hyp_sparse_panel_at(int type, const uint8_t *w, const uint64_t *offsets, size_t p)
{
    hyp_sparse_panel s;
    s.n = hyp_sparse_count(type, (size_t)(offsets[p + 1] - offsets[p]));
    s.at = w + (offsets[p] - offsets[0]);
    s.records = s.at + hyp_sparse_index_bytes(s.n);
    return s;
}

/* Which block record j is. Indices were checked when they were read; but the file behind a mapping may change later, and no
 * index may lead out of the activations. */
HYP_INLINE size_t hyp_sparse_block(const hyp_sparse_panel *s, size_t j, size_t blocks)
{
    uint16_t b;
    memcpy(&b, s->at + 2 * j, 2);
    return b < blocks ? b : blocks - 1;
}

/* ---- Activations -------------------------------------------------------------------------------------------------
 * Tokens are packed in groups of `tile` = 1 (a single token) or 16 (two or more; the last group's missing tokens are
 * zero). Groups follow each other in memory.
 *  by 32 (types of 32): for each block of 32 K one record:
 *        int8 q[tile][32] | float d[tile] | int32 s[tile][2] (sums of the codes of the two halves)
 *     d = absmax / 127, q = x / d (a division, not x * (1 / d)) rounded to nearest even. Where d is below the smallest
 *     normal float (2^-126), d and every q are 0; where absmax is infinite or the block has a NaN, d is NaN and every q is
 *     0, so that a non-finite activation reaches the output of its own token and no other.
 *  by 128 (K types): the same, but absmax is that of 128 K, and sums are int16:
 *        int8 q[tile][32] | float d[tile] | int16 half[tile][2] (of the two halves)
 *        | int16 pair[tile][2] (of record 2n and of record 2n+1, in both)
 *     of the four records of 128 K, the second has int32 reach[tile] in the place of d: the largest (sum |q|) + |sum q| among the
 *     four, twice what the codes of one sign add up to. No sum of products with unsigned weights of at most w is larger than
 *     w * reach / 2.
 *  float (F32, F16, BF16 weights): for each K: float x[tile]
 */
#define HYP_ACT_TILE 16

enum { HYP_ACT_FLOAT, HYP_ACT_BY_32, HYP_ACT_BY_128, HYP_ACT_KINDS };

/* What activations a type is multiplied with; those of one kind can be shared. */
HYP_INLINE int hyp_act_kind(int type)
{
    const size_t len = hyp_block_len(type);
    return len == 1 ? HYP_ACT_FLOAT : len == HYP_BLOCK ? HYP_ACT_BY_32 : HYP_ACT_BY_128;
}

HYP_INLINE int hyp_act_is_float(int type)
{
    return hyp_act_kind(type) == HYP_ACT_FLOAT;
}

HYP_INLINE size_t hyp_act_tile(size_t m)
{
    return m == 1 ? 1 : HYP_ACT_TILE;
}

/* Bytes of one group of activations of `k` values a token. */
HYP_INLINE size_t hyp_act_group_bytes(int is_float, size_t tile, size_t k)
{
    return is_float ? tile * k * 4 : (k / HYP_BLOCK) * tile * (HYP_BLOCK + 4 + 8);
}

/* Which of the four records of 128 K has `reach` in the place of d. */
enum { HYP_ACT_REACH = 1 };

/* The sums of a record by 128 of one token: int16, two to a word. */
HYP_INLINE uint32_t hyp_act_words(int32_t low, int32_t high)
{
    return ((uint32_t)low & 0xffffu) | (uint32_t)high << 16;
}

#endif
