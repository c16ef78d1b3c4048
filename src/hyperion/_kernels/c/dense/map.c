#include "dense/map.h"

#define CHUNK 1024                   /* values that stand in a buffer together */
#define TASK 5000                    /* ns of a task: a hundred times what a team in motion costs, a quarter of waking one */
#define DIRECT 128                   /* a contiguous run of so many values needs no buffer */
#define TOGETHER 16                  /* rows that are gathered together: a cache line where columns are contiguous */
#define TOGETHER_FLOATS (1u << 18)   /* and no more than so many values */

/* ---- The walk ------------------------------------------------------------------------------------------------------ */

static size_t magnitude(ptrdiff_t stride)
{
    return stride < 0 ? (size_t)0 - (size_t)stride : (size_t)stride;
}

static void swap_dims(hyp_pair *p, size_t a, size_t b)
{
    const size_t n = p->n[a];
    const ptrdiff_t in = p->in[a], out = p->out[a];
    p->n[a] = p->n[b], p->in[a] = p->in[b], p->out[a] = p->out[b];
    p->n[b] = n, p->in[b] = in, p->out[b] = out;
}

void hyp_pair_simplify(hyp_pair *p)
{
    size_t kept = 0;
    for (size_t d = 0; d < p->dims; d++) {
        if (p->n[d] == 1) continue;
        swap_dims(p, kept, d);
        if (p->out[kept] < 0) { /* walk it upwards */
            const ptrdiff_t last = (ptrdiff_t)(p->n[kept] - 1);
            p->src += last * p->in[kept], p->dst += last * p->out[kept];
            p->in[kept] = -p->in[kept], p->out[kept] = -p->out[kept];
        }
        for (size_t i = kept; i > 0 && magnitude(p->out[i - 1]) < magnitude(p->out[i]); i--) swap_dims(p, i - 1, i);
        kept++;
    }
    p->dims = 0;
    for (size_t d = 0; d < kept; d++) {
        const size_t last = p->dims - 1;
        const ptrdiff_t n = (ptrdiff_t)p->n[d];
        if (p->dims && p->in[last] == p->in[d] * n && p->out[last] == p->out[d] * n) {
            p->n[last] *= p->n[d], p->in[last] = p->in[d], p->out[last] = p->out[d];
        } else {
            swap_dims(p, p->dims++, d);
        }
    }
    if (p->dims == 0) p->dims = 1, p->n[0] = 1, p->in[0] = p->out[0] = 4; /* one value */
}

static size_t pair_size(const hyp_pair *p)
{
    size_t size = 1;
    for (size_t d = 0; d < p->dims; d++) size *= p->n[d];
    return size;
}

/* A place in the walk. */
typedef struct {
    const hyp_pair *pair;
    size_t at[HYP_DIMS];
    const char *src;
    char *dst;
} cursor;

static void cursor_set(cursor *c, const hyp_pair *p, size_t place)
{
    c->pair = p, c->src = p->src, c->dst = p->dst;
    for (size_t d = p->dims; d-- > 0;) {
        c->at[d] = place % p->n[d];
        place /= p->n[d];
        c->src += (ptrdiff_t)c->at[d] * p->in[d];
        c->dst += (ptrdiff_t)c->at[d] * p->out[d];
    }
}

/* Values before the innermost dimension turns. */
static size_t cursor_run(const cursor *c)
{
    const size_t inner = c->pair->dims - 1;
    return c->pair->n[inner] - c->at[inner];
}

/* Go on by no more than cursor_run values. */
static void cursor_move(cursor *c, size_t count)
{
    const hyp_pair *p = c->pair;
    size_t d = p->dims - 1;
    c->at[d] += count;
    c->src += (ptrdiff_t)count * p->in[d], c->dst += (ptrdiff_t)count * p->out[d];
    while (c->at[d] == p->n[d] && d > 0) {
        c->src -= (ptrdiff_t)p->n[d] * p->in[d], c->dst -= (ptrdiff_t)p->n[d] * p->out[d];
        c->at[d--] = 0;
        c->at[d]++;
        c->src += p->in[d], c->dst += p->out[d];
    }
}

static void gather(const char *src, ptrdiff_t stride, size_t n, float *to, size_t step)
{
    for (size_t i = 0; i < n; i++) memcpy(to + i * step, src + (ptrdiff_t)i * stride, 4);
}

static void scatter(const float *from, size_t step, size_t n, char *dst, ptrdiff_t stride)
{
    for (size_t i = 0; i < n; i++) memcpy(dst + (ptrdiff_t)i * stride, from + i * step, 4);
}

/* ---- Element-wise -------------------------------------------------------------------------------------------------- */

typedef struct {
    const hyp_pair *pair;
    hyp_map_fn f;
    size_t size;
    int direct; /* runs are long and contiguous on both sides */
} map_job;

static int aligned(const hyp_pair *p)
{
    size_t bits = (size_t)(uintptr_t)p->src | (size_t)(uintptr_t)p->dst;
    for (size_t d = 0; d < p->dims; d++) bits |= (size_t)p->in[d] | (size_t)p->out[d];
    return bits % 4 == 0;
}

static void map_buffered(const map_job *job, size_t begin, size_t end)
{
    const size_t inner = job->pair->dims - 1;
    float buffer[CHUNK];
    cursor from, to;
    cursor_set(&from, job->pair, begin);
    to = from;
    while (begin < end) {
        const size_t n = end - begin < CHUNK ? end - begin : CHUNK;
        for (size_t done = 0, run; done < n; done += run) {
            run = cursor_run(&from) < n - done ? cursor_run(&from) : n - done;
            gather(from.src, job->pair->in[inner], run, buffer + done, 1);
            cursor_move(&from, run);
        }
        job->f(buffer, n, buffer);
        for (size_t done = 0, run; done < n; done += run) {
            run = cursor_run(&to) < n - done ? cursor_run(&to) : n - done;
            scatter(buffer + done, 1, run, to.dst, job->pair->out[inner]);
            cursor_move(&to, run);
        }
        begin += n;
    }
}

static void map_task(void *arg, size_t first, size_t last, size_t worker)
{
    const map_job *job = arg;
    size_t begin = first * CHUNK;
    const size_t end = job->size / CHUNK < last ? job->size : last * CHUNK;
    (void)worker;
    if (!job->direct) {
        map_buffered(job, begin, end);
        return;
    }
    cursor c;
    cursor_set(&c, job->pair, begin);
    while (begin < end) {
        const size_t run = cursor_run(&c) < end - begin ? cursor_run(&c) : end - begin;
        job->f((const float *)c.src, run, (float *)c.dst);
        cursor_move(&c, run);
        begin += run;
    }
}

/* Values that a task takes: of TASK ns by what one value takes at the AVX-512 level, in hundredths of a nanosecond. */
static size_t values_of_task(size_t cost)
{
    return (size_t)TASK * 100 / cost / CHUNK * CHUNK + CHUNK;
}

static size_t cost_of_map(int f)
{
    switch (f) {
    case HYP_RELU: return 10;
    case HYP_GELU: case HYP_GELU_ERF: return 60;
    default: return 32;
    }
}

int hyp_map_array(const hyp_threads_api *api, hyp_team *team, const hyp_table *t, int f, const hyp_pair *pair)
{
    const size_t inner = pair->dims - 1;
    const int contiguous = pair->in[inner] == 4 && pair->out[inner] == 4 && aligned(pair);
    map_job job = {pair, t->map[f], pair_size(pair), contiguous && (pair->n[inner] >= DIRECT || pair->dims == 1)};
    if (job.size == 0) return HYP_OK;
    return api->run(team, map_task, &job, job.size / CHUNK + (job.size % CHUNK != 0), values_of_task(cost_of_map(f)) / CHUNK);
}

/* ---- Rows ---------------------------------------------------------------------------------------------------------- */

typedef struct {
    const hyp_pair *pair;
    const hyp_row_op *op;
    size_t n, together;
    ptrdiff_t in, out;
    float *buffer; /* NULL where rows are contiguous */
} rows_job;

static size_t rows_together(size_t n)
{
    const size_t fit = TOGETHER_FLOATS / n;
    return fit >= TOGETHER ? TOGETHER : fit ? fit : 1;
}

size_t hyp_rows_buffer(size_t n)
{
    return rows_together(n) * ((n + 15) / 16 * 16);
}

static void one_row(const rows_job *job, const float *x, float *out)
{
    const hyp_row_op *op = job->op;
    switch (op->kind) {
    case HYP_ROW_SOFTMAX: op->table->softmax(x, job->n, out); break;
    case HYP_ROW_RMS_NORM: op->table->rms_norm(x, op->weight, op->eps, job->n, out); break;
    default: op->table->layer_norm(x, op->weight, op->bias, op->eps, job->n, out);
    }
}

/* Up to `together` rows through the buffer; value by value of all of them, as columns may be what is contiguous. */
static void rows_buffered(const rows_job *job, cursor *c, size_t rows, float *buffer)
{
    const char *src[TOGETHER];
    char *dst[TOGETHER];
    for (size_t r = 0; r < rows; r++) {
        src[r] = c->src, dst[r] = c->dst;
        cursor_move(c, 1);
    }
    for (size_t i = 0; i < job->n; i++)
        for (size_t r = 0; r < rows; r++) memcpy(buffer + r * job->n + i, src[r] + (ptrdiff_t)i * job->in, 4);
    for (size_t r = 0; r < rows; r++) one_row(job, buffer + r * job->n, buffer + r * job->n);
    for (size_t i = 0; i < job->n; i++)
        for (size_t r = 0; r < rows; r++) memcpy(dst[r] + (ptrdiff_t)i * job->out, buffer + r * job->n + i, 4);
}

static void rows_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const rows_job *job = arg;
    cursor c;
    cursor_set(&c, job->pair, begin);
    while (begin < end) {
        size_t rows = 1;
        if (job->buffer) {
            rows = end - begin < job->together ? end - begin : job->together;
            rows_buffered(job, &c, rows, job->buffer + worker * hyp_rows_buffer(job->n));
        } else {
            one_row(job, (const float *)c.src, (float *)c.dst);
            cursor_move(&c, 1);
        }
        begin += rows;
    }
}

int hyp_map_rows(const hyp_threads_api *api, hyp_team *team, const hyp_row_op *op, const hyp_pair *pair, size_t n, ptrdiff_t in,
                 ptrdiff_t out, float *buffer)
{
    const size_t rows = pair_size(pair), enough = values_of_task(op->kind == HYP_ROW_SOFTMAX ? 60 : 16) / n + 1;
    rows_job job = {pair, op, n, rows_together(n), in, out, buffer};
    if (rows == 0) return HYP_OK;
    return api->run(team, rows_task, &job, rows, (enough + job.together - 1) / job.together * job.together);
}
