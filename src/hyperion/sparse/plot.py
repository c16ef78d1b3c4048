"""A picture of where a matrix has its values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidArgumentError, UnsupportedError
from .config import SparseFormat
from .matrix import SparseMatrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # type: ignore[import-not-found,unused-ignore]

__all__ = ["block_density", "plot_sparsity"]

SLAB = 1 << 20  # indices that are counted at a time


def block_density(matrix: SparseMatrix, cells: int = 256) -> NDArray[np.float64]:
    """Share of stored values in each cell of a grid, at most `cells` rows and columns of it; values of blocks count as stored."""
    if isinstance(cells, bool) or not isinstance(cells, int) or cells < 1:
        raise InvalidArgumentError(f"cells must be a positive integer, not {cells!r}")
    rows, cols = matrix.shape
    grid = np.zeros((max(1, min(cells, rows)), max(1, min(cells, cols))))
    height, width = max(1, -(-rows // grid.shape[0])), max(1, -(-cols // grid.shape[1]))
    grid = grid[: max(1, -(-rows // height)), : max(1, -(-cols // width))]
    by_columns, block, indptr, indices = matrix.format is SparseFormat.CSC, matrix.block_shape, matrix.indptr, matrix.indices
    for begin in range(0, indices.size, SLAB):
        end = min(begin + SLAB, indices.size)
        major = np.searchsorted(indptr, np.arange(begin, end), side="right") - 1
        first, second = (indices[begin:end], major) if by_columns else (major, indices[begin:end])
        for i, k in np.ndindex(block):
            row, col = first * block[0] + i, second.astype(np.int64) * block[1] + k
            inside = (row < rows) & (col < cols)
            cell = row[inside] // height * grid.shape[1] + col[inside] // width
            grid += np.bincount(cell, minlength=grid.size).reshape(grid.shape)
    sizes = np.outer(_sizes(rows, height, grid.shape[0]), _sizes(cols, width, grid.shape[1]))
    return grid / np.maximum(sizes, 1)


def _sizes(length: int, step: int, cells: int) -> NDArray[np.int64]:
    return np.minimum(step, length - step * np.arange(cells))


def plot_sparsity(matrix: Any, path: str | os.PathLike[str] | None = None, cells: int = 256) -> Figure:
    """Draw a matrix as the density of its blocks.

    Parameters
    ----------
    matrix : SparseMatrix
    path : path, optional
        Where the picture is written; its suffix is the format, as Matplotlib knows them.
    cells : int
        Rows and columns of the grid at most. A cell's colour is the share of its values that are stored.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    UnsupportedError
        If Matplotlib is not installed (``pip install "hyperion-lm[plot]"``).
    """
    if not isinstance(matrix, SparseMatrix):
        raise InvalidArgumentError(f"matrix must be a SparseMatrix, not {type(matrix).__name__}")
    density = block_density(matrix, cells)
    try:
        from matplotlib.backends.backend_agg import (  # type: ignore[import-not-found,unused-ignore]
            FigureCanvasAgg,
        )
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnsupportedError(
            'pictures are drawn by Matplotlib, which is not installed: pip install "hyperion-lm[plot]"'
        ) from error
    rows, cols = matrix.shape
    figure = Figure(figsize=(7, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(density, vmin=0, vmax=1, cmap="viridis", interpolation="nearest", aspect="auto", extent=(0, cols, rows, 0))
    figure.colorbar(image, label="share of values stored")
    axes.set_xlabel("column")
    axes.set_ylabel("row")
    axes.set_title(f"{rows} x {cols}, {matrix.format.name}, density {matrix.density:.3g}")
    if path is not None:
        figure.savefig(path)
    return figure
