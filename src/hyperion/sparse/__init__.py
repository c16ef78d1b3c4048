"""Sparse matrices: compressed rows and columns, blocks, float32 or quantized values, and their products."""

from .config import SparseConfig, SparseFormat
from .convert import convert_to_sparse
from .matrix import SparseMatrix
from .plot import plot_sparsity
from .product import sparse_mat_mul

__all__ = ["SparseConfig", "SparseFormat", "SparseMatrix", "convert_to_sparse", "plot_sparsity", "sparse_mat_mul"]
