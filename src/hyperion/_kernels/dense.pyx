"""Functions over float32 arrays of any strides, on a team of threads; `hyperion.dense` checks what comes in."""

from libc.stdint cimport int64_t, uintptr_t

from hyperion._kernels.dispatch cimport (
    HYP_GELU,
    HYP_GELU_ERF,
    HYP_RELU,
    HYP_SIGMOID,
    HYP_SILU,
    HYP_TANH,
    hyp_map_fn,
    hyp_table,
    level_number,
    table,
)
from hyperion._kernels.threads cimport Team, api, check_status, hyp_team, hyp_threads_api

from hyperion.errors import InvalidArgumentError

cdef extern from "dense/map.h" nogil:
    enum:
        HYP_DIMS

    ctypedef struct hyp_pair:
        size_t dims
        size_t *n
        Py_ssize_t *in_ "in"
        Py_ssize_t *out
        const char *src
        char *dst

    void hyp_pair_simplify(hyp_pair *pair)
    int hyp_map_array(const hyp_threads_api *api, hyp_team *team, hyp_map_fn f, const hyp_pair *pair)
    size_t hyp_rows_buffer(size_t n)
    int hyp_map_rows(const hyp_threads_api *api, hyp_team *team, hyp_map_fn f, const hyp_pair *pair, size_t n,
                     Py_ssize_t in_, Py_ssize_t out, float *buffer)

cdef extern from "dense/gemm.h" nogil:
    ctypedef struct hyp_gemm:
        size_t m
        size_t n
        size_t k
        const float *a
        const float *b
        Py_ssize_t a_row
        Py_ssize_t a_col
        Py_ssize_t b_row
        Py_ssize_t b_col
        float *c
        Py_ssize_t c_row

    size_t hyp_gemm_buffer(const hyp_table *t, size_t m, size_t n, size_t k, const hyp_blocks *blocks)
    int hyp_gemm_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_gemm *g,
                     const hyp_blocks *blocks, void *buffer)

MAPS = {
    "relu": HYP_RELU, "silu": HYP_SILU, "gelu": HYP_GELU, "gelu_erf": HYP_GELU_ERF, "tanh": HYP_TANH,
    "sigmoid": HYP_SIGMOID,
}


cdef int _pair(object x, object out, size_t dims, hyp_pair *pair) except -1:
    """The first `dims` dimensions of two arrays of one shape."""
    cdef size_t i
    if dims > HYP_DIMS:
        raise InvalidArgumentError(f"an array of {dims} dimensions; at most {HYP_DIMS} can be")
    pair.dims = dims
    shape, source, target = x.shape, x.strides, out.strides
    for i in range(dims):
        pair.n[i], pair.in_[i], pair.out[i] = shape[i], source[i], target[i]
    pair.src = <const char *><uintptr_t>x.ctypes.data
    pair.dst = <char *><uintptr_t>out.ctypes.data
    hyp_pair_simplify(pair)
    return 0


def apply(Team team not None, name, x, out, level=None):
    """out = f(x), element by element; out is x or does not overlap it."""
    cdef const hyp_table *kernels = table(level_number(level))
    cdef hyp_map_fn f = kernels.map[<int>MAPS[name]]
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef hyp_pair pair
    cdef int status
    _pair(x, out, x.ndim, &pair)
    with nogil:
        status = hyp_map_array(region, threads, f, &pair)
    check_status(status, name)


cdef bint _contiguous(object array):
    """Whether rows along the last axis are contiguous and aligned."""
    cdef Py_ssize_t last = array.strides[array.ndim - 1]
    return (last == 4 or array.shape[array.ndim - 1] == 1) and array.flags.aligned


def softmax_buffer_bytes(Team team not None, x, out):
    """Bytes of buffer that `softmax` needs for these arrays."""
    if _contiguous(x) and _contiguous(out):
        return 0
    return hyp_rows_buffer(x.shape[x.ndim - 1]) * sizeof(float) * <size_t>team.threads


def softmax(Team team not None, x, out, buffer, level=None):
    """Softmax of rows along the last axis; `buffer`: `softmax_buffer_bytes` bytes, or None for 0."""
    cdef hyp_map_fn f = table(level_number(level)).softmax
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef size_t last = x.ndim - 1, n = x.shape[last]
    cdef Py_ssize_t from_ = x.strides[last], to = out.strides[last]
    cdef unsigned char[::1] view
    cdef float *memory = NULL
    cdef hyp_pair pair
    cdef int status
    if buffer is not None:
        view = buffer
        memory = <float *>&view[0]
    _pair(x, out, last, &pair)
    with nogil:
        status = hyp_map_rows(region, threads, f, &pair, n, from_, to, memory)
    check_status(status, "softmax")


# ---- Products ----------------------------------------------------------------------------------------------


cdef class Blocks:
    """How a product is cut: sizes in rows, depth and columns, `ahead` and `line` in bytes; see c/dense/gemm.h."""

    def __cinit__(self, size_t rows, size_t depth, size_t super_rows, size_t cols, size_t ahead, size_t line):
        if 0 in (rows, depth, super_rows, cols) or line % sizeof(float) or line == 0:
            raise InvalidArgumentError("blocks have at least one row and column, and lines whole floats")
        self.c.rows, self.c.depth, self.c.super_, self.c.cols = rows, depth, super_rows, cols
        self.c.ahead, self.c.line = ahead, line


def gemm_tile(level=None):
    """(rows, columns) of the tile that a level's kernel keeps in registers."""
    cdef const hyp_table *t = table(level_number(level))
    return t.gemm.mr, t.gemm.nr


def gemm_buffer_bytes(size_t m, size_t n, size_t k, Blocks blocks not None, level=None):
    """Bytes of buffer that `gemm` needs for matrices of this size, none of them empty."""
    return hyp_gemm_buffer(table(level_number(level)), m, n, k, &blocks.c) + blocks.c.line


def gemm(Team team not None, a, b, out, const int64_t[:, ::1] offsets not None, Blocks blocks not None,
         unsigned char[::1] buffer not None, level=None):
    """out = a b for matrices of two dimensions, none of them empty, whose strides are whole floats; out's rows are contiguous.

    offsets: for each product of a batch the bytes from a, b and out to its own matrices (int64 [n, 3]).
    """
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef hyp_gemm g, one
    cdef size_t i
    cdef int status = 0
    cdef uintptr_t start = <uintptr_t>&buffer[0], line = blocks.c.line
    cdef void *memory = <void *>((start + line - 1) // line * line)
    g.m, g.k, g.n = a.shape[0], a.shape[1], b.shape[1]
    g.a, g.b = <const float *><uintptr_t>a.ctypes.data, <const float *><uintptr_t>b.ctypes.data
    g.c = <float *><uintptr_t>out.ctypes.data
    g.a_row, g.a_col = a.strides[0] // 4, a.strides[1] // 4
    g.b_row, g.b_col = b.strides[0] // 4, b.strides[1] // 4
    g.c_row = out.strides[0] // 4
    one = g
    with nogil:
        for i in range(<size_t>offsets.shape[0]):
            one.a, one.b, one.c = g.a + offsets[i, 0] // 4, g.b + offsets[i, 1] // 4, g.c + offsets[i, 2] // 4
            status = hyp_gemm_run(kernels, region, threads, &one, &blocks.c, memory)
            if status != 0:
                break
    check_status(status, "matmul")
