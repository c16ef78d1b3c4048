/* Attention's order of work, the same for every instruction set. An including file defines first:
 *
 *   ATTN_DIRECT                       queries up to which an f16 tile is multiplied where it lies
 *   attn_expand_k(kv, tile, hd, dst)  one tile of 16 keys to floats [hd][16]
 *   attn_expand_v(kv, row, hd, dims, dst)   one row of values to `dims` floats (a multiple of 16), zero past hd
 *   attn_product(half, nq, n, b, row, vec, vecs, a, c, start)
 *        c[j][16v + l] = c[j][16v + l]*start[j] + sum over i < n, in order, of a[j][i] * b[i*row + v*vec + l], for nq
 *        queries (4, 2 or 1) and v < vecs; start NULL: from 0; b is f16 when half, float otherwise
 *   attn_softmax(score, count, scale, top, sum)   scores to weights; returns the factor for what was summed before
 *   attn_finish(acc, sum, hd, out)
 *
 * A tile of 64 positions is expanded to floats once and shared by the queries of a chunk; a decode step's few queries
 * read f16 directly. Expansion is exact, and every product adds its terms one at a time in the order of dims (keys) and of
 * positions (values): a query's bits do not depend on its company. */
#ifndef HYP_ATTENTION_H
#define HYP_ATTENTION_H

HYP_INLINE size_t attn_group(size_t left)
{
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Weights times values for `n` queries that see count[j] positions of the tile: together as far as all of them see, then
 * each alone; the memory of a position that a query does not see never meets it. */
HYP_INLINE void attn_weigh(int half, size_t n, const void *v, size_t dims, const float *const *weight, float *const *acc,
                           const size_t *count, const float *factor)
{
    for (size_t j = 0, group; j < n; j += group) {
        group = attn_group(n - j);
        size_t shared = count[j];
        for (size_t g = 1; g < group; g++) shared = count[j + g] < shared ? count[j + g] : shared;
        attn_product(half, group, shared, v, dims, 16, dims / 16, weight + j, acc + j, factor + j);
        for (size_t g = j; g < j + group; g++) {
            if (count[g] == shared) continue;
            const float one = 1.0f, *rest = weight[g] + shared;
            const char *rows = (const char *)v + shared * dims * (half ? 2 : 4);
            attn_product(half, 1, count[g] - shared, rows, dims, 16, dims / 16, &rest, acc + g, &one);
        }
    }
}

HYP_INLINE void attn_chunk(const hyp_attn_args *args, int kv, size_t first, size_t n)
{
    const size_t hd = args->head_dim, dims = (hd + 15) / 16 * 16;
    const size_t tile_bytes = hyp_k_tile_bytes(kv, hd), row_bytes = hyp_v_row_bytes(kv, hd);
    const size_t *len = args->len + first;
    float *const tile = args->scratch, *const scores = tile + HYP_ATTN_TILE * dims, *const accs = scores + n * HYP_ATTN_TILE;
    float *const sums = accs + n * dims, *const tops = sums + n * 16;
    size_t longest = 0;
    memset(accs, 0, n * (dims + 16) * sizeof(float));
    for (size_t j = 0; j < n; j++) {
        tops[j] = -INFINITY;
        longest = len[j] > longest ? len[j] : longest;
    }
    for (size_t begin = 0; begin < longest; begin += HYP_ATTN_TILE) {
        const float *query[HYP_ATTN_CHUNK];
        float *score[HYP_ATTN_CHUNK], *acc[HYP_ATTN_CHUNK], factor[HYP_ATTN_CHUNK];
        size_t count[HYP_ATTN_CHUNK], live = 0, most = 0;
        for (size_t j = 0; j < n; j++) {
            if (len[j] <= begin) continue;
            query[live] = args->q[first + j];
            score[live] = scores + j * HYP_ATTN_TILE;
            acc[live] = accs + j * dims;
            count[live] = len[j] - begin < HYP_ATTN_TILE ? len[j] - begin : HYP_ATTN_TILE;
            most = count[live] > most ? count[live] : most;
            live++;
        }
        const int half = kv == HYP_KV_F16 && live <= ATTN_DIRECT && hd == dims;
        const uint8_t *const keys = (const uint8_t *)args->k + begin / HYP_KV_TILE * tile_bytes;
        const uint8_t *const values = (const uint8_t *)args->v + begin * row_bytes;
        const size_t tiles = (most + HYP_KV_TILE - 1) / HYP_KV_TILE;
        if (!half) {
            for (size_t t = 0; t < tiles; t++) attn_expand_k(kv, keys + t * tile_bytes, hd, tile + t * hd * HYP_KV_TILE);
        }
        for (size_t j = 0, group; j < live; j += group) {
            group = attn_group(live - j);
            attn_product(half, group, hd, half ? (const void *)keys : tile, 16, hd * 16, tiles, query + j, score + j, NULL);
        }
        for (size_t j = 0; j < live; j++) {
            const size_t at = (size_t)(score[j] - scores) / HYP_ATTN_TILE;
            factor[j] = attn_softmax(score[j], count[j], args->scale, tops + at, sums + at * 16);
        }
        if (!half) {
            for (size_t p = 0; p < most; p++) attn_expand_v(kv, values + p * row_bytes, hd, dims, tile + p * dims);
        }
        attn_weigh(half, live, half ? (const void *)values : tile, dims, (const float *const *)score, acc, count, factor);
    }
    for (size_t j = 0; j < n; j++) attn_finish(accs + j * dims, sums + j * 16, hd, args->out[first + j]);
}

HYP_INLINE void attn_run(const hyp_attn_args *args, int kv)
{
    for (size_t first = 0; first < args->nq; first += HYP_ATTN_CHUNK) {
        const size_t left = args->nq - first;
        attn_chunk(args, kv, first, left < HYP_ATTN_CHUNK ? left : HYP_ATTN_CHUNK);
    }
}

#endif
