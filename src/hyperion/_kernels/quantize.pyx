"""Quantizing and dequantizing whole arrays on a team of threads."""

from libc.stdint cimport int8_t, int64_t, uint8_t

import numpy as np

from hyperion._kernels.dispatch cimport hyp_table, level_number, table
from hyperion._kernels.quant cimport hyp_block_bytes, hyp_block_len
from hyperion._kernels.threads cimport Team, api, check_status, hyp_team, hyp_threads_api

from hyperion._kernels.quant import block_type
from hyperion.errors import InvalidArgumentError

cdef extern from "quantize/driver.h" nogil:
    enum:
        HYP_F32
        HYP_F16
        HYP_BF16
        HYP_F64
        HYP_NOT_FINITE
        HYP_SCALE_OVERFLOW
        HYP_ABSMAX
        HYP_MSE
        HYP_HQQ

    ctypedef struct hyp_array:
        char *data
        int kind
        size_t n[3]
        Py_ssize_t stride[3]

    ctypedef struct hyp_affine:
        hyp_array x
        size_t group
        int bits
        int packed
        int method
        int find_scale
        int find_zero
        float *scales
        float *zeros
        uint8_t *codes

    int hyp_affine_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const hyp_affine *job)
    int hyp_affine_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team,
                              const hyp_affine *job)
    int hyp_blocks_quantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type,
                            const hyp_array *x, uint8_t *dst)
    int hyp_blocks_dequantize(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, int type,
                              const hyp_array *x, const uint8_t *src)
    int hyp_nibbles_pack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const int8_t *q, size_t n,
                         uint8_t *p)
    int hyp_nibbles_unpack(const hyp_table *t, const hyp_threads_api *api, hyp_team *team, const uint8_t *p,
                           size_t n, int8_t *q)
    int64_t hyp_array_find_nonfinite(const hyp_table *t, const hyp_array *x)

METHODS = {"absmax": HYP_ABSMAX, "mse": HYP_MSE, "hqq": HYP_HQQ}
cdef dict KINDS = {
    np.dtype(np.float32): HYP_F32, np.dtype(np.float16): HYP_F16, np.dtype(np.float64): HYP_F64,
    np.dtype(np.uint16): HYP_BF16,
}


cdef int _array(object array, bint writable, hyp_array *a) except -1:
    """A description of an array [n0, n1, n2] of one of KINDS, any strides, with at least one value."""
    cdef int i
    if not isinstance(array, np.ndarray) or array.dtype not in KINDS or array.ndim != 3 or array.size == 0:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidArgumentError(f"expected a filled float array of three dimensions, not {got}")
    if writable and not array.flags.writeable:
        raise InvalidArgumentError("out is read-only")
    a.data = <char *><size_t>array.ctypes.data
    a.kind = KINDS[array.dtype]
    for i in range(3):
        a.n[i] = array.shape[i]
        a.stride[i] = array.strides[i]
    return 0


cdef size_t _flat(object array, object dtype, size_t n, bint writable, str what) except 0:
    """The address of a contiguous array of n values."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.size != n or not array.flags.c_contiguous:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidArgumentError(f"{what} must be a contiguous {np.dtype(dtype)} array of {n} values, not {got}")
    if not array.flags.aligned or (writable and not array.flags.writeable):
        raise InvalidArgumentError(f"{what} must be aligned and writable")
    return <size_t>array.ctypes.data


cdef int _affine(object x, bint restore, object group, object bits, object codes, object scales, object zeros,
                 hyp_affine *job) except -1:
    cdef size_t params, values, row
    _array(x, restore, &job.x)
    values = job.x.n[0] * job.x.n[1] * job.x.n[2]
    if bits not in (4, 8) or not 1 <= group <= job.x.n[2]:
        raise InvalidArgumentError(f"bits must be 4 or 8 and group 1 to {job.x.n[2]}, not {bits} and {group}")
    job.group, job.bits = group, bits
    params = job.x.n[1] * ((job.x.n[2] + job.group - 1) // job.group)
    job.packed = codes.dtype == np.uint8
    if job.packed:
        row = job.x.n[1] if job.x.n[2] == 1 else job.x.n[2]
        if bits != 4 or (values != row and row % 2) or (job.group < job.x.n[2] and job.group % 2):
            raise InvalidArgumentError("packed codes have 4 bits, and every row and group starts a byte")
        job.codes = <uint8_t *>_flat(codes, np.uint8, (values + 1) // 2, not restore, "codes")
    else:
        job.codes = <uint8_t *>_flat(codes, np.int8, values, not restore, "codes")
    job.scales = <float *>_flat(scales, np.float32, params, not restore, "scales")
    job.zeros = NULL
    if zeros is not None:
        job.zeros = <float *>_flat(zeros, np.float32, params, not restore, "zeros")
    return 0


cdef object _outcome(int status, str what):
    """None, or what was wrong with the values: "nonfinite" or "overflow"."""
    if status == HYP_NOT_FINITE:
        return "nonfinite"
    if status == HYP_SCALE_OVERFLOW:
        return "overflow"
    check_status(status, what)
    return None


def affine_quantize(Team team not None, x, *, group, bits, method, bint find_scale, bint find_zero, codes, scales,
                    zeros=None, level=None):
    cdef hyp_affine job
    cdef int status
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    _affine(x, False, group, bits, codes, scales, zeros, &job)
    job.method, job.find_scale, job.find_zero = METHODS[method], find_scale, find_zero
    with nogil:
        status = hyp_affine_quantize(kernels, region, threads, &job)
    return _outcome(status, "quantizing")


def affine_dequantize(Team team not None, out, *, group, bits, codes, scales, zeros=None, level=None):
    cdef hyp_affine job
    cdef int status
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    _affine(out, True, group, bits, codes, scales, zeros, &job)
    job.method = job.find_scale = job.find_zero = 0
    with nogil:
        status = hyp_affine_dequantize(kernels, region, threads, &job)
    check_status(status, "dequantizing")


cdef int _blocks(object type, const hyp_array *x, object blocks, bint writable, uint8_t **address) except -1:
    cdef int number = block_type(type).id
    cdef size_t length = hyp_block_len(number)
    if x.n[2] % length:
        raise InvalidArgumentError(f"rows of {x.n[2]} values are no whole blocks of {length}")
    address[0] = <uint8_t *>_flat(blocks, np.uint8,
                                  x.n[0] * x.n[1] * (x.n[2] // length) * hyp_block_bytes(number), writable, "blocks")
    return number


def blocks_quantize(Team team not None, type, x, blocks, *, level=None):
    cdef hyp_array source
    cdef uint8_t *target
    cdef int status, number
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    _array(x, False, &source)
    number = _blocks(type, &source, blocks, True, &target)
    with nogil:
        status = hyp_blocks_quantize(kernels, region, threads, number, &source, target)
    return _outcome(status, "quantizing")


def blocks_dequantize(Team team not None, type, blocks, out, *, level=None):
    cdef hyp_array target
    cdef uint8_t *source
    cdef int status, number
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    _array(out, True, &target)
    number = _blocks(type, &target, blocks, False, &source)
    with nogil:
        status = hyp_blocks_dequantize(kernels, region, threads, number, &target, source)
    check_status(status, "dequantizing")


def pack_nibbles(Team team not None, codes, packed, *, level=None):
    cdef size_t n = codes.size
    cdef int8_t *q = <int8_t *>_flat(codes, np.int8, n, False, "codes")
    cdef uint8_t *p = <uint8_t *>_flat(packed, np.uint8, (n + 1) // 2, True, "packed")
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    with nogil:
        status = hyp_nibbles_pack(kernels, region, threads, q, n, p)
    check_status(status, "packing")


def unpack_nibbles(Team team not None, packed, codes, *, level=None):
    cdef size_t n = codes.size
    cdef uint8_t *p = <uint8_t *>_flat(packed, np.uint8, (n + 1) // 2, False, "packed")
    cdef int8_t *q = <int8_t *>_flat(codes, np.int8, n, True, "codes")
    cdef const hyp_table *kernels = table(level_number(level))
    cdef const hyp_threads_api *region = api()
    cdef hyp_team *threads = team._team
    cdef int status
    with nogil:
        status = hyp_nibbles_unpack(kernels, region, threads, p, n, q)
    check_status(status, "unpacking")


def find_nonfinite(x, *, level=None):
    cdef hyp_array source
    cdef int64_t found
    cdef const hyp_table *kernels = table(level_number(level))
    _array(x, False, &source)
    with nogil:
        found = hyp_array_find_nonfinite(kernels, &source)
    return found
