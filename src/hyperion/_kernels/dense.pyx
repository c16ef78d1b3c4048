"""Functions over float32 arrays of any strides, on a team of threads; `hyperion.dense` checks what comes in."""

import numpy

from cpython.buffer cimport PyBUF_FORMAT, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uintptr_t

from hyperion._kernels.dispatch cimport (
    HYP_GELU,
    HYP_GELU_ERF,
    HYP_KV_F16,
    HYP_KV_Q4_0,
    HYP_KV_Q8_0,
    HYP_RELU,
    HYP_SIGMOID,
    HYP_SILU,
    HYP_TANH,
    hyp_table,
    level_number,
    table,
)
from hyperion._kernels.threads cimport Team, api, check_status, hyp_team, hyp_threads_api

from hyperion.errors import HyperionMemoryError, InvalidArgumentError

_ndarray, _empty, _float32 = numpy.ndarray, numpy.empty, numpy.dtype(numpy.float32)

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
    int hyp_map_array(const hyp_threads_api *api, hyp_team *team, const hyp_table *t, int f, const hyp_pair *pair)
    size_t hyp_rows_buffer(size_t n)
    enum:
        HYP_ROW_SOFTMAX
        HYP_ROW_RMS_NORM
        HYP_ROW_LAYER_NORM

    ctypedef struct hyp_row_op:
        const hyp_table *table
        int kind
        float eps
        const float *weight
        const float *bias

    int hyp_map_rows(const hyp_threads_api *api, hyp_team *team, const hyp_row_op *op, const hyp_pair *pair, size_t n,
                     Py_ssize_t in_, Py_ssize_t out, float *buffer)

cdef extern from "dense/heads.h" nogil:
    ctypedef struct hyp_heads:
        size_t heads
        size_t group
        size_t queries
        size_t positions
        size_t head_dim
        const int64_t *places
        const char *q
        const char *k
        const char *v
        char *out
        Py_ssize_t q_head
        Py_ssize_t q_row
        Py_ssize_t k_row
        Py_ssize_t v_row
        Py_ssize_t out_head
        Py_ssize_t out_row
        int kv
        int causal
        float scale

    size_t hyp_heads_buffer(const hyp_heads *job, size_t threads)
    int hyp_heads_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_heads *job, void *buffer)

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

    size_t hyp_gemm_buffer(const hyp_table *t, const hyp_gemm *g, const hyp_blocks *blocks)
    int hyp_gemm_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_gemm *g,
                     const hyp_blocks *blocks, void *buffer)

cdef extern from "dense/conv.h" nogil:
    size_t hyp_conv_buffer(const hyp_table *t, const hyp_conv *conv, size_t threads)
    int hyp_conv_run(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_conv *conv,
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
    cdef int f = MAPS[name]
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef hyp_pair pair
    cdef int status
    _pair(x, out, x.ndim, &pair)
    with nogil:
        status = hyp_map_array(region, threads, kernels, f, &pair)
    check_status(status, name)


cdef bint _contiguous(object array):
    """Whether rows along the last axis are contiguous and aligned."""
    cdef Py_ssize_t last = array.strides[array.ndim - 1]
    return (last == 4 or array.shape[array.ndim - 1] == 1) and array.flags.aligned


def rows_buffer_bytes(Team team not None, x, out):
    """Bytes of buffer that `softmax` and the norms need for these arrays."""
    if _contiguous(x) and _contiguous(out):
        return 0
    return hyp_rows_buffer(x.shape[x.ndim - 1]) * sizeof(float) * <size_t>team.threads


cdef _rows(Team team, hyp_row_op *op, x, out, buffer, what):
    """op over rows along the last axis, which has at least one value."""
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
        status = hyp_map_rows(region, threads, op, &pair, n, from_, to, memory)
    check_status(status, what)


def softmax(Team team not None, x, out, buffer, level=None):
    """Softmax of rows along the last axis; `buffer`: `rows_buffer_bytes` bytes, or None for 0."""
    cdef hyp_row_op op
    op.table, op.kind = table(level_number(level)), HYP_ROW_SOFTMAX
    _rows(team, &op, x, out, buffer, "softmax")


cdef const float *_row_of(object array, size_t n, object name) except? NULL:
    """The address of n contiguous floats; NULL for None."""
    if array is None:
        return NULL
    if array.ndim != 1 or array.size != n or not _contiguous(array):
        raise InvalidArgumentError(f"{name} must be {n} contiguous floats, not of shape {array.shape}")
    return <const float *><uintptr_t>array.ctypes.data


def rms_norm(Team team not None, x, weight, float eps, out, buffer, level=None):
    """Root-mean-square norm of rows along the last axis; `weight`: as many contiguous floats as a row has."""
    cdef hyp_row_op op
    op.table, op.kind, op.eps = table(level_number(level)), HYP_ROW_RMS_NORM, eps
    if weight is None:
        raise InvalidArgumentError("rms_norm needs a weight")
    op.weight, op.bias = _row_of(weight, x.shape[x.ndim - 1], "weight"), NULL
    _rows(team, &op, x, out, buffer, "rms_norm")


def layer_norm(Team team not None, x, weight, bias, float eps, out, buffer, level=None):
    """Layer norm of rows along the last axis; `weight`, `bias`: as many contiguous floats as a row has, or None."""
    cdef hyp_row_op op
    cdef size_t n = x.shape[x.ndim - 1]
    op.table, op.kind, op.eps = table(level_number(level)), HYP_ROW_LAYER_NORM, eps
    op.weight, op.bias = _row_of(weight, n, "weight"), _row_of(bias, n, "bias")
    _rows(team, &op, x, out, buffer, "layer_norm")


# ---- Products ----------------------------------------------------------------------------------------------

cdef size_t UNCOUNTED = 256 << 10  # bytes of packed blocks that are not reserved: it would take as long as the product


cdef class Blocks:
    """How a product is cut for a level: sizes in rows, depth and columns, `ahead` and `line` in bytes; see c/dense/gemm.h."""

    def __cinit__(self, size_t rows, size_t depth, size_t super_rows, size_t cols, size_t ahead, size_t line, level=None):
        if 0 in (rows, depth, super_rows, cols) or line % sizeof(float) or line == 0:
            raise InvalidArgumentError("blocks have at least one row and column, and lines whole floats")
        self.c.rows, self.c.depth, self.c.super_, self.c.cols = rows, depth, super_rows, cols
        self.c.ahead, self.c.line = ahead, line
        self.table = table(level_number(level))


def gemm_tile(level=None):
    """(rows, columns) of the tile that a level's kernel keeps in registers."""
    cdef const hyp_table *t = table(level_number(level))
    return t.gemm.mr, t.gemm.nr


cdef hyp_gemm _matrices(const float[:, :] a, const float[:, :] b, float[:, :] out) noexcept:
    """Three matrices, none of them empty, whose strides are whole floats; out's rows are contiguous."""
    cdef hyp_gemm g
    g.m, g.k, g.n = a.shape[0], a.shape[1], b.shape[1]
    g.a, g.b, g.c = &a[0, 0], &b[0, 0], &out[0, 0]
    g.a_row, g.a_col = a.strides[0] // 4, a.strides[1] // 4
    g.b_row, g.b_col = b.strides[0] // 4, b.strides[1] // 4
    g.c_row = out.strides[0] // 4
    return g


def gemm_buffer_bytes(const float[:, :] a not None, const float[:, :] b not None, float[:, :] out not None,
                      Blocks blocks not None):
    """Bytes of buffer that `gemm` needs for these matrices, or others of their shapes and strides."""
    cdef hyp_gemm g = _matrices(a, b, out)
    cdef size_t nbytes = hyp_gemm_buffer(blocks.table, &g, &blocks.c)
    return nbytes + blocks.c.line if nbytes else 0


def gemm(Team team not None, const float[:, :] a not None, const float[:, :] b not None, float[:, :] out not None,
         const int64_t[:, ::1] offsets not None, Blocks blocks not None, unsigned char[::1] buffer):
    """out = a b for matrices of two dimensions, none of them empty, whose strides are whole floats; out's rows are contiguous.

    offsets: for each product of a batch the bytes from a, b and out to its own matrices (int64 [n, 3]). buffer:
    `gemm_buffer_bytes` bytes, or None for 0.
    """
    cdef const hyp_table *kernels = blocks.table
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef hyp_gemm g = _matrices(a, b, out), one = g
    cdef size_t i
    cdef int status = 0
    cdef size_t needed = hyp_gemm_buffer(kernels, &g, &blocks.c)
    if needed and (buffer is None or <size_t>buffer.shape[0] < needed + blocks.c.line):
        raise InvalidArgumentError(f"the product needs a buffer of {needed + blocks.c.line} bytes")
    cdef void *memory = _line_after(&buffer[0], blocks.c.line) if needed else NULL
    with nogil:
        for i in range(<size_t>offsets.shape[0]):
            one.a, one.b, one.c = g.a + offsets[i, 0] // 4, g.b + offsets[i, 1] // 4, g.c + offsets[i, 2] // 4
            status = hyp_gemm_run(kernels, region, threads, &one, &blocks.c, memory)
            if status != 0:
                break
    check_status(status, "matmul")


cdef void *_line_after(void *memory, size_t line) noexcept nogil:
    """The first multiple of `line` from an address on."""
    return <void *>((<uintptr_t>memory + line - 1) // line * line)


cdef bint _matrix(object array, Py_buffer *view, int flags) except -1:
    """Take an array's buffer if it is a plain matrix: exactly an ndarray, of float32, not empty, with strides of whole floats."""
    if type(array) is not _ndarray:
        return False
    try:
        PyObject_GetBuffer(array, view, flags | PyBUF_STRIDES | PyBUF_FORMAT)
    except (BufferError, ValueError):
        return False
    if view.ndim == 2 and view.format[0] == b"f" and view.format[1] == 0 and view.shape[0] > 0 and view.shape[1] > 0 \
            and view.strides[0] % 4 == 0 and view.strides[1] % 4 == 0 and <uintptr_t>view.buf % 4 == 0:
        return True
    PyBuffer_Release(view)
    return False


cdef bint _disjoint(const Py_buffer *out, const Py_buffer *other) noexcept:
    """Whether the addresses that two matrices span have none in common; out's strides are positive."""
    cdef const char *low = <const char *>other.buf
    cdef const char *high = low + 4
    cdef const char *start = <const char *>out.buf
    cdef Py_ssize_t reach
    cdef int d
    for d in range(2):
        reach = (other.shape[d] - 1) * other.strides[d]
        if reach < 0:
            low += reach
        else:
            high += reach
    return start + (out.shape[0] - 1) * out.strides[0] + 4 * out.shape[1] <= low or high <= start


cdef int _run_plain(Team team, const Py_buffer *a, const Py_buffer *b, const Py_buffer *c, Blocks blocks) except -1:
    """The product, or 1 if it needs more buffer than may be uncounted."""
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef const hyp_table *t = blocks.table
    cdef hyp_gemm g
    cdef size_t nbytes
    cdef void *memory = NULL
    cdef int status
    g.m, g.k, g.n = a.shape[0], a.shape[1], b.shape[1]
    g.a, g.b, g.c = <const float *>a.buf, <const float *>b.buf, <float *>c.buf
    g.a_row, g.a_col, g.b_row, g.b_col = a.strides[0] // 4, a.strides[1] // 4, b.strides[0] // 4, b.strides[1] // 4
    g.c_row = c.strides[0] // 4
    nbytes = hyp_gemm_buffer(t, &g, &blocks.c)
    if nbytes > UNCOUNTED:
        return 1
    if nbytes:
        memory = PyMem_RawMalloc(nbytes + blocks.c.line)
        if memory is NULL:
            raise HyperionMemoryError(f"no memory for {nbytes} bytes of packed blocks")
    with nogil:
        status = hyp_gemm_run(t, region, threads, &g, &blocks.c, _line_after(memory, blocks.c.line) if memory else NULL)
    PyMem_RawFree(memory)
    check_status(status, "matmul")
    return 0


def plain_product(a, b, out, alone, team, threads, size_t small, Blocks blocks not None):
    """The usual product, without the ceremony: None if anything about it is not usual, and nothing is done then.

    Usual are plain matrices whose product is one, with rows in order, and apart from them; `out` may be None.
    """
    cdef Py_buffer x, y, z
    cdef bint done = False
    if not _matrix(a, &x, 0):
        return None
    if not _matrix(b, &y, 0):
        PyBuffer_Release(&x)
        return None
    try:
        if x.shape[1] != y.shape[0]:
            return None
        try:
            result = _empty((x.shape[0], y.shape[1]), _float32) if out is None else out
        except (MemoryError, ValueError):
            return None
        if not _matrix(result, &z, PyBUF_WRITABLE):
            return None
        try:
            if z.shape[0] == x.shape[0] and z.shape[1] == y.shape[1] and (z.strides[1] == 4 or z.shape[1] == 1) \
                    and (z.strides[0] >= 4 * z.shape[1] or z.shape[0] == 1) and _disjoint(&z, &x) and _disjoint(&z, &y):
                few = <double>x.shape[0] * <double>x.shape[1] * <double>y.shape[1] < small
                done = _run_plain(alone if few else team(threads), &x, &y, &z, blocks) == 0
        finally:
            PyBuffer_Release(&z)
        return result if done else None
    finally:
        PyBuffer_Release(&x)
        PyBuffer_Release(&y)


# ---- Convolutions ------------------------------------------------------------------------------------------


cdef class Convolution:
    """Images [channels, height, width] by filters [filters, channels / groups, height, width], cut into groups.

    in_size, kernel, steps, pads and gaps are pairs, of rows and of columns; the filters are contiguous.
    """

    def __cinit__(self, const float[:, :, :, ::1] weight not None, const float[::1] bias, in_size, steps, pads, gaps,
                  size_t groups, Blocks blocks not None):
        cdef int i
        self.owners, self.blocks = (weight, bias), blocks
        self.c.channels, self.c.filters, self.c.groups = weight.shape[1] * groups, weight.shape[0], groups
        self.c.filter = &weight[0, 0, 0, 0]
        if bias is not None:
            self.c.bias = &bias[0]
        for i in range(2):
            self.c.dim[i].in_, self.c.dim[i].step, self.c.dim[i].gap, self.c.dim[i].pad = in_size[i], steps[i], gaps[i], pads[i]
            self.c.dim[i].kernel = weight.shape[2 + i]
            self.c.dim[i].out = (in_size[i] + 2 * pads[i] - ((weight.shape[2 + i] - 1) * gaps[i] + 1)) // steps[i] + 1

    cdef hyp_conv of(self, const float[:, :, :] x, float[:, :, :] out) except *:
        """With an image and its results, whose strides are whole floats; out's rows are contiguous."""
        cdef hyp_conv c = self.c
        if <size_t>x.shape[0] != c.channels or <size_t>x.shape[1] != c.dim[0].in_ or <size_t>x.shape[2] != c.dim[1].in_ or \
                <size_t>out.shape[0] != c.filters or <size_t>out.shape[1] != c.dim[0].out or <size_t>out.shape[2] != c.dim[1].out:
            raise InvalidArgumentError("the image or its results are of other sizes than the convolution")
        c.x, c.x_channel, c.x_at[0], c.x_at[1] = &x[0, 0, 0], x.strides[0] // 4, x.strides[1] // 4, x.strides[2] // 4
        c.out, c.out_filter, c.out_row = &out[0, 0, 0], out.strides[0] // 4, out.strides[1] // 4
        return c

    def buffer_bytes(self, Team team not None, const float[:, :, :] x not None, float[:, :, :] out not None):
        """Bytes of buffer that `run` needs for an image of these strides."""
        cdef hyp_conv c = self.of(x, out)
        return hyp_conv_buffer(self.blocks.table, &c, team.threads) + 64

    def run(self, Team team not None, const float[:, :, :] x not None, float[:, :, :] out not None,
            unsigned char[::1] buffer not None):
        """One image; `buffer`: `buffer_bytes` bytes."""
        cdef const hyp_threads_api *region = api()
        cdef hyp_team *threads = team._team
        cdef hyp_conv c = self.of(x, out)
        cdef const hyp_table *kernels = self.blocks.table
        cdef const hyp_blocks *cut = &self.blocks.c
        cdef size_t needed = hyp_conv_buffer(kernels, &c, team.threads) + 64
        if <size_t>buffer.shape[0] < needed:
            raise InvalidArgumentError(f"the convolution needs a buffer of {needed} bytes")
        cdef void *memory = _line_after(&buffer[0], 64)
        cdef int status
        with nogil:
            status = hyp_conv_run(kernels, region, threads, &c, cut, memory)
        check_status(status, "convolution")


# ---- Attention ---------------------------------------------------------------------------------------------

KV_TYPES = {"f16": HYP_KV_F16, "q8_0": HYP_KV_Q8_0, "q4_0": HYP_KV_Q4_0}


def attention_buffer_bytes(Team team not None, size_t heads, size_t group, size_t queries, size_t positions, size_t head_dim, kv):
    """Bytes of buffer that `attention` needs: caches of some heads, and scratch for each thread."""
    cdef hyp_heads job
    job.heads, job.group, job.queries, job.positions, job.head_dim = heads, group, queries, positions, head_dim
    job.kv = KV_TYPES[kv]
    return hyp_heads_buffer(&job, team.threads)


def attention(Team team not None, q, k, v, out, const int64_t[:, ::1] places not None, *, bint causal, float scale, kv,
              unsigned char[::1] buffer not None, level=None):
    """Attention of q [group, queries, head_dim] over k and v [positions, head_dim], for each of a number of KV heads.

    places: for each KV head the bytes from q, k, v and out, which are those of the first, to its own (int64 [n, 4]). Every
    last dimension is contiguous and aligned, and nothing is empty.
    """
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef hyp_heads job
    cdef int status
    cdef void *memory = &buffer[0]
    job.heads, job.places = places.shape[0], &places[0, 0]
    job.group, job.queries, job.head_dim = q.shape
    job.positions = k.shape[0]
    job.q, job.k = <const char *><uintptr_t>q.ctypes.data, <const char *><uintptr_t>k.ctypes.data
    job.v, job.out = <const char *><uintptr_t>v.ctypes.data, <char *><uintptr_t>out.ctypes.data
    job.q_head, job.q_row = q.strides[0], q.strides[1]
    job.k_row, job.v_row = k.strides[0], v.strides[0]
    job.out_head, job.out_row = out.strides[0], out.strides[1]
    job.kv, job.causal, job.scale = KV_TYPES[kv], causal, scale
    with nogil:
        status = hyp_heads_run(kernels, region, threads, &job, memory)
    check_status(status, "attention")
