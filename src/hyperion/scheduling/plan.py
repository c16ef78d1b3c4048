"""From a number of bytes to what is pinned, what is streamed, and how large every buffer is.

The plan is made before the first weight is read. It knows sizes only, no architecture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from hyperion.errors import MemoryBudgetError
from hyperion.memory import format_size

__all__ = ["LayerSize", "MatrixSize", "MemoryPlan", "ModelSizes", "make_plan"]

PANEL = 16
"""Rows that are pinned or streamed together."""

CHUNKS = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Numbers of prompt tokens that one pass may take."""

SLOTS = 4
"""Ring slots: one computed with, the others being filled."""

SLOT_SLACK = 8192
"""Direct reads start and end at multiples of the disk's block."""

MIB = 1 << 20
PAGE = 4096


@dataclasses.dataclass(frozen=True)
class MatrixSize:
    """A weight matrix: its role in the layer, its type and sizes, and the bytes of a panel of 16 rows."""

    role: str
    type: int
    rows: int
    cols: int
    panel_bytes: int

    @property
    def panels(self) -> int:
        """Panels of 16 rows, the last one padded."""
        return -(-self.rows // PANEL)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.panels * self.panel_bytes


@dataclasses.dataclass(frozen=True)
class LayerSize:
    """The matrices of one layer in the order in which they are used."""

    name: str
    matrices: tuple[MatrixSize, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices in memory."""
        return sum(m.nbytes for m in self.matrices)

    def pin(self, nbytes: int) -> tuple[int, ...]:
        """Pinned panels of each matrix when `nbytes` are pinned from the start of the layer."""
        panels = []
        for m in self.matrices:
            n = min(m.panels, nbytes // m.panel_bytes)
            panels.append(n)
            nbytes = nbytes - n * m.panel_bytes if n == m.panels else 0
        return tuple(panels)


@dataclasses.dataclass(frozen=True)
class ModelSizes:
    """All that a plan needs to know of a model.

    fixed: bytes by owner that are needed whatever the plan; embedding: bytes of an embedding that is not the output
    matrix (0 where they are tied); kv, scratch and logits: bytes for a number of positions, of tokens in a pass, and of
    rows of logits.
    """

    layers: Sequence[LayerSize]
    fixed: dict[str, int]
    embedding: int
    kv: Callable[[int], int]
    scratch: Callable[[int], int]
    logits: Callable[[int], int]

    @property
    def weights(self) -> int:
        """Bytes of the matrices of all layers."""
        return sum(layer.nbytes for layer in self.layers)


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Where a budget goes. `str()` is an itemised table."""

    budget: int
    items: dict[str, int]
    context_length: int
    chunk: int
    logits_rows: int
    embedding_pinned: bool
    pinned: tuple[tuple[int, ...], ...]
    weight_bytes: int
    pinned_bytes: int
    slots: int = 0
    slot_bytes: int = 0

    @property
    def total(self) -> int:
        """Bytes reserved in all."""
        return sum(self.items.values())

    @property
    def streamed_bytes(self) -> int:
        """Bytes of weights that every pass reads."""
        return self.weight_bytes - self.pinned_bytes

    @property
    def resident(self) -> bool:
        """Everything is in memory: no pass reads from the file."""
        return self.streamed_bytes == 0 and self.embedding_pinned

    def __str__(self) -> str:
        lines = [f"{name:<24} {format_size(n):>12}" for name, n in self.items.items() if n]
        of = f"   of {format_size(self.budget)}" if self.budget else ""  # the smallest plan has no budget
        lines.append(f"{'total':<24} {format_size(self.total):>12}{of}")
        how = "all weights resident" if self.resident else f"{format_size(self.streamed_bytes)} read in every pass"
        lines.append(f"context {self.context_length} tokens, {self.chunk} prompt tokens a pass, {how}")
        return "\n".join(lines)


def make_plan(sizes: ModelSizes, budget: int, context_length: int, *, streaming: bool = True) -> MemoryPlan:
    """The plan that makes the most of a budget.

    Everything is pinned where it fits. Where it does not, the prompt chunk, the logits buffer and the ring take small
    shares of the budget and all the rest pins weights, the same share of every layer.

    Raises
    ------
    MemoryBudgetError
        If the budget cannot hold even the smallest plan; the message has that plan and its size.
    """
    plan = _resident(sizes, budget, context_length)
    if plan is None and streaming:
        plan = _streamed(sizes, budget, context_length)
    if plan is None:
        least = _least(sizes, context_length) if streaming else _smallest_resident(sizes, context_length)
        half = least.total - sizes.kv(context_length) + sizes.kv(max(1, context_length // 2))
        raise MemoryBudgetError(
            f"a memory budget of {format_size(budget)} cannot hold this model; the smallest that can, at a context of "
            f"{context_length} tokens, is {format_size(least.total)} ({least.total} bytes):\n{least}\n"
            f"(with half the context: {format_size(half)})",
            budget=budget,
            smallest=least.total,
            items=dict(least.items),
        )
    return plan


def _assemble(sizes: ModelSizes, budget: int, context: int, chunk: int, rows: int, **changes: object) -> MemoryPlan:
    fields: dict = {
        "embedding_pinned": True,
        "pinned": tuple(tuple(m.panels for m in layer.matrices) for layer in sizes.layers),
        "slots": 0,
        "slot_bytes": 0,
    } | changes
    fields["pinned_bytes"] = _pinned_bytes(sizes, fields["pinned"])
    items = {
        # every layer's pinned panels are one buffer
        "weights": sum(
            _pages(sum(n * m.panel_bytes for n, m in zip(panels, layer.matrices, strict=True)))
            for layer, panels in zip(sizes.layers, fields["pinned"], strict=True)
        ),
        "embedding": _pages(sizes.embedding) if fields["embedding_pinned"] else 0,
        "stream ring": _pages(fields["slots"] * fields["slot_bytes"]),
        "kv cache": _pages(sizes.kv(context)),
        "activations": _pages(sizes.scratch(chunk)),
        "logits": _pages(sizes.logits(rows)),
        **sizes.fixed,
    }
    return MemoryPlan(
        budget=budget, items=items, context_length=context, chunk=chunk, logits_rows=rows, weight_bytes=sizes.weights, **fields
    )


def _pages(nbytes: int) -> int:
    """Whole pages, as buffers are reserved."""
    return _round_up(nbytes, PAGE)


def _pinned_bytes(sizes: ModelSizes, pinned: Sequence[Sequence[int]]) -> int:
    """Bytes of weights that are pinned."""
    layers = zip(sizes.layers, pinned, strict=True)
    return sum(n * m.panel_bytes for layer, panels in layers for n, m in zip(panels, layer.matrices, strict=True))


def _logits_rows(sizes: ModelSizes, chunk: int, share: int) -> int:
    rows = chunk
    while rows > 1 and sizes.logits(rows) > share:
        rows //= 2
    return rows


def _resident(sizes: ModelSizes, budget: int, context: int) -> MemoryPlan | None:
    for chunk in CHUNKS:
        for rows in {_logits_rows(sizes, chunk, budget // 32), 1}:
            plan = _assemble(sizes, budget, context, chunk, rows)
            if plan.total <= budget:
                return plan
    return None


def _smallest_resident(sizes: ModelSizes, context: int) -> MemoryPlan:
    return _assemble(sizes, 0, context, 1, 1)


def _least_slot(sizes: ModelSizes) -> int:
    """A slot holds at least one panel of every matrix."""
    return max(m.panel_bytes for layer in sizes.layers for m in layer.matrices) + SLOT_SLACK


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def _least(sizes: ModelSizes, context: int) -> MemoryPlan:
    """Nothing pinned, the smallest ring, one token a pass."""
    slot = _round_up(_least_slot(sizes), 4096)
    none = tuple(tuple(0 for _ in layer.matrices) for layer in sizes.layers)
    return _assemble(
        sizes, 0, context, 1, 1, embedding_pinned=False, pinned=none, slots=2, slot_bytes=slot
    )


def _streamed(sizes: ModelSizes, budget: int, context: int) -> MemoryPlan | None:
    least = _least(sizes, context)
    if least.total > budget:
        return None
    spare = budget - least.total
    chunk = next(c for c in CHUNKS if c == 1 or sizes.scratch(c) - sizes.scratch(1) <= spare // 16)
    rows = _logits_rows(sizes, chunk, max(sizes.logits(1), spare // 32))
    # the ring's share grows with the budget until its slots are as large as a disk likes
    slot = min(4 * MIB, max(least.slot_bytes, _round_up(spare // 16 // SLOTS, 4096)))
    slots = SLOTS
    plan = _assemble(
        sizes, budget, context, chunk, rows, embedding_pinned=False, pinned=least.pinned,
        slots=slots, slot_bytes=slot,
    )  # fmt: skip
    if plan.total > budget:  # barely above the floor: two slots
        plan = dataclasses.replace(least, budget=budget)
        chunk, rows, slots, slot = 1, 1, 2, least.slot_bytes
    share = max(0, budget - plan.total - PAGE * len(sizes.layers)) / sizes.weights
    pinned = tuple(layer.pin(int(layer.nbytes * min(1.0, share))) for layer in sizes.layers)
    return _assemble(
        sizes, budget, context, chunk, rows, embedding_pinned=False, pinned=pinned,
        slots=slots, slot_bytes=slot,
    )  # fmt: skip
