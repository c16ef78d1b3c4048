"""The policy over a graph of layers: which outputs are kept, which are computed again, and what that takes.

One scheduler, two faces: :class:`ForwardScheduler` orders layers and frees what is used up; :class:`LayerScheduler` decides
what should stay. A model's own scheduler is one, and all its passes go through it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError
from hyperion.memory import MemoryBudget
from hyperion.scheduling.execution import (
    CheckpointStrategy,
    ExecutionPlan,
    LayerCounters,
    LayerSchedulerConfig,
    MemoryEstimate,
)
from hyperion.scheduling.forward import ForwardScheduler
from hyperion.scheduling.graph import ExecutionMode
from hyperion.scheduling.passes import ModelRunner
from hyperion.scheduling.policy import Policy
from hyperion.scheduling.runners import GraphRunner, Visit

__all__ = ["LayerScheduler"]

Function = Callable[[Any], Any]


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
        The ledger in which outputs of functions are reserved; the graph's by default. A model has its own.

    Attributes
    ----------
    graph : ForwardScheduler
        What the layers run through.
    counters : LayerCounters
    """

    def __init__(self, model: Any, config: LayerSchedulerConfig | None = None, *, budget: MemoryBudget | None = None) -> None:
        self._policy = Policy(config)
        self.counters = LayerCounters()
        self.model = model
        self._closed = False
        self._previous: LayerScheduler | None = None
        self._runner: GraphRunner | ModelRunner
        if hasattr(model, "layer_source"):
            self._runner = ModelRunner(model, self._policy, self.counters)
            self._attach(self._runner)
        elif isinstance(model, ForwardScheduler):
            self._runner = GraphRunner(model, {}, self._policy, self.counters, budget or model.budget)
        elif isinstance(model, Sequence) and not isinstance(model, (str, bytes)):
            graph, sizes = _chain(model, budget)
            self._runner = GraphRunner(graph, sizes, self._policy, self.counters, graph.budget)
        else:
            raise InvalidArgumentError(
                f"a LayerScheduler takes an open model, a ForwardScheduler or a list of layers, not {type(model).__name__}"
            )
        self.graph = self._runner.graph

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

    def _attach(self, runner: ModelRunner) -> None:
        with runner.source.lock:
            self._previous = getattr(self.model, "scheduler", None)
            if self._previous is not None:
                self._previous.drop_kept()
            self.model.scheduler = self

    # ---- policy --------------------------------------------------------------------------------------------------

    @property
    def config(self) -> LayerSchedulerConfig:
        """The configuration: set its fields or assign another one (which is copied), and the next pass follows it."""
        return self._policy.config

    @config.setter
    def config(self, config: LayerSchedulerConfig) -> None:
        self._policy.configure(config)

    def set_layer_checkpointing_strategy(self, index: int, strategy: CheckpointStrategy) -> None:
        """Say what becomes of one layer's output, whatever the configuration says.

        Parameters
        ----------
        index : int
        strategy : CheckpointStrategy
            NONE: not kept beyond need; ALL: kept if the limit allows; SELECTIVE: kept where that saves most executions.
        """
        position = self._position(index)
        try:
            self._policy.strategies[position] = CheckpointStrategy(strategy)
        except ValueError:
            raise InvalidArgumentError(f"strategy is a CheckpointStrategy, not {strategy!r}") from None

    def get_layer_checkpointing_strategy(self, index: int) -> CheckpointStrategy:
        """What becomes of a layer's output."""
        return self._policy.of(self._position(index))

    # ---- plans and estimates -------------------------------------------------------------------------------------

    def create_execution_plan(self) -> ExecutionPlan:
        """The steps of a pass, and for a chain those of a sweep that then uses every layer's output once, the last first.

        Where nothing is checkpointed the plan ends with the pass. For an open model it is about the hidden states of as
        many tokens as were evaluated last; the logits are none.

        Raises
        ------
        MemoryBudgetError
            If `max_activation_memory` does not even hold one layer's input and output.
        HyperionRuntimeError
            If a layer's output size is neither given nor known from a run.
        """
        self._check_open()
        return self._runner.plan()

    def estimate_memory_usage(self) -> MemoryEstimate:
        """Bytes that a pass takes: weights, layer outputs, working memory.

        For an open model these are the plan's, with its open sessions and the outputs that are kept of as many tokens as
        were evaluated last; the ledger holds as much.

        Raises
        ------
        HyperionRuntimeError
            If a layer's output size is neither given nor known from a run.
        """
        self._check_open()
        return self._runner.estimate()

    # ---- running -------------------------------------------------------------------------------------------------

    def run(self, input: Any) -> Any:
        """Run every layer and return the last one's output, in the scheduler's memory until the next pass.

        Parameters
        ----------
        input : array
            For an open model token ids, as a sequence of their own.
        """
        self._check_open()
        return self._runner.run(input)

    def execute_layer(self, index: int, input: Any = None, output: Any = None) -> Any:
        """Run one layer in the course of a pass.

        Parameters
        ----------
        index : int
            The first layer starts a new pass. Layers before it that have not run yet run first; one that has run already is
            computed again, or its output taken from where it was kept.
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
        self._position(index)
        result = self._runner.execute(int(index), input)
        if output is not None:
            try:
                np.copyto(np.asarray(output), result)
            except (TypeError, ValueError) as error:
                raise InvalidArgumentError(f"the output of layer {index} does not fit where it should go: {error}") from None
        return result

    def begin_forward(self, rows: int) -> None:
        """An open model is about to evaluate so many tokens. Its lock is held."""
        self._model_runner.begin_forward(rows)

    def run_pass(self, work: Any) -> None:
        """Run an open model's layers over a prepared pass. Its lock is held."""
        self._model_runner.run_pass(work)

    def drop_kept(self) -> None:
        """Let go of everything that an open model is about to change or to give back. Its lock is held."""
        self._model_runner.drop_kept()

    @property
    def _model_runner(self) -> ModelRunner:
        if not isinstance(self._runner, ModelRunner):
            raise HyperionRuntimeError("this scheduler runs functions, not an open model")
        return self._runner

    @property
    def disk_share(self) -> float | None:
        """The share of the passes' time in which an open model waited for the disk, since its weights were last moved; None
        where nothing is streamed or nothing has run yet."""
        return self._runner.disk_share if isinstance(self._runner, ModelRunner) else None

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
        self._position(index)
        return self._runner.output(int(index))

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
        self._runner.sweep(visit, input)

    def release(self) -> None:
        """Give back the memory of all outputs that are kept; they are computed again if they are asked for."""
        self._runner.release()

    # ---- the rest ------------------------------------------------------------------------------------------------

    def _position(self, index: int) -> int:
        """A layer's place in the order of execution."""
        known = range(self._runner.source.count) if isinstance(self._runner, ModelRunner) else self.graph.layers
        if not isinstance(index, (int, np.integer)) or isinstance(index, bool) or index not in known:
            raise InvalidArgumentError(f"there is no layer {index!r}; there are {len(known)} layers, from 0")
        if isinstance(self._runner, ModelRunner):
            return int(index)
        if not self.graph.prepared:
            self.graph.prepare()
        return self.graph.order.index(index)

    def _check_open(self) -> None:
        if self._closed:
            raise HyperionRuntimeError("the scheduler is closed")

    def close(self) -> None:
        """Give kept outputs back; a model's passes go through the scheduler that it had before. Closing twice is allowed.

        A model's own scheduler stays open as long as the model.
        """
        if self._closed:
            return
        if isinstance(self._runner, ModelRunner):
            with self._runner.source.lock:
                self._runner.drop_kept()
                if self._previous is None:
                    return
                self._closed = True
                if self.model.scheduler is self:
                    self.model.scheduler = self._previous._reopened()
        self._closed = True
        self._runner.release()
        self._runner.close()
        if self.graph is not self.model:
            self.graph.close()

    def _reopened(self) -> LayerScheduler:
        """This scheduler, or the one that it took the place of where it was closed in the meantime."""
        return self if not self._closed or self._previous is None else self._previous._reopened()

    def __enter__(self) -> LayerScheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _chain(layers: Sequence[Any], budget: MemoryBudget | None) -> tuple[ForwardScheduler, dict[int, int]]:
    """A graph of functions one after the other, and the sizes that were given."""
    graph = ForwardScheduler(None, ExecutionMode.MEMORY_OPT, budget=budget)
    sizes = {}
    for i, item in enumerate(layers):
        fn, size = item if isinstance(item, tuple) and len(item) == 2 else (item, None)
        if not callable(fn):
            raise InvalidArgumentError(f"layer {i} is {type(fn).__name__}, expected a callable or (callable, bytes)")
        if size is not None:
            if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 0:
                raise InvalidArgumentError(f"layer {i}: the output's size is {size!r}, expected bytes")
            sizes[i] = int(size)
        graph.add_layer(i, fn, depends_on=i - 1)
    return graph, sizes
