from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyperion._kernels.quant import TYPES as TYPES
from hyperion._kernels.quant import PackedMatrix
from hyperion._kernels.threads import Team

def activation_bytes(packed: PackedMatrix, m: int) -> int: ...
def linear(
    packed: PackedMatrix,
    x: NDArray[np.float32],
    level: str | None = None,
    team: Team | None = None,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """``x @ W.T`` for packed weights W [rows, cols].

    Quantized weights are multiplied with int8 activations, quantized by blocks of 32 (of 128 for K types); float weights with
    x itself.
    Row t of the result depends on row t of `x` alone: the bits are the same in any batch and with any team.

    Parameters
    ----------
    packed : PackedMatrix
    x : float32 array [m, cols]
        Rows contiguous and in rising order; m may be 0.
    level : str, optional
        Which kernels run; the default level if None.
    team : Team, optional
        Threads to run on; the calling thread alone if None.
    out : float32 array [m, rows], optional
        Where the result goes; rows contiguous, apart from the inputs.

    Returns
    -------
    float32 array [m, rows]
        `out` if given.

    Raises
    ------
    InvalidArgumentError
        If shapes, dtypes or strides do not fit, or `out` shares memory with an input.
    UnsupportedError
        If the level is absent here.
    """

def linear_many(
    packed: Sequence[PackedMatrix],
    x: NDArray[np.float32],
    level: str | None = None,
    team: Team | None = None,
    out: Sequence[NDArray[np.float32]] | None = None,
) -> tuple[NDArray[np.float32], ...]:
    """:func:`linear` for 1 to 16 matrices that share `x`, in one parallel region."""

def pack_activations(x: NDArray[np.float32], kind: str, level: str | None = None) -> NDArray[np.uint8]:
    """The bytes in which the kernels read activations [m, k] for weights of type `kind` (see c/common/panel.h); for tests."""
