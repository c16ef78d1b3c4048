#include "dense/gemm.h"

#define TASKS_A_THREAD 16 /* so that the last one, alone, holds up the others by little */
#define FEW_ROWS 2           /* tiles of rows up to which packing b costs more than it saves */
#define PACK_VALUES (1u << 14) /* values that a task of packing moves, at least */

typedef struct {
    const hyp_table *t;
    const hyp_gemm *g;
    size_t mr, nr;
    size_t rows, depth, super, cols; /* of blocks, rounded to tiles and cut to the matrices */
    size_t ahead;
    float *a, *b;                    /* packed: panels of [depth][mr] and of [depth][nr] */
    size_t a_panel, b_panel;         /* floats from panel to panel */
    int direct;                      /* whole panels of b are read where they lie */
    size_t i0, m, j0, n, p0, k;      /* the block at hand */
    size_t chunk, chunks;            /* panels of b a task, tasks a block of rows */
    int pack_b;
} gemm_job;

static size_t least(size_t a, size_t b) { return a < b ? a : b; }
static size_t parts(size_t n, size_t size) { return (n + size - 1) / size; }
static size_t round_up(size_t n, size_t to) { return parts(n, to) * to; }

static void plan(gemm_job *job, const hyp_table *t, size_t m, size_t n, size_t k, const hyp_blocks *blocks)
{
    const size_t line = blocks->line / sizeof(float);
    job->t = t, job->mr = t->gemm.mr, job->nr = t->gemm.nr;
    job->depth = round_up(parts(k, parts(k, blocks->depth)), 8); /* even parts */
    if (job->depth > k) job->depth = k;
    job->rows = round_up(least(m, blocks->rows), job->mr);
    job->super = round_up(least(m, blocks->super), job->mr);
    job->cols = round_up(least(n, blocks->cols), job->nr);
    job->ahead = blocks->ahead;
    job->a_panel = round_up(job->depth * job->mr, line);
    job->b_panel = round_up(job->depth * job->nr, line);
}

static int reads_b_directly(const gemm_job *job, size_t m, ptrdiff_t b_col)
{
    return b_col == 1 && m <= FEW_ROWS * job->mr;
}

size_t hyp_gemm_buffer(const hyp_table *t, size_t m, size_t n, size_t k, const hyp_blocks *blocks)
{
    gemm_job job;
    plan(&job, t, m, n, k, blocks);
    return sizeof(float) * (job.super / job.mr * job.a_panel + job.cols / job.nr * job.b_panel);
}

/* ---- Packing ------------------------------------------------------------------------------------------------------- */

/* Four rows to four columns: 16 bytes of each row are read, and 16 of each column written, at a time. */
static void pack_4(const float *HYP_RESTRICT from, ptrdiff_t across, size_t k, size_t width, float *HYP_RESTRICT to)
{
    size_t p = 0;
    for (; p + 4 <= k; p += 4, from += 4, to += 4 * width) {
        float tile[4][4];
        for (int i = 0; i < 4; i++) memcpy(tile[i], from + i * across, sizeof tile[i]);
        for (int q = 0; q < 4; q++) {
            const float column[4] = {tile[0][q], tile[1][q], tile[2][q], tile[3][q]};
            memcpy(to + (size_t)q * width, column, sizeof column);
        }
    }
    for (; p < k; p++, from++, to += width)
        for (int i = 0; i < 4; i++) to[i] = from[i * across];
}

/* to[p * width + i] = from[i * across + p * along] for i < count, p < k: along the contiguous side, so that reads are. */
static void pack_panel(const float *HYP_RESTRICT from, ptrdiff_t across, ptrdiff_t along, size_t count, size_t k, size_t width,
                       float *HYP_RESTRICT to)
{
    if (across == 1) {
        for (size_t p = 0; p < k; p++, to += width, from += along) {
            size_t i = 0;
            for (; i + 8 <= count; i += 8) memcpy(to + i, from + i, 8 * sizeof(float)); /* no call */
            for (; i < count; i++) to[i] = from[i];
        }
        return;
    }
    size_t i = 0;
    for (; along == 1 && i + 4 <= count; i += 4) pack_4(from + (ptrdiff_t)i * across, across, k, width, to + i);
    for (; i < count; i++) {
        const float *row = from + (ptrdiff_t)i * across;
        for (size_t p = 0; p < k; p++) to[p * width + i] = row[(ptrdiff_t)p * along];
    }
}

static void pack_a(const gemm_job *job, size_t panel)
{
    const hyp_gemm *g = job->g;
    const size_t row = panel * job->mr;
    const float *from = g->a + (ptrdiff_t)(job->i0 + row) * g->a_row + (ptrdiff_t)job->p0 * g->a_col;
    pack_panel(from, g->a_row, g->a_col, least(job->mr, job->m - row), job->k, job->mr, job->a + panel * job->a_panel);
}

static void pack_b(const gemm_job *job, size_t panel)
{
    const hyp_gemm *g = job->g;
    const size_t col = panel * job->nr, count = least(job->nr, job->n - col);
    float *to = job->b + panel * job->b_panel;
    if (count < job->nr) memset(to, 0, job->k * job->nr * sizeof(float)); /* tiles read whole rows of a panel */
    else if (job->direct) return;
    pack_panel(g->b + (ptrdiff_t)job->p0 * g->b_row + (ptrdiff_t)(job->j0 + col) * g->b_col, g->b_col, g->b_row, count, job->k,
               job->nr, to);
}

static void pack_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const gemm_job *job = arg;
    const size_t panels = parts(job->m, job->mr);
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        if (i < panels) pack_a(job, i);
        else pack_b(job, i - panels);
    }
}

/* ---- Multiplying --------------------------------------------------------------------------------------------------- */

/* The last panel of columns, through a tile of its own. */
static void edge_tile(const gemm_job *job, size_t rows, size_t cols, const float *a, const float *b, float *c)
{
    HYP_ALIGN64 float tile[HYP_GEMM_TILE];
    const int first = job->p0 == 0;
    for (size_t i = 0; i < rows && !first; i++) {
        memcpy(tile + i * job->nr, c + (ptrdiff_t)i * job->g->c_row, cols * sizeof(float));
        memset(tile + i * job->nr + cols, 0, (job->nr - cols) * sizeof(float));
    }
    job->t->gemm.tile(rows, job->k, a, b, job->nr, tile, (ptrdiff_t)job->nr, first, job->ahead);
    for (size_t i = 0; i < rows; i++) memcpy(c + (ptrdiff_t)i * job->g->c_row, tile + i * job->nr, cols * sizeof(float));
}

/* One panel of b times a block of rows: the panel stays in the first cache. */
static void multiply_panel(const gemm_job *job, size_t panel, size_t first_row, size_t last_row)
{
    const hyp_gemm *g = job->g;
    const size_t col = panel * job->nr, cols = least(job->nr, job->n - col);
    const int direct = job->direct && cols == job->nr;
    const float *b = direct ? g->b + (ptrdiff_t)job->p0 * g->b_row + (ptrdiff_t)(job->j0 + col) : job->b + panel * job->b_panel;
    const ptrdiff_t ldb = direct ? g->b_row : (ptrdiff_t)job->nr;
    for (size_t row = first_row; row < last_row; row += job->mr) {
        const size_t rows = least(job->mr, last_row - row);
        const float *a = job->a + row / job->mr * job->a_panel;
        float *c = g->c + (ptrdiff_t)(job->i0 + row) * g->c_row + (ptrdiff_t)(job->j0 + col);
        if (cols < job->nr) edge_tile(job, rows, cols, a, b, c);
        else job->t->gemm.tile(rows, job->k, a, b, ldb, c, g->c_row, job->p0 == 0, job->ahead);
    }
}

static void multiply_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const gemm_job *job = arg;
    const size_t panels = parts(job->n, job->nr);
    (void)worker;
    for (size_t item = begin; item < end; item++) {
        const size_t row = item / job->chunks * job->rows, panel = item % job->chunks * job->chunk;
        const size_t last_row = least(row + job->rows, job->m), last = least(panel + job->chunk, panels);
        for (size_t j = panel; j < last; j++) multiply_panel(job, j, row, last_row);
    }
}

static int run_block(gemm_job *job, const hyp_threads_api *api, hyp_team *team)
{
    const size_t a_panels = parts(job->m, job->mr), b_panels = parts(job->n, job->nr);
    const size_t threads = api->size(team), blocks = parts(job->m, job->rows);
    const size_t grain = PACK_VALUES / (job->k * job->mr) + 1;
    const int status = api->run(team, pack_task, job, a_panels + (job->pack_b ? b_panels : 0), grain);
    if (status != HYP_OK) return status;
    job->chunks = threads == 1 ? 1 : least(b_panels, parts(threads * TASKS_A_THREAD, blocks));
    job->chunk = parts(b_panels, job->chunks);
    job->chunks = parts(b_panels, job->chunk);
    return api->run(team, multiply_task, job, blocks * job->chunks, 1);
}

int hyp_gemm_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_gemm *g, const hyp_blocks *blocks,
                 void *buffer)
{
    gemm_job job;
    plan(&job, t, g->m, g->n, g->k, blocks);
    job.g = g;
    job.direct = reads_b_directly(&job, g->m, g->b_col);
    job.a = buffer, job.b = job.a + job.super / job.mr * job.a_panel;
    for (job.j0 = 0; job.j0 < g->n; job.j0 += job.cols) {
        job.n = least(job.cols, g->n - job.j0);
        for (job.p0 = 0; job.p0 < g->k; job.p0 += job.depth) {
            job.k = least(job.depth, g->k - job.p0);
            for (job.i0 = 0; job.i0 < g->m; job.i0 += job.super) {
                job.m = least(job.super, g->m - job.i0);
                job.pack_b = job.i0 == 0;
                const int status = run_block(&job, api, team);
                if (status != HYP_OK) return status;
            }
        }
    }
    return HYP_OK;
}
