/* Attention over arrays: keys and values of some heads at a time go into caches as the engine has them, and the queries, cut into
 * runs, are spread over a team of threads. A query's bits depend on no other query, so neither on the cuts. */
#ifndef HYP_DENSE_HEADS_H
#define HYP_DENSE_HEADS_H

#include "common/table.h"
#include "threads/threads.h"

/* Strides and places are in bytes; head_dim floats stand together everywhere. */
typedef struct {
    size_t heads;                               /* KV heads, of a whole batch */
    size_t group, queries, positions, head_dim; /* query heads a KV head; queries a query head */
    const int64_t *places;                      /* [heads][4]: from q, k, v and out to each KV head's own */
    const char *q, *k, *v;
    char *out;
    ptrdiff_t q_head, q_row, k_row, v_row, out_head, out_row;
    int kv, causal; /* causal: the queries are the last positions, and see nothing after themselves */
    float scale;
} hyp_heads;

/* Bytes of buffer; SIZE_MAX where that is more than an address can count. */
size_t hyp_heads_buffer(const hyp_heads *job, size_t threads);

int hyp_heads_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_heads *job, void *buffer);

#endif
