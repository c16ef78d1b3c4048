/* Cuts a product into tasks: columns of the dense operand by HYP_SPARSE_COLS, rows of the sparse one by their stored values.
 *
 * A result is computed in one task, in the order of the indices; so neither threads nor cuts change a bit. The columns of a
 * task are first copied together, aligned and padded to whole vectors, unless they lie so already: rows that are a power of two
 * apart would share a few sets of every cache, and unaligned rows cost two loads each. */
#include "sparse/product.h"

#include "sparse/values.h"

enum {
    ROWS = 64,           /* rows of results that a task collects before it stores them: 16 KiB */
    TASK = 1 << 16,      /* multiplications of a vector that pay for a task: some 20 us */
    TASKS_A_THREAD = 8,
    GROUP = 8 << 20,     /* bytes of the dense operand that are copied together at a time */
    LONGEST = 1 << 24    /* vectors in a task: some ms, so that signals are heard */
};

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static size_t larger(size_t a, size_t b) { return a > b ? a : b; }
static size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* How columns are cut and copied. */
typedef struct {
    size_t depth;        /* rows of the dense operand, padded to whole blocks */
    size_t ld;           /* floats between them */
    size_t tiles;        /* cuts of the columns */
    size_t group;        /* cuts that are copied at a time; 0: they are read where they are */
} cut;

typedef struct {
    const hyp_table *table;
    const hyp_sparse *a;
    const hyp_sparse_tiles *tiles;
    const hyp_dense *b, *out;
    cut cut;
    size_t first;        /* cut of the columns that the group begins with */
    size_t chunks;       /* cuts of the rows */
    float *copies;
    char *own;           /* own_bytes for each worker */
    size_t own_bytes;
} job;

static size_t width_of(const hyp_dense *b, size_t tile)
{
    return smaller(b->cols - tile * HYP_SPARSE_COLS, HYP_SPARSE_COLS);
}

static size_t vectors_of(size_t width)
{
    return ceil_div(width, HYP_SPARSE_VECTOR);
}

static size_t stored(const hyp_sparse *a)
{
    return (size_t)a->indptr[ceil_div(a->rows, a->height)] * a->height * a->width;
}

static int lies_well(const hyp_dense *b, size_t depth, size_t ld, int exactly)
{
    const int rows_apart = exactly ? b->row == (ptrdiff_t)ld : b->row >= (ptrdiff_t)b->cols && b->row % HYP_SPARSE_VECTOR == 0;
    return (uintptr_t)b->data % 64 == 0 && b->col == 1 && rows_apart && b->cols % HYP_SPARSE_VECTOR == 0 && depth == b->rows;
}

static cut cut_of(const hyp_sparse *a, const hyp_sparse_tiles *tiles, const hyp_dense *b)
{
    cut c;
    c.depth = tiles ? b->rows : ceil_div(b->rows, a->width) * a->width;
    c.tiles = ceil_div(b->cols, HYP_SPARSE_COLS);
    c.ld = tiles || c.tiles > 1 ? HYP_SPARSE_COLS : vectors_of(b->cols) * HYP_SPARSE_VECTOR;
    /* A copy of few columns costs as much as using each value some times. */
    const int often = tiles || stored(a) / 8 > b->rows;
    if (lies_well(b, c.depth, c.ld, often)) {
        c.group = 0;
        c.ld = (size_t)b->row;
    } else {
        const size_t one = larger(c.depth * c.ld * sizeof(float), 1);
        c.group = smaller(c.tiles, larger(GROUP / one, 1));
    }
    return c;
}

/* What a worker needs: a tile of results, and expanded values. */
static size_t own_bytes(const hyp_sparse *a, const hyp_sparse_tiles *tiles)
{
    if (tiles) return HYP_SPARSE_ROWS * HYP_SPARSE_COLS * sizeof(float);
    const size_t expanded = a->codes.codes ? hyp_sparse_room(larger(HYP_SPARSE_PIECE, a->height * a->width)) : 0;
    return larger(a->height, ROWS) * HYP_SPARSE_COLS * sizeof(float) + expanded;
}

/* A vector is copied where its values are apart or the last block reaches past it. */
static int vector_is_copied(const hyp_sparse *a, const hyp_dense *b)
{
    return b->row != 1 || b->rows % a->width;
}

size_t hyp_sparse_scratch(const hyp_sparse *a, const hyp_sparse_tiles *tiles, const hyp_dense *b, size_t threads)
{
    const size_t own = own_bytes(a, tiles);
    size_t copied;
    if (b->cols == 1 && !tiles) {
        copied = vector_is_copied(a, b) ? ceil_div(b->rows, a->width) * a->width * sizeof(float) : 0;
    } else {
        const cut c = cut_of(a, tiles, b);
        const size_t row = c.ld * sizeof(float);
        if (c.group && c.depth > (SIZE_MAX / 2) / row / c.group) return 0;
        copied = c.group * c.depth * row;
    }
    if (own > SIZE_MAX / 4 / threads) return 0;
    return own * threads + copied + 64;
}

/* ---- The dense operand --------------------------------------------------------------------------------------------------- */

/* Rows begin .. end-1 of one cut, padded with zeros; columns that are apart are read in runs along them. */
static void copy_rows(const hyp_dense *b, size_t tile, size_t begin, size_t end, size_t ld, size_t padded, float *to)
{
    const size_t width = width_of(b, tile);
    const float *from = b->data + (ptrdiff_t)(tile * HYP_SPARSE_COLS) * b->col;
    const size_t real = smaller(end, b->rows);
    if (b->col == 1) {
        for (size_t r = begin; r < real; ++r) memcpy(to + r * ld, from + (ptrdiff_t)r * b->row, width * sizeof(float));
    } else {
        for (size_t r = begin; r < real; r += 16)
            for (size_t j = 0; j < width; ++j)
                for (size_t i = r; i < smaller(r + 16, real); ++i) to[i * ld + j] = from[(ptrdiff_t)i * b->row + (ptrdiff_t)j * b->col];
    }
    for (size_t r = begin; r < end; ++r) {
        const size_t filled = r < b->rows ? width : 0;
        memset(to + r * ld + filled, 0, (padded - filled) * sizeof(float));
    }
}

enum { COPY_ROWS = 128 };

static void copy_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const job *j = arg;
    const size_t strips = ceil_div(j->cut.depth, COPY_ROWS);
    (void)worker;
    for (size_t item = begin; item < end; ++item) {
        const size_t tile = item / strips, first = item % strips * COPY_ROWS;
        const size_t padded = vectors_of(width_of(j->b, j->first + tile)) * HYP_SPARSE_VECTOR;
        copy_rows(j->b, j->first + tile, first, smaller(first + COPY_ROWS, j->cut.depth), j->cut.ld, padded,
                  j->copies + tile * j->cut.depth * j->cut.ld);
    }
}

/* Column 0 of a cut as the kernels read it. */
static const float *columns(const job *j, size_t tile)
{
    return j->cut.group ? j->copies + (tile - j->first) * j->cut.depth * j->cut.ld : j->b->data + tile * HYP_SPARSE_COLS;
}

/* ---- Results ------------------------------------------------------------------------------------------------------------- */

/* Collected rows of one cut to where they belong. */
static void store(const hyp_dense *out, const float *c, size_t row, size_t rows, size_t tile)
{
    const size_t width = width_of(out, tile);
    float *to = out->data + (ptrdiff_t)row * out->row + (ptrdiff_t)(tile * HYP_SPARSE_COLS) * out->col;
    if (out->col == 1) {
        for (size_t r = 0; r < rows; ++r) memcpy(to + (ptrdiff_t)r * out->row, c + r * HYP_SPARSE_COLS, width * sizeof(float));
    } else {
        for (size_t j = 0; j < width; ++j)
            for (size_t r = 0; r < rows; ++r) to[(ptrdiff_t)r * out->row + (ptrdiff_t)j * out->col] = c[r * HYP_SPARSE_COLS + j];
    }
}

/* First row of chunk i of n, so that all have about as many values; an empty row counts as one. */
static size_t border(const int32_t *indptr, size_t rows, size_t i, size_t n)
{
    const size_t total = (size_t)indptr[rows] + rows;
    const size_t wanted = total / n * i + total % n * i / n;
    size_t low = 0, high = rows;
    if (i == n) return rows;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if ((size_t)indptr[middle] + middle < wanted) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* ---- Compressed rows ------------------------------------------------------------------------------------------------------ */

/* Rows of codes: as many rows at a time as expand into a piece, and a longer row piece by piece. */
static void rows_of_codes(const job *j, size_t row, size_t rows, const float *b, size_t vectors, float *c, void *room)
{
    const hyp_sparse *a = j->a;
    const hyp_sparse_kernels *k = &j->table->sparse;
    for (const size_t last = row + rows; row < last;) {
        const size_t begin = (size_t)a->indptr[row];
        size_t next = row;
        while (next < last && (size_t)a->indptr[next + 1] - begin <= HYP_SPARSE_PIECE) ++next;
        if (next > row) {
            const float *values = hyp_sparse_values(&j->table->quantize, a, begin, (size_t)a->indptr[next], room);
            k->rows(a->indptr + row, a->indices + begin, values, next - row, b, j->cut.ld, vectors, c, HYP_SPARSE_COLS);
        } else {
            const size_t end = (size_t)a->indptr[++next];
            for (size_t p = begin; p < end; p += HYP_SPARSE_PIECE) {
                const int32_t piece[2] = {0, (int32_t)smaller(end - p, HYP_SPARSE_PIECE)};
                const float *values = hyp_sparse_values(&j->table->quantize, a, p, p + (size_t)piece[1], room);
                k->rows(piece, a->indices + p, values, 1, b, j->cut.ld, vectors, c, HYP_SPARSE_COLS);
            }
        }
        c += (next - row) * HYP_SPARSE_COLS;
        row = next;
    }
}

static void rows_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const job *j = arg;
    const hyp_sparse *a = j->a;
    float *c = (float *)(j->own + worker * j->own_bytes);
    for (size_t item = begin; item < end; ++item) {
        const size_t tile = j->first + item / j->chunks, chunk = item % j->chunks;
        const size_t last = border(a->indptr, a->rows, chunk + 1, j->chunks), vectors = vectors_of(width_of(j->b, tile));
        for (size_t row = border(a->indptr, a->rows, chunk, j->chunks); row < last; row += ROWS) {
            const size_t n = smaller(ROWS, last - row), at = (size_t)a->indptr[row];
            memset(c, 0, n * HYP_SPARSE_COLS * sizeof(float));
            if (a->codes.codes)
                rows_of_codes(j, row, n, columns(j, tile), vectors, c, c + ROWS * HYP_SPARSE_COLS);
            else
                j->table->sparse.rows(a->indptr + row, a->indices + at, a->values + at, n, columns(j, tile), j->cut.ld, vectors, c,
                                      HYP_SPARSE_COLS);
            store(j->out, c, row, n, tile);
        }
    }
}

/* ---- Rows of blocks ------------------------------------------------------------------------------------------------------- */

static void blocks_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const job *j = arg;
    const hyp_sparse *a = j->a;
    const size_t size = a->height * a->width, block_rows = ceil_div(a->rows, a->height), piece = larger(HYP_SPARSE_PIECE / size, 1);
    float *c = (float *)(j->own + worker * j->own_bytes), *room = c + larger(a->height, ROWS) * HYP_SPARSE_COLS;
    for (size_t item = begin; item < end; ++item) {
        const size_t tile = j->first + item / j->chunks, chunk = item % j->chunks;
        const size_t last = border(a->indptr, block_rows, chunk + 1, j->chunks), vectors = vectors_of(width_of(j->b, tile));
        for (size_t row = border(a->indptr, block_rows, chunk, j->chunks); row < last; ++row) {
            const size_t from = (size_t)a->indptr[row], to = (size_t)a->indptr[row + 1];
            const size_t step = a->codes.codes ? piece : larger(to - from, 1);
            memset(c, 0, a->height * HYP_SPARSE_COLS * sizeof(float));
            for (size_t p = from; p < to; p += step) {
                const size_t n = smaller(step, to - p);
                const float *values = hyp_sparse_values(&j->table->quantize, a, p * size, (p + n) * size, room);
                j->table->sparse.blocks(a->indices + p, values, n, a->height, a->width, columns(j, tile), j->cut.ld, vectors, c,
                                        HYP_SPARSE_COLS);
            }
            store(j->out, c, row * a->height, smaller(a->height, a->rows - row * a->height), tile);
        }
    }
}

/* ---- Tiles ---------------------------------------------------------------------------------------------------------------- */

static void tiles_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const job *j = arg;
    const hyp_sparse_tiles *a = j->tiles;
    float *c = (float *)(j->own + worker * j->own_bytes);
    for (size_t item = begin; item < end; ++item) {
        const size_t tile = j->first + item / j->chunks, vectors = vectors_of(width_of(j->b, tile));
        const int64_t *part = a->table + 4 * (item % j->chunks);
        const size_t row = (size_t)part[0], rows = (size_t)part[4] - row;
        const hyp_sparse_visit *visits = a->visits + part[2];
        const uint8_t *offsets = a->offsets + part[3];
        const float *values = a->values + part[3], *b = columns(j, tile);
        memset(c, 0, rows * HYP_SPARSE_COLS * sizeof(float));
        for (size_t i = (size_t)part[1]; i < (size_t)part[5]; ++i) {
            const size_t n = a->tiles[2 * i + 1];
            size_t used = 0;
            j->table->sparse.visits(visits, n, offsets, values, b + (size_t)a->tiles[2 * i] * HYP_SPARSE_TILE * HYP_SPARSE_COLS,
                                    vectors, c);
            for (size_t v = 0; v < n; ++v) used += visits[v].count;
            visits += n, offsets += used, values += used;
        }
        store(j->out, c, row, rows, tile);
    }
}

/* ---- Vectors -------------------------------------------------------------------------------------------------------------- */

/* A row of codes that is longer than a piece is summed piece by piece: the same pieces whatever the task. */
static void dots_of_codes(const job *j, size_t row, size_t last, const float *x, void *room)
{
    const hyp_sparse *a = j->a;
    const hyp_sparse_kernels *k = &j->table->sparse;
    for (; row < last; ++row) {
        const size_t end = (size_t)a->indptr[row + 1];
        float sum = 0;
        for (size_t p = (size_t)a->indptr[row]; p < end; p += HYP_SPARSE_PIECE) {
            const int32_t piece[2] = {0, (int32_t)smaller(end - p, HYP_SPARSE_PIECE)};
            float part;
            const float *values = hyp_sparse_values(&j->table->quantize, a, p, p + (size_t)piece[1], room);
            k->dots(piece, a->indices + p, values, 1, x, &part, 1);
            sum += part;
        }
        j->out->data[(ptrdiff_t)row * j->out->row] = sum;
    }
}

static void dots_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const job *j = arg;
    const hyp_sparse *a = j->a;
    for (size_t chunk = begin; chunk < end; ++chunk) {
        const size_t row = border(a->indptr, a->rows, chunk, j->chunks), last = border(a->indptr, a->rows, chunk + 1, j->chunks);
        const size_t at = (size_t)a->indptr[row];
        if (a->codes.codes)
            dots_of_codes(j, row, last, j->copies, j->own + worker * j->own_bytes);
        else
            j->table->sparse.dots(a->indptr + row, a->indices + at, a->values + at, last - row, j->copies,
                                  j->out->data + (ptrdiff_t)row * j->out->row, j->out->row);
    }
}

static void block_dots_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const job *j = arg;
    const hyp_sparse *a = j->a;
    const size_t size = a->height * a->width, block_rows = ceil_div(a->rows, a->height);
    const size_t step = larger(HYP_SPARSE_PIECE / size, 1);
    float *y = (float *)(j->own + worker * j->own_bytes), *room = y + larger(a->height, ROWS) * HYP_SPARSE_COLS;
    for (size_t chunk = begin; chunk < end; ++chunk) {
        const size_t last = border(a->indptr, block_rows, chunk + 1, j->chunks);
        for (size_t row = border(a->indptr, block_rows, chunk, j->chunks); row < last; ++row) {
            const size_t first = row * a->height, rows = smaller(a->height, a->rows - first), to = (size_t)a->indptr[row + 1];
            memset(y, 0, a->height * sizeof(float));
            for (size_t p = (size_t)a->indptr[row]; p < to; p += step) {
                const size_t n = smaller(step, to - p);
                const float *values = hyp_sparse_values(&j->table->quantize, a, p * size, (p + n) * size, room);
                j->table->sparse.block_dots(a->indices + p, values, n, a->height, a->width, j->copies, y);
            }
            for (size_t i = 0; i < rows; ++i) j->out->data[(ptrdiff_t)(first + i) * j->out->row] = y[i];
        }
    }
}

/* ---- The product ---------------------------------------------------------------------------------------------------------- */

static size_t chunk_count(size_t work, size_t rows, size_t threads)
{
    const size_t wanted = smaller(larger(work / TASK, 1), threads * TASKS_A_THREAD);
    return larger(smaller(larger(wanted, work / LONGEST), rows), 1);
}

static int multiply_vector(const hyp_threads_api *api, hyp_team *team, job *j)
{
    const hyp_sparse *a = j->a;
    const hyp_dense *b = j->b;
    if (vector_is_copied(a, b)) {
        const size_t depth = ceil_div(b->rows, a->width) * a->width;
        for (size_t i = 0; i < b->rows; ++i) j->copies[i] = b->data[(ptrdiff_t)i * b->row];
        for (size_t i = b->rows; i < depth; ++i) j->copies[i] = 0;
    } else {
        j->copies = b->data;
    }
    const int single = a->height == 1 && a->width == 1;
    j->chunks = chunk_count(stored(a) / (single ? 1 : HYP_SPARSE_VECTOR) * 2, ceil_div(a->rows, a->height), api->size(team));
    return api->run(team, single ? dots_task : block_dots_task, j, j->chunks, 1);
}

int hyp_sparse_multiply(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a,
                        const hyp_sparse_tiles *tiles, const hyp_dense *b, const hyp_dense *out, void *scratch)
{
    if (out->rows == 0 || out->cols == 0) return HYP_OK;
    const size_t threads = api->size(team);
    job j = {t, a, tiles, b, out, {0, 0, 0, 0}, 0, 0, NULL, scratch, own_bytes(a, tiles)};
    j.copies = (float *)(j.own + threads * j.own_bytes);
    if (b->cols == 1 && !tiles) return multiply_vector(api, team, &j);
    j.cut = cut_of(a, tiles, b);
    const size_t vectors = smaller(vectors_of(b->cols), HYP_SPARSE_COLS / HYP_SPARSE_VECTOR);
    const hyp_task_fn task = tiles ? tiles_task : a->height == 1 && a->width == 1 ? rows_task : blocks_task;
    j.chunks = tiles ? tiles->parts : chunk_count(stored(a) * vectors, ceil_div(a->rows, a->height), threads);
    int status = HYP_OK;
    const size_t step = j.cut.group ? j.cut.group : j.cut.tiles;
    for (; j.first < j.cut.tiles && status == HYP_OK; j.first += step) {
        const size_t n = smaller(step, j.cut.tiles - j.first);
        if (j.cut.group) status = api->run(team, copy_task, &j, n * ceil_div(j.cut.depth, COPY_ROWS), 4);
        if (status == HYP_OK) status = api->run(team, task, &j, n * j.chunks, 1);
    }
    return status;
}

/* ---- The transpose and few columns ----------------------------------------------------------------------------------------- */

enum { PARTS = 8 }; /* partial results, however many threads there are: their sum has one order */

typedef struct {
    const hyp_quantize_kernels *expand;
    const hyp_sparse *a;
    const hyp_dense *x, *out;
    size_t parts, column, own_bytes;
    float *sums;         /* [parts][cols of a] */
    char *own;
} scatter_job;

static size_t part_count(const hyp_sparse *a)
{
    const size_t n = (size_t)a->indptr[a->rows];
    return larger(smaller(n / (4 * a->cols + 1), PARTS), 1);
}

size_t hyp_sparse_scatter_scratch(const hyp_sparse *a)
{
    const size_t parts = part_count(a), room = a->codes.codes ? parts * hyp_sparse_room(HYP_SPARSE_PIECE) : 0;
    return a->cols > SIZE_MAX / 8 / parts ? 0 : parts * a->cols * sizeof(float) + room + 64;
}

/* sums[index] += value * x. The indices of a row are distinct, so four sums are read before any is written. */
static void add_row(const int32_t *indices, const float *values, size_t n, float x, float *sums)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float *a = sums + indices[i], *b = sums + indices[i + 1], *c = sums + indices[i + 2], *d = sums + indices[i + 3];
        const float sum_a = *a + values[i] * x, sum_b = *b + values[i + 1] * x;
        const float sum_c = *c + values[i + 2] * x, sum_d = *d + values[i + 3] * x;
        *a = sum_a, *b = sum_b, *c = sum_c, *d = sum_d;
    }
    for (; i < n; ++i) sums[indices[i]] += values[i] * x;
}

static void scatter_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const scatter_job *j = arg;
    const hyp_sparse *a = j->a;
    (void)worker;
    for (size_t part = begin; part < end; ++part) {
        float *sums = j->sums + part * a->cols;
        const size_t last = border(a->indptr, a->rows, part + 1, j->parts);
        memset(sums, 0, a->cols * sizeof(float));
        for (size_t row = border(a->indptr, a->rows, part, j->parts); row < last; ++row) {
            const float x = j->x->data[(ptrdiff_t)row * j->x->row + (ptrdiff_t)j->column * j->x->col];
            const size_t stop = (size_t)a->indptr[row + 1];
            for (size_t p = (size_t)a->indptr[row]; p < stop;) {
                const size_t n = smaller(stop - p, HYP_SPARSE_PIECE);
                const float *values = hyp_sparse_values(j->expand, a, p, p + n, j->own + part * j->own_bytes);
                add_row(a->indices + p, values, n, x, sums);
                p += n;
            }
        }
    }
}

static void gather_task(void *arg, size_t begin, size_t end, size_t worker)
{
    const scatter_job *j = arg;
    (void)worker;
    for (size_t i = begin; i < end; ++i) {
        float sum = 0;
        for (size_t part = 0; part < j->parts; ++part) sum += j->sums[part * j->a->cols + i];
        j->out->data[(ptrdiff_t)i * j->out->row + (ptrdiff_t)j->column * j->out->col] = sum;
    }
}

int hyp_sparse_scatter(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const hyp_dense *x,
                       const hyp_dense *out, void *scratch)
{
    scatter_job j = {&t->quantize, a, x, out, part_count(a), 0, a->codes.codes ? hyp_sparse_room(HYP_SPARSE_PIECE) : 0, NULL, scratch};
    int status = HYP_OK;
    j.sums = (float *)(j.own + j.parts * j.own_bytes);
    for (; j.column < x->cols && status == HYP_OK; ++j.column) {
        status = api->run(team, scatter_task, &j, j.parts, 1);
        if (status == HYP_OK) status = api->run(team, gather_task, &j, a->cols, 4096);
    }
    return status;
}
