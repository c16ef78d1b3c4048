/* Compressed rows cut in tiles. Within a tile rows are visited in the order of their numbers of values, so that the ends of their loops
 * are foreseen by the processor; a row's values keep their order, and so a result its bits. */
#include "sparse/convert.h"

enum { LEAST = 1 << 14 }; /* values in a part that is cut for balance */

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

/* Values after which a part ends: a sixteenth of all, so that threads find parts of a size. */
static size_t part_values(const hyp_sparse *a)
{
    return larger((size_t)a->indptr[a->rows] / 16, LEAST);
}

size_t hyp_tiles_most(const hyp_sparse *a)
{
    return a->rows / HYP_SPARSE_ROWS + 1 + (size_t)a->indptr[a->rows] / part_values(a) + 1;
}

size_t hyp_tiles_cut(const hyp_sparse *a, int64_t *table)
{
    const size_t most = part_values(a) + part_values(a) / 8;
    size_t parts = 0;
    for (size_t row = 0; row < a->rows; ++parts) {
        const size_t begin = (size_t)a->indptr[row];
        size_t end = row + 1;
        while (end < a->rows && end - row < HYP_SPARSE_ROWS && (size_t)a->indptr[end + 1] - begin <= most) ++end;
        table[4 * parts] = (int64_t)row;
        row = end;
    }
    table[4 * parts] = (int64_t)a->rows;
    return parts;
}

typedef struct {
    const hyp_sparse *a;
    int64_t *table;
    uint32_t *tiles;
    hyp_sparse_visit *visits;
    uint8_t *offsets;
    float *values;
} tiles_job;

/* The values of each row in a tile that ends at column `last`, and how many rows have any. */
static size_t count_rows(const hyp_sparse *a, size_t first, size_t rows, const int32_t *cursors, size_t last, uint8_t *counts)
{
    size_t n = 0;
    for (size_t i = 0; i < rows; ++i) {
        int32_t p = cursors[i];
        while (p < a->indptr[first + i + 1] && (size_t)a->indices[p] < last) ++p;
        counts[i] = (uint8_t)(p - cursors[i]); /* at most HYP_SPARSE_TILE */
        n += counts[i] != 0;
    }
    return n;
}

/* Rows by their counts, those without values left out. */
static void order_rows(const uint8_t *counts, size_t rows, hyp_sparse_visit *visits)
{
    uint16_t place[HYP_SPARSE_TILE + 2] = {0};
    for (size_t i = 0; i < rows; ++i)
        if (counts[i]) ++place[counts[i] + 1];
    for (size_t n = 1; n <= HYP_SPARSE_TILE; ++n) place[n + 1] = (uint16_t)(place[n + 1] + place[n]);
    for (size_t i = 0; i < rows; ++i)
        if (counts[i]) {
            hyp_sparse_visit *v = visits + place[counts[i]]++;
            v->count = counts[i];
            v->row = (uint16_t)i;
        }
}

static void part_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const tiles_job *j = arg;
    const hyp_sparse *a = j->a;
    (void)worker;
    for (size_t part = begin; part < end; ++part) {
        int64_t *at = j->table + 4 * part;
        const size_t first = (size_t)at[0], rows = (size_t)at[4] - first;
        int32_t cursors[HYP_SPARSE_ROWS];
        uint8_t counts[HYP_SPARSE_ROWS];
        size_t tile = (size_t)at[1], visit = (size_t)at[2], p = (size_t)a->indptr[first];
        for (size_t i = 0; i < rows; ++i) cursors[i] = a->indptr[first + i];
        if (!j->tiles) tile = visit = 0;
        for (size_t column = 0, number = 0; column < a->cols; column += HYP_SPARSE_TILE, ++number) {
            const size_t n = count_rows(a, first, rows, cursors, smaller(column + HYP_SPARSE_TILE, a->cols), counts);
            if (!n) continue;
            if (!j->tiles) {
                for (size_t i = 0; i < rows; ++i) cursors[i] += counts[i];
            } else {
                hyp_sparse_visit *visits = j->visits + visit;
                j->tiles[2 * tile] = (uint32_t)number;
                j->tiles[2 * tile + 1] = (uint32_t)n;
                order_rows(counts, rows, visits);
                for (size_t v = 0; v < n; ++v) {
                    int32_t *next = cursors + visits[v].row;
                    for (const int32_t last = *next + visits[v].count; *next < last; ++*next, ++p) {
                        j->offsets[p] = (uint8_t)((size_t)a->indices[*next] - column);
                        j->values[p] = a->values[*next];
                    }
                }
            }
            ++tile;
            visit += n;
        }
        if (!j->tiles) at[1] = (int64_t)tile, at[2] = (int64_t)visit;
    }
}

int hyp_tiles_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t parts, int64_t *table, uint32_t *tiles,
                   hyp_sparse_visit *visits, uint8_t *offsets, float *values)
{
    tiles_job j = {a, table, tiles, visits, offsets, values};
    return api->run(team, part_task, &j, parts, 1);
}
