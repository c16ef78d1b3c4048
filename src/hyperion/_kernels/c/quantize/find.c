/* One group after the other: sums over a group are cut by its size alone and added in order, so that the number of threads changes
 * no bit. */
#include "quantize/find.h"

#include <float.h>

#include "quantize/arrays.h"

enum {
    PART = 16 * STAGE, /* a group larger than this is summed in parts */
    PARTS = 64
};

enum { SUM_RANGE, SUM_FIT, SUM_HQQ };

typedef struct {
    int what;
    float scale, zero, beta;
} pass;

typedef struct {
    double s[5];
    float mm[2];
    int bad;
} sums;

typedef struct {
    const hyp_quantize_kernels *kernels;
    const hyp_threads_api *api;
    hyp_team *team;
    const hyp_affine *job;
    hyp_array x; /* a last dimension of one value is exchanged with the first: runs are long */
    size_t group, groups;
    volatile int failed;
} finder;

typedef struct {
    const finder *f;
    size_t k, j, values;
    const pass *p;
    size_t count;
    sums part[PARTS];
} parts;

static sums no_sums(void)
{
    const sums s = {{0.0, 0.0, 0.0, 0.0, 0.0}, {FLT_MAX, -FLT_MAX}, 0};
    return s;
}

static size_t group_values(const finder *f, size_t j)
{
    return f->x.n[0] * smaller(f->group, f->x.n[2] - j * f->group);
}

/* Add values [begin, end) of group (k, j), counted over the first dimension and then the last. */
static void sum_values(const finder *f, size_t k, size_t j, const pass *p, size_t begin, size_t end, sums *out)
{
    const size_t start = j * f->group, length = smaller(f->group, f->x.n[2] - start);
    const int bits = f->job->bits;
    float x[STAGE];
    while (begin < end) {
        const size_t i = begin % length, n = smaller(smaller(length - i, end - begin), STAGE);
        const float *run = load_run(f->kernels, &f->x, begin / length, k, start + i, n, x);
        if (p->what == SUM_RANGE) out->bad |= f->kernels->extremes(run, n, out->mm);
        else if (p->what == SUM_FIT) f->kernels->fit(run, n, p->scale, p->zero, bits, out->s);
        else f->kernels->hqq(run, n, p->scale, p->zero, bits, p->beta, out->s);
        begin += n;
    }
}

static void part_task(void *arg, size_t begin, size_t end, size_t worker)
{
    parts *a = arg;
    (void)worker;
    for (; begin < end; ++begin) {
        a->part[begin] = no_sums();
        sum_values(a->f, a->k, a->j, a->p, a->values / a->count * begin,
                   begin + 1 == a->count ? a->values : a->values / a->count * (begin + 1), &a->part[begin]);
    }
}

static int sum_group(const finder *f, size_t k, size_t j, const pass *p, sums *out)
{
    const size_t values = group_values(f, j);
    *out = no_sums();
    if (values <= PART) {
        sum_values(f, k, j, p, 0, values, out);
        return HYP_OK;
    }
    parts a;
    a.f = f, a.k = k, a.j = j, a.p = p, a.values = values;
    a.count = smaller(values / PART + 1, PARTS);
    const int status = f->api->run(f->team, part_task, &a, a.count, 1);
    if (status) return status;
    for (size_t i = 0; i < a.count; ++i) {
        for (int v = 0; v < 5; ++v) out->s[v] += a.part[i].s[v];
        out->mm[0] = a.part[i].mm[0] < out->mm[0] ? a.part[i].mm[0] : out->mm[0];
        out->mm[1] = a.part[i].mm[1] > out->mm[1] ? a.part[i].mm[1] : out->mm[1];
        out->bad |= a.part[i].bad;
    }
    return HYP_OK;
}

void hyp_range_start(const hyp_affine *job, const hyp_quantize_kernels *kernels, const float mm[2], float *scale, float *zero)
{
    const float low = job->bits == 4 ? -8.0f : -128.0f, high = -low - 1.0f, middle = 0.5f * (low + high);
    if (job->find_scale && (job->find_zero || !job->zeros)) {
        kernels->range(mm, job->bits, !job->zeros, scale, zero);
    } else if (job->find_scale) { /* zero lies within low .. high: either side needs its own step */
        const float up = mm[1] > 0.0f && *zero < high ? mm[1] / (high - *zero) : 0.0f;
        const float down = mm[0] < 0.0f && *zero > low ? mm[0] / (low - *zero) : 0.0f;
        *scale = up > down ? up : down;
        if (*scale < FLT_MIN) *scale = 0.0f;
    } else if (job->find_zero && job->zeros) {
        *zero = (float)(middle - (0.5 * mm[0] + 0.5 * mm[1]) / *scale);
    }
}

/* Keep a trial's params if its squared error is lower. */
static int try_fit(const finder *f, size_t k, size_t j, float scale, float zero, sums *best, pass *kept, int *better)
{
    sums s;
    const pass p = {SUM_FIT, scale, zero, 0.0f};
    *better = 0;
    if (!(scale >= FLT_MIN) || scale > FLT_MAX || !(zero - zero == 0.0f)) return HYP_OK;
    const int status = sum_group(f, k, j, &p, &s);
    if (status) return status;
    if (s.s[0] < best->s[0]) {
        *best = s;
        *kept = p;
        *better = 1;
    }
    return HYP_OK;
}

void hyp_least_squares(const hyp_affine *job, double n, const double sums[5], float *scale, float *zero)
{
    const double q = sums[1], qq = sums[2], xq = sums[3], x = sums[4], z = (double)*zero;
    const int shift = job->find_zero && job->zeros;
    if (job->find_scale && shift) {
        const double det = n * qq - q * q, slope = det > 0.0 ? (n * xq - x * q) / det : 0.0;
        if (!(slope > 0.0)) return;
        *scale = (float)slope;
        *zero = (float)((q - x / slope) / n);
    } else if (job->find_scale) {
        const double square = qq - 2.0 * z * q + n * z * z;
        if (square > 0.0) *scale = (float)((xq - z * x) / square);
    } else if (shift) {
        *zero = (float)((q - x / (double)*scale) / n);
    }
}

static int find_mse(const finder *f, size_t k, size_t j, const float mm[2], float *scale, float *zero)
{
    const hyp_affine *job = f->job;
    const double centre = -0.5, middle = 0.5 * ((double)mm[0] + (double)mm[1]);
    sums best;
    pass kept = {SUM_FIT, *scale, *zero, 0.0f};
    int better, status = sum_group(f, k, j, &kept, &best);
    if (status) return status;
    for (int i = 1; i <= HYP_FIT_TRIALS && job->find_scale; ++i) {
        const float trial = hyp_trial(*scale, i);
        const float shifted = job->find_zero && job->zeros ? (float)(centre - middle / (double)trial) : *zero;
        status = try_fit(f, k, j, trial, shifted, &best, &kept, &better);
        if (status) return status;
    }
    for (int i = 0; i < HYP_FIT_REFITS; ++i) {
        float s = kept.scale, z = kept.zero;
        hyp_least_squares(job, (double)group_values(f, j), best.s, &s, &z);
        if (s == kept.scale && z == kept.zero) break;
        status = try_fit(f, k, j, s, z, &best, &kept, &better);
        if (status) return status;
        if (!better) break;
    }
    *scale = kept.scale;
    *zero = kept.zero;
    return HYP_OK;
}

static int find_hqq(const finder *f, size_t k, size_t j, float scale, float *zero)
{
    const double n = (double)group_values(f, j);
    pass p = {SUM_HQQ, scale, *zero, 10.0f};
    double best = DBL_MAX;
    for (int i = 0; i <= HYP_HQQ_ITERATIONS; ++i) {
        sums s;
        const int status = sum_group(f, k, j, &p, &s);
        if (status) return status;
        if (!(s.s[0] < best)) break; /* no better: done, as in the method's own implementation */
        best = s.s[0];
        *zero = p.zero;
        p.zero = (float)(s.s[1] / n);
        p.beta *= 1.01f;
    }
    return HYP_OK;
}

/* Params of group (k, j). */
static int find_group(finder *f, size_t k, size_t j)
{
    const hyp_affine *job = f->job;
    const size_t at = k * f->groups + j;
    const pass p = {SUM_RANGE, 0.0f, 0.0f, 0.0f};
    float scale = job->scales[at], zero = job->zeros ? job->zeros[at] : 0.0f;
    sums range;
    int status = sum_group(f, k, j, &p, &range);
    if (status) return status;
    if (range.bad) {
        f->failed = HYP_NOT_FINITE;
        return HYP_OK;
    }
    hyp_range_start(job, f->kernels, range.mm, &scale, &zero);
    if (scale >= FLT_MIN && range.mm[0] < range.mm[1]) {
        if (job->method == HYP_MSE) status = find_mse(f, k, j, range.mm, &scale, &zero);
        else if (job->method == HYP_HQQ) status = find_hqq(f, k, j, scale, &zero);
    } else if (scale >= FLT_MIN && job->method == HYP_MSE) {
        status = find_mse(f, k, j, range.mm, &scale, &zero);
    }
    job->scales[at] = scale;
    if (job->zeros) job->zeros[at] = zero;
    return status;
}

static void find_task(void *arg, size_t begin, size_t end, size_t worker)
{
    finder *f = arg;
    (void)worker;
    for (; begin < end && !f->failed; ++begin) find_group(f, begin / f->groups, begin % f->groups);
}

int hyp_find_params(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    finder f;
    if (hyp_suits_together(job)) return hyp_find_together(t, api, team, job);
    f.kernels = &t->quantize, f.api = api, f.team = team, f.job = job, f.x = job->x;
    f.group = job->group, f.groups = ceil_div(job->x.n[2], job->group), f.failed = HYP_OK;
    if (f.x.n[2] == 1) {
        f.x.n[0] = 1, f.x.n[2] = job->x.n[0];
        f.x.stride[2] = job->x.stride[0];
        f.group = f.x.n[2];
    }
    const size_t total = f.x.n[1] * f.groups, values = group_values(&f, 0);
    if (values > PART) { /* the threads share each group */
        for (size_t i = 0; i < total && !f.failed; ++i) {
            const int status = find_group(&f, i / f.groups, i % f.groups);
            if (status) return status;
        }
        return f.failed;
    }
    const int status = api->run(team, find_task, &f, total, values < TASK ? TASK / values : 1);
    return status ? status : f.failed;
}
