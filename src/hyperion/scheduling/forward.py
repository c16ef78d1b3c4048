"""The dependency graph of a forward pass: its order, its output buffers, and when each of them is free again.

A layer is a number, a function and edges to the layers whose outputs it uses. The graph knows no architecture: a language
model's blocks and a user's Python callables run through the same code.
"""

from __future__ import annotations

import dataclasses
import enum
import heapq
from collections.abc import Callable
from typing import Any

import numpy as np

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError
from hyperion.memory import MemoryBudget, allocate, format_size, parse_size, process_budget
from hyperion.scheduling.lifetimes import assign_offsets

__all__ = ["DependencyType", "ExecutionMode", "ForwardScheduler"]


class ExecutionMode(enum.IntEnum):
    """How much of a model is in memory while it runs.

    NORMAL: all of it. MEMORY_OPT: weights and outputs only while they are needed. STREAMING: the input goes through in
    chunks. ADAPTIVE: chosen by the memory limit, and for an open model by the measured disk and compute time.
    """

    NORMAL = 0
    MEMORY_OPT = 1
    STREAMING = 2
    ADAPTIVE = 3


class DependencyType(enum.IntEnum):
    """What an edge brings: nothing (NONE), the layer's input (SEQUENTIAL), something added to its output (RESIDUAL), or a
    further argument (ATTENTION)."""

    NONE = 0
    SEQUENTIAL = 1
    RESIDUAL = 2
    ATTENTION = 3


@dataclasses.dataclass
class Layer:
    """One node. `steps` is (position in the order, position of the last layer that uses its output)."""

    index: int
    function: Callable[..., Any] | None
    output_size: int
    in_place: bool
    edges: list[tuple[int, DependencyType]] = dataclasses.field(default_factory=list)
    users: int = 0
    keep: bool = False
    offset: int = -1
    output: Any = None
    executed: bool = False
    pending: int = 0


class ForwardScheduler:
    """Orders layers by their dependencies, gives every output a buffer, and frees or reuses it after its last use.

    Parameters
    ----------
    model : optional
        An open model (its blocks become the layers) or a :class:`~hyperion.MappedModel` (its layers' weights are released
        after use in MEMORY_OPT); None for layers given with :meth:`add_layer`.
    mode : ExecutionMode
    max_memory : int or str
        The most that output buffers may take; 0 sets no limit.
    budget : MemoryBudget, optional
        The ledger that buffers are reserved in; the process's by default.
    """

    def __init__(
        self,
        model: Any = None,
        mode: ExecutionMode = ExecutionMode.NORMAL,
        max_memory: int | str = 0,
        *,
        budget: MemoryBudget | None = None,
    ) -> None:
        self.model = model
        self.mode = ExecutionMode(mode)
        self.max_memory = parse_size(max_memory)
        self.budget = budget if budget is not None else process_budget()
        self.layers: dict[int, Layer] = {}
        self.order: list[int] = []
        self.executed_layers = 0
        self._next = 0
        self._arena: Any = None
        self._arena_bytes = 0
        self._live = self._peak = 0
        self._closed = False
        if model is not None and hasattr(model, "schedule_layers"):
            model.schedule_layers(self)

    # ---- building the graph --------------------------------------------------------------------------------------

    def add_layer(
        self,
        index: int,
        fn: Callable[..., Any] | None = None,
        *,
        depends_on: int = -1,
        dep_type: DependencyType = DependencyType.SEQUENTIAL,
        output_size: int = 0,
        in_place: bool = False,
    ) -> None:
        """Add a layer, or a dependency to one that is there.

        Parameters
        ----------
        index : int
            The layer's number, 0 or more.
        fn : callable, optional
            Called as ``fn(x, *others)`` with the output of its SEQUENTIAL edge (for a layer without one the pass's input)
            and of its ATTENTION edges, in the order in which they were added. It returns an array of at most
            `output_size` bytes. RESIDUAL outputs are added to what it returns. None passes its input on.
        depends_on : int
            The layer whose output it uses; -1 for none.
        output_size : int
            Bytes of its output.
        in_place : bool
            The function returns its input, changed: no buffer of its own is needed.
        """
        self._check_open()
        for name, value, least in (("index", index, 0), ("depends_on", depends_on, -1), ("output_size", output_size, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InvalidArgumentError(f"{name} is {value!r}, expected an integer of {least} or more")
        if fn is not None and not callable(fn):
            raise InvalidArgumentError(f"layer {index}: fn is {type(fn).__name__}, expected a callable or None")
        layer = self.layers.get(index)
        if layer is None:
            layer = self.layers[index] = Layer(index, fn, output_size, in_place)
        else:
            layer.function = fn if fn is not None else layer.function
            layer.output_size = max(layer.output_size, output_size)
            layer.in_place = layer.in_place or in_place
        kind = DependencyType(dep_type)
        if depends_on >= 0 and kind is not DependencyType.NONE:
            if kind is DependencyType.SEQUENTIAL and any(k is kind and d != depends_on for d, k in layer.edges):
                raise InvalidArgumentError(f"layer {index} has its input from two layers; other edges are RESIDUAL or ATTENTION")
            if (depends_on, kind) not in layer.edges:
                layer.edges.append((depends_on, kind))
        self.order = []

    def prepare(self) -> None:
        """Check the graph, fix the order, and place every output.

        Raises
        ------
        InvalidArgumentError
            For an edge to a layer that was not added, or a cycle.
        MemoryBudgetError
            If the outputs that are alive together pass `max_memory`, or the ledger does not hold them.
        """
        self._check_open()
        for layer in self.layers.values():
            missing = [d for d, _ in layer.edges if d not in self.layers]
            if missing:
                raise InvalidArgumentError(f"layer {layer.index} depends on layer {missing[0]}, which was not added")
        self.order = self._topological()
        self._place()
        self.reset()

    def _topological(self) -> list[int]:
        """Kahn's algorithm; of several layers that could run the one with the lowest number does."""
        waiting = {i: len({d for d, _ in layer.edges}) for i, layer in self.layers.items()}
        users: dict[int, list[int]] = {i: [] for i in self.layers}
        for i, layer in self.layers.items():
            for d in {d for d, _ in layer.edges}:
                users[d].append(i)
        ready = [i for i, n in waiting.items() if n == 0]
        heapq.heapify(ready)
        order = []
        while ready:
            i = heapq.heappop(ready)
            order.append(i)
            self.layers[i].users = len(users[i])
            for user in users[i]:
                waiting[user] -= 1
                if waiting[user] == 0:
                    heapq.heappush(ready, user)
        if len(order) < len(self.layers):
            raise InvalidArgumentError(f"the layers {sorted(i for i, n in waiting.items() if n)} depend on each other in a cycle")
        return order

    def _lifetimes(self) -> list[tuple[int, int, int, int]]:
        """(first step, last step, bytes, layer) of every output that needs a buffer."""
        step = {i: n for n, i in enumerate(self.order)}
        last = {i: step[i] for i in self.order}
        for i in self.order:
            for d, _ in self.layers[i].edges:
                last[d] = max(last[d], step[i])
        if self.mode is ExecutionMode.NORMAL:
            last = dict.fromkeys(last, len(self.order))
        root = {}
        for i in self.order:  # a layer that works in place lives in its input's buffer
            layer = self.layers[i]
            source = next((d for d, k in layer.edges if k is DependencyType.SEQUENTIAL), None)
            shares = layer.in_place and source is not None and self.layers[source].users == 1 and not self.layers[source].keep
            root[i] = root[source] if shares and source is not None else i
        spans: dict[int, list[int]] = {}
        for i in self.order:
            layer = self.layers[i]
            end = len(self.order) if layer.keep or layer.users == 0 else last[i]
            span = spans.setdefault(root[i], [step[root[i]], end, 0])
            span[1], span[2] = max(span[1], end), max(span[2], layer.output_size)
        self._root = root
        return [(a, b, n, i) for i, (a, b, n) in spans.items() if n]

    def _place(self) -> None:
        spans = self._lifetimes()
        offsets, total = assign_offsets([(a, b, n) for a, b, n, _ in spans])
        if self.max_memory and total > self.max_memory:
            raise MemoryBudgetError(
                f"the outputs that are alive together take {format_size(total)}, the limit is {format_size(self.max_memory)}",
                smallest=total,
            )
        for (_, _, _, i), offset in zip(spans, offsets, strict=True):
            self.layers[i].offset = offset
        if total != self._arena_bytes:
            self._free_arena()
            self._arena = allocate(self.budget, "layer outputs", total) if total else None
            self._arena_bytes = total

    # ---- running -------------------------------------------------------------------------------------------------

    def execute_next(self, input: Any = None, output: Any = None) -> int | None:
        """Run the next layer.

        Parameters
        ----------
        input : array, optional
            The pass's input, for layers without a SEQUENTIAL edge.
        output : array, optional
            Where a copy of the layer's output goes.

        Returns
        -------
        int or None
            The layer that ran, None at the end.
        """
        self._check_open()
        if self.layers and not self.order:
            raise HyperionRuntimeError("the graph has changed or was never prepared: call prepare_forward_pass first")
        if self._next >= len(self.order):
            return None
        layer = self.layers[self.order[self._next]]
        layer.output = self._run(layer, input)
        layer.executed = True
        layer.pending = layer.users
        self._next += 1
        self.executed_layers += 1
        self._account(layer)
        if output is not None:
            np.copyto(np.asarray(output), layer.output)
        for d in {d for d, _ in layer.edges}:
            used = self.layers[d]
            used.pending -= 1
            if used.pending == 0 and not used.keep and self.mode is not ExecutionMode.NORMAL:
                self._drop(used)
        return layer.index

    def _run(self, layer: Layer, input: Any) -> Any:
        first = input
        others, residuals = [], []
        for d, kind in layer.edges:
            value = self.layers[d].output
            if value is None and self.layers[d].output_size:
                raise HyperionRuntimeError(f"layer {layer.index} needs the output of layer {d}, which was freed")
            if kind is DependencyType.SEQUENTIAL:
                first = value
            elif kind is DependencyType.RESIDUAL:
                residuals.append(value)
            else:
                others.append(value)
        result = first if layer.function is None else layer.function(first, *others)
        if result is None or (result is first and layer.in_place and not residuals):
            return result
        return self._store(layer, np.asarray(result), residuals)

    def _store(self, layer: Layer, result: np.ndarray, residuals: list[np.ndarray]) -> np.ndarray:
        """The result, plus its residuals, in the layer's buffer."""
        if result.nbytes > layer.output_size:
            raise InvalidArgumentError(
                f"layer {layer.index} gave {result.nbytes} bytes, its output_size is {layer.output_size}"
            )
        if layer.output_size == 0:
            return result
        offset = self.layers[self._root[layer.index]].offset
        view = np.frombuffer(self._arena.view, np.uint8, result.nbytes, offset).view(result.dtype).reshape(result.shape)
        if not np.shares_memory(view, result) or view.ctypes.data != result.ctypes.data:
            np.copyto(view, result)
        for r in residuals:
            np.add(view, r, out=view)
        return view

    def _account(self, layer: Layer) -> None:
        owned = layer.offset >= 0 and layer.output is not None
        self._live += layer.output_size if owned else 0
        self._peak = max(self._peak, self._live)

    def _drop(self, layer: Layer) -> None:
        if layer.output is not None:
            layer.output = None
            self._live -= layer.output_size if layer.offset >= 0 else 0

    def run(self, input: Any = None) -> Any:
        """Reset, run every layer, and return the last one's output."""
        self.reset()
        last = None
        while (index := self.execute_next(input)) is not None:
            last = index
        return self.layers[last].output if last is not None else None

    def reset(self) -> None:
        """Forget what has run; buffers stay for the next pass."""
        self._next = 0
        self._live = 0
        for layer in self.layers.values():
            layer.output, layer.executed, layer.pending = None, False, 0

    # ---- asking --------------------------------------------------------------------------------------------------

    def is_executed(self, index: int) -> bool:
        """Whether a layer has run in this pass."""
        return self._layer(index).executed

    def get_output(self, index: int) -> Any:
        """A layer's output in this pass.

        Raises
        ------
        HyperionRuntimeError
            If the layer has not run, or its output was freed.
        """
        layer = self._layer(index)
        if layer.output is None:
            raise HyperionRuntimeError(f"the output of layer {index} {'was freed' if layer.executed else 'does not exist yet'}")
        return layer.output

    def keep_output(self, index: int, keep: bool = True) -> None:
        """Keep a layer's output to the end of the pass; takes effect with the next prepare."""
        self._layer(index).keep = keep
        self.order = []

    def mark_output_unneeded(self, index: int) -> None:
        """Free a layer's output now, whoever would still use it."""
        self._drop(self._layer(index))

    @property
    def memory_usage(self) -> int:
        """Bytes of outputs that are alive."""
        return self._live

    @property
    def peak_memory_usage(self) -> int:
        """The most bytes of outputs that were alive together, in any pass."""
        return self._peak

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the buffer that all outputs share."""
        return self._arena_bytes

    def optimal_batch_size(self, input_size: int, output_size: int, max_batch_size: int) -> int:
        """How many items of a batch fit the memory limit together with the graph's own buffer; at least 1.

        Parameters
        ----------
        input_size, output_size : int
            Bytes of one item.

        Raises
        ------
        MemoryBudgetError
            If not even one does.
        """
        for name, value in (("input_size", input_size), ("output_size", output_size), ("max_batch_size", max_batch_size)):
            if not isinstance(value, int) or isinstance(value, bool) or value < (name == "max_batch_size"):
                raise InvalidArgumentError(f"{name} is {value!r}, expected a count of bytes or items")
        limit = self.max_memory or self.budget.available
        item = input_size + output_size + self._arena_bytes
        if item > limit:
            raise MemoryBudgetError(f"one item takes {format_size(item)}, the limit is {format_size(limit)}", smallest=item)
        return max(1, min(max_batch_size, limit // item if item else max_batch_size))

    def _layer(self, index: int) -> Layer:
        if index not in self.layers:
            raise InvalidArgumentError(f"there is no layer {index}; the layers are {sorted(self.layers)[:8]} ...")
        return self.layers[index]

    def _check_open(self) -> None:
        if self._closed:
            raise HyperionRuntimeError("the scheduler is closed")

    def _free_arena(self) -> None:
        if self._arena is not None:
            self._arena.close()
            self._arena, self._arena_bytes = None, 0

    def close(self) -> None:
        """Give the buffers back; closing twice is allowed."""
        self.reset()
        self._free_arena()
        self._closed = True

    def __enter__(self) -> ForwardScheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
