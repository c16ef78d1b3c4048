"""Rows of the tensors that a conversion starts from, checked: plain blocks, packed panels, sparse panels."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperion._kernels import quant
from hyperion._kernels.stream import File, checksum, read_rows
from hyperion.errors import FormatError, UnsupportedError
from hyperion.formats import Container, TensorInfo

__all__ = ["PANEL", "Source", "blocks_of_panels", "supported_type"]

PANEL = 16
"""Rows of a panel."""


class Source:
    """A container whose tensors are read as blocks, whatever way it keeps them."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.files: dict[str, File] = {}

    def read(self, info: TensorInfo, first: int, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of a source tensor as blocks, checked, and which tiles it has if it is sparse."""
        what, source = f"tensor {info.name!r}", quant.block_type(info.type)
        if info.packed:
            file = self.files.get(info.path) or self.files.setdefault(info.path, File(info.path, direct=False))
            panel = first // PANEL
            last = panel + -(-rows // PANEL)
            sums = None if info.checksums is None else info.checksums[panel:last]
            places = None if info.offsets is None else info.offsets[panel : last + 1]
            size = source.packed_bytes(rows, cols) if places is None else int(places[-1] - places[0])
            panels = np.empty(size, np.uint8)
            offset = info.offset + (panel * source.panel_bytes(cols) if info.offsets is None else int(info.offsets[panel]))
            self.container.check_unchanged(info.path, what)
            read_rows(file, source.id, offset, rows, cols, panels, packed=True, what=what, sums=sums, offsets=places)
            matrix = quant.PackedMatrix(source, rows, cols, panels, offsets=places)
            raw = matrix.unpack()
            assert isinstance(raw, np.ndarray)
            return raw, matrix.kept_blocks() if matrix.sparse else None
        size = source.row_bytes(cols)
        raw = np.empty(rows * size, np.uint8)
        self.container.read_into(info, raw, first * size, rows * size)
        if info.checksums is not None and checksum(raw) != info.checksums[0]:
            raise FormatError(f"{what} of {info.path!r} is damaged: its checksum is not the one that was written", tensor=info.name)
        if quant.find_nonfinite(source, raw) >= 0:
            raise FormatError(f"{what} of {info.path!r} has a scale or a weight that is NaN or infinite", tensor=info.name)
        return raw, None


def blocks_of_panels(info: TensorInfo) -> np.ndarray:
    """How many blocks each panel of a sparse tensor has."""
    assert info.offsets is not None
    return np.diff(info.offsets.astype(np.int64)) // (PANEL * quant.block_type(info.type).block_bytes + 2)


def supported_type(info: TensorInfo) -> Any:
    """A tensor's type; raises UnsupportedError where the kernels have no such."""
    if info.type not in {t.id for t in quant.TYPES.values()}:
        known = ", ".join(quant.TYPES)
        raise UnsupportedError(f"tensor {info.name!r} has type {info.type_name}; supported: {known}", tensor=info.name)
    return quant.block_type(info.type)
