"""In-place operations, reductions and products of tensors, a part that is in memory at a time.

Elementwise results, norms and sums do not depend on the strategy: an element or a row is computed the same way wherever the
window is, and sums add segments of fixed places. Activations and products of float32 are those of :mod:`hyperion.dense`, on
several threads; float16 is computed in float32, float64 in NumPy.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperion import dense
from hyperion._kernels import ops as kernels
from hyperion.errors import InvalidArgumentError
from hyperion.members import member

from .config import SEGMENT, DataType

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = ["TensorOp", "extreme", "matmul", "number", "run", "total"]

TILE = 1 << 14
"""Elements (or one row, if that is longer) that an operation works on at once: with their temporaries they stay in L2."""


class TensorOp(enum.Enum):
    """What :meth:`Tensor.in_place` does, and the params that it takes.

    Attributes
    ----------
    ADD, SUB, MUL, DIV
        x + p, x - p, x * p, x / p: a number; an array or Tensor of the tensor's shape; or one value for each place of the
        last axis, of shape ``(shape[-1],)``. DIV is for floats.
    SCALE
        x * p for a number p.
    CLAMP
        ``(low, high)``: values below and above become low and high; None leaves that side open.
    ABS, NEG
        No params.
    RELU
        max(x, 0). No params.
    GELU
        None for the exact form, or ``{"approximate": "tanh"}`` (arXiv 1606.08415). For floats; the exact form in float64 takes its
        time, as NumPy has no error function.
    SILU, TANH, SIGMOID, EXP, SQRT
        For floats, no params.
    SOFTMAX
        Along the last axis. For floats, no params.
    LAYER_NORM
        Along the last axis (arXiv 1607.06450). None, or a dict of `weight`, `bias` (of shape ``(shape[-1],)``) and `eps` (1e-5).
    RMS_NORM
        Along the last axis (arXiv 1910.07467). None, or a dict of `weight` and `eps` (1e-5).
    """

    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"
    SCALE = "scale"
    CLAMP = "clamp"
    ABS = "abs"
    NEG = "neg"
    RELU = "relu"
    GELU = "gelu"
    SILU = "silu"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    EXP = "exp"
    SQRT = "sqrt"
    SOFTMAX = "softmax"
    LAYER_NORM = "layer_norm"
    RMS_NORM = "rms_norm"

    @classmethod
    def of(cls, op: Any) -> TensorOp:
        """The member for a member or its name in any case."""
        return member(cls, op, "op")


Kernel = Callable[[np.ndarray], object]

_BINARY = {TensorOp.ADD: np.add, TensorOp.SUB: np.subtract, TensorOp.MUL: np.multiply, TensorOp.DIV: np.divide}
_THREADED = (TensorOp.RELU, TensorOp.GELU, TensorOp.SILU, TensorOp.TANH, TensorOp.SIGMOID, TensorOp.SOFTMAX)
_ROWS = (TensorOp.SOFTMAX, TensorOp.LAYER_NORM, TensorOp.RMS_NORM)
_ANY_TYPE = (TensorOp.ADD, TensorOp.SUB, TensorOp.MUL, TensorOp.SCALE, TensorOp.CLAMP, TensorOp.ABS, TensorOp.NEG, TensorOp.RELU)


def run(tensor: Tensor, op: TensorOp, params: Any) -> None:
    """Do an operation on all elements of a tensor that may be written."""
    if op not in _ANY_TYPE and not tensor.dtype.is_float:
        raise InvalidArgumentError(f"{op.name} is for tensors of floats, this one is of {tensor.dtype.value}")
    if op in _BINARY:
        _binary(tensor, op, params)
    elif op in _ROWS:
        _row_wise(tensor, op, params)
    else:
        kernel = _unary(tensor, op, params)
        # What is threaded takes all that is in memory at once.
        step = TILE if op not in _THREADED or tensor.dtype is not DataType.FLOAT32 else max(tensor.size, 1)
        with np.errstate(all="ignore"):
            for _, block in tensor.blocks(write=True):
                for tile in _tiles(block, step):
                    _computed(kernel, tile)


def _tiles(block: np.ndarray, step: int) -> Iterator[np.ndarray]:
    for at in range(0, len(block), step):
        yield block[at : at + step]


def _computed(kernel: Kernel, tile: np.ndarray) -> None:
    """Apply a kernel in the precision that the elements are computed in."""
    if tile.dtype == np.float16:
        wide = tile.astype(np.float32)
        kernel(wide)
        tile[...] = wide
    else:
        kernel(tile)


# ---- One element at a time ---------------------------------------------------------------------------------


def _unary(tensor: Tensor, op: TensorOp, params: Any) -> Kernel:
    if op is TensorOp.SCALE:
        factor = number(op.name, params, tensor.dtype)
        return lambda x: np.multiply(x, factor, out=x)
    if op is TensorOp.CLAMP:
        return _clamp(tensor, params)
    if op is TensorOp.GELU:
        return _gelu(params)
    if params is not None:
        raise InvalidArgumentError(f"{op.name} has no params, not {params!r:.80}")
    return _KERNELS[op]


def number(what: str, value: Any, dtype: DataType) -> Any:
    """A number as the computation with elements of a type takes it."""
    array = np.asarray(value)
    if array.ndim or array.dtype.kind not in ("iuf" if dtype.is_float else "iu"):
        raise InvalidArgumentError(f"{what} takes a number that suits {dtype.value}, not {value!r:.80}")
    if dtype.is_float:
        with np.errstate(over="ignore"):
            return np.float64(array) if dtype.numpy.itemsize == 8 else np.float32(array)
    info = np.iinfo(dtype.numpy)
    if not info.min <= int(array) <= info.max:
        raise InvalidArgumentError(f"{what}: {int(array)} is no {dtype.value}")
    return dtype.numpy.type(int(array))


def _clamp(tensor: Tensor, params: Any) -> Kernel:
    try:
        low, high = (params.get("low"), params.get("high")) if isinstance(params, dict) else params
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"CLAMP takes (low, high), not {params!r:.80}") from None
    low, high = (None if p is None else number("CLAMP", p, tensor.dtype) for p in (low, high))
    if any(p is not None and np.isnan(p) for p in (low, high)) or (low is not None and high is not None and low > high):
        raise InvalidArgumentError(f"CLAMP takes low <= high, not {low} and {high}")
    return lambda x: np.clip(x, low, high, out=x) if low is not None or high is not None else None


def _sigmoid(x: np.ndarray) -> None:
    np.negative(x, out=x)
    np.exp(x, out=x)  # infinity gives 0, as it should
    x += 1
    np.reciprocal(x, out=x)


def _times(x: np.ndarray, gate: np.ndarray) -> None:
    """x *= gate, where infinity times a gate of 0 is 0."""
    infinite = np.isinf(x) & (gate == 0)
    np.multiply(x, gate, out=x)
    np.copyto(x, 0, where=infinite)


def _silu(x: np.ndarray) -> None:
    gate = x.copy()
    _sigmoid(gate)
    _times(x, gate)


def _gelu_erf(x: np.ndarray) -> None:
    below = (math.erfc(-v / math.sqrt(2)) for v in x.ravel().tolist())
    _times(x, np.fromiter(below, x.dtype, x.size) / 2)


def _gelu_tanh(x: np.ndarray) -> None:
    inner = x * x
    inner *= 0.044715
    inner += 1
    inner *= x
    inner *= math.sqrt(2 / math.pi)
    np.tanh(inner, out=inner)
    inner += 1
    inner *= 0.5
    _times(x, inner)


def _gelu(params: Any) -> Kernel:
    form = "none" if params is None else params.get("approximate") if isinstance(params, dict) and len(params) == 1 else ""
    if form not in ("none", "tanh"):
        raise InvalidArgumentError(f'GELU takes None or {{"approximate": "tanh"}}, not {params!r:.80}')
    wide = _gelu_erf if form == "none" else _gelu_tanh
    return _by_type(lambda x: dense.gelu(x, x, approximate=form), wide)


def _by_type(narrow: Kernel, wide: Kernel) -> Kernel:
    """One kernel for float32, another for what else is computed."""
    return lambda x: narrow(x) if x.dtype == np.float32 else wide(x)


_KERNELS: dict[TensorOp, Kernel] = {
    TensorOp.ABS: lambda x: np.abs(x, out=x),
    TensorOp.NEG: lambda x: np.negative(x, out=x),
    TensorOp.RELU: _by_type(lambda x: dense.relu(x, x), lambda x: np.maximum(x, x.dtype.type(0), out=x)),
    TensorOp.SILU: _by_type(lambda x: dense.silu(x, x), _silu),
    TensorOp.TANH: _by_type(lambda x: dense.tanh(x, x), lambda x: np.tanh(x, out=x)),
    TensorOp.SIGMOID: _by_type(lambda x: dense.sigmoid(x, x), _sigmoid),
    TensorOp.EXP: lambda x: np.exp(x, out=x),
    TensorOp.SQRT: lambda x: np.sqrt(x, out=x),
}


# ---- Two operands ------------------------------------------------------------------------------------------


def _binary(tensor: Tensor, op: TensorOp, params: Any) -> None:
    function = _BINARY[op]
    if params is None:
        raise InvalidArgumentError(f"{op.name} takes a number, an array or a tensor")
    if not hasattr(params, "read") and np.ndim(params) == 0:
        value = number(op.name, params, tensor.dtype)
        with np.errstate(all="ignore"):
            for _, block in tensor.blocks(write=True):
                for tile in _tiles(block, TILE):
                    _computed(lambda x: function(x, value, out=x), tile)
        return
    part, multiple = _operand(tensor, op, params)
    with np.errstate(all="ignore"):
        for start, block in tensor.blocks(write=True, multiple=multiple):
            step = max(TILE // multiple, 1) * multiple
            for at in range(0, len(block), step):
                tile = block[at : at + step]
                other = part(start + at, len(tile))
                if tile.dtype == np.float16:
                    tile[...] = function(tile.astype(np.float32), other.astype(np.float32))
                else:
                    function(tile, other, out=tile)


def _operand(tensor: Tensor, op: TensorOp, params: Any) -> tuple[Callable[[int, int], np.ndarray], int]:
    """What gives the operand of a run of elements, and of how many elements runs must be multiples."""
    item = tensor.dtype.numpy.itemsize
    if hasattr(params, "is_streaming") and params.is_streaming:
        if params.shape != tensor.shape or params.dtype is not tensor.dtype:
            raise InvalidArgumentError(f"{op.name} of {tensor!r} and {params!r}: shapes and types differ")
        if params is tensor:
            raise InvalidArgumentError(f"{op.name} of a streaming tensor with itself: use SCALE, or a copy()")
        return lambda at, count: params.read(at * item, count * item), SEGMENT
    array = np.asarray(params)
    if array.dtype.kind not in "iuf" or not np.can_cast(array.dtype, tensor.dtype.numpy, "same_kind"):
        raise InvalidArgumentError(f"{op.name} of a tensor of {tensor.dtype.value} with values of {array.dtype}")
    if tensor.exported is not None and np.may_share_memory(array, tensor.exported) and not _is_the_same(array, tensor.exported):
        array = array.copy()  # elements that are changed before they are used
    array = array.astype(tensor.dtype.numpy, copy=False) if array.ndim <= 1 else array
    if array.shape == tensor.shape:
        flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
        return lambda at, count: flat[at : at + count].astype(tensor.dtype.numpy, copy=False), SEGMENT
    if tensor.ndim and array.shape == tensor.shape[-1:] and array.size:
        width = array.size
        return lambda at, count: np.broadcast_to(array, (count // width, width)).reshape(-1), width
    raise InvalidArgumentError(f"{op.name} of shape {tensor.shape} takes a number or shape {tensor.shape} or {tensor.shape[-1:]}, not {array.shape}")


def _is_the_same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.strides == b.strides and a.ctypes.data == b.ctypes.data and a.dtype == b.dtype


# ---- Rows --------------------------------------------------------------------------------------------------


def _row_wise(tensor: Tensor, op: TensorOp, params: Any) -> None:
    """Operations along the last axis: whole rows are in memory."""
    width = tensor.shape[-1] if tensor.ndim else 0
    if not width:
        raise InvalidArgumentError(f"{op.name} needs rows of at least one element, the tensor has shape {tensor.shape}")
    kernel = _row_kernel(tensor, op, params, width)
    threaded = op in _THREADED and tensor.dtype is DataType.FLOAT32
    step = tensor.size if threaded else max(TILE // width, 1) * width
    with np.errstate(all="ignore"):
        for _, block in tensor.blocks(write=True, multiple=width):
            for tile in _tiles(block, step):
                _computed(lambda x: kernel(x.reshape(-1, width)), tile)


def _row_kernel(tensor: Tensor, op: TensorOp, params: Any, width: int) -> Kernel:
    if op is TensorOp.SOFTMAX:
        if params is not None:
            raise InvalidArgumentError(f"SOFTMAX has no params, not {params!r:.80}")
        return _softmax
    known = ("weight", "eps") if op is TensorOp.RMS_NORM else ("weight", "bias", "eps")
    params = {} if params is None else params
    if not isinstance(params, dict) or set(params) - set(known):
        raise InvalidArgumentError(f"{op.name} takes a dict of {', '.join(known)}, not {params!r:.80}")
    eps = params.get("eps", 1e-5)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not 0 <= eps < math.inf:
        raise InvalidArgumentError(f"{op.name}: eps is {eps!r}, expected a number of at least 0")
    wide = np.dtype(np.float64) if tensor.dtype.numpy.itemsize == 8 else np.dtype(np.float32)
    weight, bias = (_per_column(op, name, params.get(name), width, wide) for name in ("weight", "bias"))
    if op is TensorOp.LAYER_NORM:
        return lambda rows: _layer_norm(rows, weight, bias, eps)
    ones = np.ones(width, wide) if weight is None else weight
    return lambda rows: _rms_norm(rows, ones, eps)


def _per_column(op: TensorOp, name: str, value: Any, width: int, dtype: np.dtype[Any]) -> np.ndarray | None:
    if value is None:
        return None
    array = np.array(value)  # a copy: it may be a view of what is being changed
    if array.shape != (width,) or array.dtype.kind not in "iuf":
        raise InvalidArgumentError(f"{op.name}: {name} has shape {array.shape} of {array.dtype}, expected ({width},) of numbers")
    return array.astype(dtype, copy=False)


def _softmax(rows: np.ndarray) -> None:
    if rows.dtype == np.float32:
        dense.softmax(rows, rows)
        return
    rows -= rows.max(axis=1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(axis=1, keepdims=True)


def _rms_norm(rows: np.ndarray, weight: np.ndarray, eps: float) -> None:
    if rows.dtype == np.float32:
        kernels.rms_norm(rows, weight, eps, out=rows)
        return
    rows /= np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + eps)
    rows *= weight


def _layer_norm(rows: np.ndarray, weight: np.ndarray | None, bias: np.ndarray | None, eps: float) -> None:
    rows -= rows.mean(axis=1, keepdims=True, dtype=np.float64).astype(rows.dtype)
    spread = np.square(rows).mean(axis=1, keepdims=True, dtype=np.float64)
    rows *= (1 / np.sqrt(spread + eps)).astype(rows.dtype)
    if weight is not None:
        rows *= weight
    if bias is not None:
        rows += bias


# ---- Reductions and products -------------------------------------------------------------------------------


def total(tensor: Tensor) -> float | int:
    """Sum of all elements: segments of fixed places are summed alone, and their sums exactly."""
    is_float = tensor.dtype.is_float
    sums: list[Any] = []
    for _, block in tensor.blocks():
        whole = len(block) // SEGMENT * SEGMENT
        for piece in (block[:whole].reshape(-1, SEGMENT), block[whole:].reshape(1, -1)):
            sums += piece.sum(axis=1, dtype=np.float64 if is_float else np.int64).tolist()
    if not is_float:
        return sum(sums)
    return math.fsum(sums) if all(map(math.isfinite, sums)) else sum(sums)


def extreme(tensor: Tensor, function: Callable[..., Any]) -> float | int:
    """The least or the greatest of all elements."""
    if not tensor.size:
        raise InvalidArgumentError("a tensor without elements has no least and no greatest")
    return function([function(block) for _, block in tensor.blocks()]).item()


def matmul(tensor: Tensor, other: Any, out: Any) -> Any:
    """[M, K] times [K, N] or [K], as many rows at a time as the window holds."""
    right = np.asarray(other)
    dtype = tensor.dtype.numpy
    if tensor.ndim != 2 or right.ndim not in (1, 2) or right.shape[0] != tensor.shape[1]:
        raise InvalidArgumentError(f"cannot multiply shapes {tensor.shape} and {right.shape}")
    if not tensor.dtype.is_float or right.dtype.kind != "f":
        raise InvalidArgumentError(f"a product is of floats, not of {tensor.dtype.value} and {right.dtype}")
    wide = np.dtype(np.float64) if dtype.itemsize == 8 else np.dtype(np.float32)
    right = right.astype(wide, copy=False)
    shape = (tensor.shape[0], *right.shape[1:])
    if out is None:
        out = np.empty(shape, dtype)
    fits = hasattr(out, "stream") or (isinstance(out, np.ndarray) and out.flags.writeable)
    if not fits or out.shape != shape or getattr(out.dtype, "numpy", out.dtype) != dtype:
        raise InvalidArgumentError(f"out must be writable, of shape {shape} and dtype {dtype}")
    if out is tensor or (isinstance(out, np.ndarray) and tensor.exported is not None and np.may_share_memory(out, tensor.exported)):
        raise InvalidArgumentError("out shares memory with the tensor")
    _multiply_rows(tensor, right, wide, out)
    return out


def _multiply_rows(tensor: Tensor, right: np.ndarray, wide: np.dtype[Any], out: Any) -> None:
    width, columns = tensor.shape[1], math.prod(right.shape[1:])
    streamed = not isinstance(out, np.ndarray)
    if not width:
        out.fill(0)
        return
    product: Any = dense.matmul if wide == np.float32 else np.matmul
    longest = columns if tensor.dtype.numpy == wide else max(width, columns)
    step = max(SEGMENT * 16 // max(longest, 1), 16)  # rows whose result (and conversion) are temporaries
    for start, block in tensor.blocks(multiple=width):
        rows = block.reshape(-1, width)
        for at in range(0, len(rows), step):
            first = start // width + at
            result = product(rows[at : at + step].astype(wide, copy=False), right)
            if streamed:
                out.stream(result.astype(tensor.dtype.numpy, copy=False), first * columns * tensor.dtype.numpy.itemsize)
            else:
                out[first : first + len(result)] = result
