"""How a matrix is stored sparsely."""

from __future__ import annotations

import dataclasses
import enum
import operator
from typing import Any

import numpy as np

from ..errors import InvalidArgumentError
from ..members import member

__all__ = ["LARGEST_BLOCK", "SparseConfig", "SparseFormat", "block_size_of", "format_of"]

LARGEST_BLOCK = 1024


class SparseFormat(enum.IntEnum):
    """Layouts of a sparse matrix; they are those of SciPy of the same names."""

    CSR = 0
    CSC = 1
    BSR = 2


def format_of(value: Any) -> SparseFormat:
    """A format given as such or by name."""
    return member(SparseFormat, value, "the sparse format")


def block_size_of(value: Any) -> int:
    """The side of a block, checked."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        size = operator.index(value)
    except TypeError:
        size = 0
    if not 1 <= size <= LARGEST_BLOCK:
        raise InvalidArgumentError(f"block_size is {value!r}, expected an integer from 1 to {LARGEST_BLOCK}")
    return size


def _enable_simd(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgumentError(f"SparseConfig.enable_simd is {value!r}, expected a bool")
    return bool(value)


_CHECKS = {"format": format_of, "block_size": block_size_of, "enable_simd": _enable_simd}


@dataclasses.dataclass(kw_only=True)
class SparseConfig:
    """Settings of :func:`hyperion.convert_to_sparse`; each field is checked when it is set.

    Parameters
    ----------
    format : SparseFormat or str
        Compressed rows (CSR), compressed columns (CSC), or rows of blocks (BSR).
    block_size : int
        Rows and columns of a block of BSR, 1 to 1024. A matrix need not be a multiple of it.
    enable_simd : bool
        Whether products use the processor's vector instructions. Without them the portable kernels run.

    Raises
    ------
    InvalidArgumentError
        If a value is out of range or a field unknown.
    """

    format: SparseFormat | str = SparseFormat.CSR
    block_size: int = 16
    enable_simd: bool = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _CHECKS:
            raise InvalidArgumentError(f"SparseConfig has no field {name!r}; it has {', '.join(_CHECKS)}")
        object.__setattr__(self, name, _CHECKS[name](value))
