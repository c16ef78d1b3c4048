/* Products of one row or one column: bound by reading the matrix once, which is not packed. */
#include "dense/gemm.h"

#include "dense/cut.h"

#define DEPTH 64                 /* rows of b whose pages are in use at a time */
#define TASKS_A_THREAD 8
#define ROW_TASKS_A_THREAD 2     /* where rows of b are read: the longer a part of them, the sooner memory gives it */
#define LEAST_COLS 256           /* of such a task */
#define MOST_COLS 4096           /* and at most, so that their results stay in the first cache */
#define UNIT 32                  /* columns of a task are a multiple of it */
#define NEAR (1u << 18)          /* values of b that may still stand in the second cache: none are asked for */
#define LEAST_VALUES (1u << 14)  /* of b, that a task reads at least */
#define MOST_VALUES (1u << 27)   /* and at most, but for a unit, so that a signal is seen soon */

int hyp_gemm_as_row(const hyp_gemm *g, hyp_gemm *row)
{
    *row = *g;
    if (g->m > 1) {
        if (g->n > 1 || g->c_row != 1) return 0;
        row->m = 1, row->n = g->m;
        row->a = g->b, row->a_col = g->b_row;
        row->b = g->a, row->b_row = g->a_col, row->b_col = g->a_row;
    }
    if (row->n == 1) row->b_col = 1;
    return row->b_col == 1 || row->b_row == 1;
}

typedef struct {
    const hyp_table *t;
    const hyp_gemm *g;
    size_t cols, depth;
    size_t ahead;
} row_job;

static void row_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const row_job *job = arg;
    const hyp_gemm *g = job->g;
    (void)worker;
    for (size_t item = begin; item < end; item++) {
        const size_t col = item * job->cols, cols = least(g->n - col, job->cols);
        for (size_t p = 0; p < g->k; p += job->depth) {
            const hyp_tile tile = {
                .k = least(g->k - p, job->depth),
                .a = g->a + (ptrdiff_t)p * g->a_col, .a_col = g->a_col,
                .b = g->b + (ptrdiff_t)p * g->b_row + (ptrdiff_t)col * g->b_col, .b_row = g->b_col == 1 ? g->b_row : g->b_col,
                .c = g->c + col, .first = p == 0, .ahead = job->ahead,
            };
            if (g->b_col == 1) job->t->gemm.row(cols, &tile);
            else job->t->gemm.dots(cols, &tile);
        }
    }
}

int hyp_gemm_row_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_gemm *row, const hyp_blocks *blocks)
{
    const size_t threads = api->size(team);
    row_job job = {.t = t, .g = row, .depth = blocks->depth, .ahead = row->n > NEAR / row->k ? blocks->ahead : 0};
    job.cols = threads == 1 ? row->n : row->n / (threads * (row->b_col == 1 ? ROW_TASKS_A_THREAD : TASKS_A_THREAD));
    if (row->b_col == 1) {
        if (job.cols < LEAST_COLS) job.cols = LEAST_COLS;
        job.cols = least(job.cols, MOST_COLS), job.depth = least(job.depth, DEPTH);
    }
    if (job.cols < LEAST_VALUES / row->k + 1) job.cols = LEAST_VALUES / row->k + 1;
    job.cols = round_up(least(job.cols, MOST_VALUES / row->k + 1), UNIT);
    return api->run(team, row_task, &job, parts(row->n, job.cols), 1);
}
