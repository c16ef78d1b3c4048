#include "quantize/columns.h"

#include <float.h>
#include <stdlib.h>

#include "quantize/arrays.h"

/* Tiles of rows and columns. A tile's inverses are found once; they and the zeros stay in the first-level cache. */
enum {
    WIDTH = 1024,
    HEIGHT = 32,
    NARROW = 64,   /* columns of a task at least, whose ranges are found together: four cache lines of a row */
    TALL = 256     /* rows of a task at least */
};

typedef struct {
    const hyp_quantize_kernels *kernels;
    const hyp_affine *job;
    hyp_array view;
    size_t width, across, height, down; /* of a tile, and tiles of a row and of a column */
    float *parts; /* least and greatest of each part of the rows: [down][2][columns]; NULL where there is one part */
    int backwards;
    volatile int failed;
} columns_run;

typedef struct {
    size_t row, end, column, columns;
} tile;

static columns_run columns_open(const hyp_table *t, const hyp_affine *job, size_t width, size_t height)
{
    columns_run run;
    run.kernels = &t->quantize, run.job = job, run.view = each_view(&job->x);
    run.width = width, run.across = ceil_div(run.view.n[2], width);
    run.height = height, run.down = ceil_div(run.view.n[0], height);
    run.parts = NULL, run.backwards = 0, run.failed = HYP_OK;
    return run;
}

static tile tile_at(const columns_run *run, size_t item)
{
    tile at;
    at.row = item / run->across * run->height;
    at.end = smaller(at.row + run->height, run->view.n[0]);
    at.column = item % run->across * run->width;
    at.columns = smaller(run->width, run->view.n[2] - at.column);
    return at;
}

/* A tile's rows are too short for the processor to see that they will be read: ask for the part of a row some rows ahead. */
static void fetch_row(const columns_run *run, const tile *at, size_t o)
{
    enum { ROWS_AHEAD = 2, LINE = 64 };
#if defined(__GNUC__)
    if (o + ROWS_AHEAD >= at->end || run->view.stride[2] != (ptrdiff_t)item_bytes(run->view.kind)) return;
    const char *p = place(&run->view, o + ROWS_AHEAD, 0, at->column);
    for (size_t i = 0; i < at->columns * item_bytes(run->view.kind); i += LINE) __builtin_prefetch(p + i);
#else
    (void)run, (void)at, (void)o;
#endif
}

/* ---- Ranges ----------------------------------------------------------------------------------------------------------- */

static void keep_params(const columns_run *run, size_t column, const float mm[2])
{
    const hyp_affine *job = run->job;
    float zero;
    run->kernels->range(mm, job->bits, !job->zeros, job->scales + column, &zero);
    if (job->zeros) job->zeros[column] = zero;
}

static void part_task(void *arg, size_t begin, size_t end, size_t worker)
{
    columns_run *run = arg;
    const size_t all = run->view.n[2];
    float x[WIDTH], own[2][WIDTH];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const tile at = tile_at(run, begin);
        float *least = run->parts ? run->parts + begin / run->across * 2 * all + at.column : own[0];
        float *greatest = run->parts ? least + all : own[1];
        int bad = 0;
        for (size_t j = 0; j < at.columns; ++j) least[j] = FLT_MAX, greatest[j] = -FLT_MAX;
        for (size_t o = at.row; o < at.end; ++o) {
            fetch_row(run, &at, o);
            const float *row = load_run(run->kernels, &run->view, o, 0, at.column, at.columns, x);
            bad |= run->kernels->extremes_each(row, at.columns, least, greatest);
        }
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
    const size_t share = ceil_div(ceil_div(columns, tasks), NARROW) * NARROW, width = smaller(WIDTH, share);
    const size_t parts = smaller(ceil_div(tasks, ceil_div(columns, width)), ceil_div(rows, TALL));
    columns_run run = columns_open(t, job, width, ceil_div(rows, parts));
    if (run.down > 1) { /* few columns: at most 64 KiB a thread */
        run.parts = malloc(run.down * 2 * columns * sizeof(float));
        if (!run.parts) return HYP_ERROR_MEMORY;
    }
    const size_t values = run.width * run.height;
    int status = api->run(team, part_task, &run, run.across * run.down, values < TASK ? TASK / values : 1);
    if (status == HYP_OK) status = run.failed;
    if (status == HYP_OK && run.parts) status = api->run(team, params_task, &run, columns, TASK);
    free(run.parts);
    return status;
}

/* ---- Codes and values ------------------------------------------------------------------------------------------------- */

static void codes_task(void *arg, size_t begin, size_t end, size_t worker)
{
    columns_run *run = arg;
    const hyp_affine *job = run->job;
    float x[WIDTH], inverse[WIDTH];
    (void)worker;
    for (; begin < end && !run->failed; ++begin) {
        const tile at = tile_at(run, run->backwards ? run->across * run->down - 1 - begin : begin);
        const float *zeros = job->zeros ? job->zeros + at.column : NULL;
        int bad = 0;
        run->kernels->inverses(job->scales + at.column, at.columns, inverse);
        for (size_t o = at.row; o < at.end; ++o) {
            fetch_row(run, &at, o);
            const float *row = load_run(run->kernels, &run->view, o, 0, at.column, at.columns, x);
            uint8_t *q = hyp_code_place(job, o * run->view.n[2] + at.column);
            bad |= run->kernels->codes_each(row, at.columns, job->bits, job->packed, inverse, zeros, q);
        }
        if (bad) run->failed = HYP_NOT_FINITE;
    }
}

static void values_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const columns_run *run = arg;
    const hyp_affine *job = run->job;
    float buffer[WIDTH];
    int8_t codes[WIDTH];
    (void)worker;
    for (; begin < end; ++begin) {
        const tile at = tile_at(run, begin);
        const float *scales = job->scales + at.column, *zeros = job->zeros ? job->zeros + at.column : NULL;
        for (size_t o = at.row; o < at.end; ++o) {
            const int8_t *q = (const int8_t *)hyp_code_place(job, o * run->view.n[2] + at.column);
            if (job->packed) {
                run->kernels->unpack4((const uint8_t *)q, at.columns, codes);
                q = codes;
            }
            float *x = target_run(&run->view, o, 0, at.column, buffer);
            run->kernels->values_each(q, at.columns, scales, zeros, x);
            store_run(run->kernels, &run->view, o, 0, at.column, at.columns, x);
        }
    }
}

static int run_tiles(columns_run *run, const hyp_threads_api *api, hyp_team *team, hyp_task_fn task)
{
    const size_t values = smaller(run->width, run->view.n[2]) * smaller(run->height, run->view.n[0]);
    const int status = api->run(team, task, run, run->across * run->down, values < TASK ? TASK / values : 1);
    return status ? status : run->failed;
}

int hyp_columns_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job, int backwards)
{
    columns_run run = columns_open(t, job, WIDTH, HEIGHT);
    run.backwards = backwards;
    return run_tiles(&run, api, team, codes_task);
}

int hyp_columns_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
{
    columns_run run = columns_open(t, job, WIDTH, HEIGHT);
    return run_tiles(&run, api, team, values_task);
}
