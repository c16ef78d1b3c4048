/* The driver of matrix products: cuts the work into tasks for a team.
 *
 * Rows are cut by whole panels, tokens by whole groups, and every output is computed by one call of a kernel from first to
 * last K; so neither the number of threads nor the cut can change a bit. */
#include "matmul/linear.h"
#include "threads/os.h"

/* A task should take long enough to pay for its counter (some 100 ns), and there should be enough of them that a thread
 * whose core is busy elsewhere does not hold up the others at the end. */
#define TASK_WORK ((size_t)32 << 10) /* bytes of weights for one token: about 1 us */
#define TASKS_A_THREAD 8
#define MOST_SHARES 64

size_t hyp_act_bytes(int is_float, size_t m, size_t k)
{
    const size_t tile = hyp_act_tile(m), groups = (m + tile - 1) / tile;
    /* k need not be a multiple of 32 for float weights; the quantized form then does not exist */
    const size_t as_float = groups * hyp_act_group_bytes(1, tile, k), as_codes = groups * hyp_act_group_bytes(0, tile, k);
    if (is_float < 0) return as_float > as_codes ? as_float : as_codes;
    return is_float ? as_float : as_codes;
}

/* Into how many parts the tokens can be cut: one a group of 16, but a last token alone goes with the group before it, as a
 * kernel called for one token expects the layout of m = 1. */
static size_t slab_count(size_t m)
{
    const size_t groups = (m + HYP_ACT_TILE - 1) / HYP_ACT_TILE;
    return m > HYP_ACT_TILE && m % HYP_ACT_TILE == 1 ? groups - 1 : groups;
}

/* Tokens in parts begin .. end-1. */
static size_t slab_tokens(size_t m, size_t begin, size_t end)
{
    const size_t last = slab_count(m), from = begin * HYP_ACT_TILE, to = end == last ? m : end * HYP_ACT_TILE;
    return to - from;
}

/* ---- Packing activations ------------------------------------------------------------------------------------------- */

typedef struct {
    hyp_act_fn pack;
    const float *x;
    size_t ldx, m, k, group_bytes;
    uint8_t *act;
} pack_job;

static void pack_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const pack_job *job = arg;
    (void)worker;
    job->pack(job->x + begin * HYP_ACT_TILE * job->ldx, job->ldx, slab_tokens(job->m, begin, end), job->k,
              job->act + begin * job->group_bytes);
}

int hyp_act_pack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const float *x, size_t ldx,
                 size_t m, size_t k, void *act)
{
    const int kind = hyp_act_kind(type), is_float = kind == HYP_ACT_FLOAT;
    const hyp_act_fn pack = t->act[kind];
    if (!pack || k % (is_float ? 1 : kind == HYP_ACT_BY_32 ? HYP_BLOCK : HYP_SPAN) != 0) return HYP_ERROR_ARGUMENT;
    if (m == 0) return HYP_OK;
    if (m <= HYP_ACT_TILE || !team) {
        pack(x, ldx, m, k, act);
        return HYP_OK;
    }
    pack_job job = {pack, x, ldx, m, k, hyp_act_group_bytes(is_float, HYP_ACT_TILE, k), act};
    const size_t slabs = slab_count(m), threads = api->size(team);
    const size_t grain = slabs / (threads * 2) + 1;
    return api->run(team, pack_task, &job, slabs, grain);
}

/* ---- Products ------------------------------------------------------------------------------------------------------ */

/* Tasks that one thread begins with, one after another: where a core goes on in memory, its prefetchers do too. Beginning at
 * another place costs about a microsecond: 10% where two threads take 256 KiB in turn (Zen 4). */
typedef struct {
    HYP_ALIGN64 hyp_word taken;
} linear_share;

typedef struct {
    const hyp_table *table;
    const hyp_product *products;
    size_t n;
    const uint8_t *act;
    size_t m;
    size_t panels, grain, tasks, shares;
    linear_share share[MOST_SHARES];
} linear_job;

static size_t panels_of(const hyp_weight *w)
{
    return (w->rows + HYP_PANEL - 1) / HYP_PANEL;
}

/* Panels [begin, end) of one product, all tokens. */
static void multiply(const linear_job *job, const hyp_product *p, size_t begin, size_t end)
{
    const hyp_weight *w = p->weight;
    const size_t row = begin * HYP_PANEL, rows = (end * HYP_PANEL < w->rows ? end * HYP_PANEL : w->rows) - row;
    const uint8_t *panels = w->panels + hyp_weight_bytes(w, 0, begin);
    if (w->offsets)
        job->table->mul_sparse[w->type](panels, w->offsets + begin, rows, w->cols, job->act, job->m, p->out + row, p->ldo);
    else
        job->table->mul[w->type](panels, rows, w->cols, job->act, job->m, p->out + row, p->ldo);
}

/* Ask for what follows panels [.., end): the thread that takes it finds its beginning in the shared cache. */
static void prefetch_after(const linear_job *job, const hyp_product *p, size_t end)
{
    const hyp_tuning *tuning = &job->table->tuning;
#if defined(__GNUC__)
    const uint8_t *next = p->weight->panels + hyp_weight_bytes(p->weight, 0, end);
    for (size_t i = 0; i < tuning->ahead; i += tuning->line) __builtin_prefetch(next + i, 0, 2);
#else
    (void)tuning, (void)p, (void)end;
#endif
}

/* Panels [begin, end) of all products, one after another. */
static void multiply_all(const linear_job *job, size_t begin, size_t end)
{
    size_t first = 0;
    for (size_t i = 0; i < job->n && first < end; ++i) {
        const size_t panels = panels_of(job->products[i].weight);
        const size_t from = begin > first ? begin - first : 0, to = end - first < panels ? end - first : panels;
        if (from < to) {
            if (to < panels) prefetch_after(job, &job->products[i], to);
            multiply(job, &job->products[i], from, to);
        }
        first += panels;
    }
}

/* The next task of this worker's share or, when that is done, of another's. */
static size_t take_task(linear_job *job, size_t worker)
{
    for (size_t i = 0; i < job->shares; i++) {
        const size_t s = (worker + i) % job->shares;
        const size_t begin = job->tasks * s / job->shares, count = job->tasks * (s + 1) / job->shares - begin;
        if (hyp_peek(&job->share[s].taken) >= count) continue;
        const size_t taken = hyp_add(&job->share[s].taken, 1);
        if (taken < count) return begin + taken;
    }
    return job->tasks;
}

/* As many tasks as items: which ones is a matter of the worker. */
static void linear_task(void *arg, size_t begin, size_t end, size_t worker)
{
    linear_job *job = arg;
    for (size_t i = begin; i < end; i++) {
        const size_t first = take_task(job, worker) * job->grain, rest = job->panels - first;
        multiply_all(job, first, first + (rest < job->grain ? rest : job->grain));
    }
}

int hyp_linear(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_product *products, size_t n,
               const void *act, size_t m)
{
    size_t panels = 0, bytes = 0;
    for (size_t i = 0; i < n; ++i) {
        const hyp_weight *w = products[i].weight;
        const size_t block = hyp_block_len(w->type);
        if (block == 0 || !(w->offsets ? t->mul_sparse[w->type] != NULL : t->mul[w->type] != NULL) || w->cols % block != 0 || w->cols != products[0].weight->cols ||
            hyp_act_kind(w->type) != hyp_act_kind(products[0].weight->type))
            return HYP_ERROR_ARGUMENT;
        panels += panels_of(w);
        bytes += hyp_weight_bytes(w, 0, panels_of(w));
    }
    if (panels == 0 || m == 0) return HYP_OK;
    linear_job job;
    job.table = t;
    job.products = products;
    job.n = n;
    job.act = act;
    job.m = m;
    if (!team) {
        multiply_all(&job, 0, panels);
        return HYP_OK;
    }
    /* A panel's work: its bytes, times the tokens that do not hide behind reading them. */
    const size_t work = bytes / panels * (1 + m / 4) + 1, tasks = api->size(team) * TASKS_A_THREAD;
    const size_t enough = (TASK_WORK + work - 1) / work, even = (panels + tasks - 1) / tasks;
    const size_t share = (panels + api->size(team) - 1) / api->size(team); /* no cut leaves a thread without work */
    const size_t cut = t->tuning.panels < share ? t->tuning.panels : share, by_size = enough > even ? enough : even;
    const size_t grain = t->tuning.panels ? cut : by_size;
    job.panels = panels;
    job.grain = grain + grain % 2; /* kernels take panels in pairs */
    job.tasks = (panels + job.grain - 1) / job.grain;
    job.shares = api->size(team) < MOST_SHARES ? api->size(team) : MOST_SHARES;
    for (size_t i = 0; i < job.shares; i++) hyp_put(&job.share[i].taken, 0); /* before the team's own beginning */
    return api->run(team, linear_task, &job, job.tasks, 1);
}
