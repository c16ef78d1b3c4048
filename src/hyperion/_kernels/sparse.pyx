"""Sparse matrices on a team of threads: structure, conversions and products.

A matrix comes as a tuple ``(shape, block, indptr, indices, values, codes)``: values is None where there are codes, a
tuple ``(codes, bits, group, scales, zeros)``. What the kernels index with is checked by `check`, once, by whoever
makes the tuple.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

import numpy as np

from hyperion._kernels.dispatch cimport hyp_table, level_number, table
from hyperion._kernels.threads cimport Team, api, check_status, hyp_team, hyp_threads_api

from hyperion.errors import HyperionMemoryError, InvalidArgumentError

cdef extern from "sparse/product.h" nogil:
    enum:
        HYP_SPARSE_TILE

    ctypedef struct hyp_sparse_visit:
        pass

    ctypedef struct hyp_sparse_codes:
        const void *codes
        int bits
        size_t group
        const float *scales
        const float *zeros

    ctypedef struct hyp_sparse:
        size_t rows
        size_t cols
        size_t height
        size_t width
        const int32_t *indptr
        const int32_t *indices
        const float *values
        hyp_sparse_codes codes

    ctypedef struct hyp_sparse_tiles:
        size_t rows
        size_t cols
        size_t parts
        const int64_t *table
        const uint32_t *tiles
        const hyp_sparse_visit *visits
        const uint8_t *offsets
        const float *values

    ctypedef struct hyp_dense:
        float *data
        size_t rows
        size_t cols
        Py_ssize_t row
        Py_ssize_t col

    size_t hyp_sparse_scratch(const hyp_sparse *a, const hyp_sparse_tiles *tiles, const hyp_dense *b, size_t threads)
    int hyp_sparse_multiply(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a,
                            const hyp_sparse_tiles *tiles, const hyp_dense *b, const hyp_dense *out, void *scratch)
    size_t hyp_sparse_scatter_scratch(const hyp_sparse *a)
    int hyp_sparse_scatter(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a,
                           const hyp_dense *x, const hyp_dense *out, void *scratch)

cdef extern from "sparse/convert.h" nogil:
    enum:
        HYP_SPARSE_CANONICAL
        HYP_SPARSE_UNSORTED
        HYP_SPARSE_DUPLICATE
        HYP_SPARSE_START
        HYP_SPARSE_FALLS
        HYP_SPARSE_END
        HYP_SPARSE_RANGE

    int hyp_sparse_check(const int32_t *indptr, const int32_t *indices, size_t major, size_t minor, size_t n,
                         size_t *where)
    int hyp_sparse_unsafe(const int32_t *indptr, const int32_t *indices, size_t major, size_t minor, size_t n)
    int hyp_dense_count(const hyp_threads_api *api, hyp_team *team, const hyp_dense *x, int32_t *counts)
    int hyp_dense_fill(const hyp_threads_api *api, hyp_team *team, const hyp_dense *x, const int32_t *indptr,
                       int32_t *indices, float *values)
    int hyp_sparse_to_dense(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const hyp_dense *out)
    size_t hyp_transpose_borders(size_t minor)
    int hyp_transpose(const hyp_threads_api *api, hyp_team *team, const int32_t *indptr, const int32_t *indices,
                      const void *values, size_t major, size_t minor, int32_t *borders, int32_t *new_indptr,
                      int32_t *new_indices, void *new_values)
    int hyp_blocks_transpose(const hyp_threads_api *api, hyp_team *team, const float *values, const int32_t *origin,
                             size_t n, size_t height, size_t width, float *to)
    int hyp_to_blocks_count(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t height,
                            size_t width, int32_t *cursors)
    int hyp_to_blocks_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t height,
                           size_t width, int32_t *cursors, const int32_t *indptr, int32_t *indices, float *values)
    int hyp_from_blocks_count(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, int32_t *counts)
    int hyp_from_blocks_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const int32_t *indptr,
                             int32_t *indices, float *values)
    size_t hyp_tiles_most(const hyp_sparse *a)
    size_t hyp_tiles_cut(const hyp_sparse *a, int64_t *table)
    int hyp_tiles_fill(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, size_t parts, int64_t *table,
                       uint32_t *tiles, hyp_sparse_visit *visits, uint8_t *offsets, float *values)
    size_t hyp_sparse_sparse_room(const hyp_sparse *b, size_t threads)
    int hyp_sparse_sparse(const hyp_threads_api *api, hyp_team *team, const hyp_sparse *a, const hyp_sparse *b,
                          void *room, int32_t *counts, const int32_t *indptr, int32_t *indices, float *values)

TILE = HYP_SPARSE_TILE
FOUND = {
    HYP_SPARSE_CANONICAL: "canonical", HYP_SPARSE_UNSORTED: "unsorted", HYP_SPARSE_DUPLICATE: "duplicate",
    HYP_SPARSE_START: "start", HYP_SPARSE_FALLS: "falls", HYP_SPARSE_END: "end", HYP_SPARSE_RANGE: "range",
}


# ---- Arguments ---------------------------------------------------------------------------------------------

cdef void *_flat(object array, object dtype, object size, bint writable, str what) except? NULL:
    """The address of a contiguous array of `size` values (any number if None)."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype or not array.flags.c_contiguous:
        got = f"{array.dtype} of strides {array.strides}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidArgumentError(f"{what} must be a contiguous {np.dtype(dtype)} array, not {got}")
    if size is not None and array.size != size:
        raise InvalidArgumentError(f"{what} must have {size} values, not {array.size}")
    if not array.flags.aligned or (writable and not array.flags.writeable):
        raise InvalidArgumentError(f"{what} must be aligned" + (" and writable" if writable else ""))
    return <void *><size_t>array.ctypes.data


cdef int _matrix(object matrix, hyp_sparse *a) except -1:
    shape, block, indptr, indices, values, codes = matrix
    a.rows, a.cols = shape
    a.height, a.width = block
    if not a.height or not a.width:
        raise InvalidArgumentError(f"a block of {block} has no values")
    a.indptr = <const int32_t *>_flat(indptr, np.int32, (a.rows + a.height - 1) // a.height + 1, False, "indptr")
    n = int(indptr[indptr.size - 1])
    a.indices = <const int32_t *>_flat(indices, np.int32, n, False, "indices")
    a.values = NULL
    a.codes.codes = NULL
    if codes is None:
        a.values = <const float *>_flat(values, np.float32, n * a.height * a.width, False, "values")
        return 0
    stored, bits, group, scales, zeros = codes
    n *= a.height * a.width
    if bits not in (4, 8) or group < 1:
        raise InvalidArgumentError(f"codes have 4 or 8 bits and groups of at least 1, not {bits} and {group}")
    a.codes.codes = _flat(stored, np.int8 if bits == 8 else np.uint8, n if bits == 8 else (n + 1) // 2, False, "codes")
    a.codes.bits, a.codes.group = bits, group
    params = (n + group - 1) // group
    a.codes.scales = <const float *>_flat(scales, np.float32, None, False, "scales")
    a.codes.zeros = NULL
    if zeros is not None:
        a.codes.zeros = <const float *>_flat(zeros, np.float32, scales.size, False, "zeros")
    if scales.size < params:
        raise InvalidArgumentError(f"{n} codes in groups of {group} need {params} scales, not {scales.size}")
    return 0


cdef int _dense(object array, bint writable, hyp_dense *x) except -1:
    """An array [rows, cols] of float32, any strides."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 2:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidArgumentError(f"expected a float32 array of two dimensions, not {got}")
    if not array.flags.aligned or array.strides[0] % 4 or array.strides[1] % 4:
        raise InvalidArgumentError("an array of float32 must be aligned to 4 bytes")
    if writable and not array.flags.writeable:
        raise InvalidArgumentError("out is read-only")
    x.data = <float *><size_t>array.ctypes.data
    x.rows, x.cols = array.shape
    x.row, x.col = array.strides[0] // 4, array.strides[1] // 4
    return 0


# ---- Structure ---------------------------------------------------------------------------------------------

def check(indptr, indices, size_t major, size_t minor):
    cdef const int32_t *starts = <const int32_t *>_flat(indptr, np.int32, major + 1, False, "indptr")
    cdef const int32_t *places = <const int32_t *>_flat(indices, np.int32, None, False, "indices")
    cdef size_t n = indices.size, where = 0
    cdef int found
    with nogil:
        found = hyp_sparse_check(starts, places, major, minor, n, &where)
    return FOUND[found], where


def is_safe(indptr, indices, size_t major, size_t minor):
    cdef const int32_t *starts = <const int32_t *>_flat(indptr, np.int32, major + 1, False, "indptr")
    cdef const int32_t *places = <const int32_t *>_flat(indices, np.int32, None, False, "indices")
    cdef size_t n = indices.size
    cdef int bad
    with nogil:
        bad = hyp_sparse_unsafe(starts, places, major, minor, n)
    return not bad


# ---- Conversions -------------------------------------------------------------------------------------------

def dense_count(Team team not None, x, counts):
    cdef hyp_dense source
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    _dense(x, False, &source)
    cdef int32_t *to = <int32_t *>_flat(counts, np.int32, source.rows, True, "counts")
    with nogil:
        status = hyp_dense_count(region, threads, &source, to)
    check_status(status, "counting values")


def dense_fill(Team team not None, x, indptr, indices, values):
    cdef hyp_dense source
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    _dense(x, False, &source)
    cdef const int32_t *starts = <const int32_t *>_flat(indptr, np.int32, source.rows + 1, False, "indptr")
    n = int(indptr[source.rows])
    cdef int32_t *places = <int32_t *>_flat(indices, np.int32, n, True, "indices")
    cdef float *to = <float *>_flat(values, np.float32, n, True, "values")
    with nogil:
        status = hyp_dense_fill(region, threads, &source, starts, places, to)
    check_status(status, "compressing")


def to_dense(Team team not None, matrix, out):
    cdef hyp_sparse a
    cdef hyp_dense target
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    _matrix(matrix, &a)
    _dense(out, True, &target)
    if target.rows != a.rows or target.cols != a.cols or a.values == NULL:
        raise InvalidArgumentError(f"{out.shape} does not hold {matrix[0]}, or the values are codes")
    with nogil:
        status = hyp_sparse_to_dense(region, threads, &a, &target)
    check_status(status, "expanding")


def transpose(Team team not None, indptr, indices, values, size_t minor, new_indptr, new_indices, new_values):
    cdef size_t major = indptr.size - 1
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    cdef const int32_t *starts = <const int32_t *>_flat(indptr, np.int32, None, False, "indptr")
    n = int(indptr[major])
    borders = np.empty((hyp_transpose_borders(minor), major), np.int32)
    cdef int32_t *cuts = <int32_t *>_flat(borders, np.int32, None, True, "borders")
    cdef const int32_t *places = <const int32_t *>_flat(indices, np.int32, n, False, "indices")
    cdef void *source = _flat(values, values.dtype, n, False, "values")
    cdef int32_t *to_starts = <int32_t *>_flat(new_indptr, np.int32, minor + 1, True, "new_indptr")
    cdef int32_t *to_places = <int32_t *>_flat(new_indices, np.int32, n, True, "new_indices")
    cdef void *target = _flat(new_values, values.dtype, n, True, "new_values")
    if values.dtype.itemsize != 4:
        raise InvalidArgumentError(f"values must have four bytes each, not {values.dtype}")
    with nogil:
        status = hyp_transpose(region, threads, starts, places, source, major, minor, cuts, to_starts, to_places,
                               target)
    check_status(status, "transposing")


def blocks_transpose(Team team not None, values, origin, out):
    cdef size_t n = values.shape[0], height = values.shape[1], width = values.shape[2]
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    cdef const float *source = <const float *>_flat(values, np.float32, None, False, "values")
    cdef const int32_t *order = <const int32_t *>_flat(origin, np.int32, n, False, "origin")
    cdef float *target = <float *>_flat(out, np.float32, values.size, True, "out")
    with nogil:
        status = hyp_blocks_transpose(region, threads, source, order, n, height, width, target)
    check_status(status, "transposing blocks")


def to_blocks(Team team not None, matrix, size_t height, size_t width, cursors, indptr=None, indices=None, values=None):
    cdef hyp_sparse a
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    cdef const int32_t *starts = NULL
    cdef int32_t *places = NULL
    cdef float *target = NULL
    _matrix(matrix, &a)
    cdef int32_t *work = <int32_t *>_flat(cursors, np.int32, a.rows, True, "cursors")
    if indptr is not None:
        starts = <const int32_t *>_flat(indptr, np.int32, (a.rows + height - 1) // height + 1, False, "indptr")
        n = int(indptr[indptr.size - 1])
        places = <int32_t *>_flat(indices, np.int32, n, True, "indices")
        target = <float *>_flat(values, np.float32, n * height * width, True, "values")
    with nogil:
        if starts == NULL:
            status = hyp_to_blocks_count(region, threads, &a, height, width, work)
        else:
            status = hyp_to_blocks_fill(region, threads, &a, height, width, work, starts, places, target)
    check_status(status, "making blocks")


def from_blocks(Team team not None, matrix, counts, indptr=None, indices=None, values=None):
    cdef hyp_sparse a
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    cdef const int32_t *starts = NULL
    cdef int32_t *places = NULL
    cdef float *target = NULL
    _matrix(matrix, &a)
    cdef int32_t *work = <int32_t *>_flat(counts, np.int32, a.rows, True, "counts")
    if indptr is not None:
        starts = <const int32_t *>_flat(indptr, np.int32, a.rows + 1, False, "indptr")
        n = int(indptr[a.rows])
        places = <int32_t *>_flat(indices, np.int32, n, True, "indices")
        target = <float *>_flat(values, np.float32, n, True, "values")
    with nogil:
        if starts == NULL:
            status = hyp_from_blocks_count(region, threads, &a, work)
        else:
            status = hyp_from_blocks_fill(region, threads, &a, starts, places, target)
    check_status(status, "taking blocks apart")


# ---- Tiles -------------------------------------------------------------------------------------------------

def tiles_cut(matrix):
    cdef hyp_sparse a
    _matrix(matrix, &a)
    cdef size_t most = hyp_tiles_most(&a), parts
    cuts = np.zeros((most + 1, 4), np.int64)
    cdef int64_t *to = <int64_t *>_flat(cuts, np.int64, None, True, "cuts")
    with nogil:
        parts = hyp_tiles_cut(&a, to)
    return cuts[:parts + 1].copy()


def tiles_fill(Team team not None, matrix, cuts, tiles=None, visits=None, offsets=None, values=None):
    cdef hyp_sparse a
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    cdef uint32_t *numbers = NULL
    cdef hyp_sparse_visit *seen = NULL
    cdef uint8_t *places = NULL
    cdef float *target = NULL
    _matrix(matrix, &a)
    cdef size_t parts = cuts.shape[0] - 1
    cdef int64_t *parts_table = <int64_t *>_flat(cuts, np.int64, 4 * (parts + 1), True, "cuts")
    if tiles is not None:
        numbers = <uint32_t *>_flat(tiles, np.uint32, 2 * int(cuts[parts, 1]), True, "tiles")
        seen = <hyp_sparse_visit *>_flat(visits, np.uint16, 2 * int(cuts[parts, 2]), True, "visits")
        places = <uint8_t *>_flat(offsets, np.uint8, indices_of(matrix).size, True, "offsets")
        target = <float *>_flat(values, np.float32, indices_of(matrix).size, True, "values")
    with nogil:
        status = hyp_tiles_fill(region, threads, &a, parts, parts_table, numbers, seen, places, target)
    check_status(status, "cutting tiles")


cdef object indices_of(object matrix):
    return matrix[3]


cdef int _tiles(object given, hyp_sparse_tiles *t) except -1:
    """Of a tuple (shape, cuts, tiles, visits, offsets, values)."""
    shape, cuts, tiles, visits, offsets, values = given
    t.rows, t.cols = shape
    t.parts = cuts.shape[0] - 1
    t.table = <const int64_t *>_flat(cuts, np.int64, 4 * (t.parts + 1), False, "cuts")
    t.tiles = <const uint32_t *>_flat(tiles, np.uint32, 2 * int(cuts[t.parts, 1]), False, "tiles")
    t.visits = <const hyp_sparse_visit *>_flat(visits, np.uint16, 2 * int(cuts[t.parts, 2]), False, "visits")
    t.offsets = <const uint8_t *>_flat(offsets, np.uint8, int(cuts[t.parts, 3]), False, "offsets")
    t.values = <const float *>_flat(values, np.float32, int(cuts[t.parts, 3]), False, "values")
    return 0


# ---- Products ----------------------------------------------------------------------------------------------

cdef void *_room(object allocate, size_t size, list kept) except NULL:
    """`size` bytes that `allocate(n)` gives as a writable buffer, aligned to 64."""
    if size == 0:
        raise HyperionMemoryError("the scratch of this product is larger than the address space")
    buffer = np.frombuffer(allocate(size + 64), np.uint8)
    kept.append(buffer)
    cdef size_t address = buffer.ctypes.data
    return <void *>((address + 63) // 64 * 64)


def multiply(Team team not None, matrix, tiles, b, out, allocate, level=None):
    cdef hyp_sparse a
    cdef hyp_sparse_tiles cut
    cdef hyp_sparse_tiles *by_tiles = NULL
    cdef hyp_dense x, y
    cdef int status
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef list kept = []
    _dense(b, False, &x)
    _dense(out, True, &y)
    if tiles is not None:
        _tiles(tiles, &cut)
        by_tiles = &cut
        shape = tiles[0]
    else:
        _matrix(matrix, &a)
        shape = matrix[0]
    if x.rows != shape[1] or y.rows != shape[0] or y.cols != x.cols:
        raise InvalidArgumentError(f"{shape} times {b.shape} does not give {out.shape}")
    if y.rows == 0 or y.cols == 0:
        return
    cdef void *scratch = _room(allocate, hyp_sparse_scratch(&a, by_tiles, &x, region.size(threads)), kept)
    with nogil:
        status = hyp_sparse_multiply(kernels, region, threads, &a, by_tiles, &x, &y, scratch)
    check_status(status, "sparse product")


def scatter(Team team not None, matrix, x, out, allocate, level=None):
    cdef hyp_sparse a
    cdef hyp_dense source, target
    cdef int status
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef list kept = []
    _matrix(matrix, &a)
    _dense(x, False, &source)
    _dense(out, True, &target)
    if source.rows != a.rows or target.rows != a.cols or source.cols != target.cols or matrix[1] != (1, 1):
        raise InvalidArgumentError(f"the transpose of {matrix[0]} times {x.shape} does not give {out.shape}")
    if target.rows == 0 or target.cols == 0:
        return
    cdef void *scratch = _room(allocate, hyp_sparse_scatter_scratch(&a), kept)
    with nogil:
        status = hyp_sparse_scatter(kernels, region, threads, &a, &source, &target, scratch)
    check_status(status, "sparse product")


def sparse_sparse(Team team not None, a, b, allocate, counts, indptr=None, indices=None, values=None):
    cdef hyp_sparse left, right
    cdef int status
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef const int32_t *starts = NULL
    cdef int32_t *places = NULL
    cdef float *target = NULL
    cdef list kept = []
    _matrix(a, &left)
    _matrix(b, &right)
    if left.cols != right.rows or a[1] != (1, 1) or b[1] != (1, 1) or left.values == NULL or right.values == NULL:
        raise InvalidArgumentError(f"{a[0]} and {b[0]} are no compressed rows of float32 that can be multiplied")
    cdef int32_t *found = <int32_t *>_flat(counts, np.int32, left.rows, True, "counts")
    if indptr is not None:
        starts = <const int32_t *>_flat(indptr, np.int32, left.rows + 1, False, "indptr")
        places = <int32_t *>_flat(indices, np.int32, int(indptr[left.rows]), True, "indices")
        target = <float *>_flat(values, np.float32, int(indptr[left.rows]), True, "values")
    if left.rows == 0:
        return
    cdef void *room = _room(allocate, hyp_sparse_sparse_room(&right, region.size(threads)), kept)
    with nogil:
        status = hyp_sparse_sparse(region, threads, &left, &right, room, found, starts, places, target)
    check_status(status, "product of sparse matrices")
