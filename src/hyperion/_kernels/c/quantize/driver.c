/* Cuts arrays into pieces that stay in the first-level cache, converts what is not contiguous float32 on the way, and gives
 * the pieces to the kernels.
 *
 * Neither codes nor extremes depend on how the work is cut: the number of threads changes no bit. */
#include "quantize/arrays.h"
#include "quantize/find.h"

#include <float.h>

#include "quant/pack.h"

enum { COLUMNS = 256 }; /* whose ranges are found together: 2 KiB of them beside 1 KiB a row */

typedef struct {
    float x[STAGE];
    int8_t q[STAGE];
} stage;

int64_t hyp_array_find_nonfinite(const hyp_table *t, const hyp_array *x)
{
    float buffer[STAGE];
    for (size_t o = 0; o < x->n[0]; ++o)
        for (size_t k = 0; k < x->n[1]; ++k)
            for (size_t i = 0; i < x->n[2]; i += STAGE) {
                const size_t n = smaller(x->n[2] - i, STAGE);
                const float *run = load_run(&t->quantize, x, o, k, i, n, buffer);
                float mm[2] = {0.0f, 0.0f};
                if (!t->quantize.extremes(run, n, mm)) continue;
                for (size_t j = 0; j < n; ++j)
                    if (t->quantize.extremes(run + j, 1, mm)) return (int64_t)((o * x->n[1] + k) * x->n[2] + i + j);
            }
    return -1;
}

/* ---- Rows in pieces ---------------------------------------------------------------------------------------------------- */

/* Tasks are pieces of rows; a row is [o, k]. Many short rows make one task. */
typedef struct {
    size_t piece, pieces, total, grain;
} cutting;

static cutting cut_rows(size_t rows, size_t length, size_t unit)
{
    cutting c;
    c.piece = unit <= STAGE ? STAGE / unit * unit : STAGE;
    c.pieces = ceil_div(length, c.piece);
    c.total = rows * c.pieces;
    c.grain = TASK / smaller(c.piece, length ? length : 1);
    if (c.grain == 0) c.grain = 1;
    return c;
}

typedef struct {
    const hyp_quantize_kernels *kernels;
    const hyp_affine *job;
    cutting cut;
    size_t groups; /* of a row */
    int each;      /* the last dimension has one value, and its neighbours have params of their own */
    volatile int failed; /* whoever fails writes the same value */
} affine_run;

/* Dimensions as the pieces see them: with `each`, rows are o and run over k. */
static void affine_open(affine_run *run, const hyp_table *t, const hyp_affine *job)
{
    const size_t *n = job->x.n;
    run->kernels = &t->quantize;
    run->job = job;
    run->groups = ceil_div(n[2], job->group);
    run->each = n[2] == 1 && n[1] > 1;
    run->cut = run->each ? cut_rows(n[0], n[1], 2) : cut_rows(n[0] * n[1], n[2], job->group);
    run->failed = HYP_OK;
}

typedef struct {
    size_t o, k, begin, end, first; /* values [begin, end) of row [o, k]; first: their place in C order less begin */
} piece;

static piece piece_at(const affine_run *run, size_t item)
{
    const size_t *n = run->job->x.n, row = item / run->cut.pieces, length = run->each ? n[1] : n[2];
    piece p;
    p.o = run->each ? row : row / n[1];
    p.k = run->each ? 0 : row % n[1];
    p.begin = item % run->cut.pieces * run->cut.piece;
    p.end = smaller(p.begin + run->cut.piece, length);
    p.first = row * length;
    return p;
}

static int8_t *code_target(const hyp_affine *job, size_t at, int8_t *q)
{
    return job->packed ? q : (int8_t *)job->codes + at;
}

static void keep_codes(const affine_run *run, size_t at, size_t n, const int8_t *q)
{
    if (run->job->packed) run->kernels->pack4(q, n, run->job->codes + at / 2);
}

static const int8_t *code_source(const affine_run *run, size_t at, size_t n, int8_t *q)
{
    if (!run->job->packed) return (const int8_t *)run->job->codes + at;
    run->kernels->unpack4(run->job->codes + at / 2, n, q);
    return q;
}

/* How far params go from value i on: whole small groups to the piece's end, or the rest of one large group. */
static size_t stretch(size_t group, size_t i, size_t end)
{
    return group <= STAGE ? end - i : smaller(end, i / group * group + group) - i;
}

static void quantize_piece(affine_run *run, const piece *p, int find, stage *s)
{
    const hyp_quantize_kernels *kernels = run->kernels;
    const hyp_affine *job = run->job;
    const hyp_array view = run->each ? each_view(&job->x) : job->x;
    for (size_t i = p->begin, n; i < p->end; i += n) {
        n = run->each ? p->end - i : stretch(job->group, i, p->end);
        const size_t param = run->each ? i : p->k * run->groups + i / job->group;
        const float *x = load_run(kernels, &view, p->o, p->k, i, n, s->x);
        int8_t *q = code_target(job, p->first + i, s->q);
        float *scales = job->scales + param, *zeros = job->zeros ? job->zeros + param : NULL;
        int bad;
        if (find) bad = kernels->range_groups(x, n, job->group, job->bits, !job->zeros, scales, zeros, q);
        else if (run->each) bad = kernels->codes_each(x, n, job->bits, scales, zeros, q);
        else bad = kernels->codes(x, n, smaller(job->group, STAGE), job->bits, scales, zeros, q);
        if (bad) run->failed = HYP_NOT_FINITE;
        else keep_codes(run, p->first + i, n, q);
    }
}

static void fused_task(void *arg, size_t begin, size_t end, size_t worker)
{
    affine_run *run = arg;
    stage s;
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const piece p = piece_at(run, begin);
        quantize_piece(run, &p, 1, &s);
    }
}

static void apply_task(void *arg, size_t begin, size_t end, size_t worker)
{
    affine_run *run = arg;
    stage s;
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const piece p = piece_at(run, begin);
        quantize_piece(run, &p, 0, &s);
    }
}

static void restore_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const affine_run *run = arg;
    const hyp_affine *job = run->job;
    const hyp_array view = run->each ? each_view(&job->x) : job->x;
    stage s;
    (void)worker;
    for (; begin < end; ++begin) {
        const piece p = piece_at(run, begin);
        for (size_t i = p.begin, n; i < p.end; i += n) {
            n = run->each ? p.end - i : stretch(job->group, i, p.end);
            const size_t param = run->each ? i : p.k * run->groups + i / job->group;
            const float *scales = job->scales + param, *zeros = job->zeros ? job->zeros + param : NULL;
            const int8_t *q = code_source(run, p.first + i, n, s.q);
            float *x = target_run(&view, p.o, p.k, i, s.x);
            if (run->each) run->kernels->values_each(q, n, scales, zeros, x);
            else run->kernels->values(q, n, smaller(job->group, STAGE), scales, zeros, x);
            store_run(run->kernels, &view, p.o, p.k, i, n, x);
        }
    }
}

/* Ranges of neighbouring columns: rows are read in order, and each value once. */
static void columns_task(void *arg, size_t begin, size_t end, size_t worker)
{
    affine_run *run = arg;
    const hyp_affine *job = run->job;
    const hyp_array view = each_view(&job->x);
    float x[COLUMNS], least[COLUMNS], greatest[COLUMNS];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const size_t i = begin * COLUMNS, n = smaller(COLUMNS, view.n[2] - i);
        int bad = 0;
        for (size_t j = 0; j < n; ++j) least[j] = FLT_MAX, greatest[j] = -FLT_MAX;
        for (size_t o = 0; o < view.n[0]; ++o)
            bad |= run->kernels->extremes_each(load_run(run->kernels, &view, o, 0, i, n, x), n, least, greatest);
        if (bad) run->failed = HYP_NOT_FINITE;
        for (size_t j = 0; j < n && !bad; ++j) {
            const float mm[2] = {least[j], greatest[j]};
            float zero;
            run->kernels->range(mm, job->bits, !job->zeros, job->scales + i + j, &zero);
            if (job->zeros) job->zeros[i + j] = zero;
        }
    }
}

int hyp_affine_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    const int find = job->find_scale || (job->find_zero && job->zeros);
    const int both = job->find_scale && (job->find_zero || !job->zeros);
    affine_run run;
    affine_open(&run, t, job);
    const int fused = both && job->method == HYP_ABSMAX && job->x.n[0] == 1 && job->group <= STAGE && !run.each;
    int status = HYP_OK;
    if (run.each && both && job->method == HYP_ABSMAX) {
        const size_t ranges = ceil_div(job->x.n[1], COLUMNS);
        status = api->run(team, columns_task, &run, ranges, TASK / COLUMNS / job->x.n[0] + 1);
        if (status == HYP_OK) status = run.failed;
    } else if (find && !fused) {
        status = hyp_find_params(t, api, team, job);
    }
    if (status == HYP_OK) status = api->run(team, fused ? fused_task : apply_task, &run, run.cut.total, run.cut.grain);
    return status ? status : run.failed;
}

int hyp_affine_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    affine_run run;
    affine_open(&run, t, job);
    return api->run(team, restore_task, &run, run.cut.total, run.cut.grain);
}

/* ---- Nibbles ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    const hyp_quantize_kernels *kernels;
    int8_t *q;
    uint8_t *p;
    size_t n;
} nibble_run;

static void pack_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const nibble_run *run = arg;
    const size_t from = begin * STAGE, to = smaller(end * STAGE, run->n);
    (void)worker;
    run->kernels->pack4(run->q + from, to - from, run->p + from / 2);
}

static void unpack_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const nibble_run *run = arg;
    const size_t from = begin * STAGE, to = smaller(end * STAGE, run->n);
    (void)worker;
    run->kernels->unpack4(run->p + from / 2, to - from, run->q + from);
}

int hyp_nibbles_pack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const int8_t *q, size_t n, uint8_t *p)
{
    nibble_run run = {&t->quantize, (int8_t *)q, p, n};
    return api->run(team, pack_task, &run, ceil_div(n, STAGE), TASK / STAGE);
}

int hyp_nibbles_unpack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const uint8_t *p, size_t n, int8_t *q)
{
    nibble_run run = {&t->quantize, q, (uint8_t *)p, n};
    return api->run(team, unpack_task, &run, ceil_div(n, STAGE), TASK / STAGE);
}

/* ---- Block formats ------------------------------------------------------------------------------------------------------ */

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

static void block_task(block_run *run, size_t item, int quantize, float *buffer)
{
    const hyp_array *x = run->x;
    const size_t row = item / run->cut.pieces, i = item % run->cut.pieces * run->cut.piece;
    const size_t n = smaller(run->cut.piece, x->n[2] - i), blocks = n / run->length, o = row / x->n[1], k = row % x->n[1];
    uint8_t *at = run->blocks + (row * (x->n[2] / run->length) + i / run->length) * run->bytes;
    if (!quantize) {
        float *target = target_run(x, o, k, i, buffer);
        run->kernels->floats[run->type](at, blocks, target);
        store_run(run->kernels, x, o, k, i, n, target);
        return;
    }
    float mm[2] = {0.0f, 0.0f};
    const float *values = load_run(run->kernels, x, o, k, i, n, buffer);
    if (run->kernels->extremes(values, n, mm)) {
        run->failed = HYP_NOT_FINITE;
        return;
    }
    if (mm[1] > largest_of(run->type) || mm[0] < -largest_of(run->type)) {
        run->failed = HYP_SCALE_OVERFLOW;
        return;
    }
    run->kernels->blocks[run->type](values, blocks, at);
    /* Only what comes near the largest scale can overflow it: an f16's largest number, or 2^127 in bf16. */
    const float most = run->type == HYP_BF16 ? 1.7e38f : 6e4f;
    if ((mm[1] >= most || mm[0] <= -most) && run->type != HYP_F32 && hyp_find_nonfinite(run->type, at, blocks) >= 0)
        run->failed = HYP_SCALE_OVERFLOW;
}

static void blocks_task(void *arg, size_t begin, size_t end, size_t worker)
{
    block_run *run = arg;
    float buffer[STAGE];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) block_task(run, begin, 1, buffer);
}

static void floats_task(void *arg, size_t begin, size_t end, size_t worker)
{
    block_run *run = arg;
    float buffer[STAGE];
    (void)worker;
    for (; begin < end; ++begin) block_task(run, begin, 0, buffer);
}

static int run_blocks(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const hyp_array *x, uint8_t *blocks,
                      hyp_task_fn task)
{
    block_run run;
    run.length = hyp_block_len(type), run.bytes = hyp_block_bytes(type);
    if (run.length == 0 || x->n[2] % run.length != 0 || !t->quantize.blocks[type]) return HYP_ERROR_ARGUMENT;
    run.kernels = &t->quantize, run.x = x, run.blocks = blocks, run.type = type, run.failed = HYP_OK;
    run.cut = cut_rows(x->n[0] * x->n[1], x->n[2], run.length);
    /* A search takes some 20 ns a value: smaller tasks, and an answer to signals in time */
    if (run.length == 256 && task == blocks_task) run.cut.grain = run.cut.grain > 4 ? run.cut.grain / 4 : 1;
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
