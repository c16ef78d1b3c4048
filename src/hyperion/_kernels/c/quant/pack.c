/* GGUF blocks to panels and back; the bytes of both layouts are in panel.h and facts beside each type below.
 *
 * Packing is a transposition of 4-byte groups, plus a rearrangement of the scales' bits for the types that squeeze them.
 * It handles 32 K (or one block) of all 16 rows at a time: each row's cache line is read once, even when the rows lie a
 * power of two apart and compete for the same few lines of the first-level cache. */
#include "quant/pack.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "GGUF blocks and panels are little-endian"
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#elif defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

enum { ROWS = HYP_PANEL, VECTOR = HYP_PANEL * 4 };

/* ---- Source blocks as they lie in a file ---------------------------------------------------------------------------- */

typedef struct { uint8_t d[2], q[16]; } block_q4_0; /* IQ4_NL too */
typedef struct { uint8_t d[2], m[2], q[16]; } block_q4_1;
typedef struct { uint8_t d[2], h[4], q[16]; } block_q5_0;
typedef struct { uint8_t d[2], m[2], h[4], q[16]; } block_q5_1;
typedef struct { uint8_t d[2], q[32]; } block_q8_0;
typedef struct { uint8_t s[16], q[64], d[2], dmin[2]; } block_q2_k;
typedef struct { uint8_t h[32], q[64], s[12], d[2]; } block_q3_k;
typedef struct { uint8_t d[2], dmin[2], s[12], q[128]; } block_q4_k;
typedef struct { uint8_t d[2], dmin[2], s[12], h[32], q[128]; } block_q5_k;
typedef struct { uint8_t ql[128], qh[64], s[16], d[2]; } block_q6_k;

#define SIZE_IS(type, bytes) _Static_assert(sizeof(type) == (bytes), #type)
SIZE_IS(block_q4_0, 18);
SIZE_IS(block_q4_1, 20);
SIZE_IS(block_q5_0, 22);
SIZE_IS(block_q5_1, 24);
SIZE_IS(block_q8_0, 34);
SIZE_IS(block_q2_k, 84);
SIZE_IS(block_q3_k, 110);
SIZE_IS(block_q4_k, 144);
SIZE_IS(block_q5_k, 176);
SIZE_IS(block_q6_k, 210);

/* ---- Moving bytes, both ways ----------------------------------------------------------------------------------------- */

HYP_INLINE uint32_t get32(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

HYP_INLINE void put32(uint8_t *p, uint32_t x)
{
    memcpy(p, &x, 4);
}

/* One row's 4 * n bytes to (or from) its lane of n vectors; `flip` inverts sign bits. */
HYP_INLINE void spread(const uint8_t *HYP_RESTRICT src, size_t n, uint32_t flip, uint8_t *HYP_RESTRICT lane)
{
    for (size_t v = 0; v < n; ++v) put32(lane + v * VECTOR, get32(src + 4 * v) ^ flip);
}

HYP_INLINE void gather(const uint8_t *HYP_RESTRICT lane, size_t n, uint32_t flip, uint8_t *HYP_RESTRICT dst)
{
    for (size_t v = 0; v < n; ++v) put32(dst + 4 * v, get32(lane + v * VECTOR) ^ flip);
}

/* Exchange two digits of the positions of a word's bits: the bits under `mask` go `distance` up, their partners down. */
HYP_INLINE uint32_t exchange(uint32_t x, uint32_t mask, int distance)
{
    const uint32_t t = ((x >> distance) ^ x) & mask;
    return x ^ t ^ (t << distance);
}

/* Q5_0, Q5_1: bit 4v + i of a word to bit v of byte i, an 8 x 4 matrix of bits transposed: the binary digits of the
 * position, v2 v1 v0 i1 i0, become i1 i0 v2 v1 v0 in four exchanges. */
HYP_INLINE uint32_t bits_by_byte(uint32_t x)
{
    x = exchange(x, 0x22222222u, 1);
    x = exchange(x, 0x0a0a0a0au, 3);
    x = exchange(x, 0x00cc00ccu, 6);
    return exchange(x, 0x0000f0f0u, 12);
}

HYP_INLINE uint32_t bits_in_order(uint32_t x)
{
    x = exchange(x, 0x0000f0f0u, 12);
    x = exchange(x, 0x00cc00ccu, 6);
    x = exchange(x, 0x0a0a0a0au, 3);
    return exchange(x, 0x22222222u, 1);
}

/* Q3_K: field n (2 bits) of byte c to field c of byte n; its own inverse. */
HYP_INLINE uint32_t transpose_fields(uint32_t x)
{
    x = exchange(x, 0x00cc00ccu, 6);
    return exchange(x, 0x0000f0f0u, 12);
}

/* n bytes of a row, one every 16 bytes of the record. */
HYP_INLINE void spread_bytes(const uint8_t *HYP_RESTRICT src, size_t n, uint8_t *HYP_RESTRICT lane)
{
    for (size_t i = 0; i < n; ++i) lane[i * ROWS] = src[i];
}

HYP_INLINE void gather_bytes(const uint8_t *HYP_RESTRICT lane, size_t n, uint8_t *HYP_RESTRICT dst)
{
    for (size_t i = 0; i < n; ++i) dst[i] = lane[i * ROWS];
}

/* The 12 bytes of Q4_K's and Q5_K's scales to lo[8][16] hi[4][16] (see panel.h). With b the bytes, j < 4:
 *   b[j]     = scale j (6 bits)        | high 2 bits of scale j + 4
 *   b[j + 4] = min j (6 bits)          | high 2 bits of min j + 4
 *   b[j + 8] = low nibble of scale j+4 | low nibble of min j + 4 */
HYP_INLINE void put_k_scales(const uint8_t s[12], uint8_t *lo, uint8_t *hi)
{
    const uint32_t a = get32(s), b = get32(s + 4), two = 0x03030303u, four = 0x0f0f0f0fu;
    uint32_t low[2] = {(a & four) | ((b & four) << 4), get32(s + 8)};
    uint32_t first = ((a >> 4) & two) | (((b >> 4) & two) << 2), last = ((a >> 6) & two) | (((b >> 6) & two) << 2);
    first |= first >> 4; /* bytes 0 and 2: two groups each */
    last |= last >> 4;
    spread_bytes((const uint8_t *)low, 8, lo);
    hi[0] = (uint8_t)first;
    hi[ROWS] = (uint8_t)(first >> 16);
    hi[2 * ROWS] = (uint8_t)last;
    hi[3 * ROWS] = (uint8_t)(last >> 16);
}

HYP_INLINE void get_k_scales(const uint8_t *lo, const uint8_t *hi, uint8_t s[12])
{
    const uint32_t two = 0x03030303u, four = 0x0f0f0f0fu, nibbles = 0x000f000fu;
    uint32_t low[2];
    gather_bytes(lo, 8, (uint8_t *)low);
    uint32_t first = (uint32_t)hi[0] | (uint32_t)hi[ROWS] << 16;
    uint32_t last = (uint32_t)hi[2 * ROWS] | (uint32_t)hi[3 * ROWS] << 16;
    first = (first & nibbles) | ((first & ~nibbles) << 4);
    last = (last & nibbles) | ((last & ~nibbles) << 4);
    put32(s, (low[0] & four) | ((first & two) << 4) | ((last & two) << 6));
    put32(s + 4, ((low[0] >> 4) & four) | (((first >> 2) & two) << 4) | (((last >> 2) & two) << 6));
    put32(s + 8, low[1]);
}

/* The 12 bytes of Q3_K's scales to lo[8][16] hi[4][16]: bytes 0-7 hold the low nibbles of scales 0-7 and, high, 8-15;
 * field n of byte 8 + c is the top of scale 4n + c. */
HYP_INLINE void put_q3_scales(const uint8_t s[12], uint8_t *lo, uint8_t *hi)
{
    const uint32_t fields = transpose_fields(get32(s + 8));
    for (size_t n = 0; n < 4; ++n) {
        lo[n * ROWS] = (uint8_t)((s[2 * n] & 15) | (s[2 * n + 1] << 4));
        lo[(n + 4) * ROWS] = (uint8_t)((s[2 * n] >> 4) | (s[2 * n + 1] & 0xf0));
    }
    spread_bytes((const uint8_t *)&fields, 4, hi);
}

HYP_INLINE void get_q3_scales(const uint8_t *lo, const uint8_t *hi, uint8_t s[12])
{
    uint32_t fields;
    for (size_t n = 0; n < 4; ++n) {
        s[2 * n] = (uint8_t)((lo[n * ROWS] & 15) | (lo[(n + 4) * ROWS] << 4));
        s[2 * n + 1] = (uint8_t)((lo[n * ROWS] >> 4) | (lo[(n + 4) * ROWS] & 0xf0));
    }
    gather_bytes(hi, 4, (uint8_t *)&fields);
    put32(s + 8, transpose_fields(fields));
}

/* ---- One block of row r into a record, and back ---------------------------------------------------------------------- */

typedef void (*put_fn)(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec);
typedef void (*get_fn)(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst);

HYP_INLINE void put_q4_0(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q4_0 *b = (const block_q4_0 *)src;
    memcpy(rec + 2 * r, b->d, 2);
    spread(b->q, 4, 0, rec + 32 + 4 * r);
}

HYP_INLINE void get_q4_0(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q4_0 *b = (block_q4_0 *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    gather(rec + 32 + 4 * r, 4, 0, b->q);
}

HYP_INLINE void put_q4_1(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q4_1 *b = (const block_q4_1 *)src;
    memcpy(rec + 2 * r, b->d, 2);
    memcpy(rec + 32 + 2 * r, b->m, 2);
    spread(b->q, 4, 0, rec + 64 + 4 * r);
}

HYP_INLINE void get_q4_1(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q4_1 *b = (block_q4_1 *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    memcpy(b->m, rec + 32 + 2 * r, 2);
    gather(rec + 64 + 4 * r, 4, 0, b->q);
}

HYP_INLINE void put_q5_0(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q5_0 *b = (const block_q5_0 *)src;
    memcpy(rec + 2 * r, b->d, 2);
    put32(rec + 32 + 4 * r, bits_by_byte(get32(b->h)));
    spread(b->q, 4, 0, rec + 96 + 4 * r);
}

HYP_INLINE void get_q5_0(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q5_0 *b = (block_q5_0 *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    put32(b->h, bits_in_order(get32(rec + 32 + 4 * r)));
    gather(rec + 96 + 4 * r, 4, 0, b->q);
}

HYP_INLINE void put_q5_1(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q5_1 *b = (const block_q5_1 *)src;
    memcpy(rec + 2 * r, b->d, 2);
    memcpy(rec + 32 + 2 * r, b->m, 2);
    put32(rec + 64 + 4 * r, bits_by_byte(get32(b->h)));
    spread(b->q, 4, 0, rec + 128 + 4 * r);
}

HYP_INLINE void get_q5_1(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q5_1 *b = (block_q5_1 *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    memcpy(b->m, rec + 32 + 2 * r, 2);
    put32(b->h, bits_in_order(get32(rec + 64 + 4 * r)));
    gather(rec + 128 + 4 * r, 4, 0, b->q);
}

HYP_INLINE void put_q8_0(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q8_0 *b = (const block_q8_0 *)src;
    memcpy(rec + 2 * r, b->d, 2);
    spread(b->q, 8, 0x80808080u, rec + 32 + 4 * r);
}

HYP_INLINE void get_q8_0(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q8_0 *b = (block_q8_0 *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    gather(rec + 32 + 4 * r, 8, 0x80808080u, b->q);
}

HYP_INLINE void put_q2_k(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q2_k *b = (const block_q2_k *)src;
    memcpy(rec + 2 * r, b->d, 2);
    memcpy(rec + 32 + 2 * r, b->dmin, 2);
    spread_bytes(b->s, 16, rec + 64 + r);
    spread(b->q, 16, 0, rec + 320 + 4 * r);
}

HYP_INLINE void get_q2_k(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q2_k *b = (block_q2_k *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    memcpy(b->dmin, rec + 32 + 2 * r, 2);
    gather_bytes(rec + 64 + r, 16, b->s);
    gather(rec + 320 + 4 * r, 16, 0, b->q);
}

HYP_INLINE void put_q3_k(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q3_k *b = (const block_q3_k *)src;
    memcpy(rec + 2 * r, b->d, 2);
    put_q3_scales(b->s, rec + 32 + r, rec + 160 + r);
    spread(b->h, 8, 0, rec + 224 + 4 * r);
    spread(b->q, 16, 0, rec + 736 + 4 * r);
}

HYP_INLINE void get_q3_k(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q3_k *b = (block_q3_k *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    get_q3_scales(rec + 32 + r, rec + 160 + r, b->s);
    gather(rec + 224 + 4 * r, 8, 0, b->h);
    gather(rec + 736 + 4 * r, 16, 0, b->q);
}

HYP_INLINE void put_q4_k(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q4_k *b = (const block_q4_k *)src;
    memcpy(rec + 2 * r, b->d, 2);
    memcpy(rec + 32 + 2 * r, b->dmin, 2);
    put_k_scales(b->s, rec + 64 + r, rec + 192 + r);
    spread(b->q, 32, 0, rec + 256 + 4 * r);
}

HYP_INLINE void get_q4_k(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q4_k *b = (block_q4_k *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    memcpy(b->dmin, rec + 32 + 2 * r, 2);
    get_k_scales(rec + 64 + r, rec + 192 + r, b->s);
    gather(rec + 256 + 4 * r, 32, 0, b->q);
}

HYP_INLINE void put_q5_k(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q5_k *b = (const block_q5_k *)src;
    memcpy(rec + 2 * r, b->d, 2);
    memcpy(rec + 32 + 2 * r, b->dmin, 2);
    put_k_scales(b->s, rec + 64 + r, rec + 192 + r);
    spread(b->h, 8, 0, rec + 256 + 4 * r);
    spread(b->q, 32, 0, rec + 768 + 4 * r);
}

HYP_INLINE void get_q5_k(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q5_k *b = (block_q5_k *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    memcpy(b->dmin, rec + 32 + 2 * r, 2);
    get_k_scales(rec + 64 + r, rec + 192 + r, b->s);
    gather(rec + 256 + 4 * r, 8, 0, b->h);
    gather(rec + 768 + 4 * r, 32, 0, b->q);
}

HYP_INLINE void put_q6_k(const uint8_t *HYP_RESTRICT src, size_t r, uint8_t *HYP_RESTRICT rec)
{
    const block_q6_k *b = (const block_q6_k *)src;
    memcpy(rec + 2 * r, b->d, 2);
    spread_bytes(b->s, 16, rec + 32 + r);
    spread(b->ql, 32, 0, rec + 288 + 4 * r);
    spread(b->qh, 16, 0, rec + 2336 + 4 * r);
}

HYP_INLINE void get_q6_k(const uint8_t *HYP_RESTRICT rec, size_t r, uint8_t *HYP_RESTRICT dst)
{
    block_q6_k *b = (block_q6_k *)dst;
    memcpy(b->d, rec + 2 * r, 2);
    gather_bytes(rec + 32 + r, 16, b->s);
    gather(rec + 288 + 4 * r, 32, 0, b->ql);
    gather(rec + 2336 + 4 * r, 16, 0, b->qh);
}

/* ---- Panels ---------------------------------------------------------------------------------------------------------- */

HYP_INLINE void pack_blocks(const uint8_t *src, size_t stride, size_t rows, size_t blocks, size_t bytes, put_fn put,
                            uint8_t *dst)
{
    for (size_t i = 0; i < blocks; ++i)
        for (size_t r = 0; r < rows; ++r) put(src + r * stride + i * bytes, r, dst + i * bytes * ROWS);
}

HYP_INLINE void unpack_blocks(const uint8_t *panel, size_t r, size_t blocks, size_t bytes, get_fn get, uint8_t *dst)
{
    for (size_t i = 0; i < blocks; ++i) get(panel + i * bytes * ROWS, r, dst + i * bytes);
}

/* Float types have one record a K; 64 bytes of a row at a time. */
HYP_INLINE void pack_values(const uint8_t *src, size_t stride, size_t rows, size_t cols, size_t size, uint8_t *dst)
{
    const size_t step = 64 / size;
    for (size_t i = 0; i < cols; i += step) {
        const size_t n = cols - i < step ? cols - i : step;
        for (size_t r = 0; r < rows; ++r) {
            const uint8_t *from = src + r * stride + i * size;
            uint8_t *to = dst + (i * ROWS + r) * size;
            for (size_t j = 0; j < n; ++j) memcpy(to + j * ROWS * size, from + j * size, size);
        }
    }
}

HYP_INLINE void unpack_values(const uint8_t *panel, size_t r, size_t cols, size_t size, uint8_t *dst)
{
    for (size_t i = 0; i < cols; ++i) memcpy(dst + i * size, panel + (i * ROWS + r) * size, size);
}

int hyp_pack_panel(int type, const uint8_t *src, size_t stride, size_t rows, size_t cols, uint8_t *dst)
{
    const size_t len = hyp_block_len(type);
    if (len == 0 || cols % len != 0 || rows == 0 || rows > ROWS) return HYP_ERROR_ARGUMENT;
    const size_t blocks = cols / len;
    if (rows < ROWS) memset(dst, 0, hyp_panel_bytes(type, cols));
#define PACK(type, name)                                                                                              \
    case type:                                                                                                        \
        if (rows == ROWS) pack_blocks(src, stride, ROWS, blocks, hyp_block_bytes(type), put_##name, dst);             \
        else pack_blocks(src, stride, rows, blocks, hyp_block_bytes(type), put_##name, dst);                          \
        break
    switch (type) {
    case HYP_F32: pack_values(src, stride, rows, cols, 4, dst); break;
    case HYP_F16: case HYP_BF16: pack_values(src, stride, rows, cols, 2, dst); break;
    PACK(HYP_Q4_0, q4_0);
    PACK(HYP_IQ4_NL, q4_0);
    PACK(HYP_Q4_1, q4_1);
    PACK(HYP_Q5_0, q5_0);
    PACK(HYP_Q5_1, q5_1);
    PACK(HYP_Q8_0, q8_0);
    PACK(HYP_Q2_K, q2_k);
    PACK(HYP_Q3_K, q3_k);
    PACK(HYP_Q4_K, q4_k);
    PACK(HYP_Q5_K, q5_k);
    PACK(HYP_Q6_K, q6_k);
    default: return HYP_ERROR_ARGUMENT;
    }
#undef PACK
    return HYP_OK;
}

int hyp_unpack_row(int type, const uint8_t *panel, size_t r, size_t cols, uint8_t *dst)
{
    const size_t len = hyp_block_len(type);
    if (len == 0 || cols % len != 0 || r >= ROWS) return HYP_ERROR_ARGUMENT;
    const size_t blocks = cols / len;
#define UNPACK(type, name)                                                                                            \
    case type: unpack_blocks(panel, r, blocks, hyp_block_bytes(type), get_##name, dst); break
    switch (type) {
    case HYP_F32: unpack_values(panel, r, cols, 4, dst); break;
    case HYP_F16: case HYP_BF16: unpack_values(panel, r, cols, 2, dst); break;
    UNPACK(HYP_Q4_0, q4_0);
    UNPACK(HYP_IQ4_NL, q4_0);
    UNPACK(HYP_Q4_1, q4_1);
    UNPACK(HYP_Q5_0, q5_0);
    UNPACK(HYP_Q5_1, q5_1);
    UNPACK(HYP_Q8_0, q8_0);
    UNPACK(HYP_Q2_K, q2_k);
    UNPACK(HYP_Q3_K, q3_k);
    UNPACK(HYP_Q4_K, q4_k);
    UNPACK(HYP_Q5_K, q5_k);
    UNPACK(HYP_Q6_K, q6_k);
    default: return HYP_ERROR_ARGUMENT;
    }
#undef UNPACK
    return HYP_OK;
}
