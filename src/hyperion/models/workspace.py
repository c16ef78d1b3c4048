"""What passes work in."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperion._kernels.nn import head_scratch_bytes
from hyperion.errors import HyperionRuntimeError
from hyperion.memory import MemoryBudget, Reservation, allocate

__all__ = ["Workspace", "round64"]

PAGE = 4096


class Workspace:
    """Two buffers in a model's ledger: hidden states with the kernels' scratch behind them, and rows of logits; and room for the
    copies of those rows that whoever draws the next tokens holds.

    Parameters
    ----------
    budget : MemoryBudget
    dim, vocab_size : int
        Floats in a hidden state and in a row of logits.
    """

    def __init__(self, budget: MemoryBudget, dim: int, vocab_size: int) -> None:
        self._budget, self._dim, self._vocab_size = budget, dim, vocab_size
        self._hidden: Any = None
        self._logits: Any = None
        self._copies: Reservation | None = None
        self._rows = 0

    def logits_bytes(self, rows: int) -> int:
        """What so many rows of logits take, with their copies."""
        return self._buffer_bytes(rows) + self._copies_bytes(rows)

    def allocate(self, pass_bytes: int, rows: int) -> None:
        """Make the buffers: of so many bytes for a pass, and for so many rows of logits."""
        self._hidden = allocate(self._budget, "activations", pass_bytes)
        self._logits = allocate(self._budget, "logits", self._buffer_bytes(rows))
        self._copies = self._budget.reserve("logits", self._copies_bytes(rows))
        self._rows = rows

    def release(self) -> None:
        """Give the buffers back; again does nothing."""
        for buffer in (self._hidden, self._logits):
            if buffer is not None:
                buffer.close()
        if self._copies is not None:
            self._copies.release()
        self._hidden = self._logits = self._copies = None

    def hidden(self, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [tokens, dim], scratch of the kernels)"""
        nbytes = tokens * self._dim * 4
        view = np.frombuffer(self._hidden, np.uint8)
        return view[:nbytes].view(np.float32).reshape(tokens, -1), view[round64(nbytes) :]

    def logits(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(float32 [rows, vocab_size], scratch of the output head)"""
        if rows > self._rows:
            raise HyperionRuntimeError(f"{rows} rows of logits are wanted of a buffer of {self._rows}")
        nbytes = self._row_bytes(rows)
        view = np.frombuffer(self._logits, np.uint8)
        return view[:nbytes].view(np.float32).reshape(rows, -1), view[round64(nbytes) :]

    def _row_bytes(self, rows: int) -> int:
        return rows * self._vocab_size * 4

    def _copies_bytes(self, rows: int) -> int:
        return -(-self._row_bytes(rows) // PAGE) * PAGE  # whole pages, as the buffer beside them

    def _buffer_bytes(self, rows: int) -> int:
        return round64(self._row_bytes(rows)) + head_scratch_bytes(self._dim, rows)


def round64(n: int) -> int:
    """The next multiple of a cache line's bytes."""
    return (n + 63) // 64 * 64
