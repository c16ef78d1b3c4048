#include "nn/block.h"

#include "nn/rows.h"

enum { QUERY_TOKENS = 16 }; /* tokens of a sequence that attend together: they share each key and value load */

HYP_INLINE size_t round64(size_t n) { return (n + 63) & ~(size_t)63; }
HYP_INLINE size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* ---- scratch ----------------------------------------------------------------------------------------------------- */

typedef struct {
    float *norm;      /* [tokens, max(dim, heads * head_dim)]: normalised input; later the attention's output */
    float *sum;       /* [tokens, dim]: what is added to the residual; shares its space with norm, packed by then */
    float *q, *k, *v; /* [tokens, heads * head_dim], [tokens, kv_heads * head_dim] twice */
    float *gate, *up; /* [tokens, ffn_dim]; share their space with q, k, v */
    uint8_t *act;     /* packed activations */
    uint8_t *attn;    /* per worker */
    size_t attn_stride, bytes;
} layout;

static size_t attn_worker_bytes(const hyp_shape *s)
{
    const size_t nq = QUERY_TOKENS * (s->heads / s->kv_heads);
    return round64(hyp_attn_scratch(nq, s->head_dim) * 4) + round64(nq * 3 * sizeof(void *));
}

static layout make_layout(const hyp_shape *s, size_t m, size_t workers, uint8_t *base)
{
    const size_t qd = s->heads * s->head_dim, kd = s->kv_heads * s->head_dim;
    const size_t wide = s->dim > qd ? s->dim : qd, widest = wide > s->ffn_dim ? wide : s->ffn_dim;
    const size_t qkv = round64(m * qd * 4) + 2 * round64(m * kd * 4), ffn = 2 * round64(m * s->ffn_dim * 4);
    layout l;
    size_t at = 0;
    l.norm = l.sum = (float *)(base + at), at += round64(m * wide * 4);
    l.q = l.gate = (float *)(base + at);
    l.k = (float *)(base + at + round64(m * qd * 4));
    l.v = (float *)(base + at + round64(m * qd * 4) + round64(m * kd * 4));
    l.up = (float *)(base + at + round64(m * s->ffn_dim * 4));
    at += qkv > ffn ? qkv : ffn;
    l.act = base + at, at += round64(hyp_act_bytes(-1, m, widest));
    l.attn = base + at, l.attn_stride = attn_worker_bytes(s), at += workers * l.attn_stride;
    l.bytes = at;
    return l;
}

size_t hyp_block_scratch(const hyp_shape *shape, size_t tokens, size_t workers)
{
    return make_layout(shape, tokens, workers, NULL).bytes;
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

enum { MAX_PRODUCTS = 3 };

/* out_i = act x W_i^T: the pinned rows of all in one parallel region, then the streamed pieces as they arrive. */
static int multiply(const hyp_runtime *rt, const hyp_matrix *const *w, float *const *out, const size_t *ldo, size_t n,
                    const void *act, size_t m)
{
    hyp_weight head[MAX_PRODUCTS];
    hyp_product products[MAX_PRODUCTS];
    size_t pinned = 0;
    for (size_t i = 0; i < n; i++) {
        if (w[i]->pinned_rows == 0) continue;
        head[pinned] = (hyp_weight){w[i]->type, w[i]->pinned_rows, w[i]->cols, w[i]->pinned, w[i]->offsets};
        products[pinned] = (hyp_product){&head[pinned], out[i], ldo[i]};
        pinned++;
    }
    int status = pinned ? hyp_linear(rt->table, rt->threads, rt->team, products, pinned, act, m) : HYP_OK;
    for (size_t i = 0; i < n && status == HYP_OK; i++) {
        for (size_t p = 0; p < w[i]->pieces && status == HYP_OK; p++) {
            hyp_taken taken;
            status = rt->source.acquire(rt->source.self, w[i]->first_piece + p, &taken);
            if (status != HYP_OK) break;
            const hyp_piece *piece = &w[i]->piece[p];
            const uint64_t *offsets = w[i]->offsets ? w[i]->offsets + piece->row / HYP_PANEL : NULL;
            const hyp_weight part = {w[i]->type, piece->rows, w[i]->cols, taken.panels, offsets};
            const hyp_product product = {&part, out[i] + piece->row, ldo[i]};
            status = taken.panels ? hyp_linear(rt->table, rt->threads, rt->team, &product, 1, act, m)
                                  : hyp_linear_rows(rt->table, rt->threads, rt->team, &product, &taken, act, m);
            rt->source.release(rt->source.self, w[i]->first_piece + p);
        }
    }
    return status;
}

/* Pack x for each of n matrices and multiply; matrices of one kind of activations are packed for once. */
static int pack_and_multiply(const hyp_runtime *rt, const float *x, size_t k, size_t m, const hyp_matrix *const *w,
                             float *const *out, const size_t *ldo, size_t n, void *act)
{
    size_t i = 0;
    while (i < n) {
        size_t end = i + 1;
        while (end < n && hyp_act_kind(w[end]->type) == hyp_act_kind(w[i]->type)) end++;
        int status = hyp_act_pack(rt->table, rt->threads, rt->team, w[i]->type, x, k, m, k, act);
        if (status == HYP_OK) status = multiply(rt, w + i, out + i, ldo + i, end - i, act, m);
        if (status != HYP_OK) return status;
        i = end;
    }
    return HYP_OK;
}

/* ---- per-token steps, in parallel where there are many tokens ------------------------------------------------------ */

typedef struct {
    const hyp_runtime *rt;
    const hyp_shape *shape;
    const hyp_block *block;
    const hyp_cache *caches;
    const hyp_batch *batch;
    const layout *l;
    const float *norm; /* the weight of the norm at hand */
} step;

static void norm_tokens(void *arg, size_t begin, size_t end, size_t worker)
{
    (void)worker;
    const step *s = arg;
    const size_t dim = s->shape->dim;
    for (size_t t = begin; t < end; t++)
        s->rt->table->rms_norm(s->batch->x + t * dim, s->norm, s->shape->eps, dim, s->l->norm + t * dim);
}

static void gate_tokens(void *arg, size_t begin, size_t end, size_t worker)
{
    (void)worker;
    const step *s = arg;
    const size_t n = s->shape->ffn_dim;
    for (size_t t = begin; t < end; t++) {
        float *gate = s->l->gate + t * n;
        (s->shape->gelu ? s->rt->table->gelu_mul : s->rt->table->silu_mul)(gate, s->l->up + t * n, n, gate);
    }
}

static void add_tokens(void *arg, size_t begin, size_t end, size_t worker)
{
    (void)worker;
    const step *s = arg;
    const size_t dim = s->shape->dim;
    for (size_t t = begin; t < end; t++) s->rt->table->add(s->batch->x + t * dim, s->l->sum + t * dim, dim);
}

/* Bias, head norm and rotation of one token's heads. */
static void finish_heads(const step *s, float *x, size_t head, const float *bias, const float *norm, size_t token)
{
    const hyp_table *t = s->rt->table;
    const size_t hd = s->shape->head_dim;
    if (bias) t->add(x, bias + head * hd, hd);
    if (norm) t->rms_norm(x, norm, s->shape->eps, hd, x);
    t->rope(x, s->batch->rotation + token * s->shape->rot, 1, hd, s->shape->rot, s->shape->interleaved);
}

/* One item is a KV head: no two workers write to one key tile. */
static void store_heads(void *arg, size_t begin, size_t end, size_t worker)
{
    (void)worker;
    const step *s = arg;
    const hyp_shape *shape = s->shape;
    const hyp_block *b = s->block;
    const size_t hd = shape->head_dim, group = shape->heads / shape->kv_heads;
    for (size_t h = begin; h < end; h++) {
        for (size_t t = 0; t < s->batch->tokens; t++) {
            float *q = s->l->q + t * shape->heads * hd, *k = s->l->k + (t * shape->kv_heads + h) * hd;
            float *v = s->l->v + (t * shape->kv_heads + h) * hd;
            for (size_t g = h * group; g < (h + 1) * group; g++) finish_heads(s, q + g * hd, g, b->q_bias, b->q_norm, t);
            finish_heads(s, k, h, b->k_bias, b->k_norm, t);
            if (b->v_bias) s->rt->table->add(v, b->v_bias + h * hd, hd);
            const hyp_cache *cache = &s->caches[s->batch->sequence[t]];
            uint8_t *keys = cache->base + h * cache->head_bytes;
            s->rt->table->kv_store[shape->kv_type](keys, keys + cache->v_offset, hd, (size_t)s->batch->position[t], k, v);
        }
    }
}

/* One item is (run of up to QUERY_TOKENS tokens, KV head). A run starts wherever a multiple of QUERY_TOKENS tokens or a
 * new sequence does; items are numbered by the run's first token, so that no list of runs is needed. */
static void attend(void *arg, size_t begin, size_t end, size_t worker)
{
    const step *s = arg;
    const hyp_shape *shape = s->shape;
    const hyp_batch *batch = s->batch;
    const size_t hd = shape->head_dim, group = shape->heads / shape->kv_heads;
    const size_t span = least(QUERY_TOKENS, batch->tokens), nq_max = QUERY_TOKENS * group;
    uint8_t *own = s->l->attn + worker * s->l->attn_stride;
    const float **q = (const float **)(own + round64(hyp_attn_scratch(nq_max, hd) * 4));
    float **out = (float **)(q + nq_max);
    size_t *len = (size_t *)(out + nq_max);
    for (size_t item = begin; item < end; item++) {
        const size_t h = item % shape->kv_heads, first = item / shape->kv_heads * span;
        const size_t last = least(first + span, batch->tokens);
        for (size_t t = first; t < last;) {
            const int32_t sequence = batch->sequence[t];
            size_t nq = 0;
            for (; t < last && batch->sequence[t] == sequence; t++) {
                for (size_t g = h * group; g < (h + 1) * group; g++, nq++) {
                    q[nq] = s->l->q + (t * shape->heads + g) * hd;
                    out[nq] = s->l->norm + (t * shape->heads + g) * hd;
                    len[nq] = (size_t)batch->position[t] + 1;
                }
            }
            const hyp_cache *cache = &s->caches[sequence];
            const uint8_t *keys = cache->base + h * cache->head_bytes;
            const hyp_attn_args args = {keys, keys + cache->v_offset, hd, nq, shape->scale, q, out, len, (float *)own};
            s->rt->table->attention[shape->kv_type](&args);
        }
    }
}

static int run(const hyp_runtime *rt, hyp_task_fn task, step *s, size_t n, size_t grain)
{
    return rt->threads->run(rt->team, task, s, n, grain);
}

/* ---- the block --------------------------------------------------------------------------------------------------- */

#define TRY(call)                                  \
    do {                                           \
        const int status_ = (call);                \
        if (status_ != HYP_OK) return status_;     \
    } while (0)

static int attention_part(step *s)
{
    const hyp_runtime *rt = s->rt;
    const hyp_shape *shape = s->shape;
    const hyp_block *b = s->block;
    const size_t m = s->batch->tokens, qd = shape->heads * shape->head_dim, kd = shape->kv_heads * shape->head_dim;
    s->norm = b->attn_norm;
    TRY(run(rt, norm_tokens, s, m, 4));
    const hyp_matrix *const qkv[] = {&b->q, &b->k, &b->v};
    float *const out[] = {s->l->q, s->l->k, s->l->v};
    const size_t ldo[] = {qd, kd, kd};
    TRY(pack_and_multiply(rt, s->l->norm, shape->dim, m, qkv, out, ldo, 3, s->l->act));
    /* a decoded token's heads are too little work to share */
    TRY(run(rt, store_heads, s, shape->kv_heads, m < 4 ? shape->kv_heads : 1));
    const size_t runs = (m + QUERY_TOKENS - 1) / QUERY_TOKENS;
    TRY(run(rt, attend, s, runs * shape->kv_heads, 1));
    const hyp_matrix *const o[] = {&b->o};
    TRY(pack_and_multiply(rt, s->l->norm, qd, m, o, &s->l->sum, &shape->dim, 1, s->l->act));
    if (b->o_bias)
        for (size_t t = 0; t < m; t++) rt->table->add(s->l->sum + t * shape->dim, b->o_bias, shape->dim);
    return run(rt, add_tokens, s, m, 8);
}

static int feed_forward_part(step *s)
{
    const hyp_runtime *rt = s->rt;
    const hyp_shape *shape = s->shape;
    const hyp_block *b = s->block;
    const size_t m = s->batch->tokens;
    s->norm = b->ffn_norm;
    TRY(run(rt, norm_tokens, s, m, 4));
    const hyp_matrix *const gate_up[] = {&b->gate, &b->up};
    float *const out[] = {s->l->gate, s->l->up};
    const size_t ldo[] = {shape->ffn_dim, shape->ffn_dim};
    TRY(pack_and_multiply(rt, s->l->norm, shape->dim, m, gate_up, out, ldo, 2, s->l->act));
    TRY(run(rt, gate_tokens, s, m, 2));
    const hyp_matrix *const down[] = {&b->down};
    TRY(pack_and_multiply(rt, s->l->gate, shape->ffn_dim, m, down, &s->l->sum, &shape->dim, 1, s->l->act));
    return run(rt, add_tokens, s, m, 8);
}

int hyp_block_forward(const hyp_runtime *rt, const hyp_shape *shape, const hyp_block *block, const hyp_cache *caches,
                      const hyp_batch *batch)
{
    const layout l = make_layout(shape, batch->tokens, rt->threads->size(rt->team), batch->scratch);
    step s = {rt, shape, block, caches, batch, &l, NULL};
    TRY(attention_part(&s));
    return feed_forward_part(&s);
}

/* ---- the output head --------------------------------------------------------------------------------------------- */

size_t hyp_head_scratch(size_t dim, size_t n)
{
    return round64(n * dim * 4) + round64(hyp_act_bytes(-1, n, dim));
}

int hyp_head_forward(const hyp_runtime *rt, const float *norm, float eps, const hyp_matrix *output, const float *x,
                     size_t ldx, const int64_t *rows, size_t n, float *logits, size_t ldo, uint8_t *scratch)
{
    const size_t dim = output->cols;
    float *normed = (float *)scratch;
    for (size_t i = 0; i < n; i++) rt->table->rms_norm(x + (size_t)rows[i] * ldx, norm, eps, dim, normed + i * dim);
    return pack_and_multiply(rt, normed, dim, n, &output, &logits, &ldo, 1, scratch + round64(n * dim * 4));
}
