"""How a tensor is quantized to integers."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hyperion.errors import InvalidArgumentError

__all__ = ["METHODS", "QuantizationConfig"]

METHODS = ("absmax", "mse", "hqq")
TINY = float(np.finfo(np.float32).tiny)


def _index(value: Any) -> int | None:
    """The value as an int if it is an integer, NumPy's included; a bool is none."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _bits(value: Any) -> int:
    bits = _index(value)
    if bits not in (4, 8):
        raise InvalidArgumentError(f"QuantizationConfig.bits is {value!r}, expected 4 or 8")
    return bits


def _symmetric(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgumentError(f"QuantizationConfig.symmetric is {value!r}, expected a bool")
    return bool(value)


def _params(name: str, value: Any) -> Any:
    """None, a float, or a read-only float32 array."""
    if value is None:
        return None
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        raise InvalidArgumentError(f"QuantizationConfig.{name} must be None, a number or an array, not {value!r}") from None
    with np.errstate(over="ignore"):
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InvalidArgumentError(f"QuantizationConfig.{name} must be finite in float32")
    if name == "scale" and array.size and array.min() < TINY:
        raise InvalidArgumentError(f"QuantizationConfig.scale must be positive (at least {TINY:.3g}), not {array.min()}")
    if array.ndim == 0:
        return float(array)
    array.flags.writeable = False
    return array


def _group_size(value: Any) -> int | None:
    size = None if value is None else _index(value)
    if value is not None and (size is None or size < 1):
        raise InvalidArgumentError(f"QuantizationConfig.group_size is {value!r}, expected None or a positive integer")
    return size


def _axis(value: Any) -> int | None:
    axis = None if value is None else _index(value)
    if value is not None and axis is None:
        raise InvalidArgumentError(f"QuantizationConfig.axis is {value!r}, expected None or an integer")
    return axis


def _method(value: Any) -> str:
    if not isinstance(value, str) or value not in METHODS:
        raise InvalidArgumentError(f"QuantizationConfig.method is {value!r}, expected one of {', '.join(METHODS)}")
    return value


_CHECKS: dict[str, Any] = {
    "bits": _bits,
    "symmetric": _symmetric,
    "scale": lambda value: _params("scale", value),
    "zero_point": lambda value: _params("zero_point", value),
    "group_size": _group_size,
    "axis": _axis,
    "method": _method,
}


@dataclasses.dataclass(kw_only=True, eq=False)
class QuantizationConfig:
    """Settings of integer quantization; each field is checked when it is set, their agreement when made and when used.

    A weight becomes a code, -8..7 or -128..127, and stands for ``(code - zero_point) * scale`` in float32.

    Parameters
    ----------
    bits : int
        4 or 8.
    symmetric : bool
        Whether the zero point is 0. Otherwise it is a float, not rounded, so that a range far from 0 loses nothing.
    scale, zero_point : float, array or None
        Given params: one for all, or an array of the shape of the params (see `group_size` and `axis`). None has them found.
    group_size : int or None
        One scale for each run of so many weights along the last axis; the last run of a row may be shorter. Params have shape
        ``shape[:-1] + (ceil(shape[-1] / group_size),)``.
    axis : int or None
        One scale for each index along this axis: params have shape ``(shape[axis],)``. Without `axis` and `group_size` the
        tensor has one scale, of shape ``()``.
    method : str
        How what is not given is found. ``"absmax"``: the codes span the largest magnitude, or (not symmetric) the range from
        the least to the greatest value. ``"mse"``: the ends may be cut off; the params of least squared error among a grid,
        refined by least squares. ``"hqq"``: the scale of absmax, and the zero point that half-quadratic quantization (Badri
        and Shaji, 2023) finds for the 0.7-norm of the error, which forgives outliers; not for symmetric codes.

    Raises
    ------
    InvalidArgumentError
        If a value is out of range, a field unknown, or fields contradict each other.
    """

    bits: int = 8
    symmetric: bool = True
    scale: ArrayLike | None = None
    zero_point: ArrayLike | None = None
    group_size: int | None = None
    axis: int | None = None
    method: str = "absmax"

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _CHECKS:
            raise InvalidArgumentError(f"QuantizationConfig has no field {name!r}; it has {', '.join(_CHECKS)}")
        object.__setattr__(self, name, _CHECKS[name](value))

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raise InvalidArgumentError if the fields contradict each other."""
        if self.group_size is not None and self.axis is not None:
            raise InvalidArgumentError("groups lie along the last axis: give group_size or axis, not both")
        if self.symmetric and self.zero_point is not None and np.any(self.zero_point):
            raise InvalidArgumentError("symmetric codes have the zero point 0: give zero_point with symmetric=False")
        if self.method == "hqq" and self.symmetric:
            raise InvalidArgumentError("method='hqq' finds zero points: it needs symmetric=False")
        if self.method == "hqq" and self.zero_point is not None:
            raise InvalidArgumentError("method='hqq' finds zero points: do not give zero_point")
        half = 1 << (self.bits - 1)
        if not self.symmetric and self.scale is None and self.zero_point is not None:
            zeros = np.asarray(self.zero_point)
            if zeros.size and (zeros.min() < -half or zeros.max() > half - 1):
                raise InvalidArgumentError(
                    f"without a given scale zero_point must lie within the codes, {-half} to {half - 1}, not {self.zero_point}"
                )

    def copy(self) -> QuantizationConfig:
        """A copy that later changes do not reach."""
        return dataclasses.replace(self)
