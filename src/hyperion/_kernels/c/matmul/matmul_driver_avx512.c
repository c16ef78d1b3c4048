/* The driver of products with two or more tokens: as many groups of 16 tokens as fit the second-level cache stay there
 * while every panel passes by; the sums of a panel and all groups stay in L1 and L2, and reach `out` once. */
#include "matmul/products_avx512.h"

enum {
    ACT_BYTES = 2 << 20, /* of activations at hand: what spills from L2 costs less than passing the weights again */
    LEAST_GROUPS = 4     /* for which a strip is unpacked, should they fit or not */
};

typedef struct {
    hyp_strip strip[HYP_STRIP_PANELS];
    hyp_strip_sums sums[HYP_STRIP_PANELS][HYP_STRIP_GROUPS];
} work_area;

/* One call's shape, and the groups at hand. */
typedef struct {
    const hyp_strips *strips;
    size_t step;         /* K of a block */
    size_t most;         /* blocks of a strip */
    size_t record, len;  /* bytes and K of a panel's record */
    size_t act_record;   /* bytes of a group's block */
    size_t group_bytes;
    const uint8_t *act;
    size_t tokens, groups;
    size_t ldo;
} job;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* To `panels` panels' places in the output, from row `row` of `rows` on. */
static void store_sums(const work_area *area, size_t panels, size_t tokens, size_t rows, size_t row, float *out, size_t ldo)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t p = 0; p < panels; p++)
            _mm512_mask_storeu_ps(out + t * ldo + row + p * HYP_PANEL, hyp_rows_avx512(rows, row + p * HYP_PANEL),
                                  _mm512_load_ps(area->sums[p][t / HYP_ACT_TILE].at[t % HYP_ACT_TILE]));
}

/* Every token's place in the output is a page of its own, and would be waited for one by one. */
static void fetch_outputs(float *out, size_t ldo, size_t panels, size_t tokens)
{
    for (size_t t = 0; t < tokens; t++)
        for (size_t p = 0; p < panels; p++) _mm_prefetch((const char *)(out + t * ldo + p * HYP_PANEL), _MM_HINT_T1);
}

/* One or two panels (w, `stride` bytes apart) of `blocks` blocks times all groups; the results will go to `out`. */
static void panels_times_groups(const job *j, const uint8_t *w, size_t panels, size_t stride, size_t blocks, float *out,
                                work_area *area)
{
    for (size_t p = 0; p < panels; p++) memset(area->sums[p], 0, j->groups * sizeof area->sums[p][0]);
    for (size_t b = 0; b < blocks; b += j->most) {
        const size_t n = smaller(j->most, blocks - b);
        const size_t at = b * j->step / j->len * j->record, bytes = n * j->step / j->len * j->record;
        for (size_t p = 0; p < panels; p++) j->strips->unpack(w + p * stride + at, n, &area->strip[p]);
        const uint8_t *act = j->act + b * j->act_record;
        hyp_ahead ahead = {.w_step = bytes / (j->groups * n) + 1};
        for (size_t g = 0; g < j->groups; g++, act += j->group_bytes) {
            const size_t first = g * HYP_ACT_TILE, tokens = smaller(HYP_ACT_TILE, j->tokens - first);
            for (size_t p = 0; p < panels; p++) ahead.w[p] = w + p * stride + at + bytes + g * n * ahead.w_step;
            ahead.act = g + 1 < j->groups ? act + j->group_bytes : b + n < blocks ? j->act + (b + n) * j->act_record : NULL;
            if (b + n == blocks) fetch_outputs(out + first * j->ldo, j->ldo, panels, tokens);
            j->strips->mul(area->strip, panels, n, act, tokens, &area->sums[0][g], &ahead);
        }
    }
}

void hyp_strips_mul_avx512(const hyp_strips *s, const uint8_t *w, size_t rows, size_t k, const void *act, size_t m,
                           float *out, size_t ldo)
{
    const int is_float = hyp_act_is_float(s->type);
    const size_t step = is_float ? 1 : HYP_BLOCK, all = (m + HYP_ACT_TILE - 1) / HYP_ACT_TILE;
    job j = {.strips = s, .ldo = ldo, .step = step, .most = is_float ? HYP_STRIP_K : HYP_STRIP_BLOCKS};
    j.len = hyp_block_len(s->type);
    if (j.len == HYP_SUPER) j.most = HYP_STRIP_RECORDS * HYP_SUPER / HYP_BLOCK;
    else if (!is_float && (all == 1 || s->passes > 1)) j.most /= 2; /* bound by memory: read it in smaller steps; or more for L1 */
    j.record = HYP_PANEL * hyp_block_bytes(s->type);
    j.act_record = hyp_act_group_bytes(is_float, HYP_ACT_TILE, step);
    j.group_bytes = hyp_act_group_bytes(is_float, HYP_ACT_TILE, k);
    const size_t fit = ACT_BYTES / (j.group_bytes + 1), most = smaller(fit > LEAST_GROUPS ? fit : LEAST_GROUPS, HYP_STRIP_GROUPS);
    const size_t rounds = (all + most - 1) / most, groups = rounds ? (all + rounds - 1) / rounds : 0; /* even rounds */
    const size_t stride = k / j.len * j.record;
    work_area area;
    for (size_t g = 0; g < all; g += groups) {
        const size_t first = g * HYP_ACT_TILE;
        j.groups = smaller(groups, all - g);
        j.tokens = smaller(j.groups * HYP_ACT_TILE, m - first);
        j.act = (const uint8_t *)act + g * j.group_bytes;
        for (size_t row = 0; row < rows; row += HYP_STRIP_PANELS * HYP_PANEL) {
            const size_t panels = rows - row > HYP_PANEL ? 2 : 1;
            panels_times_groups(&j, w + row / HYP_PANEL * stride, panels, stride, k / step, out + first * ldo + row, &area);
            store_sums(&area, panels, j.tokens, rows, row, out + first * ldo, ldo);
        }
    }
}
