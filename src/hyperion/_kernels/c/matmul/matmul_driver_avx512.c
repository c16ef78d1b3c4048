/* The driver of products with two or more tokens. K goes by in chunks whose activations, of all groups at hand, stay in
 * the second-level cache while every panel passes by: weights are then read from memory once for 512 tokens. Sums go
 * through `out` between chunks, exactly. */
#include "matmul/products_avx512.h"

enum { L2_BYTES = 1 << 20 };

typedef struct {
    hyp_strip strip[HYP_STRIP_PANELS];
    hyp_strip_sums sums[HYP_STRIP_PANELS][HYP_STRIP_GROUPS];
} work_area;

/* One call's activations of up to HYP_STRIP_GROUPS groups, and where their results go. */
typedef struct {
    const hyp_strips *strips;
    size_t step;         /* K of a block */
    size_t most;         /* blocks of a strip */
    size_t record, len;  /* bytes and K of a panel's record */
    size_t act_record;   /* bytes of a group's block */
    size_t group_bytes;
    const uint8_t *act;
    size_t tokens, groups;
    float *out;
    size_t ldo;
} job;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static void load_sums(const float *out, size_t ldo, __mmask16 lanes, size_t tokens, hyp_strip_sums *sums)
{
    for (size_t t = 0; t < tokens; t++)
        _mm512_store_ps(sums[t / HYP_ACT_TILE].at[t % HYP_ACT_TILE], _mm512_maskz_loadu_ps(lanes, out + t * ldo));
}

static void store_sums(const hyp_strip_sums *sums, size_t tokens, __mmask16 lanes, float *out, size_t ldo)
{
    for (size_t t = 0; t < tokens; t++)
        _mm512_mask_storeu_ps(out + t * ldo, lanes, _mm512_load_ps(sums[t / HYP_ACT_TILE].at[t % HYP_ACT_TILE]));
}

/* Blocks first .. first+n-1 of one or two panels (w, `stride` bytes apart) times all groups. */
static void panels_times_chunk(const job *j, const uint8_t *w, size_t panels, size_t stride, size_t first, size_t n,
                               work_area *area)
{
    for (size_t b = first; b < first + n; b += j->most) {
        const size_t blocks = smaller(j->most, first + n - b);
        const size_t at = b * j->step / j->len * j->record, bytes = blocks * j->step / j->len * j->record;
        for (size_t p = 0; p < panels; p++) j->strips->unpack(w + p * stride + at, blocks, &area->strip[p]);
        const uint8_t *act = j->act + b * j->act_record;
        hyp_ahead ahead = {.w_step = bytes / (j->groups * blocks) + 1};
        for (size_t g = 0; g < j->groups; g++, act += j->group_bytes) {
            ahead.act = g + 1 < j->groups ? act + j->group_bytes : act;
            for (size_t p = 0; p < panels; p++) ahead.w[p] = w + p * stride + at + bytes + g * blocks * ahead.w_step;
            j->strips->mul(area->strip, panels, blocks, act, smaller(HYP_ACT_TILE, j->tokens - g * HYP_ACT_TILE),
                           &area->sums[0][g], &ahead);
        }
    }
}

static void all_panels_times_chunk(const job *j, const uint8_t *w, size_t rows, size_t k, size_t first, size_t n,
                                   work_area *area)
{
    const size_t stride = k / j->len * j->record;
    for (size_t row = 0; row < rows; row += HYP_STRIP_PANELS * HYP_PANEL) {
        const size_t panels = rows - row > HYP_PANEL ? 2 : 1;
        for (size_t p = 0; p < panels; p++) {
            const size_t at = row + p * HYP_PANEL;
            if (first) load_sums(j->out + at, j->ldo, hyp_rows_avx512(rows, at), j->tokens, area->sums[p]);
            else memset(area->sums[p], 0, j->groups * sizeof area->sums[p][0]);
        }
        panels_times_chunk(j, w + row / HYP_PANEL * stride, panels, stride, first, n, area);
        for (size_t p = 0; p < panels; p++) {
            const size_t at = row + p * HYP_PANEL;
            store_sums(area->sums[p], j->tokens, hyp_rows_avx512(rows, at), j->out + at, j->ldo);
        }
    }
}

void hyp_strips_mul_avx512(const hyp_strips *s, const uint8_t *w, size_t rows, size_t k, const void *act, size_t m,
                           float *out, size_t ldo)
{
    const int is_float = hyp_act_is_float(s->type);
    job j = {.strips = s, .step = is_float ? 1 : HYP_BLOCK, .most = is_float ? HYP_STRIP_K : HYP_STRIP_BLOCKS, .ldo = ldo};
    if (m <= HYP_ACT_TILE && !is_float) j.most /= 2; /* bound by memory: read it in smaller steps */
    j.len = hyp_block_len(s->type);
    j.record = HYP_PANEL * hyp_block_bytes(s->type);
    j.act_record = hyp_act_group_bytes(is_float, HYP_ACT_TILE, j.step);
    j.group_bytes = hyp_act_group_bytes(is_float, HYP_ACT_TILE, k);
    const size_t blocks = k / j.step;
    work_area area;
    if (blocks == 0) /* an empty sum is zero */
        for (size_t t = 0; t < m; t++) memset(out + t * ldo, 0, rows * sizeof *out);
    for (size_t t = 0; t < m; t += HYP_STRIP_GROUPS * HYP_ACT_TILE) {
        j.tokens = smaller(HYP_STRIP_GROUPS * HYP_ACT_TILE, m - t);
        j.groups = (j.tokens + HYP_ACT_TILE - 1) / HYP_ACT_TILE;
        j.act = (const uint8_t *)act + t / HYP_ACT_TILE * j.group_bytes;
        j.out = out + t * ldo;
        const size_t fit = L2_BYTES / (j.groups * j.act_record) / j.most, chunk = (fit ? fit : 1) * j.most;
        for (size_t b = 0; b < blocks; b += chunk)
            all_panels_times_chunk(&j, w, rows, k, b, smaller(chunk, blocks - b), &area);
    }
}
