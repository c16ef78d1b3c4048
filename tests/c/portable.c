/* Packs, multiplies and dequantizes pseudo-random weights of every type with the generic kernels and prints hashes of the
 * results: two builds agree if their bits do. Built and run by tests/test_portable.py, for this machine and for others. */
#include <stdio.h>
#include <stdlib.h>

#include "dispatch/dispatch.h"
#include "matmul/linear.h"
#include "quant/pack.h"

enum { ROWS = 23, TOKENS = 19 };

static uint64_t state = 88172645463325252u;

static uint32_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 20);
}

static uint64_t hash(const void *data, size_t n, uint64_t h)
{
    const uint8_t *byte = data;
    for (size_t i = 0; i < n; ++i) h = (h ^ byte[i]) * 1099511628211u;
    return h;
}

static void *need(size_t n)
{
    void *p = calloc(n, 1);
    if (!p) exit(9);
    return p;
}

/* Random blocks whose scales are finite and of a moderate size. */
static void fill(int type, uint8_t *raw, size_t blocks)
{
    const size_t size = hyp_block_bytes(type);
    const size_t first = type == HYP_Q2_K ? 80 : type == HYP_Q3_K ? 108 : type == HYP_Q6_K ? 208 : 0;
    const int two = type == HYP_Q4_1 || type == HYP_Q5_1 || type == HYP_Q2_K || type == HYP_Q4_K || type == HYP_Q5_K;
    for (size_t i = 0; i < blocks * size; ++i) raw[i] = (uint8_t)next();
    for (size_t b = 0; b < blocks; ++b, raw += size) {
        if (type == HYP_F32) raw[3] = (uint8_t)((raw[3] & 0x80) | 0x3e);
        else if (type == HYP_BF16) raw[1] = (uint8_t)((raw[1] & 0x80) | 0x3e);
        else raw[first + 1] &= 0xa7;
        if (two) raw[first + 3] &= 0xa7;
    }
}

static int check(const hyp_table *t, int type)
{
    const size_t cols = hyp_block_len(type) == 1 ? 77 : 512;
    const size_t row = hyp_row_bytes(type, cols), panel = hyp_panel_bytes(type, cols);
    uint8_t *raw = need(ROWS * row), *packed = need(2 * panel), *back = need(row);
    float *x = need(TOKENS * cols * 4), *out = need(TOKENS * ROWS * 4), *one = need(ROWS * 4), *wide = need(cols * 4);
    void *act = need(hyp_act_bytes(-1, TOKENS, cols));
    uint64_t weights = 1469598103934665603u, products = weights;
    int failed = 0;

    fill(type, raw, ROWS * cols / hyp_block_len(type));
    for (size_t i = 0; i < TOKENS * cols; ++i) x[i] = (float)((int)(next() % 20001) - 10000) / 777.0f;
    failed |= hyp_pack_panel(type, raw, row, 16, cols, packed);
    failed |= hyp_pack_panel(type, raw + 16 * row, row, ROWS - 16, cols, packed + panel);
    for (size_t r = 0; r < ROWS; ++r) {
        failed |= hyp_unpack_row(type, packed + r / 16 * panel, r % 16, cols, back);
        failed |= memcmp(back, raw + r * row, row) != 0;
        failed |= hyp_dequantize_panel_row(type, packed + r / 16 * panel, r % 16, cols, wide);
        weights = hash(wide, cols * 4, weights);
    }
    const hyp_weight w = {type, ROWS, cols, packed, NULL};
    hyp_product product = {&w, out, ROWS};
    failed |= hyp_act_pack(t, NULL, NULL, type, x, cols, TOKENS, cols, act);
    failed |= hyp_linear(t, NULL, NULL, &product, 1, act, TOKENS);
    products = hash(out, TOKENS * ROWS * 4, products);
    product.out = one;
    for (size_t i = 0; i < TOKENS; ++i) { /* one by one: the same bits */
        failed |= hyp_act_pack(t, NULL, NULL, type, x + i * cols, cols, 1, cols, act);
        failed |= hyp_linear(t, NULL, NULL, &product, 1, act, 1);
        failed |= memcmp(one, out + i * ROWS, ROWS * 4) != 0;
    }
    printf("%d %016llx %016llx\n", type, (unsigned long long)weights, (unsigned long long)products);
    free(raw), free(packed), free(back), free(x), free(out), free(one), free(wide), free(act);
    return failed;
}

int main(void)
{
    hyp_features features;
    hyp_table table;
    int failed;
    hyp_detect(&features);
    failed = hyp_level_table(&features, HYP_LEVEL_GENERIC, &table);
    for (int type = 0; type < HYP_TYPES && !failed; ++type)
        if (hyp_block_len(type)) failed = check(&table, type);
    return failed;
}
