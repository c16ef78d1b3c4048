/* Cuts arrays into pieces that stay in the first-level cache, converts what is not contiguous float32 on the way, and gives
 * the pieces to the kernels.
 *
 * Neither codes nor extremes depend on how the work is cut: the number of threads changes no bit. */
#include "quantize/arrays.h"
#include "quantize/columns.h"
#include "quantize/find.h"

#include <float.h>

enum {
    HELD = 1 << 17, /* values of a group that stay in the second-level cache between its range and its codes: 512 KiB */
    TALLEST = 1024  /* values of a group of a turned array: of longer ones too few rows would be turned together */
};

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

typedef struct {
    const hyp_quantize_kernels *kernels;
    const hyp_affine *job;
    cutting cut;
    size_t groups; /* of a row */
    int backwards; /* start with what has been read last, of which the caches still hold some */
    volatile int failed; /* whoever fails writes the same value */
} affine_run;

/* To find params within a piece, its groups must be whole; params that are there can be taken for any part of a large one. */
static void affine_open(affine_run *run, const hyp_table *t, const hyp_affine *job, int find)
{
    const size_t large = find || turned_axis(&job->x) < 0 ? STAGE : ACROSS;
    run->kernels = &t->quantize;
    run->job = job;
    run->groups = ceil_div(job->x.n[2], job->group);
    run->cut = cut_array(&job->x, job->group > large ? STAGE + 1 : job->group);
    run->backwards = 0;
    run->failed = HYP_OK;
}

/* How far params go from value i on: whole small groups to the piece's end, or the rest of one large group. */
static size_t stretch(const affine_run *run, size_t i, size_t end)
{
    const size_t group = run->job->group;
    return group <= run->cut.piece ? end - i : smaller(end, i / group * group + group) - i;
}

/* Values i .. i + n of row [o, k], which lie in x. */
static void quantize_run(affine_run *run, size_t o, size_t k, size_t i, size_t n, const float *x, int find)
{
    const hyp_quantize_kernels *kernels = run->kernels;
    const hyp_affine *job = run->job;
    const size_t param = k * run->groups + i / job->group;
    float *scales = job->scales + param, *zeros = job->zeros ? job->zeros + param : NULL;
    uint8_t *q = hyp_code_place(job, (o * job->x.n[1] + k) * job->x.n[2] + i);
    const int bad = find ? kernels->range_groups(x, n, job->group, job->bits, job->packed, scales, zeros, q)
                         : kernels->codes(x, n, job->group, job->bits, job->packed, scales, zeros, q);
    if (bad) run->failed = HYP_NOT_FINITE;
}

static void quantize_piece(affine_run *run, piece p, int find, float *buffer)
{
    const hyp_array *a = &run->job->x;
    const size_t length = p.end - p.begin;
    if (run->cut.turned) load_turned(run->kernels, a, p.o, p.k, p.begin, p.rows, length, buffer);
    for (size_t r = 0; r < p.rows; ++r, buffer += length + PITCH, piece_down(&run->cut, &p))
        for (size_t i = p.begin, n; i < p.end; i += n) {
            n = stretch(run, i, p.end);
            quantize_run(run, p.o, p.k, i, n,
                         run->cut.turned ? buffer + (i - p.begin) : load_run(run->kernels, a, p.o, p.k, i, n, buffer), find);
        }
}

static void fused_task(void *arg, size_t begin, size_t end, size_t worker)
{
    affine_run *run = arg;
    float buffer[TILE];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) quantize_piece(run, piece_at(&run->cut, &run->job->x, begin), 1, buffer);
}

static void apply_task(void *arg, size_t begin, size_t end, size_t worker)
{
    affine_run *run = arg;
    float buffer[TILE];
    (void)worker;
    if (run->backwards) {
        const size_t count = end - begin;
        end = run->cut.total - begin, begin = end - count;
    }
    for (; begin < end && !run->failed; ++begin) quantize_piece(run, piece_at(&run->cut, &run->job->x, begin), 0, buffer);
}

/* Large groups, each found and quantized by one thread while it is in the cache. */
static void held_task(void *arg, size_t begin, size_t end, size_t worker)
{
    affine_run *run = arg;
    const hyp_affine *job = run->job;
    const size_t *n = job->x.n;
    float buffer[STAGE];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const size_t k = begin / run->groups, from = begin % run->groups * job->group, to = smaller(from + job->group, n[2]);
        float mm[2] = {FLT_MAX, -FLT_MAX}, zero;
        int bad = 0;
        for (size_t o = 0; o < n[0]; ++o)
            for (size_t i = from, count; i < to; i += count) {
                count = smaller(STAGE, to - i);
                bad |= run->kernels->extremes(load_run(run->kernels, &job->x, o, k, i, count, buffer), count, mm);
            }
        if (bad) {
            run->failed = HYP_NOT_FINITE;
            return;
        }
        run->kernels->range(mm, job->bits, !job->zeros, job->scales + begin, &zero);
        if (job->zeros) job->zeros[begin] = zero;
        for (size_t o = 0; o < n[0]; ++o)
            for (size_t i = from, count; i < to; i += count) {
                count = smaller(STAGE, to - i);
                quantize_run(run, o, k, i, count, load_run(run->kernels, &job->x, o, k, i, count, buffer), 0);
            }
    }
}

static void restore_run(const affine_run *run, size_t o, size_t k, size_t i, size_t n, float *x)
{
    const hyp_affine *job = run->job;
    const size_t param = k * run->groups + i / job->group;
    const uint8_t *q = hyp_code_place(job, (o * job->x.n[1] + k) * job->x.n[2] + i);
    run->kernels->values(q, job->packed, n, job->group, job->scales + param, job->zeros ? job->zeros + param : NULL, x);
}

static void restore_piece(const affine_run *run, piece p, float *buffer)
{
    const hyp_array *a = &run->job->x;
    const size_t length = p.end - p.begin;
    const piece top = p;
    float *row = buffer;
    for (size_t r = 0; r < p.rows; ++r, row += length + PITCH, piece_down(&run->cut, &p))
        for (size_t i = p.begin, n; i < p.end; i += n) {
            n = stretch(run, i, p.end);
            float *x = run->cut.turned ? row + (i - p.begin) : target_run(a, p.o, p.k, i, buffer);
            restore_run(run, p.o, p.k, i, n, x);
            if (!run->cut.turned) store_run(run->kernels, a, p.o, p.k, i, n, x);
        }
    if (run->cut.turned) store_turned(run->kernels, a, top.o, top.k, top.begin, top.rows, length, buffer);
}

static void restore_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const affine_run *run = arg;
    float buffer[TILE];
    (void)worker;
    for (; begin < end; ++begin) restore_piece(run, piece_at(&run->cut, &run->job->x, begin), buffer);
}

/* Whether the groups, all to be found by their extremes, are many and small enough to be done by a thread each. */
static int suits_holding(const hyp_affine *job, const hyp_threads_api *api, hyp_team *team, size_t groups)
{
    enum { SHARE = 4 }; /* groups a thread: with fewer some would wait long for the last */
    return job->x.n[0] * job->group <= HELD && job->x.n[1] * groups >= SHARE * api->size(team);
}

/* Params from extremes alone, over memory in its own order. */
static int find_ranges(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    const hyp_array *x = &job->x;
    const int axis = turned_axis(x), one = x->n[2] == job->group;
    hyp_affine turned = *job;
    if (hyp_is_columns(job)) {
        if (x->stride[0] == (ptrdiff_t)item_bytes(x->kind) && x->n[0] > 1) return hyp_find_params(t, api, team, job);
        return hyp_columns_ranges(t, api, team, job);
    }
    turned.x.n[0] = x->n[2], turned.x.stride[0] = x->stride[2];
    if (axis == 1 && x->n[0] == 1 && one) { /* a param a row: rows are columns of what lies in memory */
        turned.x.n[2] = turned.group = 1;
        return hyp_columns_ranges(t, api, team, &turned);
    }
    if (axis == 0 && x->n[1] == 1 && one) { /* one param */
        turned.x.n[2] = turned.group = x->n[0], turned.x.stride[2] = x->stride[0];
        return hyp_find_params(t, api, team, &turned);
    }
    return hyp_find_params(t, api, team, job);
}

int hyp_affine_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    const int find = job->find_scale || (job->find_zero && job->zeros);
    const int extremes = job->method == HYP_ABSMAX && job->find_scale && (job->find_zero || !job->zeros);
    const int turned = turned_axis(&job->x) >= 0;
    const int fused = extremes && !hyp_is_columns(job) && job->x.n[0] == 1 && job->group <= (turned ? TALLEST : STAGE);
    affine_run run;
    int status = HYP_OK;
    affine_open(&run, t, job, fused);
    const size_t grain = long_grain(api, team, run.cut.total, run.cut.grain);
    if (fused) {
        status = api->run(team, fused_task, &run, run.cut.total, grain);
    } else if (extremes && !turned && !hyp_is_columns(job) && suits_holding(job, api, team, run.groups)) {
        const size_t total = job->x.n[1] * run.groups;
        status = api->run(team, held_task, &run, total, TASK / (job->x.n[0] * job->group) + 1);
    } else {
        if (find) status = extremes ? find_ranges(t, api, team, job) : hyp_find_params(t, api, team, job);
        run.backwards = find;
        if (status == HYP_OK && hyp_is_columns(job)) return hyp_columns_quantize(t, api, team, job, find);
        if (status == HYP_OK) status = api->run(team, apply_task, &run, run.cut.total, grain);
    }
    return status ? status : run.failed;
}

int hyp_affine_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    affine_run run;
    if (hyp_is_columns(job)) return hyp_columns_dequantize(t, api, team, job);
    affine_open(&run, t, job, 0);
    return api->run(team, restore_task, &run, run.cut.total, long_grain(api, team, run.cut.total, run.cut.grain));
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
