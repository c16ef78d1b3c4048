"""Tensors in pages, pools and files; in-place operations; views without copies."""

from __future__ import annotations

from .config import DataType, TensorAllocStrategy, TensorMemoryConfig, TensorMemoryStats
from .ops import TensorOp
from .tensor import Tensor

__all__ = ["DataType", "Tensor", "TensorAllocStrategy", "TensorMemoryConfig", "TensorMemoryStats", "TensorOp"]
