"""The order in which a forward pass takes streamed weights, cut into pieces and chunks for the ring."""

from __future__ import annotations

from typing import Any, Protocol

from hyperion._kernels.stream import File, piece_buffer_bytes

__all__ = ["RingSchedule"]

PANEL = 16


class MatrixLike(Protocol):
    """What a schedule needs to know of a matrix."""

    @property
    def type(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def cols(self) -> int: ...
    @property
    def offsets(self) -> Any: ...
    @property
    def panels(self) -> int: ...
    def span(self, first: int, last: int) -> int: ...
    def fit(self, nbytes: int, first: int = 0) -> int: ...


class RingSchedule:
    """Collects the streamed rows of matrices in execution order.

    A piece is a run of panels of one matrix that fits a slot; pieces that follow each other share a slot while they fit.
    """

    def __init__(self, slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        self.pieces: list[tuple[Any, ...]] = []
        self._chunk = 0
        self._at = 0

    def add(
        self, name: str, file: File, offset: int, m: MatrixLike, pinned: int, packed: bool = False, checksums: Any = None
    ) -> tuple[int, list[tuple[int, int]]]:
        """Schedule the panels from `pinned` on of a matrix whose first row stands at `offset` in its file.

        `packed`: the file holds panels already, each with its checksum where they are given.

        Returns
        -------
        (first, pieces)
            Number of the first piece, and (row, rows) of each.
        """
        first, rows = len(self.pieces), []
        room = self.slot_bytes - piece_buffer_bytes(0)
        panel = pinned
        while panel < m.panels:
            n = max(1, m.fit(room, panel))
            start, count = panel * PANEL, min((panel + n) * PANEL, m.rows) - panel * PANEL
            need = piece_buffer_bytes(m.span(panel, panel + n))
            if self._at and self._at + need > self.slot_bytes:
                self._chunk, self._at = self._chunk + 1, 0
            where = offset + m.span(0, panel)
            sums = None if checksums is None else checksums[panel : panel + n]
            places = None if m.offsets is None else m.offsets[panel : panel + n + 1]
            self.pieces.append((name, file, where, m.type, count, m.cols, packed, self._chunk, self._at, sums, places))
            self._at += need
            rows.append((start, count))
            panel += n
        return first, rows
