#include "dense/heads.h"

#include "dense/cut.h"

#define LINE 64
#define CACHES (16u << 20) /* bytes of caches that stand together, unless one takes more */
#define TASKS_A_THREAD 4
#define FEWEST 16 /* queries a task: fewer would expand a tile of the cache for too little work */

typedef struct {
    const hyp_table *t;
    const hyp_heads *job;
    size_t k_bytes, cache_bytes, scratch_bytes;
    size_t first, count;  /* KV heads at hand */
    size_t run, runs;     /* queries a task, tasks a KV head */
    size_t tiles;         /* of positions that are stored together */
    char *caches, *scratch;
} heads_job;

static size_t lines(size_t bytes) { return round_up(bytes, LINE); }

static void plan(heads_job *work, const hyp_heads *job, size_t threads)
{
    const size_t rows = job->group * job->queries;
    work->job = job;
    work->k_bytes = lines(hyp_k_bytes(job->kv, job->head_dim, job->positions));
    work->cache_bytes = work->k_bytes + lines(hyp_v_bytes(job->kv, job->head_dim, job->positions));
    work->scratch_bytes = lines(hyp_attn_scratch(HYP_ATTN_CHUNK, job->head_dim) * sizeof(float));
    work->count = least(job->heads, work->cache_bytes < CACHES ? CACHES / work->cache_bytes : 1);
    work->run = HYP_ATTN_CHUNK;
    while (work->run > FEWEST && work->count * parts(rows, work->run) < threads * TASKS_A_THREAD) work->run /= 2;
    work->runs = parts(rows, work->run);
    work->tiles = parts(job->positions, HYP_ATTN_TILE);
}

size_t hyp_heads_buffer(const hyp_heads *job, size_t threads)
{
    heads_job work;
    /* 8 bytes a value is more than any cache takes; heads and rows are those of arrays that exist */
    if (job->positions > (SIZE_MAX / 64 - 4096) / job->head_dim) return SIZE_MAX;
    plan(&work, job, threads);
    return work.count * work.cache_bytes + threads * work.scratch_bytes + LINE;
}

static void store_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const heads_job *work = arg;
    const hyp_heads *job = work->job;
    (void)worker;
    for (size_t item = begin; item < end; item++) {
        const size_t head = item / work->tiles, first = item % work->tiles * HYP_ATTN_TILE;
        const int64_t *place = job->places + 4 * (work->first + head);
        char *const keys = work->caches + head * work->cache_bytes, *const values = keys + work->k_bytes;
        for (size_t p = first; p < least(first + HYP_ATTN_TILE, job->positions); p++) {
            const char *k = job->k + place[1] + (ptrdiff_t)p * job->k_row, *v = job->v + place[2] + (ptrdiff_t)p * job->v_row;
            work->t->kv_store[job->kv](keys, values, job->head_dim, p, (const float *)(const void *)k, (const float *)(const void *)v);
        }
    }
}

static void attend_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const heads_job *work = arg;
    const hyp_heads *job = work->job;
    const size_t rows = job->group * job->queries;
    for (size_t item = begin; item < end; item++) {
        /* the last queries, which see most, come first */
        const size_t head = item % work->count, first = (work->runs - 1 - item / work->count) * work->run;
        const size_t n = least(work->run, rows - first);
        const int64_t *place = job->places + 4 * (work->first + head);
        const float *q[HYP_ATTN_CHUNK];
        float *out[HYP_ATTN_CHUNK];
        size_t seen[HYP_ATTN_CHUNK];
        for (size_t i = 0; i < n; i++) {
            const size_t g = (first + i) / job->queries, r = (first + i) % job->queries;
            q[i] = (const float *)(const void *)(job->q + place[0] + (ptrdiff_t)g * job->q_head + (ptrdiff_t)r * job->q_row);
            out[i] = (float *)(void *)(job->out + place[3] + (ptrdiff_t)g * job->out_head + (ptrdiff_t)r * job->out_row);
            seen[i] = job->causal ? job->positions - job->queries + r + 1 : job->positions;
        }
        const char *const keys = work->caches + head * work->cache_bytes;
        const hyp_attn_args args = {
            .k = keys, .v = keys + work->k_bytes, .head_dim = job->head_dim, .nq = n, .scale = job->scale,
            .q = q, .out = out, .len = seen, .scratch = (float *)(void *)(work->scratch + worker * work->scratch_bytes),
        };
        work->t->attention[job->kv](&args);
    }
}

int hyp_heads_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_heads *job, void *buffer)
{
    heads_job work;
    int status = HYP_OK;
    plan(&work, job, api->size(team));
    work.t = t;
    work.caches = (char *)(((uintptr_t)buffer + LINE - 1) / LINE * LINE);
    work.scratch = work.caches + work.count * work.cache_bytes;
    const size_t together = work.count;
    for (work.first = 0; work.first < job->heads && status == HYP_OK; work.first += together) {
        work.count = least(together, job->heads - work.first);
        status = api->run(team, store_task, &work, work.count * work.tiles, 1);
        if (status == HYP_OK) status = api->run(team, attend_task, &work, work.count * work.runs, 1);
    }
    return status;
}
