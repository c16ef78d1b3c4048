from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hyperion._kernels.quant import BlockType
from hyperion._kernels.threads import Team

METHODS: dict[str, int]
"""How scales and zero points are found."""

_Values: TypeAlias = NDArray[Any]
_Outcome: TypeAlias = Literal["nonfinite", "overflow"] | None

# Arrays of values are [n0, n1, n2] of any strides: float32, float16, float64, or uint16 holding bfloat16.

def affine_quantize(
    team: Team,
    x: _Values,
    *,
    group: int,
    bits: int,
    method: str,
    find_scale: bool,
    find_zero: bool,
    codes: NDArray[np.int8] | NDArray[np.uint8],
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32] | None = None,
    level: str | None = None,
) -> _Outcome:
    """Quantize to codes (int8, or uint8 for packed nibbles) with one scale for each [:, k, j * group : (j + 1) * group].

    Returns "nonfinite" if a value is not a finite float32; codes and scales are then unspecified.
    """

def affine_dequantize(
    team: Team,
    out: _Values,
    *,
    group: int,
    bits: int,
    codes: NDArray[np.int8] | NDArray[np.uint8],
    scales: NDArray[np.float32],
    zeros: NDArray[np.float32] | None = None,
    level: str | None = None,
) -> None:
    """Write ``(code - zero) * scale`` to `out`."""

def blocks_quantize(
    team: Team, type: str | int | BlockType, x: _Values, blocks: NDArray[np.uint8], *, level: str | None = None
) -> _Outcome:
    """Quantize rows [n0, n1] to GGUF blocks; "overflow" if a scale does not fit the format's f16."""

def blocks_dequantize(
    team: Team, type: str | int | BlockType, blocks: NDArray[np.uint8], out: _Values, *, level: str | None = None
) -> None:
    """Write the blocks' values to `out`."""

def pack_nibbles(
    team: Team, codes: NDArray[np.int8], packed: NDArray[np.uint8], *, level: str | None = None
) -> None:
    """Pack codes -8..7 two to a byte, the earlier one low."""

def unpack_nibbles(
    team: Team, packed: NDArray[np.uint8], codes: NDArray[np.int8], *, level: str | None = None
) -> None:
    """The inverse of :func:`pack_nibbles`."""

def find_nonfinite(x: _Values, *, level: str | None = None) -> int:
    """Place in C order of the first value that is no finite float32, or -1."""
