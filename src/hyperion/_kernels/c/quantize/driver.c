/* Cuts arrays into pieces that stay in the first-level cache, converts what is not contiguous float32 on the way, and gives
 * the pieces to the kernels.
 *
 * Sums over a group are cut by the group's size alone and added in order, extremes do not depend on order: the number of
 * threads changes no bit. */
#include "quantize/driver.h"

#include <float.h>

#include "quant/pack.h"

enum {
    STAGE = 4096,       /* values in a piece: 16 KiB of floats */
    TASK = 4 * STAGE,   /* values that pay for a task */
    PART = 16 * STAGE,  /* a group larger than this is summed in parts */
    PARTS = 64,
    COLUMNS = 256       /* columns whose ranges are found together: 2 KiB of them beside 1 KiB a row */
};

typedef struct {
    float x[STAGE];
    int8_t q[STAGE];
} stage;

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t ceil_div(size_t a, size_t b)
{
    return a / b + (a % b != 0);
}

/* ---- Arrays ------------------------------------------------------------------------------------------------------------ */

static size_t item_bytes(int kind)
{
    return kind == HYP_F64 ? 8 : kind == HYP_F32 ? 4 : 2;
}

static char *place(const hyp_array *a, size_t o, size_t k, size_t i)
{
    return a->data + (ptrdiff_t)o * a->stride[0] + (ptrdiff_t)k * a->stride[1] + (ptrdiff_t)i * a->stride[2];
}

/* Whether a run is floats in memory as the kernels take them. */
static int is_plain(const hyp_array *a, const char *p)
{
    return a->kind == HYP_F32 && a->stride[2] == 4 && (uintptr_t)p % 4 == 0;
}

static void load_packed(const hyp_quantize_kernels *k, int kind, const void *p, size_t n, float *x)
{
    switch (kind) {
    case HYP_F16: k->load_f16(p, n, x); break;
    case HYP_BF16: k->load_bf16(p, n, x); break;
    case HYP_F64: k->load_f64(p, n, x); break;
    default: memcpy(x, p, 4 * n);
    }
}

static void store_packed(const hyp_quantize_kernels *k, int kind, const float *x, size_t n, void *p)
{
    switch (kind) {
    case HYP_F16: k->store_f16(x, n, p); break;
    case HYP_BF16: k->store_bf16(x, n, p); break;
    case HYP_F64: k->store_f64(x, n, p); break;
    default: memcpy(p, x, 4 * n);
    }
}

/* n <= STAGE values from [o, k, i] on along the last dimension: where they lie if they are plain, else in x. */
static const float *load_run(const hyp_quantize_kernels *kernels, const hyp_array *a, size_t o, size_t k, size_t i, size_t n, float *x)
{
    const char *p = place(a, o, k, i);
    const size_t item = item_bytes(a->kind);
    const ptrdiff_t step = a->stride[2];
    if (is_plain(a, p)) return (const float *)(const void *)p;
    if (step == (ptrdiff_t)item) {
        load_packed(kernels, a->kind, p, n, x);
        return x;
    }
    char gathered[64 * 8];
    for (size_t at = 0; at < n; at += 64) {
        const size_t count = smaller(n - at, 64);
        for (size_t j = 0; j < count; ++j, p += step) memcpy(gathered + j * item, p, item);
        load_packed(kernels, a->kind, gathered, count, x + at);
    }
    return x;
}

/* Where to write n values for [o, k, i]: the place itself if it is plain, else x; then store_run. */
static float *target_run(const hyp_array *a, size_t o, size_t k, size_t i, float *x)
{
    char *p = place(a, o, k, i);
    return is_plain(a, p) ? (float *)(void *)p : x;
}

static void store_run(const hyp_quantize_kernels *kernels, const hyp_array *a, size_t o, size_t k, size_t i, size_t n, const float *x)
{
    char *p = place(a, o, k, i);
    const size_t item = item_bytes(a->kind);
    const ptrdiff_t step = a->stride[2];
    if ((const char *)x == p) return;
    if (step == (ptrdiff_t)item) {
        store_packed(kernels, a->kind, x, n, p);
        return;
    }
    char scattered[64 * 8];
    for (size_t at = 0; at < n; at += 64) {
        const size_t count = smaller(n - at, 64);
        store_packed(kernels, a->kind, x + at, count, scattered);
        for (size_t j = 0; j < count; ++j, p += step) memcpy(p, scattered + j * item, item);
    }
}

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

static hyp_array each_view(const hyp_array *a)
{
    hyp_array v = *a;
    v.n[1] = 1, v.n[2] = a->n[1];
    v.stride[2] = a->stride[1];
    return v;
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

/* ---- Finding the params of a group that need not lie in one place ------------------------------------------------------ */

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

/* The params for which the range fits, as far as they are not given. */
static void range_start(const hyp_affine *job, const hyp_quantize_kernels *kernels, const float mm[2], float *scale, float *zero)
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

/* Scale and zero that fit the codes of the best trial in the least-squares sense. */
static void least_squares(const hyp_affine *job, double n, const sums *s, float *scale, float *zero)
{
    const double q = s->s[1], qq = s->s[2], xq = s->s[3], x = s->s[4], z = (double)*zero;
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
    enum { TRIALS = 28, REFITS = 6 };
    const hyp_affine *job = f->job;
    const double centre = -0.5, middle = 0.5 * ((double)mm[0] + (double)mm[1]);
    sums best;
    pass kept = {SUM_FIT, *scale, *zero, 0.0f};
    int better, status = sum_group(f, k, j, &kept, &best);
    if (status) return status;
    for (int i = 1; i <= TRIALS && job->find_scale; ++i) { /* cut the ends off, down to a quarter of the range */
        const float trial = *scale * (1.0f - 0.75f * (float)i / (float)TRIALS);
        const float shifted = job->find_zero && job->zeros ? (float)(centre - middle / (double)trial) : *zero;
        status = try_fit(f, k, j, trial, shifted, &best, &kept, &better);
        if (status) return status;
    }
    for (int i = 0; i < REFITS; ++i) {
        float s = kept.scale, z = kept.zero;
        least_squares(job, (double)group_values(f, j), &best, &s, &z);
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
    enum { ITERATIONS = 20 };
    const double n = (double)group_values(f, j);
    pass p = {SUM_HQQ, scale, *zero, 10.0f};
    double best = DBL_MAX;
    for (int i = 0; i <= ITERATIONS; ++i) {
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
    range_start(job, f->kernels, range.mm, &scale, &zero);
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

static int find_params(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    finder f;
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
        status = find_params(t, api, team, job);
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
