"""Quantized tensors and the two functions between them and floats."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from hyperion import cpu
from hyperion._kernels import matmul, quant
from hyperion._kernels.quant import BlockType, PackedMatrix
from hyperion.errors import InvalidArgumentError, UnsupportedError
from hyperion.memory import process_budget
from hyperion.tensor import Tensor

from . import arrays, blocks, integer
from .config import QuantizationConfig

__all__ = ["QuantizedTensor", "dequantize_tensor", "quantize_tensor"]

Array = NDArray[Any]


class QuantizedTensor:
    """A tensor of quantized weights, made by :func:`quantize_tensor` or from stored arrays.

    Parameters
    ----------
    shape : tuple of int
        Of the weights.
    spec : QuantizationConfig or str
        How they are stored: integers (the config's bits, symmetric, group_size and axis count), or a block format by name:
        "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "q2_k" .. "q6_k", "f16", "bf16", "f32".
    codes : array, optional
        Stored codes, kept and not copied: int8 ``[*shape]`` for 8 bits; uint8 [(size + 1) // 2] for 4 bits, two codes in C order
        to a byte, the earlier one in the low nibble, in two's complement; uint8 ``[*shape[:-1], bytes of a row]`` for blocks.
        Without it the tensor's content is unspecified until it is an ``out=``.
    scales, zero_points : float32 arrays, optional
        Of the params' shape (see :class:`QuantizationConfig`); for integers only, zero_points unless symmetric only.

    Raises
    ------
    InvalidArgumentError
        If an array has another shape or dtype, or the shape does not suit the format.
    UnsupportedError
        If the format is unknown.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        spec: QuantizationConfig | str,
        codes: Array | None = None,
        scales: Array | None = None,
        zero_points: Array | None = None,
    ) -> None:
        try:
            self.shape = tuple(int(n) for n in shape)
        except (TypeError, ValueError):
            raise InvalidArgumentError(f"shape must be a sequence of integers, not {shape!r}") from None
        if any(n < 0 for n in self.shape):
            raise InvalidArgumentError(f"shape {self.shape} has a negative dimension")
        self._lock = threading.Lock()
        self._panels: PackedMatrix | None = None
        self._held: Array | None
        self._kind: BlockType | None = None
        self._layout: integer.Layout | None = None
        self._scales: Array | None = None
        self._zeros: Array | None = None
        if isinstance(spec, QuantizationConfig):
            spec.check()
            self._layout = integer.Layout.of(self.shape, spec)
            dtype = np.int8 if spec.bits == 8 else np.uint8
            self._held = _stored("codes", codes, self._layout.codes_shape, dtype)
            self._scales = _stored("scales", scales, self._layout.params_shape, np.float32)
            if not spec.symmetric:
                self._zeros = _stored("zero_points", zero_points, self._layout.params_shape, np.float32)
            elif zero_points is not None:
                raise InvalidArgumentError("symmetric codes have no zero_points")
        else:
            self._kind = quant.block_type(spec)
            if scales is not None or zero_points is not None:
                raise InvalidArgumentError(f"{self._kind.name} keeps its scales in the blocks")
            self._held = _stored("codes", codes, blocks.data_shape(self._kind, self.shape), np.uint8)

    # ---- What it is

    @property
    def format(self) -> str:
        """``"int4"``, ``"int8"`` or the block format's name."""
        return self._kind.name if self._kind is not None else f"int{self._layout.bits}"  # type: ignore[union-attr]

    @property
    def ndim(self) -> int:
        """Number of dimensions of the weights."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of weights."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def codes(self) -> Array:
        """The stored codes themselves: int8 of the weights' shape, packed nibbles, or blocks (see the class).

        A product moves blocks into panels, the layout that is multiplied, and this moves them back: the weights are in memory once.
        So blocks that were taken before a product are no longer the tensor's own after it.
        """
        return self._codes

    @property
    def _codes(self) -> Array:
        with self._lock:
            if self._held is None:
                assert self._kind is not None
                assert self._panels is not None
                held = arrays.new(blocks.data_shape(self._kind, self.shape), np.uint8)
                self._panels.unpack(held.reshape(-1))
                self._held, self._panels = held, None
            return self._held

    def _to_overwrite(self) -> Array:
        """The codes' memory for new ones: panels are dropped, and not unpacked first."""
        with self._lock:
            if self._held is None:
                assert self._kind is not None
                self._held, self._panels = arrays.new(blocks.data_shape(self._kind, self.shape), np.uint8), None
            return self._held

    def _multiplied(self) -> PackedMatrix:
        """The matrix as panels, which then hold the weights instead of the blocks."""
        with self._lock:
            if self._panels is None:
                assert self._held is not None
                self._panels = self._pack(self._held, None)
                self._held = None
            return self._panels

    @property
    def scales(self) -> Array | None:
        """The scales themselves: float32 of the params' shape; for blocks a float16 view ``[*shape[:-1], blocks]``."""
        return self._scales if self._kind is None else blocks.scales(self._kind, self._codes)

    @property
    def zero_points(self) -> Array | None:
        """The zero points themselves: float32 of the params' shape, None where symmetric and for blocks."""
        return self._zeros

    @property
    def minima(self) -> Array | None:
        """The float16 minima of blocks that have them: a view ``[*shape[:-1], blocks]``."""
        return None if self._kind is None else blocks.minima(self._kind, self._codes)

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale along the last axis, None where a scale belongs to a tensor or an axis."""
        return self._kind.block_len if self._kind is not None else self._layout.group_size  # type: ignore[union-attr]

    @property
    def axis(self) -> int | None:
        """The axis whose indices have a scale each."""
        return None if self._layout is None else self._layout.axis

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and zero points."""
        if self._kind is not None:
            return int(np.prod(blocks.data_shape(self._kind, self.shape), dtype=object))
        return self._codes.nbytes + sum(a.nbytes for a in (self._scales, self._zeros) if a is not None)

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes on average, scales included; 0 for an empty tensor."""
        return 8 * self.nbytes / self.size if self.size else 0.0

    def unpacked(self, out: NDArray[np.int8] | None = None) -> NDArray[np.int8]:
        """The codes as int8 of the weights' shape.

        Raises
        ------
        UnsupportedError
            For block formats, whose codes mean something only beside their block's scale.
        """
        if self._layout is None:
            raise UnsupportedError(f"{self.format} has no plain codes; dequantize() gives its values")
        if out is not None:
            _check_out(out, self.shape, np.dtype(np.int8), contiguous=True)
            arrays.check_apart("out", out, self._codes)
        return integer.unpack(self._layout, self._codes, out, cpu.shared_team(None), None)

    # ---- Values

    def dequantize(
        self, out: Array | None = None, dtype: DTypeLike | str | None = None, *, threads: int | None = None, simd: str | None = None
    ) -> Array:
        """The values that the codes stand for; see :func:`dequantize_tensor`."""
        return dequantize_tensor(self, out, dtype, threads=threads, simd=simd)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a QuantizedTensor becomes an array by computing: a copy cannot be avoided")
        values = self.dequantize()
        return values if dtype is None else values.astype(dtype, copy=False)

    # ---- Products

    def packed(self, out: Any = None) -> PackedMatrix:
        """The matrix as packed panels, the layout that is multiplied: a copy of about as many bytes, in `out` if given.

        Raises
        ------
        UnsupportedError
            Unless the tensor is a matrix of a block format, and not empty.
        """
        return self._pack(self._codes, out)

    def _pack(self, codes: Array, out: Any) -> PackedMatrix:
        if self._kind is None or self.ndim != 2 or not self.size:
            raise UnsupportedError(
                f"only matrices of a block format multiply as they are, not {self.format} of shape {self.shape}: "
                "dequantize, or quantize to a block format"
            )
        rows, cols = self.shape
        return quant.pack(self._kind, codes.data, rows, cols, out)

    def linear(
        self, x: ArrayLike, out: NDArray[np.float32] | None = None, *, threads: int | None = None, simd: str | None = None
    ) -> NDArray[np.float32]:
        """``x @ W.T`` for x [m, columns] or [columns]: float32 [m, rows] or [rows].

        The first product packs the blocks into panels, which hold the weights from then on: until something else asks for the
        blocks (`codes`, `scales`, `minima`, `dequantize`, an ``out=``), they are not in memory twice but for the moment of packing.
        x is quantized to 8 bits by blocks of 32 (of 128 for K types) unless the format is a float one.
        """
        panels = self._multiplied()
        try:
            rows = np.asarray(x, np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"x must be an array of floats: {error}") from None
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.shape[1]:
            raise InvalidArgumentError(f"x must have shape (m, {self.shape[1]}) or ({self.shape[1]},), not {rows.shape}")
        shape = (*rows.shape[:-1], self.shape[0])
        if out is not None:
            _check_out(out, shape, np.dtype(np.float32), contiguous=False)
        matrix = np.ascontiguousarray(rows.reshape(-1, self.shape[1]))
        target = None if out is None else out.reshape(-1, self.shape[0]) if out.ndim == 2 else out[np.newaxis]
        with process_budget().reserve("packed activations", matmul.activation_bytes(panels, len(matrix))):
            product = matmul.linear(panels, matrix, simd, cpu.shared_team(threads), target)
        return out if out is not None else product.reshape(shape)

    def __matmul__(self, x: ArrayLike) -> NDArray[np.float32]:
        columns = np.asarray(x)
        if columns.ndim not in (1, 2) or columns.shape[0] != self.shape[-1]:
            raise InvalidArgumentError(f"{self.shape} @ {columns.shape}: the inner dimensions differ")
        return self.linear(columns.T).T

    def __repr__(self) -> str:
        return f"QuantizedTensor({self.shape}, {self.format!r}, {self.nbytes} bytes)"

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_held": self._codes, "_panels": None}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _stored(name: str, array: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    if array is None:
        return arrays.new(shape, dtype)
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype or not array.flags.c_contiguous:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidArgumentError(f"{name} must be a contiguous {np.dtype(dtype)} array of shape {shape}, not {got}")
    return array


def _check_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], contiguous: bool) -> None:
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InvalidArgumentError(f"out must be an array of {dtype} of shape {shape}, not {got}")
    if not out.flags.writeable:
        raise InvalidArgumentError("out is read-only")
    if contiguous and not out.flags.c_contiguous:
        raise InvalidArgumentError("out must be C-contiguous")
    if out.size and any(stride == 0 and n > 1 for stride, n in zip(out.strides, out.shape, strict=True)):
        raise InvalidArgumentError("out overlaps itself")


def quantize_tensor(
    w: ArrayLike,
    config: QuantizationConfig | str | None = None,
    out: QuantizedTensor | None = None,
    *,
    dtype: DTypeLike | str | None = None,
    threads: int | None = None,
    simd: str | None = None,
) -> QuantizedTensor:
    """Quantize weights.

    Parameters
    ----------
    w : array
        float16, float32, float64, or uint16 with ``dtype="bfloat16"``; any shape and strides.
    config : QuantizationConfig, str or None
        Integers as the config says (None: its defaults), or a block format by name. Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, F16 and BF16
        give the blocks of the ``gguf`` package to the bit; the K types and IQ4_NL search for the least squared error.
    out : QuantizedTensor, optional
        Written instead of a new one; of this shape and stored the same way. After an error its content is unspecified.
    dtype : optional
        What w holds, where its own dtype does not tell.
    threads : int, optional
        By default as many as suit this process. They change no bit of the result.
    simd : str, optional
        The kernels' level, by default the best. Levels agree to the bit.

    Returns
    -------
    QuantizedTensor

    Raises
    ------
    InvalidArgumentError
        If a value is NaN, infinite or beyond float32 (the message and ``context["index"]`` say which), a block's scale does not
        fit its format, or a shape or dtype does not suit.
    UnsupportedError
        If the block format is unknown.
    HyperionMemoryError
        If there is no memory for the result.
    """
    if config is None:
        config = QuantizationConfig()
    if not isinstance(config, (QuantizationConfig, str)):
        raise InvalidArgumentError(f"config must be a QuantizationConfig or the name of a format, not {config!r}")
    values, team = arrays.values_of(w, dtype), cpu.shared_team(threads)
    if out is None:
        out = QuantizedTensor(values.shape, config)
    else:
        _check_same_storage(out, values.shape, config)
        for array in (out._to_overwrite(), out._scales, out._zeros):
            if array is not None:
                if not array.flags.writeable:
                    raise InvalidArgumentError("out is read-only")
                arrays.check_apart("out", array, values)
    if out._kind is not None:
        blocks.quantize(values, out._kind, out._codes, team, simd)
    else:
        assert isinstance(config, QuantizationConfig)
        assert out._layout is not None
        assert out._scales is not None
        integer.quantize(values, config, out._layout, out._codes, out._scales, out._zeros, team, simd)
    return out


def _check_same_storage(out: Any, shape: tuple[int, ...], config: QuantizationConfig | str) -> None:
    if not isinstance(out, QuantizedTensor):
        raise InvalidArgumentError(f"out must be a QuantizedTensor, not {type(out).__name__}")
    if isinstance(config, str):
        same = out.shape == shape and out._kind == quant.block_type(config)
    else:
        config.check()
        same = out.shape == shape and out._layout == integer.Layout.of(shape, config)
        same = same and (out._zeros is None) == config.symmetric
    if not same:
        raise InvalidArgumentError(f"out is {out!r}: it does not store shape {shape} as {config!r} does")


def dequantize_tensor(
    q: QuantizedTensor,
    out: Any = None,
    dtype: DTypeLike | str | None = None,
    *,
    threads: int | None = None,
    simd: str | None = None,
) -> Any:
    """The values of quantized weights.

    Parameters
    ----------
    q : QuantizedTensor
    out : array or Tensor, optional
        Of the weights' shape, float16, float32, float64 or (bfloat16) uint16, any strides.
    dtype : optional
        float32 by default, or that of `out`; "bfloat16" gives uint16.
    threads, simd : optional
        As in :func:`quantize_tensor`.

    Returns
    -------
    array or Tensor
        `out`, or a new array. Values are computed in float32 and then rounded to the dtype.

    Raises
    ------
    InvalidArgumentError
        If `out` does not fit or shares memory with q.
    """
    if not isinstance(q, QuantizedTensor):
        raise InvalidArgumentError(f"q must be a QuantizedTensor, not {type(q).__name__}")
    if isinstance(out, Tensor):
        dequantize_tensor(q, out.numpy(), dtype, threads=threads, simd=simd)
        return out
    if dtype is None:
        dtype = np.float32 if not isinstance(out, np.ndarray) or out.dtype == np.uint16 else out.dtype
    stored = arrays.float_dtype(dtype)
    if out is None:
        out = target = arrays.new(q.shape, stored)
    else:
        target = out.view(np.uint16) if isinstance(out, np.ndarray) and out.dtype.name == arrays.BFLOAT16 else out
        _check_out(target, q.shape, stored, contiguous=False)
        arrays.check_apart("out", target, q._codes, q._scales, q._zeros)
    team = cpu.shared_team(threads)
    if q._kind is not None:
        blocks.dequantize(q._kind, q._codes, target, team, simd)
    else:
        assert q._layout is not None
        assert q._scales is not None
        integer.dequantize(q._layout, q._codes, q._scales, q._zeros, target, team, simd)
    return out
