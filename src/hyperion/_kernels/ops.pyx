"""The kernels between the matrix products, one call each on NumPy arrays, for tests and benchmarks."""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from hyperion._kernels.dispatch cimport (
    HYP_GELU,
    HYP_SILU,
    hyp_attn_args,
    hyp_attn_scratch,
    hyp_k_bytes,
    hyp_kv_bytes,
    hyp_map_fn,
    hyp_table,
    hyp_v_bytes,
    level_number,
    table,
)

import numpy as np

from hyperion.errors import HyperionMemoryError, InvalidArgumentError

KV_TYPES = ("f16", "q8_0", "q4_0")
cdef size_t LARGEST = <size_t>1 << 40

ctypedef void (*map2_fn)(const float *x, const float *y, size_t n, float *out) noexcept nogil


cdef _floats(name, value, int ndim=-1):
    """A C-contiguous float32 array of `value`, which must be real numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise InvalidArgumentError(f"{name} must hold real numbers, not {array.dtype}")
    if ndim >= 0 and array.ndim != ndim:
        raise InvalidArgumentError(f"{name} must have {ndim} dimensions, not {array.ndim}")
    return np.ascontiguousarray(array, dtype=np.float32).reshape(array.shape)


cdef _output(out, shape, inputs):
    """`out` or a new array; `out` may be one of the inputs, but not overlap one in part."""
    if out is None:
        return np.empty(shape, dtype=np.float32)
    valid = isinstance(out, np.ndarray) and out.dtype == np.float32
    if not valid or not out.flags.c_contiguous or not out.flags.writeable:
        raise InvalidArgumentError("out must be a writable C-contiguous float32 array")
    if out.shape != shape:
        raise InvalidArgumentError(f"out must have shape {shape}, not {out.shape}")
    for array in inputs:
        if array.ctypes.data != out.ctypes.data and np.may_share_memory(array, out):
            raise InvalidArgumentError("out overlaps an input without being it")
    return out


cdef inline float *_at(array) except? NULL:
    return <float *><uintptr_t>array.ctypes.data


cdef _same_shape(first, x, second, y):
    if x.shape != y.shape:
        raise InvalidArgumentError(f"{first} and {second} must have one shape, not {x.shape} and {y.shape}")


cdef _map(hyp_map_fn function, x, out):
    x = _floats("x", x)
    out = _output(out, x.shape, (x,))
    cdef const float *source = _at(x)
    cdef float *target = _at(out)
    cdef size_t n = x.size
    with nogil:
        function(source, n, target)
    return out


cdef _map2(map2_fn function, gate, up, out):
    gate, up = _floats("gate", gate), _floats("up", up)
    _same_shape("gate", gate, "up", up)
    out = _output(out, gate.shape, (gate, up))
    cdef const float *a = _at(gate)
    cdef const float *b = _at(up)
    cdef float *target = _at(out)
    cdef size_t n = gate.size
    with nogil:
        function(a, b, n, target)
    return out


def silu(x, *, out=None, level=None):
    return _map(table(level_number(level)).map[HYP_SILU], x, out)


def gelu(x, *, out=None, level=None):
    return _map(table(level_number(level)).map[HYP_GELU], x, out)


def silu_mul(gate, up, *, out=None, level=None):
    return _map2(table(level_number(level)).silu_mul, gate, up, out)


def gelu_mul(gate, up, *, out=None, level=None):
    return _map2(table(level_number(level)).gelu_mul, gate, up, out)


def add(x, y, *, out=None, level=None):
    cdef const hyp_table *t = table(level_number(level))
    x, y = _floats("x", x), _floats("y", y)
    _same_shape("x", x, "y", y)
    out = _output(out, x.shape, (x, y))
    if out.ctypes.data == y.ctypes.data:
        x, y = y, x
    if out.ctypes.data != x.ctypes.data:
        out[...] = x
    cdef float *target = _at(out)
    cdef const float *source = _at(y)
    cdef size_t n = x.size
    with nogil:
        t.add(target, source, n)
    return out


def softmax(x, *, out=None, level=None):
    cdef const hyp_table *t = table(level_number(level))
    x = _floats("x", x)
    if x.ndim == 0 or x.shape[x.ndim - 1] == 0:
        raise InvalidArgumentError(f"softmax needs at least one value a row; x has shape {x.shape}")
    out = _output(out, x.shape, (x,))
    cdef const float *source = _at(x)
    cdef float *target = _at(out)
    cdef size_t row, n = x.shape[x.ndim - 1], rows = x.size // n
    with nogil:
        for row in range(rows):
            t.softmax(source + row * n, n, target + row * n)
    return out


def rms_norm(x, weight, eps=1e-5, *, out=None, level=None):
    cdef const hyp_table *t = table(level_number(level))
    x, weight = _floats("x", x), _floats("weight", weight, 1)
    if x.ndim == 0 or x.shape[x.ndim - 1] == 0 or x.shape[x.ndim - 1] != weight.size:
        raise InvalidArgumentError(f"weight has {weight.size} values for the last axis of shape {x.shape}")
    if not 0 <= eps < float("inf"):
        raise InvalidArgumentError(f"eps must be a finite number of at least 0, not {eps}")
    out = _output(out, x.shape, (x, weight))
    if out.ctypes.data == weight.ctypes.data:
        raise InvalidArgumentError("out must not be weight")
    cdef const float *source = _at(x)
    cdef const float *scale = _at(weight)
    cdef float *target = _at(out)
    cdef float epsilon = eps
    cdef size_t row, n = weight.size, rows = x.size // n
    with nogil:
        for row in range(rows):
            t.rms_norm(source + row * n, scale, epsilon, n, target + row * n)
    return out


def rope(x, cos, sin, *, interleaved=False, level=None):
    cdef const hyp_table *t = table(level_number(level))
    x, cos, sin = _floats("x", x, 2), _floats("cos", cos, 1), _floats("sin", sin, 1)
    _same_shape("cos", cos, "sin", sin)
    if 2 * cos.size > x.shape[1]:
        raise InvalidArgumentError(f"{cos.size} angles rotate {2 * cos.size} dims; a head has {x.shape[1]}")
    result = x.copy()
    angles = np.concatenate((cos, sin))
    cdef float *target = _at(result)
    cdef const float *source = _at(angles)
    cdef size_t heads = x.shape[0], head_dim = x.shape[1], rot = 2 * cos.size
    cdef int pairs = bool(interleaved)
    with nogil:
        t.rope(target, source, heads, head_dim, rot, pairs)
    return result


cdef int _kv_number(kv) except -1:
    if not isinstance(kv, str) or kv not in KV_TYPES:
        raise InvalidArgumentError(f"a KV cache type is one of {', '.join(KV_TYPES)}, not {kv!r}")
    return KV_TYPES.index(kv)


def kv_bytes(kv, head_dim, positions):
    cdef int number = _kv_number(kv)
    if not 0 < head_dim <= 1 << 20 or not 0 <= positions <= 1 << 40:
        raise InvalidArgumentError(f"no cache has head_dim {head_dim} and {positions} positions")
    return hyp_kv_bytes(number, head_dim, positions)


def attention(q, k, v, lens, *, scale=None, kv="f16", level=None):
    cdef const hyp_table *t = table(level_number(level))
    cdef int number = _kv_number(kv)
    q, k, v = _floats("q", q, 2), _floats("k", k, 2), _floats("v", v, 2)
    _same_shape("k", k, "v", v)
    if q.shape[1] == 0 or q.shape[1] != k.shape[1]:
        raise InvalidArgumentError(f"q and k must have one head_dim > 0, not {q.shape[1]} and {k.shape[1]}")
    visible = np.asarray(lens)
    if visible.shape != (q.shape[0],) or visible.dtype.kind not in "iu":
        raise InvalidArgumentError(f"lens must be {q.shape[0]} integers, not {visible.dtype} {visible.shape}")
    if visible.size and (visible.min() < 1 or visible.max() > k.shape[0]):
        raise InvalidArgumentError(f"lens must lie in 1..{k.shape[0]}, not {visible.min()}..{visible.max()}")
    lengths = np.ascontiguousarray(visible, dtype=np.uintp)
    out = np.empty((q.shape[0], q.shape[1]), dtype=np.float32)
    cdef size_t i, at, nq = q.shape[0], head_dim = q.shape[1], positions = k.shape[0]
    cdef hyp_attn_args args
    args.head_dim = head_dim
    args.nq = nq
    args.scale = head_dim ** -0.5 if scale is None else scale
    args.len = <const size_t *><uintptr_t>lengths.ctypes.data
    cdef size_t k_size = hyp_k_bytes(number, head_dim, positions)
    cdef size_t v_size = hyp_v_bytes(number, head_dim, positions)
    cdef size_t scratch = hyp_attn_scratch(nq, head_dim) * sizeof(float)
    if k_size > LARGEST or v_size > LARGEST or scratch > LARGEST:
        raise InvalidArgumentError(f"a cache of {k_size + v_size} bytes is too large")
    cdef void *k_cache = malloc(k_size + 1)
    cdef void *v_cache = malloc(v_size + 1)
    cdef void *block = malloc(scratch + 64)
    cdef const float **queries = <const float **>malloc(nq * sizeof(float *) + 1)
    cdef float **outs = <float **>malloc(nq * sizeof(float *) + 1)
    cdef float *q_data = _at(q)
    cdef float *k_data = _at(k)
    cdef float *v_data = _at(v)
    cdef float *out_data = _at(out)
    try:
        if not k_cache or not v_cache or not block or not queries or not outs:
            raise HyperionMemoryError(f"no memory for a cache of {k_size + v_size} bytes")
        with nogil:
            # NaN bits everywhere (an f16 of all ones): what is not stored must not be seen
            memset(k_cache, 0xff, k_size)
            memset(v_cache, 0xff, v_size)
            memset(block, 0xff, scratch + 64)
            for i in range(positions):
                at = i * head_dim
                t.kv_store[number](k_cache, v_cache, head_dim, i, k_data + at, v_data + at)
            for i in range(nq):
                queries[i] = q_data + i * head_dim
                outs[i] = out_data + i * head_dim
            args.k, args.v, args.q, args.out = k_cache, v_cache, queries, outs
            args.scratch = <float *>((<uintptr_t>block + 63) & ~<uintptr_t>63)
            t.attention[number](&args)
    finally:
        free(k_cache)
        free(v_cache)
        free(block)
        free(queries)
        free(outs)
    return out
