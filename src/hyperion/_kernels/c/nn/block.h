/* A transformer block as one call: norm, attention with rotary positions over a KV cache, feed-forward, residuals. */
#ifndef HYP_BLOCK_H
#define HYP_BLOCK_H

#include "common/source.h"
#include "matmul/linear.h"

typedef struct {
    size_t row, rows; /* first row and number of rows; row is a multiple of HYP_PANEL */
} hyp_piece;

/* A weight matrix as the engine sees it: a pinned head of rows, and pieces of a stream for the rest. */
typedef struct {
    int type;
    size_t rows, cols;
    size_t pinned_rows;
    const uint8_t *pinned;
    size_t first_piece, pieces;
    const hyp_piece *piece; /* [pieces] */
    const uint64_t *offsets; /* of sparse panels, see hyp_weight; NULL where they are dense */
} hyp_matrix;

/* What every call needs: the kernels, the threads, the stream. */
typedef struct {
    const hyp_table *table;
    const hyp_threads_api *threads;
    hyp_team *team;
    hyp_source source; /* self NULL: everything is pinned */
} hyp_runtime;

typedef struct {
    size_t dim, heads, kv_heads, head_dim, ffn_dim, rot; /* rot: rotated dims of a head */
    int interleaved;                                     /* RoPE pairs (2i, 2i+1) instead of (i, i + rot/2) */
    int gelu;                                            /* feed-forward gate: GELU instead of SiLU */
    int kv_type;                                         /* HYP_KV_* */
    float eps, scale;                                    /* of the norms; of q . k */
} hyp_shape;

typedef struct {
    const float *attn_norm, *ffn_norm;          /* [dim] */
    const float *q_bias, *k_bias, *v_bias, *o_bias; /* or NULL */
    const float *q_norm, *k_norm;               /* [head_dim], or NULL */
    hyp_matrix q, k, v, o, gate, up, down;
} hyp_block;

/* One sequence's cache in one layer: kv_heads regions of `head_bytes`, keys first, values at `v_offset`. */
typedef struct {
    uint8_t *base;
    size_t head_bytes, v_offset;
} hyp_cache;

/* Tokens that run through the model together. Those of one sequence stand together, in order of position. */
typedef struct {
    size_t tokens;
    const int64_t *position; /* [tokens] */
    const int32_t *sequence; /* [tokens]: index into the caches */
    const float *rotation;   /* [tokens, rot]: rot/2 cosines, then rot/2 sines */
    float *x;                /* [tokens, dim] hidden state, in and out */
    uint8_t *scratch;        /* hyp_block_scratch bytes, 64-byte aligned */
} hyp_batch;

/* Scratch that a block needs for this many tokens and workers. */
size_t hyp_block_scratch(const hyp_shape *shape, size_t tokens, size_t workers);

/* Run the block; caches: this layer's cache of each sequence. */
int hyp_block_forward(const hyp_runtime *rt, const hyp_shape *shape, const hyp_block *block, const hyp_cache *caches,
                      const hyp_batch *batch);

/* Final norm and output matrix for n selected rows of x: logits[n, ldo]. scratch: hyp_head_scratch bytes. */
size_t hyp_head_scratch(size_t dim, size_t n);
int hyp_head_forward(const hyp_runtime *rt, const float *norm, float eps, const hyp_matrix *output, const float *x,
                     size_t ldx, const int64_t *rows, size_t n, float *logits, size_t ldo, uint8_t *scratch);

#endif
