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


def block_density(matrix: SparseMatrix, cells: int = 256) -> NDArray[np.float64]:
    """Share of stored values in each cell of a grid, at most `cells` rows and columns of it; values of blocks count as stored."""
    if isinstance(cells, bool) or not isinstance(cells, int) or cells < 1:
        raise InvalidArgumentError(f"cells must be a positive integer, not {cells!r}")
    rows, cols = matrix.shape
    grid = np.zeros((max(1, min(cells, rows)), max(1, min(cells, cols))))
    height, width = max(1, -(-rows // grid.shape[0])), max(1, -(-cols // grid.shape[1]))
    grid = grid[: max(1, -(-rows // height)), : max(1, -(-cols // width))]
    by_columns = matrix.format is SparseFormat.CSC
    block = matrix.block_shape
    for major in range(matrix.indptr.size - 1):
        minors = matrix.indices[matrix.indptr[major] : matrix.indptr[major + 1]]
        for i in range(block[0]):
            row = major * block[0] + i
            for k in range(block[1]):
                at = minors * block[1] + k
                at = at[at < (rows if by_columns else cols)]
                if by_columns:
                    grid[:, major // width] += np.bincount(at // height, minlength=grid.shape[0])
                elif row < rows:
                    grid[row // height] += np.bincount(at // width, minlength=grid.shape[1])
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
