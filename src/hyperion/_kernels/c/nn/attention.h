/* Attention's order of work, the same for every instruction set. An including file defines first:
 *
 *   ATTN_DIRECT               queries up to which a tile is multiplied where it lies in the cache
 *   attn_expand_k(kv, tile, hd, dst)        one tile of 16 keys to floats [hd][16]
 *   attn_expand_v(kv, row, hd, dims, dst)   one row of values to `dims` floats (a multiple of 16), zero past hd
 *   attn_product(half, nq, n, b, row, vec, vecs, a, c, start, ahead)
 *        c[j][16v + l] = c[j][16v + l]*start[j] + sum over i < n, in order, of a[j][i] * b[i*row + v*vec + l], for nq
 *        queries (6 unless half, 4, 2 or 1) and v < vecs; start NULL: from 0; b is f16 when half, float otherwise
 *   attn_keys(kv, nq, hd, keys, query, score, ahead)   the same for 4 tiles of quantized keys; hd a multiple of 64
 *   attn_values(kv, nq, hd, rows, weight, acc, start, scales, ahead)   and for 64 rows of quantized values, whose scales
 *        attn_expand_scales(kv, hd, rows, scales) has put into floats [64][hd / 32]
 *   attn_softmax(score, count, scale, top, sum)   scores to weights; returns the factor for what was summed before
 *   attn_finish(acc, sum, hd, out)
 *
 * The many queries of a prompt share a tile of 64 positions that is expanded to floats once; a decode step's few read the
 * cache directly, bound by memory. Expansion is exact, and every product adds its terms one at a time in the order of
 * dims (keys) and of positions (values): a query's bits depend on neither. While the keys are multiplied the values are
 * prefetched, and with them the next tile's keys: the hardware's prefetchers lose the thread between the two streams. */
#ifndef HYP_ATTENTION_H
#define HYP_ATTENTION_H

typedef struct {
    int kv;
    size_t hd, dims, tile_bytes, row_bytes;
    float *tile; /* one tile of keys or of values as floats */
} attn_shape;

/* The queries of a chunk that see something of the tile at hand. */
typedef struct {
    size_t n, least, most;          /* how many; the fewest and the most positions that one of them sees */
    size_t count[HYP_ATTN_CHUNK];   /* positions it sees, 1 .. 64 */
    const float *query[HYP_ATTN_CHUNK];
    float *score[HYP_ATTN_CHUNK], *acc[HYP_ATTN_CHUNK], *top[HYP_ATTN_CHUNK], *sum[HYP_ATTN_CHUNK];
    float factor[HYP_ATTN_CHUNK];
} attn_live;

/* Queries that a product takes together: 6 where there are many and the tile is in floats. */
HYP_INLINE size_t attn_group(size_t left, int direct)
{
    if (!direct && (left >= 10 || left == 6)) return 6;
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Only the first group of queries prefetches. */
HYP_INLINE hyp_ahead attn_once(hyp_ahead ahead, size_t j)
{
    if (j) ahead.step = 0;
    return ahead;
}

/* Can the quantized cache be multiplied where it lies? Only whole tiles: the last one's end is not the cache's. */
HYP_INLINE int attn_quantized_direct(const attn_shape *s, const attn_live *live)
{
    return s->kv != HYP_KV_F16 && live->n <= ATTN_DIRECT && live->least == HYP_ATTN_TILE && s->hd % 64 == 0;
}

HYP_INLINE int attn_half_direct(const attn_shape *s, const attn_live *live)
{
    return s->kv == HYP_KV_F16 && live->n <= ATTN_DIRECT && s->hd == s->dims;
}

HYP_INLINE void attn_score(const attn_shape *s, attn_live *live, const uint8_t *keys, hyp_ahead ahead)
{
    const size_t tiles = (live->most + HYP_KV_TILE - 1) / HYP_KV_TILE, hd = s->hd;
    const int direct = attn_quantized_direct(s, live), half = attn_half_direct(s, live);
    if (!direct && !half) {
        for (size_t t = 0; t < tiles; t++)
            attn_expand_k(s->kv, keys + t * s->tile_bytes, hd, s->tile + t * hd * HYP_KV_TILE);
    }
    for (size_t j = 0, group; j < live->n; j += group) {
        const hyp_ahead once = attn_once(ahead, j);
        const void *b = half ? (const void *)keys : s->tile;
        group = attn_group(live->n - j, direct || half);
        if (direct) attn_keys(s->kv, group, hd, keys, live->query + j, live->score + j, once);
        else attn_product(half, group, hd, b, 16, hd * 16, tiles, live->query + j, live->score + j, NULL, once);
    }
}

/* Weights times values: together as far as all queries of a group see, then each alone; the memory of a position that a
 * query does not see never meets it. */
HYP_INLINE void attn_weigh(const attn_shape *s, attn_live *live, const uint8_t *values, hyp_ahead ahead)
{
    const size_t dims = s->dims, vecs = dims / 16;
    const int direct = attn_quantized_direct(s, live), half = attn_half_direct(s, live);
    if (!direct && !half) {
        for (size_t p = 0; p < live->most; p++)
            attn_expand_v(s->kv, values + p * s->row_bytes, s->hd, dims, s->tile + p * dims);
    } else if (direct) {
        attn_expand_scales(s->kv, s->hd, values, s->tile);
    }
    const char *const b = half ? (const char *)values : (const char *)s->tile;
    for (size_t j = 0, group; j < live->n; j += group) {
        const float *const *weight = (const float *const *)live->score + j;
        const hyp_ahead once = attn_once(ahead, j);
        size_t shared = live->count[j];
        group = attn_group(live->n - j, direct || half);
        if (direct) {
            attn_values(s->kv, group, s->hd, values, weight, live->acc + j, live->factor + j, s->tile, once);
            continue;
        }
        for (size_t g = 1; g < group; g++) shared = live->count[j + g] < shared ? live->count[j + g] : shared;
        attn_product(half, group, shared, b, dims, 16, vecs, weight, live->acc + j, live->factor + j, once);
        for (size_t g = 0; g < group; g++) {
            const float one = 1.0f, *rest = weight[g] + shared;
            const size_t alone = live->count[j + g] - shared;
            const char *const rows = b + shared * dims * (half ? 2 : 4);
            if (alone)
                attn_product(half, 1, alone, rows, dims, 16, vecs, &rest, live->acc + j + g, &one, attn_once(ahead, 1));
        }
    }
}

HYP_INLINE void attn_chunk(const hyp_attn_args *args, int kv, size_t first, size_t n)
{
    const size_t hd = args->head_dim, dims = (hd + 15) / 16 * 16, *const len = args->len + first;
    const attn_shape s = {kv, hd, dims, hyp_k_tile_bytes(kv, hd), hyp_v_row_bytes(kv, hd), args->scratch};
    float *const scores = s.tile + HYP_ATTN_TILE * dims, *const accs = scores + n * HYP_ATTN_TILE;
    float *const sums = accs + n * dims, *const tops = sums + n * 16;
    size_t longest = 0;
    memset(accs, 0, n * (dims + 16) * sizeof(float));
    for (size_t j = 0; j < n; j++) {
        tops[j] = -INFINITY;
        longest = len[j] > longest ? len[j] : longest;
    }
    for (size_t begin = 0; begin < longest; begin += HYP_ATTN_TILE) {
        const uint8_t *const keys = (const uint8_t *)args->k + begin / HYP_KV_TILE * s.tile_bytes;
        const uint8_t *const values = (const uint8_t *)args->v + begin * s.row_bytes;
        attn_live live;
        live.n = live.most = 0;
        live.least = HYP_ATTN_TILE;
        for (size_t j = 0; j < n; j++) {
            if (len[j] <= begin) continue;
            const size_t at = live.n++, count = len[j] - begin < HYP_ATTN_TILE ? len[j] - begin : HYP_ATTN_TILE;
            live.count[at] = count;
            live.most = count > live.most ? count : live.most;
            live.least = count < live.least ? count : live.least;
            live.query[at] = args->q[first + j];
            live.score[at] = scores + j * HYP_ATTN_TILE;
            live.acc[at] = accs + j * dims;
            live.top[at] = tops + j;
            live.sum[at] = sums + j * 16;
        }
        const hyp_ahead next_values = {(const char *)values, (live.most * s.row_bytes + hd - 1) / hd};
        const hyp_ahead next_keys = {(const char *)keys + 4 * s.tile_bytes,
                                     begin + HYP_ATTN_TILE < longest ? (4 * s.tile_bytes + hd - 1) / hd : 0};
        attn_score(&s, &live, keys, next_values);
        for (size_t j = 0; j < live.n; j++)
            live.factor[j] = attn_softmax(live.score[j], live.count[j], args->scale, live.top[j], live.sum[j]);
        attn_weigh(&s, &live, values, next_keys);
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
