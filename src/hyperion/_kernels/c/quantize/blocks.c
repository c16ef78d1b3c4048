/* Arrays to and from block formats: rows in pieces that stay in the first-level cache. */
#include "quantize/arrays.h"

#include <float.h>
#include <math.h>

#include "quant/pack.h"

typedef struct {
    const hyp_quantize_kernels *kernels;
    const hyp_array *x;
    uint8_t *blocks;
    int type;
    size_t length, bytes; /* of a block */
    cutting cut;
    volatile int failed;
} block_run;

/* The largest magnitude that a type's codes can reach with an f16 scale: a search would only lose its way beyond it. Types
 * without a search need none, their scale shows it. */
static float largest_of(int type)
{
    const float half = 65504.0f;
    switch (type) {
    case HYP_IQ4_NL: return half * 127.0f;
    case HYP_Q2_K: return half * 15.0f; /* a minimum has no code; as in Q4_K and Q5_K */
    case HYP_Q3_K: return half * 32.0f * 4.0f;
    case HYP_Q4_K: case HYP_Q5_K: return half * 63.0f;
    case HYP_Q6_K: return half * 128.0f * 32.0f;
    default: return FLT_MAX;
    }
}

/* The largest magnitude, a NaN where one is not finite. A search is not made beyond largest_of the type. */
static float quantize_blocks(const block_run *run, const float *x, size_t blocks, uint8_t *dst)
{
    const hyp_quantize_kernels *kernels = run->kernels;
    float mm[2] = {0.0f, 0.0f};
    if (kernels->blocks[run->type]) return kernels->blocks[run->type](x, blocks, dst);
    if (kernels->extremes(x, blocks * run->length, mm)) return NAN;
    const float most = mm[1] > -mm[0] ? mm[1] : -mm[0];
    if (most <= largest_of(run->type)) kernels->searched[run->type](x, blocks, dst);
    return most;
}

static void quantize_row(block_run *run, const float *x, size_t blocks, uint8_t *at)
{
    const float most = quantize_blocks(run, x, blocks, at);
    if (!(most <= FLT_MAX)) {
        run->failed = HYP_NOT_FINITE;
        return;
    }
    /* Only what comes near the largest scale can overflow it: an f16's largest number, or 2^127 in bf16. */
    const float near = run->type == HYP_BF16 ? 1.7e38f : 6e4f;
    if (most > largest_of(run->type) || (most >= near && run->type != HYP_F32 && hyp_find_nonfinite(run->type, at, blocks) >= 0))
        run->failed = HYP_SCALE_OVERFLOW;
}

static uint8_t *blocks_of(const block_run *run, const piece *p)
{
    return run->blocks + ((p->o * run->x->n[1] + p->k) * (run->x->n[2] / run->length) + p->begin / run->length) * run->bytes;
}

static void blocks_task(void *arg, size_t begin, size_t end, size_t worker)
{
    block_run *run = arg;
    float buffer[TILE];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        piece p = piece_at(&run->cut, run->x, begin);
        const size_t n = p.end - p.begin;
        const float *x = buffer;
        if (run->cut.turned) load_turned(run->kernels, run->x, p.o, p.k, p.begin, p.rows, n, buffer);
        else x = load_run(run->kernels, run->x, p.o, p.k, p.begin, n, buffer);
        for (size_t r = 0; r < p.rows; ++r, x += n + PITCH, piece_down(&run->cut, &p)) quantize_row(run, x, n / run->length, blocks_of(run, &p));
    }
}

static void floats_task(void *arg, size_t begin, size_t end, size_t worker)
{
    block_run *run = arg;
    float buffer[TILE];
    (void)worker;
    for (; begin < end; ++begin) {
        const piece top = piece_at(&run->cut, run->x, begin);
        const size_t n = top.end - top.begin;
        piece p = top;
        float *target = run->cut.turned ? buffer : target_run(run->x, p.o, p.k, p.begin, buffer), *x = target;
        for (size_t r = 0; r < p.rows; ++r, x += n + PITCH, piece_down(&run->cut, &p))
            run->kernels->floats[run->type](blocks_of(run, &p), n / run->length, x);
        if (run->cut.turned) store_turned(run->kernels, run->x, top.o, top.k, top.begin, top.rows, n, buffer);
        else store_run(run->kernels, run->x, top.o, top.k, top.begin, n, target);
    }
}

static int run_blocks(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const hyp_array *x, uint8_t *blocks,
                      hyp_task_fn task)
{
    block_run run;
    run.length = hyp_block_len(type), run.bytes = hyp_block_bytes(type);
    if (run.length == 0 || x->n[2] % run.length != 0 || !t->quantize.floats[type]) return HYP_ERROR_ARGUMENT;
    run.kernels = &t->quantize, run.x = x, run.blocks = blocks, run.type = type, run.failed = HYP_OK;
    run.cut = cut_array(x, run.length);
    /* A search takes some 20 ns a value: smaller tasks, and an answer to signals in time */
    if (t->quantize.searched[type] && task == blocks_task) run.cut.grain = run.cut.grain > 4 ? run.cut.grain / 4 : 1;
    else run.cut.grain = long_grain(api, team, run.cut.total, run.cut.grain);
    const int status = api->run(team, task, &run, run.cut.total, run.cut.grain);
    return status ? status : run.failed;
}

int hyp_blocks_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const hyp_array *x, uint8_t *dst)
{
    return run_blocks(t, api, team, type, x, dst, blocks_task);
}

int hyp_blocks_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const hyp_array *x,
                          const uint8_t *src)
{
    return run_blocks(t, api, team, type, x, (uint8_t *)src, floats_task);
}
