/* Matrix products of packed weights on a thread team. */
#ifndef HYP_LINEAR_H
#define HYP_LINEAR_H

#include "common/table.h"
#include "threads/threads.h"

typedef struct {
    int type;
    size_t rows, cols;
    const uint8_t *panels;
    const uint64_t *offsets; /* sparse panels: [panels + 1], counted from any place; NULL where panels are dense */
} hyp_weight;

/* Bytes of panels [begin, end). */
HYP_INLINE size_t hyp_weight_bytes(const hyp_weight *w, size_t begin, size_t end)
{
    return w->offsets ? (size_t)(w->offsets[end] - w->offsets[begin]) : (end - begin) * hyp_panel_bytes(w->type, w->cols);
}

typedef struct {
    const hyp_weight *weight;
    float *out;      /* [m, ldo] */
    size_t ldo;
} hyp_product;

/* Bytes that the activations of m tokens of k values take, packed; the larger of both kinds if is_float < 0. */
size_t hyp_act_bytes(int is_float, size_t m, size_t k);

/* Pack m tokens for a weight of `type`; in parallel when m is large. */
int hyp_act_pack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const float *x, size_t ldx,
                 size_t m, size_t k, void *act);

/* out_i = act x W_i^T for n weights that share the activations (and so hyp_act_kind), in one parallel region. */
int hyp_linear(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_product *products, size_t n,
               const void *act, size_t m);

#endif
