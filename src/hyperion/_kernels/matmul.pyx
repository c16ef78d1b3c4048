"""Products of packed weights and float32 activations."""

from libc.stdint cimport uint8_t

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc

import numpy as np

from hyperion._kernels.dispatch cimport hyp_table, level_number, table
from hyperion._kernels.quant cimport PackedMatrix, hyp_act_is_float, hyp_act_kind, hyp_block_len, hyp_weight
from hyperion._kernels.threads cimport Team, api, check_status, hyp_team, hyp_threads_api

from hyperion._kernels.quant import TYPES
from hyperion.errors import HyperionMemoryError, InvalidArgumentError

cdef extern from "matmul/linear.h" nogil:
    ctypedef struct hyp_product:
        const hyp_weight *weight
        float *out
        size_t ldo

    size_t hyp_act_bytes(int is_float, size_t m, size_t k)
    int hyp_act_pack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type, const float *x,
                     size_t ldx, size_t m, size_t k, void *act)
    int hyp_linear(const hyp_table *t, const hyp_threads_api *api, hyp_team *team,
                   const hyp_product *products, size_t n, const void *act, size_t m)

cdef int _multiply(const hyp_table *kernels, hyp_team *team, const hyp_product *products, size_t n, const float *x, size_t ldx,
                   size_t m, void *act) noexcept nogil:
    """Pack x for each run of products that share a kind of activations, and multiply."""
    cdef const hyp_threads_api *region = api()
    cdef size_t first = 0, end, k = products[0].weight.cols
    cdef int status = 0, type
    while first < n and status == 0:
        type, end = products[first].weight.type, first + 1
        while end < n and hyp_act_kind(products[end].weight.type) == hyp_act_kind(type):
            end += 1
        status = hyp_act_pack(kernels, region, team, type, x, ldx, m, k, act)
        if status == 0:
            status = hyp_linear(kernels, region, team, &products[first], end - first, act, m)
        first = end
    return status


cdef enum:
    LINE = 64  # bytes; the kernels load whole vectors of activations


cdef object _matrix(object array, str what, object rows, object cols):
    """Check a float32 array [rows, cols] of contiguous rows that do not overlap; its row stride in floats."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or array.ndim != 2:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidArgumentError(f"{what} must be a float32 array of two dimensions, not {got}")
    if (rows is not None and array.shape[0] != rows) or array.shape[1] != cols:
        wanted = f"({'m' if rows is None else rows}, {cols})"
        raise InvalidArgumentError(f"{what} must have shape {wanted}, not {array.shape}")
    if array.size == 0:  # NumPy gives empty arrays any strides
        return cols
    if not array.flags.aligned or (cols > 1 and array.strides[1] != 4) or (
            array.shape[0] > 1 and (array.strides[0] < 4 * cols or array.strides[0] % 4)):
        raise InvalidArgumentError(
            f"{what} must have contiguous rows in rising order, not strides {array.strides}")
    return array.strides[0] // 4 if array.shape[0] > 1 else cols


def linear(PackedMatrix packed not None, x, level=None, Team team=None, out=None):
    return linear_many((packed,), x, level, team, None if out is None else (out,))[0]


def activation_bytes(PackedMatrix packed, size_t m):
    """Bytes that m rows of x take while they are multiplied with such a matrix."""
    return hyp_act_bytes(hyp_act_is_float(packed.weight.type), m, packed.weight.cols)


def linear_many(packed, x, level=None, Team team=None, out=None):
    cdef hyp_product products[16]
    cdef PackedMatrix first, weight
    cdef size_t m, k, n, ldx, nbytes, i
    cdef int status, is_float
    cdef void *memory
    cdef uint8_t *act
    cdef const hyp_table *kernels = table(level_number(level))
    cdef hyp_team *threads = NULL if team is None else team._team
    packed = tuple(packed)
    if not 1 <= len(packed) <= 16 or not all(isinstance(p, PackedMatrix) for p in packed):
        raise InvalidArgumentError("weights must be 1 to 16 PackedMatrix objects")
    first, n = packed[0], len(packed)
    k, is_float = first.weight.cols, hyp_act_is_float(first.weight.type)
    for weight in packed:
        if weight.weight.panels == NULL:
            raise InvalidArgumentError("a PackedMatrix was not initialised")
        if weight.weight.cols != k or hyp_act_is_float(weight.weight.type) != is_float:
            raise InvalidArgumentError("weights of one call must agree in cols and be all float or all "
                                       "quantized, not " + ", ".join(map(repr, packed)))
    ldx = _matrix(x, "x", None, k)
    m = x.shape[0]
    if out is None:
        out = tuple(np.empty((m, p.rows), np.float32) for p in packed)
    elif len(out) != len(packed):
        raise InvalidArgumentError(f"{n} weights need {n} outputs, not {len(out)}")
    for i in range(n):
        weight, target = packed[i], out[i]
        products[i].ldo = _matrix(target, "out", m, weight.weight.rows)
        if not target.flags.writeable:
            raise InvalidArgumentError("out is read-only")
        if np.shares_memory(target, x) or np.shares_memory(target, np.asarray(weight.panels)):
            raise InvalidArgumentError("out shares memory with an input")
        if any(np.shares_memory(target, other) for other in out[:i]):
            raise InvalidArgumentError("outputs share memory")
        products[i].weight = &weight.weight
        products[i].out = <float *><size_t>target.ctypes.data
    if m == 0:
        return out
    nbytes = hyp_act_bytes(is_float, m, k)
    memory = PyMem_RawMalloc(nbytes + LINE)
    if memory == NULL:
        raise HyperionMemoryError(f"no memory for {nbytes} bytes of packed activations")
    act = <uint8_t *>memory + (LINE - <size_t>memory % LINE)
    cdef const float *source = <const float *><size_t>x.ctypes.data
    try:
        with nogil:
            status = _multiply(kernels, threads, products, n, source, ldx, m, act)
        check_status(status, "linear")
    finally:
        PyMem_RawFree(memory)
    return out


def pack_activations(x, kind, level=None):
    cdef size_t m, k, ldx, nbytes
    cdef const hyp_table *kernels = table(level_number(level))
    if kind not in TYPES:
        raise InvalidArgumentError(f"there is no type {kind!r}")
    if not isinstance(x, np.ndarray) or x.ndim != 2 or x.shape[0] == 0 or x.shape[1] == 0:
        raise InvalidArgumentError("x must be an array [m, k] with at least one value")
    cdef int type = TYPES[kind].id
    m, k = x.shape
    ldx = _matrix(x, "x", m, k)
    if k % hyp_block_len(type):
        raise InvalidArgumentError(f"{kind} comes in blocks of {hyp_block_len(type)}; k is {k}")
    nbytes = hyp_act_bytes(hyp_act_is_float(type), m, k)
    whole = np.zeros(nbytes + LINE, np.uint8)
    start = -whole.ctypes.data % LINE
    act = whole[start:start + nbytes]
    cdef const float *source = <const float *><size_t>x.ctypes.data
    cdef void *target = <void *><size_t>act.ctypes.data
    with nogil:
        kernels.act[hyp_act_kind(type)](source, ldx, m, k, target)
    return act
