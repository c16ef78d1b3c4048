/* The driver of matrix products: cuts the work into tasks for a team.
 *
 * Rows are cut by whole panels, tokens by whole groups, and every output is computed by one call of a kernel from first to
 * last K; so neither the number of threads nor the cut can change a bit. */
#include "matmul/linear.h"

/* A task should take long enough to pay for its counter (some 100 ns), and there should be enough of them that a thread
 * whose core is busy elsewhere does not hold up the others at the end. */
#define TASK_WORK ((size_t)32 << 10) /* bytes of weights for one token: about 1 us */
#define TASKS_A_THREAD 8

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

typedef struct {
    const hyp_table *table;
    const hyp_product *products;
    size_t n;
    const uint8_t *act;
    size_t m;
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

/* Items are the panels of all products, one after another. */
static void linear_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const linear_job *job = arg;
    size_t first = 0;
    (void)worker;
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

int hyp_linear(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_product *products, size_t n,
               const void *act, size_t m)
{
    linear_job job = {t, products, n, act, m};
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
    if (!team) {
        linear_task(&job, 0, panels, 0);
        return HYP_OK;
    }
    /* A panel's work: its bytes, times the tokens that do not hide behind reading them. */
    const size_t work = bytes / panels * (1 + m / 4) + 1, tasks = api->size(team) * TASKS_A_THREAD;
    const size_t enough = (TASK_WORK + work - 1) / work, even = (panels + tasks - 1) / tasks;
    const size_t share = (panels + api->size(team) - 1) / api->size(team); /* no cut leaves a thread without work */
    const size_t cut = t->tuning.panels < share ? t->tuning.panels : share, by_size = enough > even ? enough : even;
    const size_t grain = t->tuning.panels ? cut : by_size;
    return api->run(team, linear_task, &job, panels, grain + grain % 2); /* kernels take panels in pairs */
}
