/* Between dense arrays, compressed rows and rows of blocks; see convert.h. */
#include "sparse/convert.h"

enum {
    SPAN = 256,      /* columns of a dense row that are compressed at a time */
    GRAIN = 1 << 14, /* values that pay for a task */
    BORDERS = 16     /* ranges of columns that a transpose fills one by one, so that what it writes stays in a cache */
};

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }
/* Not a zero of either sign; by its bits, because a process may take denormal floats for zeros, and places are carried as such. */
static int holds(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return (bits & 0x7fffffffu) != 0;
}

static size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* Rows of about `each` values that make a task. */
static size_t grain(size_t each) { return larger(GRAIN / larger(each, 1), 1); }

typedef struct {
    const hyp_sparse *a;
    const hyp_dense *x;
    size_t height, width;
    int32_t *counts;
    const int32_t *indptr;
    int32_t *indices;
    float *values;
} convert_job;

int hyp_sparse_check(const int32_t *indptr, const int32_t *indices, size_t major, size_t minor, size_t n, size_t *where)
{
    int found = HYP_SPARSE_CANONICAL;
    size_t first = 0;
    *where = 0;
    if (indptr[0] != 0) return HYP_SPARSE_START;
    for (size_t r = 0; r < major; ++r) {
        *where = r + 1;
        if (indptr[r + 1] < indptr[r]) return HYP_SPARSE_FALLS;
        if ((size_t)indptr[r + 1] > n) return HYP_SPARSE_END;
    }
    *where = major;
    if ((size_t)indptr[major] != n) return HYP_SPARSE_END;
    for (size_t r = 0; r < major; ++r) {
        for (size_t p = (size_t)indptr[r]; p < (size_t)indptr[r + 1]; ++p) {
            *where = p;
            if (indices[p] < 0 || (size_t)indices[p] >= minor) return HYP_SPARSE_RANGE;
            if (found == HYP_SPARSE_CANONICAL && p > (size_t)indptr[r] && indices[p] <= indices[p - 1]) {
                found = indices[p] == indices[p - 1] ? HYP_SPARSE_DUPLICATE : HYP_SPARSE_UNSORTED;
                first = p;
            }
        }
    }
    *where = first;
    return found;
}

int hyp_sparse_unsafe(const int32_t *indptr, const int32_t *indices, size_t major, size_t minor, size_t n)
{
    int bad = indptr[0] != 0 || (size_t)indptr[major] != n;
    uint32_t most = 0; /* a negative index is a large one */
    for (size_t r = 0; r < major; ++r) bad |= indptr[r + 1] < indptr[r];
    for (size_t p = 0; p < n; ++p) most = (uint32_t)indices[p] > most ? (uint32_t)indices[p] : most;
    return bad || (n && most >= minor);
}

/* ---- Dense ----------------------------------------------------------------------------------------------------------------- */

static void count_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const convert_job *j = arg;
    const hyp_dense *x = j->x;
    (void)worker;
    for (size_t r = begin; r < end; ++r) {
        const float *row = x->data + (ptrdiff_t)r * x->row;
        int32_t n = 0;
        if (x->col == 1)
            for (size_t c = 0; c < x->cols; ++c) n += holds(row[c]);
        else
            for (size_t c = 0; c < x->cols; ++c) n += holds(row[(ptrdiff_t)c * x->col]);
        j->counts[r] = n;
    }
}

int hyp_dense_count(const hyp_threads_api *api, hyp_team *team, const hyp_dense *x, int32_t *counts)
{
    convert_job j = {NULL, x, 0, 0, counts, NULL, NULL, NULL};
    return api->run(team, count_task, &j, x->rows, grain(x->cols));
}

/* Without a branch for each value: everything is written, and what is kept moves the place of the next. */
static void fill_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const convert_job *j = arg;
    const hyp_dense *x = j->x;
    (void)worker;
    for (size_t r = begin; r < end; ++r) {
        const float *row = x->data + (ptrdiff_t)r * x->row;
        size_t p = (size_t)j->indptr[r];
        for (size_t c = 0; c < x->cols; c += SPAN) {
            int32_t index[SPAN];
            float value[SPAN];
            size_t n = 0;
            for (size_t i = c; i < smaller(c + SPAN, x->cols); ++i) {
                const float v = row[(ptrdiff_t)i * x->col];
                index[n] = (int32_t)i;
                value[n] = v;
                n += holds(v);
            }
            n = smaller(n, (size_t)j->indptr[r + 1] - p); /* the array may have changed since it was counted */
            memcpy(j->indices + p, index, n * sizeof *index);
            memcpy(j->values + p, value, n * sizeof *value);
            p += n;
        }
        for (; p < (size_t)j->indptr[r + 1]; ++p) j->indices[p] = 0, j->values[p] = 0;
    }
}

int hyp_dense_fill(const hyp_threads_api *api, hyp_team *team, const hyp_dense *x, const int32_t *indptr, int32_t *indices,
                   float *values)
{
    convert_job j = {NULL, x, 0, 0, NULL, indptr, indices, values};
    return api->run(team, fill_task, &j, x->rows, grain(x->cols));
}

static void to_dense_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const convert_job *j = arg;
    const hyp_sparse *a = j->a;
    const hyp_dense *out = j->x;
    (void)worker;
    for (size_t r = begin; r < end; ++r) {
        for (size_t p = (size_t)a->indptr[r]; p < (size_t)a->indptr[r + 1]; ++p) {
            const float *block = a->values + p * a->height * a->width;
            const size_t col = (size_t)a->indices[p] * a->width, width = smaller(a->width, a->cols - col);
            for (size_t i = 0; i < smaller(a->height, a->rows - r * a->height); ++i) {
                float *to = out->data + (ptrdiff_t)(r * a->height + i) * out->row + (ptrdiff_t)col * out->col;
                for (size_t k = 0; k < width; ++k) to[(ptrdiff_t)k * out->col] = block[i * a->width + k];
            }
        }
    }
}

int hyp_sparse_to_dense(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const hyp_dense *out)
{
    convert_job j = {a, out, 0, 0, NULL, NULL, NULL, NULL};
    const size_t rows = ceil_div(a->rows, a->height);
    if (!rows) return HYP_OK;
    return api->run(team, to_dense_task, &j, rows, grain((size_t)a->indptr[rows] / rows * a->height * a->width));
}

/* ---- The transpose ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    const int32_t *indptr, *indices;
    const uint32_t *values;
    size_t major, minor, ranges;
    int32_t *borders;    /* [ranges][major]: where the range begins in each row */
    int32_t *new_indptr, *new_indices;
    uint32_t *new_values;
} transpose_job;

static size_t range_begin(size_t minor, size_t ranges, size_t i)
{
    return minor / ranges * i + smaller(minor % ranges, i);
}

size_t hyp_transpose_borders(size_t minor)
{
    return larger(smaller(minor / 256, BORDERS), 1);
}

static void borders_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const transpose_job *j = arg;
    (void)worker;
    for (size_t r = begin; r < end; ++r) {
        int32_t p = j->indptr[r];
        for (size_t i = 0; i < j->ranges; ++i) {
            const size_t first = range_begin(j->minor, j->ranges, i);
            while (p < j->indptr[r + 1] && (size_t)j->indices[p] < first) ++p;
            j->borders[i * j->major + r] = p;
        }
    }
}

static int32_t range_end(const transpose_job *j, size_t range, size_t row)
{
    return range + 1 < j->ranges ? j->borders[(range + 1) * j->major + row] : j->indptr[row + 1];
}

/* Counts of each column, one place later: new_indptr[c + 1]. */
static void columns_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const transpose_job *j = arg;
    (void)worker;
    for (size_t i = begin; i < end; ++i)
        for (size_t r = 0; r < j->major; ++r)
            for (int32_t p = j->borders[i * j->major + r]; p < range_end(j, i, r); ++p) ++j->new_indptr[j->indices[p] + 1];
}

/* new_indptr[c] is where column c goes on, and in the end where it ends. */
static void scatter_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const transpose_job *j = arg;
    (void)worker;
    for (size_t i = begin; i < end; ++i)
        for (size_t r = 0; r < j->major; ++r)
            for (int32_t p = j->borders[i * j->major + r]; p < range_end(j, i, r); ++p) {
                const int32_t to = j->new_indptr[j->indices[p]]++;
                j->new_indices[to] = (int32_t)r;
                j->new_values[to] = j->values[p];
            }
}

int hyp_transpose(const hyp_threads_api *api, hyp_team *team, const int32_t *indptr, const int32_t *indices, const void *values,
                  size_t major, size_t minor, int32_t *borders, int32_t *new_indptr, int32_t *new_indices, void *new_values)
{
    transpose_job j = {indptr, indices, values, major, minor, hyp_transpose_borders(minor), borders, new_indptr, new_indices, new_values};
    const size_t each = major ? (size_t)indptr[major] / major : 0;
    memset(new_indptr, 0, (minor + 1) * sizeof *new_indptr);
    if (!major || !minor) return HYP_OK;
    int status = api->run(team, borders_task, &j, major, grain(each));
    if (status == HYP_OK) status = api->run(team, columns_task, &j, j.ranges, 1);
    if (status != HYP_OK) return status;
    for (size_t c = 0; c < minor; ++c) new_indptr[c + 1] += new_indptr[c];
    status = api->run(team, scatter_task, &j, j.ranges, 1);
    memmove(new_indptr + 1, new_indptr, minor * sizeof *new_indptr);
    new_indptr[0] = 0;
    return status;
}

typedef struct {
    const float *values;
    const int32_t *from;
    size_t height, width;
    float *to;
} turn_job;

static void turn_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const turn_job *j = arg;
    const size_t size = j->height * j->width;
    (void)worker;
    for (size_t block = begin; block < end; ++block) {
        const float *from = j->values + (size_t)j->from[block] * size;
        float *to = j->to + block * size;
        for (size_t k = 0; k < j->width; ++k)
            for (size_t i = 0; i < j->height; ++i) to[k * j->height + i] = from[i * j->width + k];
    }
}

int hyp_blocks_transpose(const hyp_threads_api *api, hyp_team *team, const float *values, const int32_t *from, size_t n,
                         size_t height, size_t width, float *to)
{
    turn_job j = {values, from, height, width, to};
    return api->run(team, turn_task, &j, n, grain(height * width));
}

/* ---- Blocks ------------------------------------------------------------------------------------------------------------------- */

/* The least block column of the rows' next values, or SIZE_MAX; cursors[i] is row first + i's next value. */
static size_t next_block(const hyp_sparse *a, size_t first, size_t rows, const int32_t *cursors, size_t width)
{
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < rows; ++i)
        if (cursors[i] < a->indptr[first + i + 1]) least = smaller(least, (size_t)a->indices[cursors[i]] / width);
    return least;
}

/* The rows of a block are walked together, from one block that has a value to the next. */
static void to_blocks_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const convert_job *j = arg;
    const hyp_sparse *a = j->a;
    (void)worker;
    for (size_t block_row = begin; block_row < end; ++block_row) {
        const size_t first = block_row * j->height, rows = smaller(j->height, a->rows - first);
        int32_t *cursors = j->counts + first; /* the first of them is the block row's count in the end */
        size_t n = 0, block;
        float *to = j->values ? j->values + (size_t)j->indptr[block_row] * j->height * j->width : NULL;
        for (size_t i = 0; i < rows; ++i) cursors[i] = a->indptr[first + i];
        while ((block = next_block(a, first, rows, cursors, j->width)) != SIZE_MAX) {
            const size_t last = (block + 1) * j->width;
            for (size_t i = 0; i < rows; ++i)
                for (; cursors[i] < a->indptr[first + i + 1] && (size_t)a->indices[cursors[i]] < last; ++cursors[i])
                    if (to) to[i * j->width + (size_t)a->indices[cursors[i]] - block * j->width] = a->values[cursors[i]];
            if (to) {
                j->indices[(size_t)j->indptr[block_row] + n] = (int32_t)block;
                to += j->height * j->width;
            }
            ++n;
        }
        cursors[0] = (int32_t)n;
    }
}

static int to_blocks(const hyp_threads_api *api, hyp_team *team, convert_job *j)
{
    const hyp_sparse *a = j->a;
    if (!a->rows) return HYP_OK;
    return api->run(team, to_blocks_task, j, ceil_div(a->rows, j->height), grain((size_t)a->indptr[a->rows] / a->rows * j->height));
}

int hyp_to_blocks_count(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t height, size_t width,
                        int32_t *cursors)
{
    convert_job j = {a, NULL, height, width, cursors, NULL, NULL, NULL};
    return to_blocks(api, team, &j);
}

int hyp_to_blocks_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t height, size_t width,
                       int32_t *cursors, const int32_t *indptr, int32_t *indices, float *values)
{
    convert_job j = {a, NULL, height, width, cursors, indptr, indices, values};
    return to_blocks(api, team, &j);
}

/* Each block's row is walked in order of the blocks, so the values come sorted. */
static void from_blocks_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const convert_job *j = arg;
    const hyp_sparse *a = j->a;
    (void)worker;
    for (size_t row = begin; row < end; ++row) {
        const size_t block_row = row / a->height, i = row % a->height;
        size_t n = j->indptr ? (size_t)j->indptr[row] : 0;
        for (size_t p = (size_t)a->indptr[block_row]; p < (size_t)a->indptr[block_row + 1]; ++p) {
            const float *values = a->values + (p * a->height + i) * a->width;
            const size_t col = (size_t)a->indices[p] * a->width;
            for (size_t k = 0; k < smaller(a->width, a->cols - col); ++k) {
                if (!holds(values[k])) continue;
                if (j->indptr) {
                    j->indices[n] = (int32_t)(col + k);
                    j->values[n] = values[k];
                }
                ++n;
            }
        }
        if (!j->indptr) j->counts[row] = (int32_t)n;
    }
}

static int from_blocks(const hyp_threads_api *api, hyp_team *team, convert_job *j)
{
    const hyp_sparse *a = j->a;
    if (!a->rows) return HYP_OK;
    const size_t block_rows = ceil_div(a->rows, a->height);
    return api->run(team, from_blocks_task, j, a->rows, grain((size_t)a->indptr[block_rows] / block_rows * a->width));
}

int hyp_from_blocks_count(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, int32_t *counts)
{
    convert_job j = {a, NULL, 0, 0, counts, NULL, NULL, NULL};
    return from_blocks(api, team, &j);
}

int hyp_from_blocks_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const int32_t *indptr, int32_t *indices,
                         float *values)
{
    convert_job j = {a, NULL, 0, 0, NULL, indptr, indices, values};
    return from_blocks(api, team, &j);
}
