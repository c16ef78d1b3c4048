#include "quantize/find.h"

#include <float.h>

#include "quantize/arrays.h"

enum {
    ROWS = HYP_EACH_ROWS, /* values of each group that are summed in float */
    LANES = HYP_EACH,
    LONGEST = 512,        /* values of a group that lies along memory; of longer ones the sums across are cheap */
    HIGHEST = 1 << 16     /* values of a column; threads share longer ones */
};

/* Groups of one length: numbers 0 .. count - 1, `per_row` of them in [k], the first of these from value `start` on. With `columns`
 * neighbouring k stand side by side in memory. */
typedef struct {
    const hyp_table *t;
    const hyp_affine *job;
    hyp_array view;
    int columns;
    size_t count, per_row, start, length, values; /* values: of a group, over the first dimension too */
    volatile int failed;
} groups_run;

/* Sixteen groups at hand. x holds them as [values][16] where they fit, which is filled once; else ROWS values at a time. */
typedef struct {
    const groups_run *run;
    size_t first, n;
    int whole;
    float x[LONGEST * LANES];
} sixteen;

typedef struct {
    double s[5][LANES];
} each_sums;

static size_t param_of(const groups_run *run, size_t number)
{
    const hyp_affine *job = run->job;
    if (run->columns) return number;
    const size_t groups = ceil_div(job->x.n[2], job->group);
    return number / run->per_row * groups + run->start / job->group + number % run->per_row;
}

/* Values [begin, end) of each group to x[end - begin][16]; past the groups 0. */
static void gather(const sixteen *g, size_t begin, size_t end, float *x)
{
    const groups_run *run = g->run;
    float line[LONGEST];
    if (run->columns) {
        for (size_t i = begin; i < end; ++i, x += LANES) {
            const float *found = load_run(&run->t->quantize, &run->view, i, 0, g->first, g->n, line);
            memcpy(x, found, g->n * sizeof(float));
            memset(x + g->n, 0, (LANES - g->n) * sizeof(float));
        }
        return;
    }
    memset(x, 0, (end - begin) * LANES * sizeof(float)); /* here end - begin is the whole group */
    for (size_t j = 0; j < g->n; ++j) {
        const size_t number = g->first + j, k = number / run->per_row, from = run->start + number % run->per_row * run->length;
        for (size_t o = 0; o < run->view.n[0]; ++o) {
            const float *found = load_run(&run->t->quantize, &run->view, o, k, from, run->length, line);
            for (size_t i = 0; i < run->length; ++i) x[(o * run->length + i) * LANES + j] = found[i];
        }
    }
}

static void open_groups(sixteen *g, const groups_run *run, size_t first)
{
    g->run = run, g->first = first, g->n = smaller(LANES, run->count - first);
    g->whole = run->values <= LONGEST;
    if (g->whole) gather(g, 0, run->values, g->x);
}

/* ROWS values or fewer of each group from `begin` on. */
static const float *some_of(sixteen *g, size_t begin, size_t *n)
{
    *n = smaller(ROWS, g->run->values - begin);
    if (g->whole) return g->x + begin * LANES;
    gather(g, begin, begin + *n, g->x);
    return g->x;
}

static void fit_all(sixteen *g, const float *scale, const float *zero, each_sums *sums)
{
    memset(sums, 0, sizeof *sums);
    for (size_t i = 0, n; i < g->run->values; i += n) {
        const float *x = some_of(g, i, &n);
        g->run->t->search.fit(x, n, scale, zero, g->run->job->bits, sums->s);
    }
}

static void hqq_all(sixteen *g, const float *scale, const float *zero, float beta, each_sums *sums)
{
    memset(sums, 0, sizeof *sums);
    for (size_t i = 0, n; i < g->run->values; i += n) {
        const float *x = some_of(g, i, &n);
        g->run->t->search.hqq(x, n, scale, zero, g->run->job->bits, beta, sums->s);
    }
}

/* Nonzero if a value is not finite. */
static int range_all(sixteen *g, float *least, float *greatest)
{
    int bad = 0;
    for (size_t j = 0; j < LANES; ++j) least[j] = FLT_MAX, greatest[j] = -FLT_MAX;
    for (size_t i = 0, n; i < g->run->values; i += n) {
        const float *x = some_of(g, i, &n);
        bad |= g->run->t->quantize.extremes_each(x, LANES, n, LANES, least, greatest);
    }
    return bad;
}

static int usable(float scale, float zero)
{
    return scale >= FLT_MIN && scale <= FLT_MAX && zero - zero == 0.0f;
}

static void keep(each_sums *best, const each_sums *sums, size_t j)
{
    for (int v = 0; v < 5; ++v) best->s[v][j] = sums->s[v][j];
}

/* Lanes that are not `live` go along and are not changed. */
static void mse_all(sixteen *g, const int *live, const float *least, const float *greatest, float *scale, float *zero)
{
    const hyp_affine *job = g->run->job;
    const int shift = job->find_zero && job->zeros;
    float start[LANES], s[LANES], z[LANES];
    each_sums best, sums;
    int going[LANES], left = 0;
    memcpy(start, scale, sizeof start);
    fit_all(g, scale, zero, &best);
    for (int i = 1; i <= HYP_FIT_TRIALS && job->find_scale; ++i) {
        for (size_t j = 0; j < LANES; ++j) {
            const double middle = 0.5 * ((double)least[j] + (double)greatest[j]);
            s[j] = hyp_trial(start[j], i);
            z[j] = shift ? (float)(-0.5 - middle / (double)s[j]) : zero[j];
        }
        fit_all(g, s, z, &sums);
        for (size_t j = 0; j < LANES; ++j) {
            if (!live[j] || !usable(s[j], z[j]) || !(sums.s[0][j] < best.s[0][j])) continue;
            keep(&best, &sums, j);
            scale[j] = s[j], zero[j] = z[j];
        }
    }
    for (size_t j = 0; j < LANES; ++j) left += going[j] = live[j];
    for (int i = 0; i < HYP_FIT_REFITS && left; ++i) {
        for (size_t j = 0; j < LANES; ++j) {
            const double of[5] = {best.s[0][j], best.s[1][j], best.s[2][j], best.s[3][j], best.s[4][j]};
            s[j] = scale[j], z[j] = zero[j];
            if (going[j]) hyp_least_squares(job, (double)g->run->values, of, s + j, z + j);
        }
        fit_all(g, s, z, &sums);
        for (size_t j = 0; j < LANES; ++j) {
            if (!going[j]) continue;
            if (usable(s[j], z[j]) && sums.s[0][j] < best.s[0][j]) {
                keep(&best, &sums, j);
                scale[j] = s[j], zero[j] = z[j];
            } else {
                going[j] = 0, --left;
            }
        }
    }
}

static void hqq_lanes(sixteen *g, const int *live, const float *scale, float *zero)
{
    const double n = (double)g->run->values;
    float trial[LANES], beta = 10.0f;
    double best[LANES];
    int going[LANES], left = 0;
    memcpy(trial, zero, sizeof trial);
    for (size_t j = 0; j < LANES; ++j) best[j] = DBL_MAX, left += going[j] = live[j];
    for (int i = 0; i <= HYP_HQQ_ITERATIONS && left; ++i, beta *= 1.01f) {
        each_sums sums;
        hqq_all(g, scale, trial, beta, &sums);
        for (size_t j = 0; j < LANES; ++j) {
            if (!going[j]) continue;
            if (sums.s[0][j] < best[j]) {
                best[j] = sums.s[0][j];
                zero[j] = trial[j];
                trial[j] = (float)(sums.s[1][j] / n);
            } else { /* no better: done, as in the method's own implementation */
                going[j] = 0, --left;
            }
        }
    }
}

static void sixteen_groups(groups_run *run, size_t first, sixteen *g)
{
    const hyp_affine *job = run->job;
    float least[LANES], greatest[LANES], scale[LANES], zero[LANES];
    int live[LANES] = {0};
    open_groups(g, run, first);
    if (range_all(g, least, greatest)) {
        run->failed = HYP_NOT_FINITE;
        return;
    }
    for (size_t j = 0; j < LANES; ++j) scale[j] = 1.0f, zero[j] = 0.0f;
    for (size_t j = 0; j < g->n; ++j) {
        const size_t at = param_of(run, first + j);
        const float mm[2] = {least[j], greatest[j]};
        scale[j] = job->scales[at], zero[j] = job->zeros ? job->zeros[at] : 0.0f;
        hyp_range_start(job, &run->t->quantize, mm, scale + j, zero + j);
        live[j] = scale[j] >= FLT_MIN && (least[j] < greatest[j] || job->method == HYP_MSE);
    }
    if (job->method == HYP_MSE) mse_all(g, live, least, greatest, scale, zero);
    else hqq_lanes(g, live, scale, zero);
    for (size_t j = 0; j < g->n; ++j) {
        const size_t at = param_of(run, first + j);
        job->scales[at] = scale[j];
        if (job->zeros) job->zeros[at] = zero[j];
    }
}

static void groups_task(void *arg, size_t begin, size_t end, size_t worker)
{
    groups_run *run = arg;
    sixteen g;
    (void)worker;
    for (; begin < end && !run->failed; ++begin) sixteen_groups(run, begin * LANES, &g);
}

int hyp_suits_together(const hyp_affine *job)
{
    const size_t *n = job->x.n;
    if (job->method == HYP_ABSMAX || !(job->find_scale || (job->find_zero && job->zeros))) return 0;
    if (n[2] == 1) return n[1] >= LANES && n[0] <= HIGHEST;
    return job->group <= LONGEST / n[0] && n[1] * ceil_div(n[2], job->group) >= LANES;
}

int hyp_find_together(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    const size_t *n = job->x.n;
    groups_run run = {.t = t, .job = job, .view = job->x, .columns = n[2] == 1, .failed = HYP_OK};
    int status;
    if (run.columns) {
        run.view = each_view(&job->x);
        run.count = n[1], run.length = run.values = n[0];
        status = api->run(team, groups_task, &run, ceil_div(run.count, LANES), 1);
        return status ? status : run.failed;
    }
    run.per_row = n[2] / job->group;
    run.count = n[1] * run.per_row, run.length = job->group, run.values = n[0] * job->group;
    const size_t grain = TASK / (run.values * LANES) + 1;
    status = run.count ? api->run(team, groups_task, &run, ceil_div(run.count, LANES), grain) : HYP_OK;
    if (n[2] % job->group && status == HYP_OK && run.failed == HYP_OK) { /* the shorter last ones of each row */
        run.start = run.per_row * job->group, run.per_row = 1;
        run.count = n[1], run.length = n[2] % job->group, run.values = n[0] * run.length;
        status = api->run(team, groups_task, &run, ceil_div(run.count, LANES), grain);
    }
    return status ? status : run.failed;
}
