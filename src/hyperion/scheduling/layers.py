"""The policy over a graph of layers: which outputs are kept, which are computed again, and what that takes.

One scheduler, two faces: :class:`ForwardScheduler` orders layers and frees what is used up; :class:`LayerScheduler` decides
what should stay. A model's own scheduler is one, and all its passes go through it.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError, UnsupportedError
from hyperion.memory import MemoryBudget, Reservation, allocate
from hyperion.scheduling.checkpoint import Reversal, plan_reversal
from hyperion.scheduling.execution import (
    CheckpointStrategy,
    ExecutionPlan,
    LayerCounters,
    LayerSchedulerConfig,
    MemoryEstimate,
    forward_plan,
    sweep_plan,
)
from hyperion.scheduling.forward import ForwardScheduler
from hyperion.scheduling.graph import ExecutionMode, Layer

__all__ = ["LayerScheduler", "LayerSource"]

Visit = Callable[[int, np.ndarray], object]
Function = Callable[[Any], Any]


class LayerSource(Protocol):
    """What a scheduler asks of an open model: its layers, and to run some of them again over the tokens evaluated last."""

    count: int
    row_bytes: int
    rows: int
    kept: dict[int, np.ndarray]
    lock: Any

    def bind(self, graph: ForwardScheduler) -> None: ...
    def compute(self, start: int, state: np.ndarray | None, stop: int) -> np.ndarray: ...
    def tokens(self) -> np.ndarray: ...
    def ledger(self) -> tuple[int, int, int]: ...
    def waited(self) -> tuple[object, float]: ...
    @property
    def stream(self) -> object: ...


class LayerScheduler:
    """Runs layers, keeps the outputs that a byte limit allows, and computes the others again when they are asked for.

    Parameters
    ----------
    model : Model, ForwardScheduler, or sequence
        An open model, whose passes go through this scheduler from then on until it is closed; a graph; or layers as for
        :meth:`from_layers`.
    config : LayerSchedulerConfig, optional
        Copied.
    budget : MemoryBudget, optional
        The ledger in which layers' outputs are reserved; the model's or graph's by default.

    Attributes
    ----------
    graph : ForwardScheduler
    counters : LayerCounters
    """

    def __init__(
        self,
        model: Any,
        config: LayerSchedulerConfig | None = None,
        *,
        budget: MemoryBudget | None = None,
    ) -> None:
        self._config = dataclasses.replace(config) if config is not None else LayerSchedulerConfig()
        self._strategies: dict[int, CheckpointStrategy] = {}
        self.counters = LayerCounters()
        self.model = model
        self._source: LayerSource | None = None
        self._sizes: dict[int, int] = {}
        self._input: Any = None
        self._reservation: Reservation | None = None
        self._closed = False
        self._kept_key: tuple[Any, ...] | None = None
        self._kept_buffer: Any = None
        self._stepper: ForwardScheduler | None = None
        self._previous: LayerScheduler | None = None
        self._stream: object = None
        self._seconds = 0.0
        if isinstance(model, ForwardScheduler):
            self.graph = model
        elif hasattr(model, "layer_source"):
            self._attach(model)
        elif isinstance(model, Sequence) and not isinstance(model, (str, bytes)):
            self.graph = ForwardScheduler(None, ExecutionMode.MEMORY_OPT, budget=budget)
            self._add_layers(model)
        else:
            raise InvalidArgumentError(
                f"a LayerScheduler takes an open model, a ForwardScheduler or a list of layers, not {type(model).__name__}"
            )
        self.budget = budget or self.graph.budget

    @classmethod
    def from_layers(
        cls,
        layers: Sequence[Function | tuple[Function, int]],
        config: LayerSchedulerConfig | None = None,
        *,
        budget: MemoryBudget | None = None,
    ) -> LayerScheduler:
        """A scheduler for a chain of functions.

        Parameters
        ----------
        layers : sequence of callables, or of (callable, output bytes)
            Each takes the array that the one before gives. Without a size, the first run finds it.
        """
        return cls(list(layers), config, budget=budget)

    def _add_layers(self, layers: Sequence[Any]) -> None:
        for i, item in enumerate(layers):
            fn, size = item if isinstance(item, tuple) else (item, None)
            if not callable(fn):
                raise InvalidArgumentError(f"layer {i} is {type(fn).__name__}, expected a callable or (callable, bytes)")
            if size is not None:
                if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 0:
                    raise InvalidArgumentError(f"layer {i}: the output's size is {size!r}, expected bytes")
                self._sizes[i] = int(size)
            self.graph.add_layer(i, fn, depends_on=i - 1)

    def _attach(self, model: Any) -> None:
        source: LayerSource = model.layer_source()
        self._source = source
        self.graph = ForwardScheduler(None, ExecutionMode.MEMORY_OPT, budget=model.budget)
        source.bind(self.graph)
        self.graph.prepare()
        with source.lock:
            self._previous = getattr(model, "scheduler", None)
            if self._previous is not None:
                self._previous.drop_kept()
            model.scheduler = self

    # ---- policy --------------------------------------------------------------------------------------------------

    @property
    def config(self) -> LayerSchedulerConfig:
        """The configuration; set a field or assign another one, and the next pass follows it."""
        return self._config

    @config.setter
    def config(self, config: LayerSchedulerConfig) -> None:
        if not isinstance(config, LayerSchedulerConfig):
            raise InvalidArgumentError(f"expected a LayerSchedulerConfig, not {type(config).__name__}")
        self._config = dataclasses.replace(config)

    def set_layer_checkpointing_strategy(self, index: int, strategy: CheckpointStrategy) -> None:
        """Say what becomes of one layer's output, whatever the configuration says.

        Parameters
        ----------
        index : int
        strategy : CheckpointStrategy
            NONE: not kept beyond need; ALL: kept if the limit allows; SELECTIVE: kept where that saves most executions.
        """
        self._check_index(index)
        try:
            self._strategies[int(index)] = CheckpointStrategy(strategy)
        except ValueError:
            raise InvalidArgumentError(f"strategy is a CheckpointStrategy, not {strategy!r}") from None

    def checkpointing_strategy(self, index: int) -> CheckpointStrategy:
        """What becomes of a layer's output."""
        self._check_index(index)
        return self._strategies.get(index, self._default)

    @property
    def _default(self) -> CheckpointStrategy:
        if not self._config.enable_checkpointing:
            return CheckpointStrategy.NONE
        return CheckpointStrategy.SELECTIVE if self._config.recompute_activations else CheckpointStrategy.ALL

    @property
    def _keeps_nothing(self) -> bool:
        none = CheckpointStrategy.NONE
        return self._default is none and all(s is none for s in self._strategies.values())

    @property
    def count(self) -> int:
        """Number of layers."""
        return self._source.count if self._source is not None else len(self.graph.layers)

    def _limit(self, sizes: Sequence[int], in_place: bool) -> int:
        """Bytes that layer outputs may take: what the configuration names, or the tradeoff's share of what all would."""
        if self._config.max_activation_memory:
            return self._config.max_activation_memory
        total = sum(sizes) + max(sizes, default=0)
        if all(s is not CheckpointStrategy.SELECTIVE for s in (self._default, *self._strategies.values())):
            return total
        least = max((a + (0 if in_place else b) for a, b in zip(sizes, (0, *sizes), strict=False)), default=0)
        return least + int((total - least) * self._config.memory_speed_tradeoff)

    def _reversal(self, sizes: Sequence[int], limit: int, in_place: bool) -> Reversal:
        """The sweep over layers whose outputs have these sizes, under the layers' strategies; see `plan_reversal`."""
        by = {s: [i + 1 for i in range(len(sizes)) if self._strategies.get(i, self._default) is s] for s in CheckpointStrategy}
        never = by[CheckpointStrategy.NONE] if not self._keeps_nothing else ()
        return plan_reversal([0, *sizes], limit, in_place=in_place, always=by[CheckpointStrategy.ALL], never=never)

    # ---- plans and estimates -------------------------------------------------------------------------------------

    def create_execution_plan(self) -> ExecutionPlan:
        """The steps of a pass, and of a sweep that then uses every layer's output once, the last first.

        Where nothing is checkpointed the plan ends with the pass.

        Raises
        ------
        MemoryBudgetError
            If `max_activation_memory` does not even hold one layer's input and output.
        HyperionRuntimeError
            If a layer's output size is neither given nor known from a run.
        """
        self._check_open()
        sizes, in_place = self._output_sizes(), self._in_place
        limit = self._limit(sizes, in_place)
        if self._keeps_nothing or not self._is_chain:
            kept = () if self._keeps_nothing else self._kept_of_graph(sizes, limit)
            return forward_plan(self._order, sizes, self._last_uses(), kept, limit, in_place)
        return sweep_plan(self._reversal(sizes, limit, in_place), sizes, limit, in_place)

    def estimate_memory_usage(self) -> MemoryEstimate:
        """Bytes that a pass takes: weights, layer outputs, working memory.

        For an open model these are the plan's, and the ledger holds as much; kept outputs are those of as many tokens as
        were evaluated last, or of a full prompt chunk before that.
        """
        self._check_open()
        if self._source is not None:
            weights, hidden, scratch = self._source.ledger()
            kept = len(self._kept_of_model(self._source.rows)) * self._state_bytes(self._source.rows)
            return MemoryEstimate(weights=weights, activations=hidden + kept, scratch=scratch)
        sizes = self._output_sizes()
        if self.graph.buffer_bytes:  # a graph that places its outputs
            return MemoryEstimate(weights=0, activations=self.graph.buffer_bytes, scratch=0)
        limit = self._limit(sizes, self._in_place)
        kept = () if self._keeps_nothing else self._kept_of_graph(sizes, limit)
        plan = forward_plan(self._order, sizes, self._last_uses(), kept, limit, self._in_place)
        return MemoryEstimate(weights=0, activations=plan.peak_bytes, scratch=0)

    def _output_sizes(self) -> list[int]:
        """Bytes of every layer's output, in the order of execution."""
        if self._source is not None:
            return [self._source.row_bytes * self._source.rows] * (self.count - 1)
        self._prepare()
        rows = len(self._input) if self.graph._by_rows and self._input is not None else 1
        sizes = []
        for layer in self.graph._sequence:
            size = self._sizes.get(layer.index, layer.bytes_for(rows, rows if layer.row_size else 0))
            if not size and layer.index not in self._sizes:
                raise HyperionRuntimeError(f"the size of layer {layer.index}'s output is not known: give it, or run a pass first")
            sizes.append(size)
        return sizes

    @property
    def _order(self) -> list[int]:
        return list(range(self.count - 1)) if self._source is not None else self.graph.order

    @property
    def _in_place(self) -> bool:
        return self._source is not None

    @property
    def _is_chain(self) -> bool:
        """Every layer has one edge, to the one before it."""
        if self._source is not None:
            return True
        layers = self.graph._sequence
        return all([d.index for d in layer.sources] == [before.index] and layer.source is before
                   for before, layer in itertools.pairwise(layers)) and not (layers and layers[0].sources)  # fmt: skip

    def _last_uses(self) -> list[int]:
        """For every layer in order, the position of the last layer that uses its output; its own where none does."""
        if self._source is not None:
            return list(range(1, self.count))
        at = {layer.index: n for n, layer in enumerate(self.graph._sequence)}
        last = list(range(len(at)))
        for n, layer in enumerate(self.graph._sequence):
            for d in layer.sources:
                last[at[d.index]] = max(last[at[d.index]], n)
        return last

    def _kept_of_graph(self, sizes: Sequence[int], limit: int) -> tuple[int, ...]:
        """Positions in the order whose outputs a pass keeps."""
        strategies = [self._strategies.get(i, self._default) for i in self.graph.order]
        wanted = [n for n, s in enumerate(strategies) if s is not CheckpointStrategy.NONE]
        last = self._last_uses()

        def fits(kept: Sequence[int]) -> bool:
            return forward_plan(self.graph.order, sizes, last, kept, limit, self._in_place).peak_bytes <= limit

        everything = [n for n in wanted if strategies[n] is CheckpointStrategy.ALL]
        if self._is_chain:
            if len(everything) == len(wanted) and fits(everything):
                return tuple(everything)
            first = {k - 1 for k in self._reversal(sizes, limit, self._in_place).kept_first}
            kept = [n for n in wanted if n in first]
            while kept and not fits(kept):  # the pass holds its last output as well
                kept.pop()
            return tuple(kept)
        kept = []
        for n in sorted(wanted, key=lambda n: (strategies[n] is not CheckpointStrategy.ALL, sizes[n], -n)):
            if fits([*kept, n]):  # what must be, then the smallest and latest
                kept.append(n)
        return tuple(sorted(kept))

    # ---- passes over a graph -------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        if not self.graph._prepared:
            self.graph.prepare()

    def run(self, input: Any) -> Any:
        """Run every layer and return the last one's output.

        Parameters
        ----------
        input : array
            For an open model token ids, of a sequence of their own.
        """
        self._check_open()
        graph = self._begin(input)
        last = None
        while (index := self._advance(graph, input)) is not None:
            last = index
        return None if last is None else graph.get_output(last)

    def execute_layer(self, index: int, input: Any = None, output: Any = None) -> Any:
        """Run one layer in the course of a pass.

        Parameters
        ----------
        index : int
            The first layer starts a new pass. Layers before it that have not run yet run first; one that has run already is
            computed again.
        input : array, optional
            The pass's input (token ids for an open model), needed with the first layer.
        output : array, optional
            Where a copy of the layer's output goes.

        Returns
        -------
        ndarray
            The layer's output; in the scheduler's memory until the next layer runs.
        """
        self._check_open()
        self._check_index(index)
        graph = self._stepping_graph()
        if not graph._prepared:
            graph.prepare()
        if index == graph.order[0]:
            if input is None:
                raise InvalidArgumentError("the first layer needs the pass's input")
            graph = self._begin(input)
        if graph.is_executed(index):
            result = self.get_layer_output(index)
        else:
            while (ran := self._advance(graph, input)) is not None and ran != index:
                pass
            if ran is None:
                raise HyperionRuntimeError(f"layer {index} cannot run: the pass has no input yet")
            result = graph.get_output(index)
        if output is not None:
            try:
                np.copyto(np.asarray(output), result)
            except (TypeError, ValueError) as error:
                raise InvalidArgumentError(f"the output of layer {index} does not fit where it should go: {error}") from None
        return result

    def _stepping_graph(self) -> ForwardScheduler:
        """The graph that users step through; an open model's is apart from the one that its own passes run on."""
        if self._source is None:
            return self.graph
        if self._stepper is None:
            self._stepper = ForwardScheduler(self.model, ExecutionMode.MEMORY_OPT)
        return self._stepper

    def _begin(self, input: Any) -> ForwardScheduler:
        graph = self._stepping_graph()
        if self._source is None:
            self._prepare()
            self._input = input
            self._plan_kept()
        graph.reset()
        self._account(graph)
        return graph

    def _plan_kept(self) -> None:
        """Tell the graph which outputs stay, once their sizes are known."""
        kept: set[int] = set()
        if not self._keeps_nothing:
            try:
                sizes = self._output_sizes()
            except HyperionRuntimeError:  # this pass will tell
                sizes = []
            if sizes:
                limit = self._limit(sizes, False)
                kept = {self.graph.order[n] for n in self._kept_of_graph(sizes, limit)}
        for i in self.graph.order:
            self.graph.keep_output(i, i in kept)
        self._prepare()

    def _advance(self, graph: ForwardScheduler, input: Any) -> int | None:
        before = graph.memory_usage
        index = graph.execute_next(input)
        if index is not None:
            layer = graph.layers[index]
            self.counters.executed += 1
            self.counters.stored += layer.keep
            if self._source is None:
                self._sizes[index] = max(self._sizes.get(index, 0), getattr(layer.output, "nbytes", 0))
                self._account(graph, before + self._sizes[index])
        return index

    def _account(self, graph: ForwardScheduler, peak: int = 0) -> None:
        """Reserve what lives outside of the graph's own buffer."""
        live = graph.memory_usage if graph.buffer_bytes == 0 and self._source is None else 0
        self._note_peak(max(peak, graph.memory_usage))
        self._reserve(live)

    def _reserve(self, nbytes: int) -> None:
        if self._reservation is None:
            if not nbytes:
                return
            self._reservation = self.budget.reserve("layer outputs", 0)
        if nbytes != self._reservation.nbytes:
            self._reservation.resize(nbytes)

    def _note_peak(self, nbytes: int) -> None:
        self.counters.peak_activation_bytes = max(self.counters.peak_activation_bytes, nbytes)

    # ---- passes of an open model ---------------------------------------------------------------------------------

    def begin_forward(self, rows: int) -> None:
        """An open model is about to evaluate so many tokens: make room for the outputs that stay. Its lock is held."""
        source = self._source
        assert source is not None
        if self._keeps_nothing:
            if self._kept_buffer is not None:
                self.drop_kept()
            return
        kept = self._kept_of_model(rows)
        nbytes = len(kept) * self._state_bytes(rows)
        if self._kept_buffer is not None and self._kept_buffer.nbytes < nbytes:
            self.drop_kept()
        if self._kept_buffer is None and nbytes:
            try:
                self._kept_buffer = allocate(self.budget, "kept layer outputs", nbytes, huge=False)
            except MemoryBudgetError:  # another thread was quicker: everything is computed again
                kept = ()
        source.kept = {}
        step = self._state_bytes(rows)
        for n, i in enumerate(kept):
            view = np.frombuffer(self._kept_buffer, np.uint8, source.row_bytes * rows, n * step)
            source.kept[i] = view.view(np.float32).reshape(rows, -1)
        self._note_peak(nbytes)

    def _state_bytes(self, rows: int) -> int:
        """Bytes of a hidden state, as kept ones lie one after the other."""
        assert self._source is not None
        return -(-rows * self._source.row_bytes // 64) * 64

    def _kept_of_model(self, rows: int) -> tuple[int, ...]:
        """Layers of an open model whose outputs a pass over so many tokens keeps."""
        if self._keeps_nothing:
            return ()
        held = 0 if self._kept_buffer is None else self._kept_buffer.nbytes
        room = self.budget.available + held
        key = (rows, min(room, rows * self._source.row_bytes * self.count * 2) if self._source else 0,
               dataclasses.astuple(self._config), tuple(self._strategies.items()))  # fmt: skip
        if self._kept_key is None or self._kept_key[0] != key:
            sizes = [self._state_bytes(rows)] * (self.count - 1)
            limit = self._limit(sizes, True)
            limit = min(limit, room) if self._config.max_activation_memory else min(limit, int(room * self._config.memory_speed_tradeoff))
            self._kept_key = (key, self._choose_kept(sizes, limit // 4096 * 4096 if limit >= 4096 else 0))
        return self._kept_key[1]

    def _choose_kept(self, sizes: Sequence[int], limit: int) -> tuple[int, ...]:
        wanted = [i for i in range(len(sizes)) if self._strategies.get(i, self._default) is not CheckpointStrategy.NONE]
        if all(self._strategies.get(i, self._default) is CheckpointStrategy.ALL for i in wanted) and sum(sizes[i] for i in wanted) <= limit:
            return tuple(wanted)
        try:
            first = {k - 1 for k in self._reversal(sizes, limit, True).kept_first}
        except MemoryBudgetError:  # not even one
            return ()
        return tuple(i for i in wanted if i in first)

    def run_pass(self, work: Any) -> None:
        """Run an open model's layers over a prepared pass. Its lock is held."""
        graph, start, source = self.graph, time.perf_counter(), self._source
        assert source is not None
        before = graph.executed_layers
        graph.reset()
        step = graph.execute_next
        try:
            while step(work) is not None:
                pass
            self.counters.passes += 1
        except BaseException:
            graph.reset()  # nothing holds on to the engine's buffers
            raise
        finally:
            counters = self.counters
            counters.executed += graph.executed_layers - before
            counters.stored += len(source.kept)
            if source.stream is not self._stream:
                self._stream, self._seconds = source.stream, 0.0
            self._seconds += time.perf_counter() - start

    @property
    def disk_share(self) -> float | None:
        """The share of the passes' time in which an open model waited for the disk; None where nothing is streamed or
        nothing has run yet."""
        if self._source is None:
            return None
        stream, waited = self._source.waited()
        if stream is None or stream is not self._stream or not self._seconds:
            return None
        return min(1.0, waited / self._seconds)

    def drop_kept(self) -> None:
        """Let go of an open model's kept outputs and of its stream, which may be about to change. Its lock is held."""
        if self._source is not None:
            self._source.kept = {}
        self._kept_key = None
        self._stream, self._seconds = None, 0.0
        if self._kept_buffer is not None:
            self._kept_buffer.close()
            self._kept_buffer = None

    def release(self) -> None:
        """Give back the memory of all outputs that are kept; they are computed again if they are asked for."""
        if self._source is not None:
            with self._source.lock:
                self.drop_kept()
        else:
            self.graph.reset()
            self._account(self.graph)

    # ---- outputs -------------------------------------------------------------------------------------------------

    def get_layer_output(self, index: int) -> np.ndarray:
        """What a layer gave in the last pass; computed again from the nearest kept output where it was not kept.

        Returns
        -------
        ndarray
            A copy. For an open model float32 [tokens, dim], the hidden state of the tokens evaluated last after that layer
            (0 is the embedding, the last layer gives logits [tokens, vocab_size]); sessions of one call in their order.

        Raises
        ------
        HyperionRuntimeError
            If nothing has run yet.
        MemoryBudgetError
            If the model's ledger does not hold what computing it again takes.
        """
        self._check_open()
        self._check_index(index)
        if self._source is not None:
            return self._output_of_model(index)
        layer = self.graph.layers[index]
        if layer.output is not None:
            return np.array(layer.output)
        if self._input is None:
            raise HyperionRuntimeError("no pass has run yet")
        return np.array(self._recompute(layer))

    def _output_of_model(self, index: int) -> np.ndarray:
        source = self._source
        assert source is not None
        if source.rows == 0:
            raise HyperionRuntimeError("no token was evaluated yet")
        with source.lock:
            if index in source.kept:
                return source.kept[index].copy()
            start = max((i for i in source.kept if i < index), default=-1)
            state = source.kept[start].copy() if start >= 0 else None
        extra = (1 + (state is not None)) * self._state_bytes(source.rows)
        with self.budget.reserve("layer outputs", extra):
            result = source.compute(start, state, index)
        self._count_again(index - start)
        return result

    def _count_again(self, layers: int) -> None:
        self.counters.executed += layers
        self.counters.recomputed += layers

    def _recompute(self, layer: Layer) -> np.ndarray:
        """A layer's output from those that are there, in a memory of its own."""
        needed: dict[int, Layer] = {}
        todo = [layer]
        while todo:
            at = todo.pop()
            if at.index not in needed and at.output is None:
                needed[at.index] = at
                todo += at.sources
        order = [i for i in self.graph.order if i in needed]
        uses = {i: sum(i in {d.index for d in needed[j].sources} for j in order) for i in order}
        made: dict[int, np.ndarray] = {}
        held = 0 if self._reservation is None else self._reservation.nbytes
        base, live = self.graph.memory_usage, 0
        try:
            for i in order:
                at = needed[i]
                values = [made.get(d.index, d.output) for d in (*at.others, *at.residuals)]
                first = self._input if at.source is None else made.get(at.source.index, at.source.output)
                made[i] = compute(at, first, values[: len(at.others)], values[len(at.others) :])
                live += made[i].nbytes
                self._note_peak(base + live)
                self._reserve(held + live)
                for d in at.sources:
                    if d.index in uses:
                        uses[d.index] -= 1
                        if uses[d.index] == 0:
                            live -= made.pop(d.index).nbytes
        finally:
            self._reserve(held)
        self._count_again(len(order))
        return made[layer.index]

    # ---- backwards -----------------------------------------------------------------------------------------------

    def reverse_sweep(self, visit: Visit, input: Any = None) -> None:
        """Visit the layers from the last to the first, each with its input, with the fewest executions of layers.

        Layer outputs, kept ones and those at hand, never take more than `max_activation_memory`; what was not kept is
        computed again. See :func:`hyperion.scheduling.checkpoint.plan_reversal` for in what sense the plan is optimal.

        Parameters
        ----------
        visit : callable
            Called as ``visit(i, input_of_layer_i)`` for i = n - 1 .. 0 with a read-only array; layer 0 gets the pass's
            input itself (for an open model the token ids).
        input : array, optional
            The input of a new pass. Without it the sweep goes over the last pass and starts from what that kept.

        Raises
        ------
        MemoryBudgetError
            If the limit does not even hold one layer's input and output.
        UnsupportedError
            If the layers are no chain.
        """
        self._check_open()
        if self._source is not None and input is not None:
            self.run(input)
        if self._source is None:
            self._prepare()
            if input is not None:
                self.graph.reset()
                self._input = input
                if any(i not in self._sizes and not self.graph.layers[i].output_size for i in self.graph.order):
                    self.run(input)  # finds the sizes
                    self.graph.reset()
            if self._input is None:
                raise HyperionRuntimeError("no pass has run yet: give the input")
        if not self._is_chain:
            raise UnsupportedError("a reverse sweep needs a chain of layers; read the outputs of another graph by get_layer_output")
        if self._source is not None:
            self._sweep_model(visit)
        else:
            self._sweep_graph(visit)

    def _sweep_graph(self, visit: Visit) -> None:
        layers = self.graph._sequence
        sizes = self._output_sizes()
        plan = self._reversal(sizes[:-1], self._limit(sizes[:-1], False), False)
        states = {n + 1: layer.output for n, layer in enumerate(layers) if layer.output is not None}
        done = max(states, default=0)  # layers before this one have run in the pass
        wanted = set(plan.kept_first)
        states = {k: x for k, x in states.items() if k in wanted}
        states[0] = self._input
        self.graph.reset()

        def live() -> int:
            return sum(x.nbytes for k, x in states.items() if k)

        try:
            for step in plan.steps:
                if step.action == "advance" and step.stop not in states:
                    x, held = states[step.start], live()
                    for n in range(step.start, step.stop):
                        y = compute(layers[n], x)
                        at_hand = y.nbytes + (x.nbytes if n > step.start else 0)
                        self._note_peak(held + at_hand)
                        self._reserve(held + at_hand)
                        x = y
                        self.counters.executed += 1
                        self.counters.recomputed += n < done
                        done = max(done, n + 1)
                    states[step.stop] = x
                    self.counters.stored += 1
                    del x, y
                elif step.action == "visit":
                    visit(layers[step.stop].index, _read_only(states[step.stop]))
                elif step.action == "free":
                    states.pop(step.stop, None)
                self._reserve(live())
        finally:
            states.clear()
            self._reserve(0)

    def _sweep_model(self, visit: Visit) -> None:
        source = self._source
        assert source is not None
        if source.rows == 0:
            raise HyperionRuntimeError("no token was evaluated yet: give the token ids")
        rows, size = source.rows, self._state_bytes(source.rows)
        sizes = [size] * (self.count - 1)
        with source.lock:
            states: dict[int, np.ndarray | None] = {k + 1: x.copy() for k, x in source.kept.items()}
            self.drop_kept()
        limit = self._limit(sizes, True)
        limit = min(limit, self.budget.available) if not self._config.max_activation_memory else limit
        plan = self._reversal(sizes, limit, True)
        states = {k: x for k, x in states.items() if k in plan.kept_first}
        states[0] = None
        with self.budget.reserve("layer outputs", plan.peak):
            self._note_peak(plan.peak)
            for step in plan.steps:
                if step.action == "advance" and step.stop not in states:
                    states[step.stop] = source.compute(step.start - 1, states[step.start], step.stop - 1)
                    self._count_again(step.stop - step.start)
                    self.counters.stored += 1
                elif step.action == "visit":
                    x = states[step.stop]
                    visit(step.stop, source.tokens() if x is None else _read_only(x))
                elif step.action == "free":
                    states.pop(step.stop, None)
                if source.rows != rows:
                    raise HyperionRuntimeError("other tokens were evaluated in the middle of the sweep")

    # ---- the rest ------------------------------------------------------------------------------------------------

    def _check_index(self, index: int) -> None:
        known = range(self.count) if self._source is not None else self.graph.layers
        if not isinstance(index, (int, np.integer)) or isinstance(index, bool) or index not in known:
            raise InvalidArgumentError(f"there is no layer {index!r}; there are {self.count} layers, from 0")

    def _check_open(self) -> None:
        if self._closed:
            raise HyperionRuntimeError("the scheduler is closed")

    def close(self) -> None:
        """Give kept outputs back; a model's passes go through the scheduler that it had before. Closing twice is allowed."""
        if self._closed:
            return
        if self._source is not None:
            with self._source.lock:
                self.drop_kept()
                if self.model.scheduler is self and self._previous is not None:
                    self.model.scheduler = self._previous
            if self._stepper is not None:
                self._stepper.close()
        if self._source is not None or self.graph is not self.model:
            self.graph.close()
        self._closed = True
        if self._reservation is not None:
            self._reservation.release()
            self._reservation = None

    def __enter__(self) -> LayerScheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def compute(layer: Layer, first: Any, others: Sequence[Any] = (), residuals: Sequence[Any] = ()) -> np.ndarray:
    """A layer's output from its inputs, which stay as they are."""
    if layer.in_place:
        first = np.array(first)
    result = np.asarray(first if layer.function is None else layer.function(first, *others))
    if residuals or (result is first and not layer.in_place) or result.base is not None:
        result = result.copy()
    for r in residuals:
        np.add(result, r, out=result)
    return result


def _read_only(x: Any) -> Any:
    if not isinstance(x, np.ndarray):
        return x
    view = x.view()
    view.flags.writeable = False
    return view
