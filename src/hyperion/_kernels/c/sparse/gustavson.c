/* The product of two sparse matrices, row by row: each value of a row of `a` scales a row of `b` into an array of results. */
#include "sparse/convert.h"

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

enum { TASK_ROWS = 64 }; /* at most, so that signals are heard */

typedef struct {
    const hyp_sparse *a, *b;
    char *room;
    size_t own_bytes;
    int32_t *counts;
    const int32_t *indptr;
    int32_t *indices;
    float *values;
} product_job;

/* Each worker's: sums float [cols], seen int32 [cols] (the last row, counted from 1, that had the column). */
static size_t own_bytes(const hyp_sparse *b)
{
    return (b->cols * 8 + 63) / 64 * 64;
}

size_t hyp_sparse_sparse_room(const hyp_sparse *b, size_t threads)
{
    return larger(own_bytes(b) * threads, 1);
}

static void sift(int32_t *x, size_t root, size_t n)
{
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && x[child] < x[child + 1]) ++child;
        if (x[root] >= x[child]) return;
        const int32_t t = x[root];
        x[root] = x[child], x[child] = t;
    }
}

/* Heap sort: no memory, no bad case. */
static void sort(int32_t *x, size_t n)
{
    for (size_t i = n / 2; i > 0; --i) sift(x, i - 1, n);
    for (size_t i = n; i > 1; --i) {
        const int32_t t = x[0];
        x[0] = x[i - 1], x[i - 1] = t;
        sift(x, 0, i - 1);
    }
}

/* Columns of a row in rising order: by looking at all of them where many are taken. */
static void order(int32_t *indices, size_t n, const int32_t *seen, int32_t mark, size_t cols)
{
    if (n < cols / 32) {
        sort(indices, n);
    } else {
        for (size_t c = 0, p = 0; p < n; ++c)
            if (seen[c] == mark) indices[p++] = (int32_t)c;
    }
}

static size_t multiply_row(const product_job *j, size_t row, float *sums, int32_t *seen, int32_t *indices)
{
    const hyp_sparse *a = j->a, *b = j->b;
    const int32_t mark = (int32_t)row + 1;
    size_t n = 0;
    for (size_t p = (size_t)a->indptr[row]; p < (size_t)a->indptr[row + 1]; ++p) {
        const size_t k = (size_t)a->indices[p];
        for (size_t q = (size_t)b->indptr[k]; q < (size_t)b->indptr[k + 1]; ++q) {
            const size_t c = (size_t)b->indices[q];
            if (seen[c] != mark) {
                seen[c] = mark;
                if (indices) indices[n] = (int32_t)c, sums[c] = 0;
                ++n;
            }
            if (indices) sums[c] += a->values[p] * b->values[q];
        }
    }
    return n;
}

static void product_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const product_job *j = arg;
    float *sums = (float *)(j->room + worker * j->own_bytes);
    int32_t *seen = (int32_t *)(sums + j->b->cols);
    for (size_t row = begin; row < end; ++row) {
        if (!j->indices) {
            j->counts[row] = (int32_t)multiply_row(j, row, sums, seen, NULL);
        } else {
            int32_t *indices = j->indices + j->indptr[row];
            const size_t n = multiply_row(j, row, sums, seen, indices);
            order(indices, n, seen, (int32_t)row + 1, j->b->cols);
            for (size_t i = 0; i < n; ++i) j->values[(size_t)j->indptr[row] + i] = sums[indices[i]];
        }
    }
}

int hyp_sparse_sparse(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const hyp_sparse *b, void *room,
                      int32_t *counts, const int32_t *indptr, int32_t *indices, float *values)
{
    product_job j = {a, b, room, own_bytes(b), counts, indptr, indices, values};
    memset(room, 0, j.own_bytes * api->size(team)); /* no row has the mark 0 */
    return api->run(team, product_task, &j, a->rows, larger(smaller(a->rows / (api->size(team) * 16), TASK_ROWS), 1));
}
