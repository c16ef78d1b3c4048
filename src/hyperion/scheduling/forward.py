"""The dependency graph of a forward pass: its order, its output buffers, and when each of them is free again.

A layer is a number, a function and edges to the layers whose outputs it uses. The graph knows no architecture: a language
model's blocks and a user's Python callables run through the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError
from hyperion.memory import MemoryBudget, Reservation, allocate, format_size, parse_size, process_budget
from hyperion.scheduling.graph import Buffer, DependencyType, ExecutionMode, Layer, LayerGraph
from hyperion.tensor import Tensor

__all__ = ["DependencyType", "ExecutionMode", "ForwardScheduler"]


class ForwardScheduler(LayerGraph):
    """Orders layers by their dependencies, gives every output a buffer, and frees or reuses it after its last use.

    Parameters
    ----------
    model : optional
        An open model (its layers become the graph's: 0 the embedding, then the blocks, then the output head), or a
        :class:`~hyperion.MappedModel` (the next layer's weights are prefetched while one runs, and in MEMORY_OPT released
        after use); None for layers given with :meth:`add_layer` alone.
    mode : ExecutionMode
    max_memory : int or str
        The most that the outputs' buffers may take; 0 sets no limit but the ledger's.
    budget : MemoryBudget, optional
        The ledger that buffers are reserved in; an open model's own, otherwise the process's.
    poison_freed : bool
        Fill freed buffers with NaN, to find functions that use what they should not.

    Attributes
    ----------
    layers : dict of int to Layer
    order : list of int
        In which the layers run; empty before :meth:`prepare`.
    active_mode : ExecutionMode
        What runs: the mode, or for ADAPTIVE the one that was chosen.
    executed_layers : int
        Layers that ran so far, in all passes.
    max_rows : int
        The most rows that STREAMING takes at a time; 0 for as many as the limit holds.
    """

    def __init__(
        self,
        model: Any = None,
        mode: ExecutionMode = ExecutionMode.NORMAL,
        max_memory: int | str = 0,
        *,
        budget: MemoryBudget | None = None,
        poison_freed: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        try:
            self.mode = ExecutionMode(mode)
        except ValueError:
            raise InvalidArgumentError(f"mode is an ExecutionMode, not {mode!r}") from None
        self.active_mode = self.mode
        self.max_memory = parse_size(max_memory)
        own = getattr(model, "budget", None)
        self.budget = budget or (own if isinstance(own, MemoryBudget) else process_budget())
        self.poison_freed = poison_freed
        self.executed_layers = 0
        self.max_rows = 0
        self.on_reset: Callable[[], None] | None = None
        self.on_close: Callable[[], None] | None = None
        self._closed = False
        self._arena: Any = None
        self._bytes: np.ndarray | None = None
        self._arena_bytes = 0
        self._placed: tuple[ExecutionMode, int, int] | None = None
        self._live = self._peak = 0
        self._next = 0
        self._input: Any = None
        self._part: Any = None
        self._first, self._rows, self._total = -1, 0, 0  # of the chunk in STREAMING
        self._collected: dict[int, np.ndarray] = {}
        self._results: Reservation | None = None
        self._release_weights = getattr(model, "release_layer_weights", None)
        self._prefetch_weights = getattr(model, "prefetch_layer_weights", None)
        if hasattr(model, "schedule_layers"):
            model.schedule_layers(self)

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
        self.reset()
        self._connect()
        self.order = self._topological()
        self._sequence = [self.layers[i] for i in self.order]
        self._placed = None
        if not self._waits_for_input():
            self._place(0, 0)
        else:
            if self._by_rows and self.max_memory:
                self._check_limit(self._outputs(ExecutionMode.MEMORY_OPT, 1, 1))
            self.active_mode = self._choose_mode(1 if self._by_rows else 0)
        self.prepared = True

    def _waits_for_input(self) -> bool:
        """Whether sizes or the mode depend on the number of rows of the input."""
        if self._by_rows or self.mode is ExecutionMode.STREAMING:
            return True
        return self.mode is ExecutionMode.ADAPTIVE and bool(self._sequence) and all(layer.rowwise for layer in self._sequence)

    # ---- buffers -------------------------------------------------------------------------------------------------

    def _outputs(self, mode: ExecutionMode, rows: int, total: int) -> int:
        """Bytes of the outputs that are alive together, without what aligns them; in STREAMING with the results."""
        nbytes = self._layout(mode, rows, total, align=1).nbytes
        if mode is ExecutionMode.STREAMING:
            nbytes += sum(layer.bytes_for(total, total) for layer in self._sequence if layer.stays)
        return nbytes

    def _choose_mode(self, rows: int) -> ExecutionMode:
        """The mode, or what ADAPTIVE means for an input of so many rows (0: sizes do not depend on them)."""
        if self.mode is not ExecutionMode.ADAPTIVE:
            return self.mode
        limit = self.max_memory or self.budget.available + self._arena_bytes
        cuttable = all(layer.rowwise for layer in self._sequence)
        streamed = not getattr(getattr(self.model, "plan", None), "resident", True)
        share = getattr(getattr(self.model, "scheduler", None), "disk_share", None)
        if streamed and cuttable and share is not None and share < 0.5:  # chunks cost nothing: weights are there in time
            return ExecutionMode.STREAMING
        if not streamed and self._outputs(ExecutionMode.NORMAL, rows, rows) <= limit:
            return ExecutionMode.NORMAL
        if not cuttable or self._outputs(ExecutionMode.MEMORY_OPT, rows, rows) <= limit:
            return ExecutionMode.MEMORY_OPT
        return ExecutionMode.STREAMING

    def _check_limit(self, nbytes: int) -> None:
        if self.max_memory and nbytes > self.max_memory:
            raise MemoryBudgetError(
                f"the outputs that are alive together take {format_size(nbytes)} ({nbytes} bytes), "
                f"the limit is {format_size(self.max_memory)}",
                limit=self.max_memory,
                smallest=nbytes,
            )

    def _place(self, rows: int, total: int) -> None:
        """Buffers for an input of so many rows; 0 where sizes do not depend on the input."""
        mode = self._choose_mode(total)
        if mode is ExecutionMode.STREAMING:
            rows = self._chunk_rows(total)
        self._rows = rows
        if self._placed == (mode, rows, total):
            return
        self._placed = None
        self._check_limit(self._outputs(mode, rows, total))
        layout = self._layout(mode, rows, total)
        if layout.nbytes != self._arena_bytes:
            self._free_arena()
            if layout.nbytes:
                self._arena = allocate(self.budget, "layer outputs", layout.nbytes)
                self._bytes = np.frombuffer(self._arena, np.uint8)
            self._arena_bytes = layout.nbytes
        self._apply(layout)
        self.active_mode, self._placed = mode, (mode, rows, total)

    def _chunk_rows(self, total: int) -> int:
        """The most rows whose buffers fit the limit beside the results; 1 if not even those of one do."""
        limit = self.max_memory or self.budget.available + self._arena_bytes
        low, high = 1, max(1, min(total, self.max_rows or total))
        while low < high:
            middle = (low + high + 1) // 2
            if self._outputs(ExecutionMode.STREAMING, middle, total) <= limit:
                low = middle
            else:
                high = middle - 1
        return low

    def _view(self, layer: Layer, like: np.ndarray) -> np.ndarray:
        """The layer's buffer as an array of the shape and type of another."""
        if like.dtype.hasobject:
            raise InvalidArgumentError(f"layer {layer.index} gave an array of Python objects; buffers hold numbers")
        if like.nbytes > layer.size:
            raise InvalidArgumentError(f"layer {layer.index} gave {like.nbytes} bytes, there is room for {layer.size}: its output_size")
        assert self._bytes is not None
        return self._bytes[layer.offset : layer.offset + like.nbytes].view(like.dtype).reshape(like.shape)

    # ---- running -------------------------------------------------------------------------------------------------

    def execute_next(self, input: Any = None, output: Any = None) -> int | None:
        """Run the next layer.

        Parameters
        ----------
        input : array or Tensor, optional
            The pass's input, for layers without a SEQUENTIAL edge; remembered for the rest of the pass. In STREAMING it may be
            a STREAMING tensor, of which every chunk is read when its turn comes.
        output : array or Tensor, optional
            Where a copy of the layer's output goes; in STREAMING the rows of the present chunk.

        Returns
        -------
        int or None
            The layer that ran, None at the end. In STREAMING every layer runs once for each chunk.

        Raises
        ------
        HyperionRuntimeError
            If the graph was changed after it was prepared.
        InvalidArgumentError
            If an output is larger than its `output_size`. Whatever a layer's function raises is passed on; the pass can
            be continued with that layer, unless it works in place.
        """
        self._check_open()
        if not self.prepared:
            if not self.layers:
                return None
            raise HyperionRuntimeError("the graph has changed or was never prepared: call prepare_forward_pass first")
        if input is not None and self._first < 0:
            self._input = np.asarray(input) if isinstance(input, Tensor) and not input.is_streaming else input
        if self._next == 0 and self._first < 0:
            self._begin()
        if self._next >= len(self._sequence) and not self._next_chunk():
            return None
        layer = self._sequence[self._next]
        if self._prefetch_weights is not None and self._next + 1 < len(self._sequence):
            following = self._sequence[self._next + 1].index
            if self._has_weights(following):
                self._prefetch_weights(following)
        self._step(layer)
        try:
            if output is not None:
                self._copy(layer, output)
        finally:
            self._settle(layer)
        return layer.index

    def _begin(self) -> None:
        """Place buffers where they depend on the input; cut it in STREAMING."""
        self._part = self._input
        if not self._waits_for_input():
            return
        if self._input is None or np.ndim(self._input) == 0 or len(self._input) == 0:
            raise InvalidArgumentError("the pass needs an input with one row or more along its first axis")
        self._total = len(self._input)
        self._place(self._total, self._total)
        if self.active_mode is ExecutionMode.STREAMING:
            self._first = 0
            self._part = self._input[: self._rows]

    def _next_chunk(self) -> bool:
        if self._first < 0 or self._first + self._rows >= self._total:
            return False
        self._first += self._rows
        self._part = self._input[self._first : self._first + self._rows]
        self._next = 0
        return True

    def _step(self, layer: Layer) -> None:
        """Run one layer and account for its output."""
        source = layer.source
        given = first = (self._input if self._first < 0 else self._part) if source is None else source.output
        if layer.in_place and not layer.shares:
            first = self._own_copy(layer, first)
        if layer.function is None:
            result = first
        elif layer.others:
            result = layer.function(first, *[d.output for d in layer.others])
        else:
            result = layer.function(first)
        if layer.size or layer.residuals:
            result = self._store(layer, result)
        elif self._bytes is not None and isinstance(result, np.ndarray) and np.may_share_memory(result, self._bytes):
            result = result.copy()  # it would not live as long as the layer's output
        if layer.shares or (source is not None and result is given):
            buffer = source.buffer if source is not None else None
        else:
            buffer = Buffer(layer.size or (getattr(result, "nbytes", 0) if result is not given else 0))
            self._live += buffer.nbytes
            self._peak = max(self._peak, self._live)
        if buffer is not None:
            buffer.holders += 1
        layer.output, layer.buffer = result, buffer
        layer.executed = self._first < 0 or self._first + self._rows >= self._total
        layer.pending = layer.users
        self._next += 1
        self.executed_layers += 1

    def _own_copy(self, layer: Layer, first: Any) -> Any:
        """A copy for a layer that works in place on what is still needed."""
        if first is None:
            return None
        first = np.asarray(first)
        if not layer.size:
            return first.copy()
        view = self._view(layer, first)
        np.copyto(view, first)
        return view

    def _store(self, layer: Layer, result: Any) -> np.ndarray:
        """The result, plus its residuals, in the layer's buffer."""
        array = np.asarray(result)
        if layer.size:
            target = self._view(layer, array)
            if target.ctypes.data != array.ctypes.data or target.strides != array.strides:
                np.copyto(target, array)
        else:
            target = array.copy()
        for d in layer.residuals:
            try:
                np.add(target, d.output, out=target)
            except (TypeError, ValueError) as error:
                what = f"the output of layer {d.index} cannot be added to that of layer {layer.index}"
                raise InvalidArgumentError(f"{what}: {error}") from None
        return target

    def _copy(self, layer: Layer, output: Any) -> None:
        """The layer's output, or the present chunk's rows of it, to where the caller wants it."""
        rows = slice(self._first, self._first + len(self._part)) if self._first >= 0 else slice(None)
        try:
            if isinstance(output, Tensor) and output.is_streaming:
                output[rows] = layer.output
            else:
                target = np.asarray(output)
                np.copyto(target[rows] if self._first >= 0 else target, layer.output)
        except (TypeError, ValueError) as error:
            raise InvalidArgumentError(f"the output of layer {layer.index} does not fit where it should go: {error}") from None

    def _settle(self, layer: Layer) -> None:
        """Free what was used for the last time."""
        normal, streaming = self.active_mode is ExecutionMode.NORMAL, self._first >= 0
        for d in layer.sources:
            d.pending -= 1
            if d.pending == 0 and (d.unneeded or not (normal or d.keep) or streaming):
                self._drop(d)
        if streaming and layer.stays:
            self._collect(layer)
        if layer.users == 0 and (layer.unneeded or streaming):
            self._drop(layer)
        if self._release_weights is not None and not normal and layer.executed and self._has_weights(layer.index):
            self._release_weights(layer.index)

    def _has_weights(self, index: int) -> bool:
        """Whether a layer of the graph is one of the mapped model; others only add or combine."""
        return bool(index < self.model.layer_count)

    def _collect(self, layer: Layer) -> None:
        """STREAMING: the chunk's rows of an output that stays, at their place in the whole."""
        part, rows = np.asarray(layer.output), len(self._part)
        if part.ndim == 0 or len(part) != rows:
            raise InvalidArgumentError(f"layer {layer.index} gave shape {part.shape} for {rows} rows; STREAMING needs a row for each")
        whole = self._collected.get(layer.index)
        if whole is None:
            nbytes = part.nbytes // rows * self._total
            if self._results is None:
                self._results = self.budget.reserve("layer outputs", 0)
            self._results.resize(self._results.nbytes + nbytes)
            whole = self._collected[layer.index] = np.empty((self._total, *part.shape[1:]), part.dtype)
            self._live += nbytes
            self._peak = max(self._peak, self._live)
        whole[self._first : self._first + rows] = part

    def _drop(self, layer: Layer) -> None:
        buffer, layer.buffer, layer.output = layer.buffer, None, None
        if buffer is None:
            return
        buffer.holders -= 1
        if buffer.holders == 0:
            self._live -= buffer.nbytes
            if self.poison_freed and layer.size and self._bytes is not None:
                self._bytes[layer.offset : layer.offset + layer.size] = 0xFF

    def run(self, input: Any = None) -> Any:
        """Reset, run every layer, and return the output of the last one, as :meth:`get_output` does."""
        self.reset()
        last = None
        while (index := self.execute_next(input)) is not None:
            last = index
        return None if last is None or self.layers[last].unneeded else self.get_output(last)

    def reset(self) -> None:
        """Forget what has run; buffers stay for the next pass."""
        for layer in self._sequence:
            layer.output = layer.buffer = None
            layer.executed, layer.pending = False, 0
        self._live = 0
        if self._results is not None:
            self._results.release()
        self._clear_pass()
        if self.on_reset is not None:
            self.on_reset()

    def _clear_pass(self) -> None:
        self._next = 0
        self._input = self._part = self._results = None
        self._first, self._total = -1, 0
        self._collected = {}

    # ---- asking --------------------------------------------------------------------------------------------------

    def is_executed(self, index: int) -> bool:
        """Whether a layer has run in this pass; in STREAMING for all of the input."""
        return self._layer(index).executed

    def get_output(self, index: int) -> Any:
        """A layer's output in this pass.

        Returns
        -------
        ndarray
            In the graph's buffer, where it lies until the next pass: copy what should stay.

        Raises
        ------
        HyperionRuntimeError
            If the layer has not run, or its output was freed.
        """
        layer = self._layer(index)
        if layer.index in self._collected and layer.executed:
            return self._collected[layer.index]
        if layer.output is None:
            raise HyperionRuntimeError(f"the output of layer {index} {'was freed' if layer.executed else 'does not exist yet'}")
        return layer.output

    def mark_output_unneeded(self, index: int) -> None:
        """The caller does not need a layer's output: it is freed as soon as the last layer that uses it has run."""
        layer = self._layer(index)
        layer.unneeded, layer.keep = True, False
        whole = self._collected.pop(layer.index, None)
        if whole is not None and self._results is not None:
            self._live -= whole.nbytes
            self._results.resize(self._results.nbytes - whole.nbytes)
        if layer.buffer is not None and layer.pending == 0:
            self._drop(layer)

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
        """How many items of a batch fit the memory limit, each with the graph's own outputs.

        Parameters
        ----------
        input_size, output_size : int
            Bytes of one item.
        max_batch_size : int
            The most that is wanted.

        Raises
        ------
        MemoryBudgetError
            If not even one does.
        """
        for name, value in (("input_size", input_size), ("output_size", output_size), ("max_batch_size", max_batch_size)):
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < (name == "max_batch_size"):
                raise InvalidArgumentError(f"{name} is {value!r}, expected a count of bytes or items")
        limit = self.max_memory or self.budget.available + self._arena_bytes
        item = int(input_size) + int(output_size) + self._item_bytes()
        if item > limit:
            raise MemoryBudgetError(
                f"one item takes {format_size(item)}, the limit is {format_size(limit)}", limit=limit, smallest=item
            )
        return int(min(max_batch_size, limit // item)) if item else int(max_batch_size)

    def _item_bytes(self) -> int:
        """Bytes of the graph's outputs for one item: what prepare placed, or one row of it."""
        if not self.prepared or not self._sequence:
            return 0
        if not self._by_rows:
            return self._arena_bytes
        return self._outputs(ExecutionMode.MEMORY_OPT, 1, 1)

    def _check_open(self) -> None:
        if self._closed:
            raise HyperionRuntimeError("the scheduler is closed")

    def _free_arena(self) -> None:
        self._bytes = None
        if self._arena is not None:
            self._arena.close()
        self._arena, self._arena_bytes = None, 0

    def close(self) -> None:
        """Give the buffers back; closing twice is allowed."""
        if not self._closed:
            self.reset()
            self._free_arena()
            self._closed = True
            if self.on_close is not None:
                self.on_close()

    def __enter__(self) -> ForwardScheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
