/* Cuts arrays into pieces that stay in the first-level cache, converts what is not contiguous float32 on the way, and gives
 * the pieces to the kernels.
 *
 * Neither codes nor extremes depend on how the work is cut: the number of threads changes no bit. */
#include "quantize/arrays.h"
#include "quantize/columns.h"
#include "quantize/find.h"

#include <float.h>

enum { HELD = 1 << 17 }; /* values of a group that stay in the second-level cache between its range and its codes: 512 KiB */

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

static void affine_open(affine_run *run, const hyp_table *t, const hyp_affine *job)
{
    const size_t *n = job->x.n;
    run->kernels = &t->quantize;
    run->job = job;
    run->groups = ceil_div(n[2], job->group);
    run->cut = cut_rows(n[0] * n[1], n[2], job->group);
    run->backwards = 0;
    run->failed = HYP_OK;
}

typedef struct {
    size_t o, k, begin, end, first; /* values [begin, end) of row [o, k]; first: their place in C order less begin */
} piece;

static piece piece_at(const affine_run *run, size_t item)
{
    const size_t *n = run->job->x.n, row = item / run->cut.pieces;
    piece p;
    p.o = row / n[1];
    p.k = row % n[1];
    p.begin = item % run->cut.pieces * run->cut.piece;
    p.end = smaller(p.begin + run->cut.piece, n[2]);
    p.first = row * n[2];
    return p;
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

static void quantize_piece(affine_run *run, const piece *p, int find, float *buffer)
{
    const hyp_quantize_kernels *kernels = run->kernels;
    const hyp_affine *job = run->job;
    for (size_t i = p->begin, n; i < p->end; i += n) {
        n = stretch(job->group, i, p->end);
        const size_t param = p->k * run->groups + i / job->group, group = smaller(job->group, STAGE);
        const float *x = load_run(kernels, &job->x, p->o, p->k, i, n, buffer);
        float *scales = job->scales + param, *zeros = job->zeros ? job->zeros + param : NULL;
        uint8_t *q = hyp_code_place(job, p->first + i);
        const int bad = find ? kernels->range_groups(x, n, group, job->bits, job->packed, scales, zeros, q)
                             : kernels->codes(x, n, group, job->bits, job->packed, scales, zeros, q);
        if (bad) run->failed = HYP_NOT_FINITE;
    }
}

static void fused_task(void *arg, size_t begin, size_t end, size_t worker)
{
    affine_run *run = arg;
    float buffer[STAGE];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const piece p = piece_at(run, begin);
        quantize_piece(run, &p, 1, buffer);
    }
}

static void apply_task(void *arg, size_t begin, size_t end, size_t worker)
{
    affine_run *run = arg;
    float buffer[STAGE];
    (void)worker;
    if (run->backwards) {
        const size_t count = end - begin;
        end = run->cut.total - begin, begin = end - count;
    }
    for (; begin < end && !run->failed; ++begin) {
        const piece p = piece_at(run, begin);
        quantize_piece(run, &p, 0, buffer);
    }
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
            for (size_t i = from; i < to; i += STAGE) {
                const piece p = {o, k, i, smaller(i + STAGE, to), (o * n[1] + k) * n[2]};
                quantize_piece(run, &p, 0, buffer);
            }
    }
}

static void restore_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const affine_run *run = arg;
    const hyp_affine *job = run->job;
    float buffer[STAGE];
    int8_t codes[STAGE];
    (void)worker;
    for (; begin < end; ++begin) {
        const piece p = piece_at(run, begin);
        for (size_t i = p.begin, n; i < p.end; i += n) {
            n = stretch(job->group, i, p.end);
            const size_t param = p.k * run->groups + i / job->group;
            const float *scales = job->scales + param, *zeros = job->zeros ? job->zeros + param : NULL;
            const int8_t *q = code_source(run, p.first + i, n, codes);
            float *x = target_run(&job->x, p.o, p.k, i, buffer);
            run->kernels->values(q, n, smaller(job->group, STAGE), scales, zeros, x);
            store_run(run->kernels, &job->x, p.o, p.k, i, n, x);
        }
    }
}

/* Whether the groups, all to be found by their extremes, are many and small enough to be done by a thread each. */
static int suits_holding(const hyp_affine *job, const hyp_threads_api *api, hyp_team *team, size_t groups)
{
    enum { SHARE = 4 }; /* groups a thread: with fewer some would wait long for the last */
    return job->x.n[0] * job->group <= HELD && job->x.n[1] * groups >= SHARE * api->size(team);
}

int hyp_affine_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    const int find = job->find_scale || (job->find_zero && job->zeros);
    const int extremes = job->method == HYP_ABSMAX && job->find_scale && (job->find_zero || !job->zeros);
    const size_t *n = job->x.n;
    affine_run run;
    int status = HYP_OK;
    if (hyp_is_columns(job)) {
        if (find && extremes) status = hyp_columns_ranges(t, api, team, job);
        else if (find) status = hyp_find_params(t, api, team, job);
        return status ? status : hyp_columns_quantize(t, api, team, job, find);
    }
    affine_open(&run, t, job);
    const size_t grain = long_grain(api, team, run.cut.total, run.cut.grain);
    if (extremes && n[0] == 1 && job->group <= STAGE) {
        status = api->run(team, fused_task, &run, run.cut.total, grain);
    } else if (extremes && suits_holding(job, api, team, run.groups)) {
        const size_t total = n[1] * run.groups;
        status = api->run(team, held_task, &run, total, TASK / (n[0] * job->group) + 1);
    } else {
        if (find) status = hyp_find_params(t, api, team, job);
        run.backwards = find;
        if (status == HYP_OK) status = api->run(team, apply_task, &run, run.cut.total, grain);
    }
    return status ? status : run.failed;
}

int hyp_affine_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    affine_run run;
    if (hyp_is_columns(job)) return hyp_columns_dequantize(t, api, team, job);
    affine_open(&run, t, job);
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
