#include "dense/gemm.h"

#include "dense/cut.h"

#define TASKS_A_THREAD 16 /* so that the last one, alone, holds up the others by little */
#define FEW 2                /* tiles across, up to which packing a matrix costs more than it saves */
#define NEAR (1u << 16)      /* values of a matrix that is near enough to be read where it lies */
#define SET 4096             /* bytes after which addresses share a set of the first cache */
#define PACK_VALUES (1u << 14) /* values that a task of packing moves, at least */
#define MOST_WORK (1u << 27)   /* multiplications of a task at most, but for one panel, so that a signal is seen soon */

typedef struct {
    const hyp_table *t;
    const hyp_gemm *g;
    size_t mr, nr;
    size_t rows, depth, super, cols; /* of blocks, rounded to tiles and cut to the matrices */
    size_t ahead;
    float *a, *b;                    /* packed: panels of [depth][mr] and of [depth][nr] */
    size_t a_panel, b_panel;         /* floats from panel to panel */
    int a_lies, b_lies;              /* read where they lie, not packed */
    size_t i0, m, j0, n, p0, k;      /* the block at hand */
    size_t chunk, chunks;            /* panels of b a task, tasks a block of rows */
    int pack_b;
} gemm_job;

/* Whether lines so far apart drive each other out of the first cache. */
static int crowded(ptrdiff_t stride)
{
    const size_t bytes = (size_t)(stride < 0 ? -stride : stride) * sizeof(float);
    return bytes >= SET / 2 && (bytes + SET / 16) % (SET / 2) <= SET / 8;
}

static void plan(gemm_job *job, const hyp_table *t, const hyp_gemm *g, const hyp_blocks *blocks)
{
    const size_t line = blocks->line / sizeof(float);
    job->t = t, job->g = g, job->mr = t->gemm.mr, job->nr = t->gemm.nr;
    job->depth = round_up(parts(g->k, parts(g->k, blocks->depth)), 8); /* even parts */
    if (job->depth > g->k) job->depth = g->k;
    job->rows = round_up(least(g->m, blocks->rows), job->mr);
    job->super = round_up(least(g->m, blocks->super), job->mr);
    job->cols = round_up(least(g->n, blocks->cols), job->nr);
    job->a_panel = round_up(job->depth * job->mr, line);
    job->b_panel = round_up(job->depth * job->nr, line);
    const int a_near = g->a_col == 1 ? !crowded(g->a_row) : g->a_row == 1;
    job->a_lies = a_near && (g->n <= FEW * job->nr || g->m <= NEAR / g->k);
    const int narrow = g->n <= FEW * job->nr && g->b_row >= 0 && (size_t)g->b_row <= FEW * job->nr;
    job->b_lies = g->b_col == 1 && (narrow || g->m <= FEW * job->mr || g->n <= NEAR / g->k);
    job->ahead = job->b_lies ? 0 : blocks->ahead; /* what lies is not read in order */
}

static size_t a_values(const gemm_job *job) { return job->a_lies ? 0 : job->super / job->mr * job->a_panel; }
static size_t b_values(const gemm_job *job) { return job->b_lies ? 0 : job->cols / job->nr * job->b_panel; }

size_t hyp_gemm_buffer(const hyp_table *t, const hyp_gemm *g, const hyp_blocks *blocks)
{
    gemm_job job;
    hyp_gemm row;
    if (hyp_gemm_as_row(g, &row)) return 0;
    plan(&job, t, g, blocks);
    return sizeof(float) * (a_values(&job) + b_values(&job));
}

/* ---- Packing ------------------------------------------------------------------------------------------------------- */

/* to[p * width + i] = from[i * across + p * along] for i < count, p < k: along the contiguous side, so that reads are. */
static void pack_panel(const gemm_job *job, const float *HYP_RESTRICT from, ptrdiff_t across, ptrdiff_t along, size_t count,
                       size_t width, float *HYP_RESTRICT to)
{
    if (across == 1) {
        for (size_t p = 0; p < job->k; p++, to += width, from += along) {
            size_t i = 0;
            for (; i + 8 <= count; i += 8) memcpy(to + i, from + i, 8 * sizeof(float)); /* no call */
            for (; i < count; i++) to[i] = from[i];
        }
    } else if (along == 1) {
        job->t->gemm.pack(from, across, count, job->k, width, to);
    } else {
        for (size_t i = 0; i < count; i++)
            for (size_t p = 0; p < job->k; p++) to[p * width + i] = from[(ptrdiff_t)i * across + (ptrdiff_t)p * along];
    }
}

static void pack_a(const gemm_job *job, size_t panel)
{
    const hyp_gemm *g = job->g;
    const size_t row = panel * job->mr;
    const float *from = g->a + (ptrdiff_t)(job->i0 + row) * g->a_row + (ptrdiff_t)job->p0 * g->a_col;
    pack_panel(job, from, g->a_row, g->a_col, least(job->mr, job->m - row), job->mr, job->a + panel * job->a_panel);
}

static void pack_b(const gemm_job *job, size_t panel)
{
    const hyp_gemm *g = job->g;
    const size_t col = panel * job->nr;
    const float *from = g->b + (ptrdiff_t)job->p0 * g->b_row + (ptrdiff_t)(job->j0 + col) * g->b_col;
    pack_panel(job, from, g->b_col, g->b_row, least(job->nr, job->n - col), job->nr, job->b + panel * job->b_panel);
}

static void pack_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const gemm_job *job = arg;
    const size_t panels = job->a_lies ? 0 : parts(job->m, job->mr);
    (void)worker;
    for (size_t i = begin; i < end; i++) {
        if (i < panels) pack_a(job, i);
        else pack_b(job, i - panels);
    }
}

/* ---- Multiplying --------------------------------------------------------------------------------------------------- */

/* One panel of b times a block of rows: the panel stays in the first cache. */
static void multiply_panel(const gemm_job *job, size_t panel, size_t first_row, size_t last_row)
{
    const hyp_gemm *g = job->g;
    const size_t col = panel * job->nr, cols = least(job->nr, job->n - col);
    hyp_tile tile = {.k = job->k, .c_row = g->c_row, .first = job->p0 == 0, .ahead = job->ahead};
    tile.b = job->b_lies ? g->b + (ptrdiff_t)job->p0 * g->b_row + (ptrdiff_t)(job->j0 + col) : job->b + panel * job->b_panel;
    tile.b_row = job->b_lies ? g->b_row : (ptrdiff_t)job->nr;
    tile.a_row = job->a_lies ? g->a_row : 1, tile.a_col = job->a_lies ? g->a_col : (ptrdiff_t)job->mr;
    for (size_t row = first_row; row < last_row; row += job->mr) {
        tile.a = job->a_lies ? g->a + (ptrdiff_t)(job->i0 + row) * g->a_row + (ptrdiff_t)job->p0 * g->a_col
                             : job->a + row / job->mr * job->a_panel;
        tile.c = g->c + (ptrdiff_t)(job->i0 + row) * g->c_row + (ptrdiff_t)(job->j0 + col);
        job->t->gemm.tile(least(job->mr, last_row - row), cols, &tile);
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
    const size_t packed = (job->a_lies ? 0 : a_panels) + (job->pack_b ? b_panels : 0);
    const int status = packed ? api->run(team, pack_task, job, packed, PACK_VALUES / (job->k * job->mr) + 1) : HYP_OK;
    if (status != HYP_OK) return status;
    job->chunks = threads == 1 ? 1 : least(b_panels, parts(threads * TASKS_A_THREAD, blocks));
    job->chunk = least(parts(b_panels, job->chunks), MOST_WORK / (job->rows * job->nr * job->k) + 1);
    job->chunks = parts(b_panels, job->chunk);
    return api->run(team, multiply_task, job, blocks * job->chunks, 1);
}

int hyp_gemm_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_gemm *g, const hyp_blocks *blocks,
                 void *buffer)
{
    gemm_job job;
    hyp_gemm row;
    if (hyp_gemm_as_row(g, &row)) return hyp_gemm_row_run(t, api, team, &row, blocks);
    plan(&job, t, g, blocks);
    job.a = buffer, job.b = job.b_lies ? NULL : job.a + a_values(&job);
    for (job.j0 = 0; job.j0 < g->n; job.j0 += job.cols) {
        job.n = least(job.cols, g->n - job.j0);
        for (job.p0 = 0; job.p0 < g->k; job.p0 += job.depth) {
            job.k = least(job.depth, g->k - job.p0);
            for (job.i0 = 0; job.i0 < g->m; job.i0 += job.super) {
                job.m = least(job.super, g->m - job.i0);
                job.pack_b = job.i0 == 0 && !job.b_lies;
                const int status = run_block(&job, api, team);
                if (status != HYP_OK) return status;
            }
        }
    }
    return HYP_OK;
}
