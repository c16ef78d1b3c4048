/* The text of the sparse kernels over vectors of 16 floats: each instruction set's file defines the type `vec` with load, store,
 * set, multiply-add and sum, how many vectors it keeps in registers at once, and `dots`, and includes this once.
 *
 *   SPARSE_VECTORS  vectors of one row's results that stay in registers
 *   BLOCK_ROWS, BLOCK_VECTORS  results of a block that stay in registers */
#ifndef HYP_SPARSE_KERNELS_H
#define HYP_SPARSE_KERNELS_H

/* ---- Compressed rows ----------------------------------------------------------------------------------------------------- */

HYP_INLINE void load_all(vec *a, const float *c, size_t vectors)
{
    for (size_t j = 0; j < vectors; ++j) a[j] = vec_load(c + HYP_SPARSE_VECTOR * j);
}

HYP_INLINE void store_all(const vec *a, float *c, size_t vectors)
{
    for (size_t j = 0; j < vectors; ++j) vec_store(c + HYP_SPARSE_VECTOR * j, a[j]);
}

/* a += value * b; `vectors` is a constant where this is inlined, and `a` is then registers. */
HYP_INLINE void add_scaled(vec *a, float value, const float *b, size_t vectors)
{
    const vec v = vec_set(value);
    for (size_t j = 0; j < vectors; ++j) a[j] = vec_madd(v, vec_load(b + HYP_SPARSE_VECTOR * j), a[j]);
}

HYP_INLINE void rows_of(const int32_t *indptr, const int32_t *indices, const float *values, size_t rows, const float *b, size_t ldb,
                        float *c, size_t ldc, size_t vectors)
{
    for (size_t r = 0; r < rows; ++r, c += ldc) {
        const size_t end = (size_t)(indptr[r + 1] - indptr[0]);
        size_t p = (size_t)(indptr[r] - indptr[0]);
        vec a[4];
        if (p == end) continue;
        load_all(a, c, vectors);
        for (; p < end; ++p) add_scaled(a, values[p], b + (size_t)indices[p] * ldb, vectors);
        store_all(a, c, vectors);
    }
}

HYP_INLINE void visits_of(const hyp_sparse_visit *visits, size_t n, const uint8_t *offsets, const float *values, const float *b,
                          float *c, size_t vectors)
{
    for (size_t i = 0; i < n; ++i) {
        const size_t count = visits[i].count;
        float *row = c + (size_t)visits[i].row * HYP_SPARSE_COLS;
        vec a[4];
        load_all(a, row, vectors);
        for (size_t p = 0; p < count; ++p) add_scaled(a, values[p], b + (size_t)offsets[p] * HYP_SPARSE_COLS, vectors);
        store_all(a, row, vectors);
        offsets += count;
        values += count;
    }
}

/* One call with a constant count where that many vectors fit the registers, else one for each vector. The offset is a constant
 * too where it can be: addresses with an index cost an instruction each. */
#define HYP_BY_VECTORS(most, call)                                                                                \
    if ((most) == 4 && vectors == 4) { call(4, 0); }                                                              \
    else if ((most) == 4 && vectors == 3) { call(3, 0); }                                                         \
    else if ((most) == 4 && vectors == 2) { call(2, 0); }                                                         \
    else for (size_t at = 0; at < vectors * HYP_SPARSE_VECTOR; at += HYP_SPARSE_VECTOR) { call(1, at); }

static void rows(const int32_t *indptr, const int32_t *indices, const float *values, size_t n, const float *b, size_t ldb,
                 size_t vectors, float *c, size_t ldc)
{
#define CALL(count, at) rows_of(indptr, indices, values, n, b + (at), ldb, c + (at), ldc, count)
    HYP_BY_VECTORS(SPARSE_VECTORS, CALL)
#undef CALL
}

static void visits(const hyp_sparse_visit *list, size_t n, const uint8_t *offsets, const float *values, const float *b,
                   size_t vectors, float *c)
{
#define CALL(count, at) visits_of(list, n, offsets, values, b + (at), c + (at), count)
    HYP_BY_VECTORS(SPARSE_VECTORS, CALL)
#undef CALL
}

/* ---- Rows of blocks ------------------------------------------------------------------------------------------------------ */

/* `height` rows of each block, which is `step` values; both counts are constants where this is inlined. */
HYP_INLINE void blocks_of(const int32_t *indices, const float *values, size_t n, size_t width, size_t step, const float *b,
                          size_t ldb, float *c, size_t ldc, size_t height, size_t vectors)
{
    vec a[BLOCK_ROWS][BLOCK_VECTORS];
    for (size_t i = 0; i < height; ++i) load_all(a[i], c + i * ldc, vectors);
    for (size_t block = 0; block < n; ++block, values += step) {
        const float *from = b + (size_t)indices[block] * width * ldb;
        for (size_t k = 0; k < width; ++k, from += ldb) {
            vec row[BLOCK_VECTORS];
            load_all(row, from, vectors);
            for (size_t i = 0; i < height; ++i) {
                const vec v = vec_set(values[i * width + k]);
                for (size_t j = 0; j < vectors; ++j) a[i][j] = vec_madd(v, row[j], a[i][j]);
            }
        }
    }
    for (size_t i = 0; i < height; ++i) store_all(a[i], c + i * ldc, vectors);
}

static void blocks(const int32_t *indices, const float *values, size_t n, size_t height, size_t width, const float *b, size_t ldb,
                   size_t vectors, float *c, size_t ldc)
{
    const size_t step = height * width;
    for (size_t i = 0; i < height;) {
        const float *at_row = values + i * width;
        float *to = c + i * ldc;
        if (height - i >= BLOCK_ROWS) {
#define CALL(count, at) blocks_of(indices, at_row, n, width, step, b + (at), ldb, to + (at), ldc, BLOCK_ROWS, count)
            HYP_BY_VECTORS(BLOCK_VECTORS, CALL)
#undef CALL
            i += BLOCK_ROWS;
        } else {
#define CALL(count, at) blocks_of(indices, at_row, n, width, step, b + (at), ldb, to + (at), ldc, 1, count)
            HYP_BY_VECTORS(BLOCK_VECTORS, CALL)
#undef CALL
            i += 1;
        }
    }
}

/* Four rows share the loads of x; what is left of a width that is no multiple of 16 is added one by one. */
HYP_INLINE void block_dots_of(const int32_t *indices, const float *values, size_t n, size_t width, size_t step, const float *x,
                              float *y, size_t height)
{
    vec a[4];
    float rest[4] = {0, 0, 0, 0};
    const size_t whole = width / HYP_SPARSE_VECTOR * HYP_SPARSE_VECTOR;
    for (size_t i = 0; i < height; ++i) a[i] = vec_set(0);
    for (size_t block = 0; block < n; ++block, values += step) {
        const float *from = x + (size_t)indices[block] * width;
        for (size_t k = 0; k < whole; k += HYP_SPARSE_VECTOR) {
            const vec part = vec_load(from + k);
            for (size_t i = 0; i < height; ++i) a[i] = vec_madd(vec_load(values + i * width + k), part, a[i]);
        }
        for (size_t k = whole; k < width; ++k)
            for (size_t i = 0; i < height; ++i) rest[i] += values[i * width + k] * from[k];
    }
    for (size_t i = 0; i < height; ++i) y[i] += vec_sum(a[i]) + rest[i];
}

static void block_dots(const int32_t *indices, const float *values, size_t n, size_t height, size_t width, const float *x, float *y)
{
    size_t i = 0;
    for (; i + 4 <= height; i += 4) block_dots_of(indices, values + i * width, n, width, height * width, x, y + i, 4);
    for (; i < height; ++i) block_dots_of(indices, values + i * width, n, width, height * width, x, y + i, 1);
}

static void fill_sparse(hyp_sparse_kernels *k)
{
    k->rows = rows;
    k->visits = visits;
    k->dots = dots;
    k->blocks = blocks;
    k->block_dots = block_dots;
}

#endif
