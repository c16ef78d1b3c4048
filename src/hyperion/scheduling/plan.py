"""From a number of bytes to what is pinned, what is streamed, and how large every buffer is.

The plan is made before the first weight is read. It knows sizes only, no architecture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyperion.errors import MemoryBudgetError
from hyperion.memory import format_size

__all__ = ["LayerSize", "MatrixSize", "MemoryPlan", "ModelSizes", "make_plan", "pin_plan", "smallest_budget"]

PANEL = 16
"""Rows that are pinned or streamed together."""

CHUNKS = (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Numbers of prompt tokens that one pass may take."""

HUGE_PAGE = 2 << 20
"""What a read fills at a disk's full speed: memory in one piece. Scattered pages make a device copy page by page, at half the
speed; so slots are parts of a huge page, or whole ones."""

LEAST_RING, GOOD_RING = HUGE_PAGE, 6 * HUGE_PAGE
"""The ring of the smallest plan, and one that reads at a disk's speed and so comes before pinning anything, in bytes; less for a
model whose weights are not many times the ring."""

FEW_SLOTS, GOOD_SLOT = 4, HUGE_PAGE // 2
"""One is computed with, some are read, some packed. More of them are worth more than larger ones, from a good size on."""

RINGS_IN_WEIGHTS = 40

SLOT_SLACK = 8192
"""Direct reads start and end at multiples of the disk's block."""

STREAM_CHUNK, STREAM_ROWS = 64, 16
"""Prompt tokens of a pass, and rows of logits, that a streamed plan takes at most, unless a batch asks for more. A pass of so
many computes longer than any but the slowest disk reads, so that more of them gain little, and pinned weights more."""

CHUNK_SHARE, LOGITS_SHARE = 40, 96
"""What a streamed plan gives to its buffers: one part in so many of what is above the smallest plan."""

FEW = 8
"""Tokens that a streamed pass should take at least, if that costs no more than one part in so many."""

PAGE = 4096


@dataclasses.dataclass(frozen=True)
class MatrixSize:
    """A weight matrix: its role in the layer, its type and sizes, and the bytes of a panel of 16 rows.

    Sparse panels differ in size: `panel_bytes` is that of the largest, and `offsets` (uint64, one a panel and one for the end)
    say where they are.
    """

    role: str
    type: int
    rows: int
    cols: int
    panel_bytes: int
    offsets: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    @property
    def panels(self) -> int:
        """Panels of 16 rows, the last one padded."""
        return -(-self.rows // PANEL)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.span(0, self.panels)

    def span(self, first: int, last: int) -> int:
        """Bytes of panels [first, last)."""
        return (last - first) * self.panel_bytes if self.offsets is None else int(self.offsets[last] - self.offsets[first])

    def fit(self, nbytes: int, first: int = 0) -> int:
        """How many panels from `first` on fit so many bytes."""
        if nbytes < 0:
            return 0
        if self.offsets is None:
            return min(self.panels - first, nbytes // self.panel_bytes)
        end = self.offsets[first] + np.uint64(nbytes)
        return int(np.searchsorted(self.offsets, end, side="right")) - 1 - first


@dataclasses.dataclass(frozen=True)
class LayerSize:
    """The matrices of one layer in the order in which they are used."""

    name: str
    matrices: tuple[MatrixSize, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all matrices."""
        return sum(m.nbytes for m in self.matrices)

    def pin(self, nbytes: int) -> tuple[int, ...]:
        """Pinned panels of each matrix when `nbytes` are pinned from the start of the layer."""
        panels = []
        for m in self.matrices:
            n = m.fit(nbytes)
            panels.append(n)
            nbytes = nbytes - m.nbytes if n == m.panels else 0
        return tuple(panels)


@dataclasses.dataclass(frozen=True)
class ModelSizes:
    """All that a plan needs to know of a model.

    fixed: bytes by owner that are needed whatever the plan; opening: bytes that are needed for a while before anything
    else is there; embedding: bytes of an embedding that is not the output matrix (0 where they are tied); kv, scratch and
    logits: bytes for a number of positions, of tokens in a pass, and of rows of logits; workers: threads that multiply.
    """

    layers: Sequence[LayerSize]
    fixed: dict[str, int]
    embedding: int
    kv: Callable[[int], int]
    scratch: Callable[[int], int]
    logits: Callable[[int], int]
    opening: int = 0
    workers: int = 1

    @property
    def weights(self) -> int:
        """Bytes of all layers."""
        return sum(layer.nbytes for layer in self.layers)


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """Where a budget goes. `str()` is an itemised table; for an open model it also says how fast it will run, from a short
    probe when it is first printed."""

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
    forecast: Callable[[], object] | None = dataclasses.field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"forecast": None}  # of an open model, which stays where it is

    @property
    def total(self) -> int:
        """Bytes reserved in all."""
        return sum(self.items.values())

    @property
    def streamed_bytes(self) -> int:
        """Bytes of weights that every pass reads."""
        return self.weight_bytes - self.pinned_bytes

    @property
    def readers(self) -> int:
        """Threads that fill the ring: several reads are in flight while others wait for their slot."""
        return self.slots // 2 + 1 if self.slots else 0

    @property
    def resident(self) -> bool:
        """Everything is in memory: no pass reads from the file."""
        return self.streamed_bytes == 0 and self.embedding_pinned

    def __str__(self) -> str:
        lines = [f"{name:<24} {format_size(n):>12}" for name, n in self.items.items() if n]
        within = f"   of {format_size(self.budget)}" if self.budget else ""  # the smallest plan has none
        lines.append(f"{'total':<24} {format_size(self.total):>12}{within}")
        how = "all weights resident" if self.resident else f"{format_size(self.streamed_bytes)} read in every pass"
        if self.forecast is not None:
            how += f"; {self.forecast()}"
        lines.append(f"context {self.context_length} tokens, {self.chunk} prompt tokens a pass, {how}")
        return "\n".join(lines)


def make_plan(
    sizes: ModelSizes, budget: int, context_length: int, *, batch: int = 1, tradeoff: float = 1.0
) -> MemoryPlan:
    """The plan that makes the most of a budget.

    Everything is pinned where it fits. Where it does not, the prompt chunk, the logits buffer and the ring take small
    shares of the budget and all the rest pins weights, the same share of every layer.

    Parameters
    ----------
    batch : int
        Sequences that are decoded together: a pass takes at least so many tokens and gives so many rows of logits.
    tradeoff : float
        How much of what the budget has above the smallest plan is used: 0 none of it, 1 all.

    Raises
    ------
    MemoryBudgetError
        If the budget cannot hold even the smallest plan; the message has that plan and its size.
    """
    streamed, least = _least(sizes, context_length, batch), _least_of_all(sizes, context_length, batch)
    smallest = max(least.total, sizes.opening)
    if budget < smallest:
        half = max(least.total - sizes.kv(context_length) + sizes.kv(max(1, context_length // 2)), sizes.opening)
        raise MemoryBudgetError(
            f"a memory budget of {format_size(budget)} cannot hold this model; the smallest that can, at a context of "
            f"{context_length} tokens, is {format_size(smallest)} ({smallest} bytes):\n{dataclasses.replace(least, budget=smallest)}\n"
            f"(with half the context: {format_size(half)})",
            budget=budget,
            smallest=smallest,
            items=dict(least.items),
        )
    used = smallest + int((budget - smallest) * tradeoff)
    plan = _resident(sizes, used, context_length, batch) or _streamed(sizes, used, context_length, batch, streamed)
    return dataclasses.replace(plan, budget=budget)


def _assemble(sizes: ModelSizes, budget: int, context: int, chunk: int, rows: int, **changes: object) -> MemoryPlan:
    fields: dict[str, Any] = {
        "embedding_pinned": True,
        "pinned": tuple(tuple(m.panels for m in layer.matrices) for layer in sizes.layers),
        "slots": 0,
        "slot_bytes": 0,
    } | changes
    fields["pinned_bytes"] = _pinned_bytes(sizes, fields["pinned"])
    plan = MemoryPlan(
        budget=budget, items={}, context_length=context, chunk=chunk, logits_rows=rows, weight_bytes=sizes.weights, **fields
    )
    items = {
        # every layer's pinned panels are one buffer
        "weights": sum(
            _pages(sum(m.span(0, n) for n, m in zip(panels, layer.matrices, strict=True)))
            for layer, panels in zip(sizes.layers, fields["pinned"], strict=True)
        ),
        "embedding": _pages(sizes.embedding) if fields["embedding_pinned"] else 0,
        "stream ring": _pages(plan.slots * plan.slot_bytes + (_packing_bytes(sizes) if plan.slots else 0)),
        "kv cache": _pages(sizes.kv(context)),
        "activations": _pages(sizes.scratch(chunk)),
        "logits": _pages(sizes.logits(rows)),
        **sizes.fixed,
    }
    return dataclasses.replace(plan, items=items)


def _pages(nbytes: int) -> int:
    """Whole pages, as buffers are reserved."""
    return _round_up(nbytes, PAGE)


def _pinned_bytes(sizes: ModelSizes, pinned: Sequence[Sequence[int]]) -> int:
    """Bytes of weights that are pinned."""
    layers = zip(sizes.layers, pinned, strict=True)
    return sum(m.span(0, n) for layer, panels in layers for n, m in zip(panels, layer.matrices, strict=True))


def _chunk(sizes: ModelSizes, batch: int, share: int) -> int:
    """The largest number of tokens in a pass whose scratch stays within a share of the budget."""
    return next((c for c in CHUNKS if STREAM_CHUNK >= c > batch and sizes.scratch(c) - sizes.scratch(batch) <= share), batch)


def _logits_rows(sizes: ModelSizes, chunk: int, batch: int, share: int) -> int:
    rows = chunk
    while rows > batch and sizes.logits(rows) > share:
        rows //= 2
    return max(rows, batch)


def _resident(sizes: ModelSizes, budget: int, context: int, batch: int) -> MemoryPlan | None:
    for chunk in (*(c for c in CHUNKS if c > batch), batch):
        for rows in (_logits_rows(sizes, chunk, batch, budget // 32), batch):
            plan = _assemble(sizes, budget, context, chunk, rows)
            if plan.total <= budget:
                return plan
    return None


def _largest_panel(sizes: ModelSizes) -> int:
    return max(m.panel_bytes for layer in sizes.layers for m in layer.matrices)


def _packing_bytes(sizes: ModelSizes) -> int:
    """What the threads that multiply pack streamed rows in: a panel's rows and two panels each."""
    panel = _largest_panel(sizes)
    return sizes.workers * (_round_up(panel, 64) + _round_up(2 * panel, 64))


def _ring(sizes: ModelSizes, nbytes: int) -> dict[str, Any]:
    """Slots and their size, of a ring of at most so many bytes that lies well in huge pages; one panel of every matrix has to
    fit a slot."""
    nbytes = min(GOOD_RING, nbytes, sizes.weights // RINGS_IN_WEIGHTS)
    slot = 1 << (max(PAGE, min(GOOD_SLOT, nbytes // FEW_SLOTS)).bit_length() - 1)
    while slot < _largest_panel(sizes) + SLOT_SLACK:
        slot += min(slot, HUGE_PAGE)
    return {"slots": max(FEW_SLOTS, nbytes // slot), "slot_bytes": slot}


def _round_up(n: int, to: int) -> int:
    return -(-n // to) * to


def _least(sizes: ModelSizes, context: int, batch: int) -> MemoryPlan:
    """Nothing pinned, the smallest ring, one token of every sequence a pass."""
    none = tuple(tuple(0 for _ in layer.matrices) for layer in sizes.layers)
    return _assemble(sizes, 0, context, batch, batch, embedding_pinned=False, pinned=none, **_ring(sizes, LEAST_RING))


def _least_of_all(sizes: ModelSizes, context: int, batch: int) -> MemoryPlan:
    """The smaller of streaming everything and pinning everything, which for a tiny model is less than a ring."""
    plans = _least(sizes, context, batch), _assemble(sizes, 0, context, batch, batch)
    return min(plans, key=lambda plan: plan.total)


def smallest_budget(sizes: ModelSizes, context_length: int, *, batch: int = 1) -> int:
    """Bytes of the smallest budget for which there is a plan."""
    return max(_least_of_all(sizes, context_length, batch).total, sizes.opening)


def _streamed(sizes: ModelSizes, budget: int, context: int, batch: int, least: MemoryPlan) -> MemoryPlan:
    spare = budget - least.total
    few = max(batch, FEW)  # enough to verify a draft, even where it takes more than its share
    chunk = _chunk(sizes, batch, max(spare // CHUNK_SHARE, min(sizes.scratch(few), spare // FEW)))
    rows = _logits_rows(sizes, min(chunk, max(batch, STREAM_ROWS)), batch, max(spare // LOGITS_SHARE, min(sizes.logits(few), spare // FEW)))
    ring = _ring(sizes, max(LEAST_RING, spare // 2))
    plan = dataclasses.replace(least, budget=budget, chunk=chunk, logits_rows=rows, **ring)
    bare = _repin(sizes, plan, least.pinned)
    if bare.total > budget:  # barely above the floor
        plan, bare = least, least
    share = max(0, budget - bare.total - PAGE * len(sizes.layers)) / sizes.weights
    return _repin(sizes, plan, tuple(layer.pin(int(layer.nbytes * min(1.0, share))) for layer in sizes.layers))


def pin_plan(
    sizes: ModelSizes, plan: MemoryPlan, pinned: tuple[tuple[int, ...], ...], *, embedding: bool, context_length: int
) -> MemoryPlan:
    """A plan that pins these panels, otherwise like `plan`; a ring is added where something is streamed for the first time.

    Raises
    ------
    MemoryBudgetError
        If the budget does not hold it.
    """
    ring = {"slots": plan.slots, "slot_bytes": plan.slot_bytes}
    if plan.slots == 0 and _pinned_bytes(sizes, pinned) < sizes.weights:
        ring = _ring(sizes, plan.budget // 2)
    new = _assemble(
        sizes, plan.budget, context_length, plan.chunk, plan.logits_rows, embedding_pinned=embedding, pinned=pinned, **ring
    )  # fmt: skip
    if new.total > plan.budget:
        raise MemoryBudgetError(
            f"with these layers pinned the model takes {format_size(new.total)}, the budget is {format_size(plan.budget)}:\n{new}",
            budget=plan.budget, smallest=new.total, items=dict(new.items),
        )  # fmt: skip
    return new


def _repin(sizes: ModelSizes, plan: MemoryPlan, pinned: tuple[tuple[int, ...], ...]) -> MemoryPlan:
    return _assemble(
        sizes, plan.budget, plan.context_length, plan.chunk, plan.logits_rows, embedding_pinned=False, pinned=pinned,
        slots=plan.slots, slot_bytes=plan.slot_bytes,
    )  # fmt: skip
