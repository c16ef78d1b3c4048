"""What a layer scheduler is told and what it tells: configuration, plans, estimates, counters."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Sequence
from typing import Any

from hyperion.errors import InvalidArgumentError
from hyperion.memory import format_size, parse_size
from hyperion.scheduling.checkpoint import Reversal

__all__ = [
    "CheckpointStrategy",
    "ExecutionPlan",
    "ExecutionStep",
    "LayerCounters",
    "LayerSchedulerConfig",
    "MemoryEstimate",
    "forward_plan",
    "sweep_plan",
]


class CheckpointStrategy(enum.IntEnum):
    """What becomes of a layer's output: NONE keeps nothing beyond need, SELECTIVE what the optimal plan under the limit
    keeps, ALL everything that the limit allows."""

    NONE = 0
    SELECTIVE = 1
    ALL = 2


@dataclasses.dataclass(kw_only=True)
class LayerSchedulerConfig:
    """How a :class:`LayerScheduler` treats layer outputs. Fields are checked when they are set.

    Attributes
    ----------
    enable_checkpointing : bool
        Keep outputs beyond need at all.
    memory_speed_tradeoff : float
        Where no `max_activation_memory` is named, the share of what all outputs take (and of an open model's free budget)
        that may be used: 0.0 the least memory, 1.0 the fewest recomputations.
    recompute_activations : bool
        Keep only what the optimal plan keeps, and compute the rest again; otherwise everything that the limit allows.
    max_activation_memory : int or str
        Bytes that layer outputs may take; 0 leaves it to `memory_speed_tradeoff`.
    """

    enable_checkpointing: bool = True
    memory_speed_tradeoff: float = 0.5
    recompute_activations: bool = True
    max_activation_memory: int = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("enable_checkpointing", "recompute_activations"):
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"{name} is {value!r}, expected True or False")
        elif name == "memory_speed_tradeoff":
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
                raise InvalidArgumentError(f"{name} is {value!r}, expected a number from 0.0 to 1.0")
            value = float(value)
        elif name == "max_activation_memory":
            value = parse_size(value)
        else:
            raise InvalidArgumentError(f"LayerSchedulerConfig has no field {name!r}")
        object.__setattr__(self, name, value)


@dataclasses.dataclass
class LayerCounters:
    """What a scheduler did since it was made.

    Attributes
    ----------
    passes : int
        Passes of an open model.
    executed, recomputed : int
        Layers that ran, and those of them that had run before in the same pass.
    stored : int
        Outputs that were kept.
    peak_activation_bytes : int
        The most bytes of layer outputs at one time; for an open model those beyond its plan.
    """

    passes: int = 0
    executed: int = 0
    recomputed: int = 0
    stored: int = 0
    peak_activation_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that running takes."""

    weights: int
    activations: int
    scratch: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.activations + self.scratch

    def __str__(self) -> str:
        rows = [("weights", self.weights), ("activations", self.activations), ("scratch", self.scratch), ("total", self.total)]
        return "\n".join(f"{name:<12} {format_size(n):>10}" for name, n in rows)


@dataclasses.dataclass(frozen=True)
class ExecutionStep:
    """One step of a plan.

    Attributes
    ----------
    action : str
        "run" or "recompute" a layer, "store" its output (keep it), "use" it in the sweep, "free" it.
    layer : int
    nbytes : int
        Bytes of the output that it is about.
    live_bytes : int
        Bytes of outputs after the step.
    """

    action: str
    layer: int
    nbytes: int
    live_bytes: int


@dataclasses.dataclass(frozen=True)
class ExecutionPlan:
    """The steps of a pass and what they take. `str()` is a table.

    Attributes
    ----------
    steps : tuple of ExecutionStep
    kept : tuple of int
        Layers whose outputs the pass keeps.
    peak_bytes : int
        The most bytes of layer outputs at one time.
    limit : int
        Bytes that they may take.
    """

    steps: tuple[ExecutionStep, ...]
    kept: tuple[int, ...]
    peak_bytes: int
    limit: int

    @property
    def executions(self) -> int:
        """Layers that run."""
        return sum(s.action in ("run", "recompute") for s in self.steps)

    @property
    def recomputations(self) -> int:
        """Those of them that have run before."""
        return sum(s.action == "recompute" for s in self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __str__(self) -> str:
        lines = [f"{'step':>5}  {'action':<10} {'layer':>5} {'bytes':>10} {'live':>10}"]
        for n, s in enumerate(self.steps):
            lines.append(f"{n:>5}  {s.action:<10} {s.layer:>5} {format_size(s.nbytes):>10} {format_size(s.live_bytes):>10}")
        lines.append(
            f"{self.executions} executions, {self.recomputations} of them again; "
            f"at most {format_size(self.peak_bytes)} of {format_size(self.limit)}"
        )
        return "\n".join(lines)


class _Log:
    """Collects steps and counts bytes."""

    def __init__(self) -> None:
        self.steps: list[ExecutionStep] = []
        self.live = self.peak = 0

    def add(self, action: str, layer: int, nbytes: int, change: int = 0) -> None:
        self.live += change
        self.peak = max(self.peak, self.live)
        self.steps.append(ExecutionStep(action, layer, nbytes, self.live))


def forward_plan(
    order: Sequence[int], sizes: Sequence[int], last: Sequence[int], kept: Collection[int], limit: int, in_place: bool
) -> ExecutionPlan:
    """A pass that frees every output after its last use, but for those kept and those that nobody uses.

    Parameters
    ----------
    order, sizes, last : sequences
        Layers in the order of execution, their outputs' bytes, and the position of the last user of each (its own for none).
    kept : collection of int
        Positions.
    in_place : bool
        An output takes the place of its input where that is not kept.
    """
    log, stay = _Log(), set(kept)
    dying: list[list[int]] = [[] for _ in range(len(order) + 1)]
    for d, n in enumerate(last):
        if n > d and d not in stay:
            dying[n].append(d)
    for n, layer in enumerate(order):
        gone = dying[n]
        if in_place:
            for d in gone:
                log.add("free", order[d], sizes[d], -sizes[d])
        log.add("run", layer, sizes[n], sizes[n])
        if n in stay:
            log.add("store", layer, sizes[n])
        if not in_place:
            for d in gone:
                log.add("free", order[d], sizes[d], -sizes[d])
    return ExecutionPlan(tuple(log.steps), tuple(order[n] for n in sorted(stay)), log.peak, limit)


def sweep_plan(plan: Reversal, order: Sequence[int], sizes: Sequence[int], limit: int, in_place: bool) -> ExecutionPlan:
    """A pass over a chain and the sweep back over its outputs; state k of `plan` is the output of layer order[k - 1]."""
    log, ran, held = _Log(), set[int](), set[int]()
    for step in plan.steps:
        if step.action == "advance":
            for layer in range(step.start, step.stop):
                before = layer - 1 if layer > step.start else None  # the input, where it is not kept
                if in_place and before is not None:
                    log.add("free", order[before], sizes[before], -sizes[before])
                log.add("recompute" if layer in ran else "run", order[layer], sizes[layer], sizes[layer])
                ran.add(layer)
                if not in_place and before is not None:
                    log.add("free", order[before], sizes[before], -sizes[before])
            held.add(step.stop)
            log.add("store", order[step.stop - 1], sizes[step.stop - 1])
        elif step.stop and step.action == "visit":
            log.add("use", order[step.stop - 1], sizes[step.stop - 1])
        elif step.stop and step.action == "free":
            log.add("free", order[step.stop - 1], sizes[step.stop - 1], -sizes[step.stop - 1])
    return ExecutionPlan(tuple(log.steps), tuple(order[k - 1] for k in plan.kept_first), log.peak, limit)
