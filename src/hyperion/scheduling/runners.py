"""Passes over a graph of functions: what the policy keeps stays, the rest is computed again when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError, UnsupportedError
from hyperion.memory import MemoryBudget, Reservation
from hyperion.scheduling.execution import (
    ExecutionPlan,
    LayerCounters,
    MemoryEstimate,
    forward_plan,
    sweep_plan,
)
from hyperion.scheduling.forward import ForwardScheduler
from hyperion.scheduling.graph import Layer
from hyperion.scheduling.policy import Policy

__all__ = ["GraphRunner", "Runner", "Visit", "read_only"]

PAGE = 4096

Visit = Callable[[int, Any], object]


class Runner:
    """What all layers have in common: stepping through a graph, counters, the ledger."""

    def __init__(self, policy: Policy, counters: LayerCounters, budget: MemoryBudget) -> None:
        self.policy, self.counters, self.budget = policy, counters, budget
        self._reservation: Reservation | None = None

    def stepping_graph(self) -> ForwardScheduler:
        """The graph that users step through."""
        raise NotImplementedError

    def begin(self, input: Any) -> ForwardScheduler:
        """Start a pass over that graph."""
        raise NotImplementedError

    def output(self, index: int) -> np.ndarray:
        """A layer's output, kept or computed again, in memory of its own."""
        raise NotImplementedError

    def advance(self, graph: ForwardScheduler, input: Any) -> int | None:
        """Run the next layer of a pass."""
        index = graph.execute_next(input)
        if index is not None:
            self.counters.executed += 1
        return index

    def run(self, input: Any) -> Any:
        """A whole pass; the last layer's output."""
        graph, last = self.begin(input), None
        while (index := self.advance(graph, input)) is not None:
            last = index
        return None if last is None else graph.get_output(last)

    def execute(self, index: int, input: Any) -> Any:
        """One layer in the course of a pass; see :meth:`LayerScheduler.execute_layer`."""
        graph = self.stepping_graph()
        if not graph.prepared:
            graph.prepare()
        if index == graph.order[0]:
            if input is None:
                raise InvalidArgumentError("the first layer needs the pass's input")
            graph = self.begin(input)
        elif not graph.is_executed(graph.order[0]):
            raise HyperionRuntimeError(f"layer {index} cannot run before the pass has begun with layer {graph.order[0]}")
        if graph.is_executed(index):
            return self.output(index)
        while not graph.is_executed(index):  # in STREAMING only with the last chunk
            self.advance(graph, input)
        return graph.get_output(index)

    def reserve(self, nbytes: int) -> None:
        """Count bytes of outputs in the ledger."""
        if self._reservation is None:
            if not nbytes:
                return
            self._reservation = self.budget.reserve("layer outputs", 0)
        if nbytes != self._reservation.nbytes:
            self._reservation.resize(nbytes)

    def note_peak(self, nbytes: int) -> None:
        """Remember the most bytes."""
        self.counters.peak_activation_bytes = max(self.counters.peak_activation_bytes, nbytes)

    def count_again(self, layers: int) -> None:
        """Layers were computed again."""
        self.counters.executed += layers
        self.counters.recomputed += layers

    def close(self) -> None:
        """Give everything back."""
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None


class GraphRunner(Runner):
    """Layers that are functions.

    Parameters
    ----------
    graph : ForwardScheduler
    sizes : dict of int to int
        Bytes of outputs by layer, where the graph does not know them; runs add what they find.
    """

    def __init__(
        self, graph: ForwardScheduler, sizes: dict[int, int], policy: Policy, counters: LayerCounters, budget: MemoryBudget
    ) -> None:
        super().__init__(policy, counters, budget)
        self.graph, self.known = graph, sizes
        self._always = {i for i, layer in graph.layers.items() if layer.keep}
        self.input: Any = None

    def _prepare(self) -> None:
        if not self.graph.prepared:
            self.graph.prepare()

    @property
    def _layers(self) -> list[Layer]:
        self._prepare()
        return [self.graph.layers[i] for i in self.graph.order]

    @property
    def _is_chain(self) -> bool:
        """Every layer has one edge, to the one before it."""
        layers = self._layers
        linked = all(layer.source is before and layer.sources == (before,) for before, layer in pairwise(layers))
        return linked and not (layers and layers[0].sources)

    def _sizes(self) -> list[int]:
        """Bytes of every layer's output, in the order of execution."""
        layers = self._layers
        rows = len(self.input) if self.input is not None and np.ndim(self.input) else 1
        sizes = [self.known.get(x.index, x.bytes_for(rows, rows if x.row_size else 0)) for x in layers]
        for layer, size in zip(layers, sizes, strict=True):
            if not size and layer.index not in self.known:
                raise HyperionRuntimeError(f"the size of layer {layer.index}'s output is not known: give it, or run a pass first")
        return sizes

    def _last_uses(self) -> list[int]:
        """For every layer in order, the position of the last layer that uses its output; its own where none does."""
        layers = self._layers
        at = {layer.index: n for n, layer in enumerate(layers)}
        last = list(range(len(at)))
        for n, layer in enumerate(layers):
            for d in layer.sources:
                last[at[d.index]] = max(last[at[d.index]], n)
        return last

    def _kept(self, sizes: Sequence[int], limit: int) -> tuple[int, ...]:
        also = [n for n, i in enumerate(self.graph.order) if i in self._always]
        kept = self.policy.kept(sizes, self._last_uses(), limit, chain=self._is_chain, in_place=False, also=also)
        return tuple(sorted({*kept, *also}))

    def plan(self) -> ExecutionPlan:
        """See :meth:`LayerScheduler.create_execution_plan`."""
        sizes = self._sizes()
        limit = self.policy.limit(sizes, in_place=False)
        if self.policy.keeps_nothing or not self._is_chain:
            return forward_plan(self.graph.order, sizes, self._last_uses(), self._kept(sizes, limit), limit, False)
        return sweep_plan(self.policy.reversal(sizes, limit, in_place=False), self.graph.order, sizes, limit, False)

    def estimate(self) -> MemoryEstimate:
        """See :meth:`LayerScheduler.estimate_memory_usage`."""
        sizes = self._sizes()
        self._keep()
        if self.graph.buffer_bytes:  # a graph that places its outputs, in whole pages
            return MemoryEstimate(weights=0, activations=-(-self.graph.buffer_bytes // PAGE) * PAGE, scratch=0)
        limit = self.policy.limit(sizes, in_place=False)
        plan = forward_plan(self.graph.order, sizes, self._last_uses(), self._kept(sizes, limit), limit, False)
        return MemoryEstimate(weights=0, activations=plan.peak_bytes, scratch=0)

    # ---- passes --------------------------------------------------------------------------------------------------

    def stepping_graph(self) -> ForwardScheduler:
        return self.graph

    def begin(self, input: Any) -> ForwardScheduler:
        self._prepare()
        self.input = input
        self._keep()
        self.graph.reset()
        self.reserve(0)
        return self.graph

    def _keep(self) -> None:
        """Tell the graph which outputs stay, if their sizes are known already."""
        kept: set[int] = set()
        if not self.policy.keeps_nothing and self._sizes_known():
            sizes = self._sizes()
            kept = {self.graph.order[n] for n in self._kept(sizes, self.policy.limit(sizes, in_place=False))}
        for i in self.graph.order:
            self.graph.keep_output(i, i in kept or i in self._always)
        self._prepare()

    def _sizes_known(self) -> bool:
        return all(x.index in self.known or x.output_size or x.row_size for x in self._layers)

    def advance(self, graph: ForwardScheduler, input: Any) -> int | None:
        before = graph.memory_usage
        index = super().advance(graph, input)
        if index is not None:
            layer = graph.layers[index]
            self.counters.stored += layer.keep
            size = getattr(layer.output, "nbytes", 0) or self.known.get(index, 0)
            self.known[index] = max(self.known.get(index, 0), size)
            self.note_peak(max(before + size, graph.memory_usage))
            self.reserve(0 if graph.buffer_bytes else graph.memory_usage)
        return index

    def release(self) -> None:
        """Let go of all outputs."""
        self.graph.reset()
        self.reserve(0)

    # ---- outputs -------------------------------------------------------------------------------------------------

    def output(self, index: int) -> np.ndarray:
        layer = self.graph.layers[index]
        if layer.output is not None:
            return np.array(layer.output)
        if self.input is None:
            raise HyperionRuntimeError("no pass has run yet")
        return np.array(self._recompute(layer))

    def _recompute(self, layer: Layer) -> np.ndarray:
        """A layer's output from those that are there."""
        needed: dict[int, Layer] = {}
        todo = [layer]
        while todo:
            at = todo.pop()
            if at.index not in needed and at.output is None:
                needed[at.index] = at
                todo += at.sources
        order = [i for i in self.graph.order if i in needed]
        uses = {i: sum(needed[i] in needed[j].sources for j in order) for i in order}
        made: dict[int, np.ndarray] = {}
        held = 0 if self._reservation is None else self._reservation.nbytes
        base, live = self.graph.memory_usage, 0
        try:
            for i in order:
                at = needed[i]
                others = [made.get(d.index, d.output) for d in at.others]
                residuals = [made.get(d.index, d.output) for d in at.residuals]
                first = self.input if at.source is None else made.get(at.source.index, at.source.output)
                made[i] = compute(at, first, others, residuals)
                live += made[i].nbytes
                self.note_peak(base + live)
                self.reserve(held + live)
                for d in at.sources:
                    if d.index in uses:
                        uses[d.index] -= 1
                        if uses[d.index] == 0:
                            live -= made.pop(d.index).nbytes
        finally:
            self.reserve(held)
        self.count_again(len(order))
        return made[layer.index]

    # ---- backwards -----------------------------------------------------------------------------------------------

    def sweep(self, visit: Visit, input: Any) -> None:
        """See :meth:`LayerScheduler.reverse_sweep`."""
        if not self._is_chain:
            raise UnsupportedError("a reverse sweep needs a chain of layers; read the outputs of another graph by get_layer_output")
        if input is not None:
            if not self._sizes_known():
                self.run(input)  # finds the sizes
            self.graph.reset()
            self.input = input
        if self.input is None:
            raise HyperionRuntimeError("no pass has run yet: give the input")
        layers, sizes = self._layers, self._sizes()[:-1]
        plan = self.policy.reversal(sizes, self.policy.limit(sizes, in_place=False), in_place=False)
        done = sum(layer.executed for layer in layers)
        states = {k: np.array(layers[k - 1].output) for k in plan.kept_first if layers[k - 1].output is not None}
        states[0] = self.input
        self.graph.reset()
        self.reserve(0)
        try:
            for step in plan.steps:
                if step.action == "advance" and step.stop not in states:
                    done = self._climb(states, layers, step.start, step.stop, done)
                elif step.action == "visit":
                    visit(layers[step.stop].index, read_only(states[step.stop]))
                elif step.action == "free":
                    states.pop(step.stop, None)
                self.reserve(_held(states))
        finally:
            states.clear()
            self.reserve(0)

    def _climb(self, states: dict[int, Any], layers: Sequence[Layer], start: int, stop: int, done: int) -> int:
        """State `stop` from state `start`; `done` layers have run at least once."""
        x, held = states[start], _held(states)
        for n in range(start, stop):
            y = compute(layers[n], x)
            at_hand = y.nbytes + (x.nbytes if n > start else 0)
            self.note_peak(held + at_hand)
            self.reserve(held + at_hand)
            x = y
            self.counters.executed += 1
            self.counters.recomputed += n < done
        states[stop] = x
        self.counters.stored += 1
        return max(done, stop)

    def close(self) -> None:
        super().close()
        self.input = None
        for i in self.graph.layers:
            self.graph.keep_output(i, i in self._always)


def _held(states: dict[int, Any]) -> int:
    return sum(x.nbytes for k, x in states.items() if k)


def compute(layer: Layer, first: Any, others: Sequence[Any] = (), residuals: Sequence[Any] = ()) -> np.ndarray:
    """A layer's output from its inputs, which stay as they are."""
    if layer.in_place:
        first = np.array(first)
    result = np.asarray(first if layer.function is None else layer.function(first, *others))
    if residuals or result.base is not None or (result is first and not layer.in_place):
        result = result.copy()
    for r in residuals:
        np.add(result, r, out=result)
    return result


def read_only(x: Any) -> Any:
    """An array that a visitor may look at."""
    if not isinstance(x, np.ndarray):
        return x
    view = x.view()
    view.flags.writeable = False
    return view
