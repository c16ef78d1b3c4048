#include "quantize/columns.h"

#include <float.h>
#include <stdlib.h>

#include "quantize/arrays.h"

enum {
    WIDTH = 4096,  /* columns of a tile: memory is read in its own order, and what is known of them, 16 KiB, stays in the cache */
    HEIGHT = 64,   /* rows of a tile of codes or values */
    CHUNK = 1024,  /* columns that are converted at a time */
    TOGETHER = 4,  /* rows that widen ranges together */
    TALL = 256     /* rows at least of a task that finds ranges */
};

typedef struct {
    const hyp_quantize_kernels *kernels;
    const hyp_affine *job;
    hyp_array view;
    int turned; /* a column lies in one place */
    size_t across, height, down; /* tiles of a row, rows of a tile, tiles of a column */
    float *parts; /* least and greatest of each part of the rows: [down][2][columns]; NULL where there is one part */
    int backwards;
    volatile int failed;
} columns_run;

typedef struct {
    size_t row, end, column, columns;
} tile;

static columns_run columns_open(const hyp_table *t, const hyp_affine *job, size_t height)
{
    columns_run run;
    run.kernels = &t->quantize, run.job = job, run.view = each_view(&job->x);
    run.turned = turned_axis(&run.view) == 0;
    run.across = ceil_div(run.view.n[2], WIDTH);
    run.height = height, run.down = ceil_div(run.view.n[0], height);
    run.parts = NULL, run.backwards = 0, run.failed = HYP_OK;
    return run;
}

static tile tile_at(const columns_run *run, size_t item)
{
    tile at;
    at.row = item / run->across * run->height;
    at.end = smaller(at.row + run->height, run->view.n[0]);
    at.column = item % run->across * WIDTH;
    at.columns = smaller(WIDTH, run->view.n[2] - at.column);
    return at;
}

/* ---- Ranges ----------------------------------------------------------------------------------------------------------- */

static void keep_params(const columns_run *run, size_t column, const float mm[2])
{
    const hyp_affine *job = run->job;
    float zero;
    run->kernels->range(mm, job->bits, !job->zeros, job->scales + column, &zero);
    if (job->zeros) job->zeros[column] = zero;
}

/* Widen the ranges of n <= CHUNK columns by rows [o, end), at most TOGETHER. */
static int widen_ranges(const columns_run *run, size_t o, size_t end, size_t column, size_t n, float *least, float *greatest)
{
    const hyp_array *v = &run->view;
    const char *p = place(v, o, 0, column);
    float x[TOGETHER][CHUNK];
    if (is_plain(v, p) && v->stride[0] % 4 == 0)
        return run->kernels->extremes_each((const float *)(const void *)p, v->stride[0] / 4, end - o, n, least, greatest);
    int bad = 0;
    for (size_t r = 0; o < end; ++o, ++r)
        bad |= run->kernels->extremes_each(load_run(run->kernels, v, o, 0, column, n, x[r]), 0, 1, n, least, greatest);
    return bad;
}

static void part_task(void *arg, size_t begin, size_t end, size_t worker)
{
    columns_run *run = arg;
    const size_t all = run->view.n[2];
    float own[2][WIDTH];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const tile at = tile_at(run, begin);
        float *least = run->parts ? run->parts + begin / run->across * 2 * all + at.column : own[0];
        float *greatest = run->parts ? least + all : own[1];
        int bad = 0;
        for (size_t j = 0; j < at.columns; ++j) least[j] = FLT_MAX, greatest[j] = -FLT_MAX;
        for (size_t o = at.row; o < at.end; o += TOGETHER)
            for (size_t j = 0; j < at.columns; j += CHUNK)
                bad |= widen_ranges(run, o, smaller(o + TOGETHER, at.end), at.column + j, smaller(CHUNK, at.columns - j), least + j,
                                    greatest + j);
        if (bad) run->failed = HYP_NOT_FINITE;
        for (size_t j = 0; j < at.columns && !bad && !run->parts; ++j) {
            const float mm[2] = {least[j], greatest[j]};
            keep_params(run, at.column + j, mm);
        }
    }
}

static void params_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const columns_run *run = arg;
    const size_t all = run->view.n[2];
    (void)worker;
    for (; begin < end; ++begin) {
        float mm[2] = {FLT_MAX, -FLT_MAX};
        for (size_t part = 0; part < run->down; ++part) {
            const float *least = run->parts + part * 2 * all + begin;
            mm[0] = least[0] < mm[0] ? least[0] : mm[0];
            mm[1] = least[all] > mm[1] ? least[all] : mm[1];
        }
        keep_params(run, begin, mm);
    }
}

int hyp_columns_ranges(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    const size_t rows = job->x.n[0], columns = job->x.n[1], tasks = 4 * api->size(team);
    const size_t parts = smaller(ceil_div(tasks, ceil_div(columns, WIDTH)), ceil_div(rows, TALL));
    columns_run run = columns_open(t, job, ceil_div(rows, parts));
    if (run.down > 1) { /* there are fewer tiles than tasks: at most 256 KiB a thread */
        run.parts = malloc(run.down * 2 * columns * sizeof(float));
        if (!run.parts) return HYP_ERROR_MEMORY;
    }
    const size_t values = smaller(WIDTH, columns) * run.height;
    int status = api->run(team, part_task, &run, run.across * run.down, values < TASK ? TASK / values : 1);
    if (status == HYP_OK) status = run.failed;
    if (status == HYP_OK && run.parts) status = api->run(team, params_task, &run, columns, TASK);
    free(run.parts);
    return status;
}

/* ---- Codes and values ------------------------------------------------------------------------------------------------- */

/* Rows and columns that are loaded at a time. */
static size_t rows_of(const columns_run *run) { return run->turned ? TURNED : 1; }
static size_t columns_of(const columns_run *run) { return run->turned ? ACROSS : CHUNK; }

static int codes_of_chunk(const columns_run *run, size_t o, size_t rows, size_t column, size_t n, const float *inverse, float *x)
{
    const hyp_affine *job = run->job;
    const float *zeros = job->zeros ? job->zeros + column : NULL, *row = x;
    int bad = 0;
    if (run->turned) load_turned(run->kernels, &run->view, o, 0, column, rows, n, x);
    else row = load_run(run->kernels, &run->view, o, 0, column, n, x);
    for (size_t r = 0; r < rows; ++r, row += n + PITCH)
        bad |= run->kernels->codes_each(row, n, job->bits, job->packed, inverse, zeros,
                                        hyp_code_place(job, (o + r) * run->view.n[2] + column));
    return bad;
}

static void codes_task(void *arg, size_t begin, size_t end, size_t worker)
{
    columns_run *run = arg;
    const size_t rows = rows_of(run), columns = columns_of(run);
    float x[TILE], inverse[WIDTH];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const tile at = tile_at(run, run->backwards ? run->across * run->down - 1 - begin : begin);
        int bad = 0;
        run->kernels->inverses(run->job->scales + at.column, at.columns, inverse);
        for (size_t o = at.row; o < at.end; o += rows)
            for (size_t j = 0; j < at.columns; j += columns)
                bad |= codes_of_chunk(run, o, smaller(rows, at.end - o), at.column + j, smaller(columns, at.columns - j), inverse + j, x);
        if (bad) run->failed = HYP_NOT_FINITE;
    }
}

static void values_of_chunk(const columns_run *run, size_t o, size_t rows, size_t column, size_t n, float *x)
{
    const hyp_affine *job = run->job;
    const float *zeros = job->zeros ? job->zeros + column : NULL;
    float *target = run->turned ? x : target_run(&run->view, o, 0, column, x), *row = target;
    for (size_t r = 0; r < rows; ++r, row += n + PITCH)
        run->kernels->values_each(hyp_code_place(job, (o + r) * run->view.n[2] + column), job->packed, n, job->scales + column, zeros, row);
    if (run->turned) store_turned(run->kernels, &run->view, o, 0, column, rows, n, x);
    else store_run(run->kernels, &run->view, o, 0, column, n, target);
}

static void values_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const columns_run *run = arg;
    const size_t rows = rows_of(run), columns = columns_of(run);
    float x[TILE];
    (void)worker;
    for (; begin < end; ++begin) {
        const tile at = tile_at(run, begin);
        for (size_t o = at.row; o < at.end; o += rows)
            for (size_t j = 0; j < at.columns; j += columns)
                values_of_chunk(run, o, smaller(rows, at.end - o), at.column + j, smaller(columns, at.columns - j), x);
    }
}

static int run_tiles(columns_run *run, const hyp_threads_api *api, hyp_team *team, hyp_task_fn task)
{
    const size_t values = smaller(WIDTH, run->view.n[2]) * smaller(run->height, run->view.n[0]);
    const int status = api->run(team, task, run, run->across * run->down, values < TASK ? TASK / values : 1);
    return status ? status : run->failed;
}

int hyp_columns_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job, int backwards)
{
    columns_run run = columns_open(t, job, HEIGHT);
    run.backwards = backwards;
    return run_tiles(&run, api, team, codes_task);
}

int hyp_columns_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    columns_run run = columns_open(t, job, HEIGHT);
    return run_tiles(&run, api, team, values_task);
}
