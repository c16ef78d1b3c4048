"""Layers, the edges between them, their order, and where their outputs lie."""

from __future__ import annotations

import enum
import heapq
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hyperion.errors import InvalidArgumentError
from hyperion.scheduling.lifetimes import ALIGN, assign_offsets

__all__ = ["Buffer", "DependencyType", "ExecutionMode", "Layer", "LayerGraph"]


class ExecutionMode(enum.IntEnum):
    """How much is in memory while a graph runs. No mode changes a result.

    NORMAL: every output of a pass stays. MEMORY_OPT: an output is freed after its last use and a mapped model's layer
    after it ran. STREAMING: the input goes through the whole graph in chunks of rows (axis 0), for layers that treat rows
    independently or, as a language model's, in order. ADAPTIVE: the first of the three that the memory limit holds
    (STREAMING only where every layer says `rowwise`); for an open model also by its plan and by whether its passes wait
    for the disk.
    """

    NORMAL = 0
    MEMORY_OPT = 1
    STREAMING = 2
    ADAPTIVE = 3


class DependencyType(enum.IntEnum):
    """What an edge brings: order alone (NONE), the layer's input (SEQUENTIAL), something that is added to its output
    (RESIDUAL), or a further argument (ATTENTION)."""

    NONE = 0
    SEQUENTIAL = 1
    RESIDUAL = 2
    ATTENTION = 3


class Buffer:
    """Bytes that one output or several (of layers that work in place) lie in."""

    __slots__ = ("holders", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes, self.holders = nbytes, 0


class Layer:
    """One node of the graph; see :meth:`ForwardScheduler.add_layer`."""

    __slots__ = (
        "buffer", "edges", "executed", "function", "in_place", "index", "keep", "offset", "others", "output",
        "output_size", "pending", "residuals", "row_size", "rowwise", "shares", "size", "source", "sources", "unneeded",
        "users",
    )  # fmt: skip

    def __init__(self, index: int) -> None:
        self.index = index
        self.function: Callable[..., Any] | None = None
        self.output_size = self.row_size = 0
        self.in_place = self.rowwise = self.keep = self.unneeded = False
        self.edges: list[tuple[int, DependencyType]] = []
        # what prepare() finds
        self.source: Layer | None = None
        self.others: tuple[Layer, ...] = ()
        self.residuals: tuple[Layer, ...] = ()
        self.sources: tuple[Layer, ...] = ()
        self.users = 0
        self.shares = False
        self.offset = self.size = 0
        # what a pass leaves
        self.output: Any = None
        self.buffer: Buffer | None = None
        self.executed = False
        self.pending = 0

    @property
    def stays(self) -> bool:
        """Whether the output is there at the end of the pass in every mode."""
        return not self.unneeded and (self.keep or self.users == 0)

    def bytes_for(self, rows: int, total: int) -> int:
        """Bytes of the output for so many rows of an input of `total`."""
        return self.row_size * rows if self.row_size else -(-self.output_size * rows // total) if total else self.output_size


class Layout(NamedTuple):
    """For every layer the one whose buffer it lies in; for those (offset, bytes); the arena's bytes."""

    roots: dict[int, int]
    places: dict[int, tuple[int, int]]
    nbytes: int


class LayerGraph:
    """Layers by number, and what follows from their edges.

    Attributes
    ----------
    layers : dict of int to Layer
    order : list of int
        In which the layers run; empty before they are prepared.
    prepared : bool
        Order and buffers are those of the layers and edges that were added.
    """

    def __init__(self) -> None:
        self.layers: dict[int, Layer] = {}
        self.order: list[int] = []
        self._sequence: list[Layer] = []
        self.prepared = False

    def add_layer(
        self,
        index: int,
        fn: Callable[..., Any] | None = None,
        *,
        depends_on: int = -1,
        dep_type: DependencyType = DependencyType.SEQUENTIAL,
        output_size: int = 0,
        row_size: int = 0,
        in_place: bool = False,
        rowwise: bool = False,
    ) -> None:
        """Add a layer, or a dependency to one that is there.

        Parameters
        ----------
        index : int
            The layer's number, 0 or more.
        fn : callable, optional
            Called as ``fn(x, *others)`` with the output of its SEQUENTIAL edge (for a layer without one the pass's input)
            and those of its ATTENTION edges, in the order in which they were added. It returns an array; RESIDUAL outputs
            are added to that, in the order of their edges. None passes the input on.
        depends_on : int
            The layer whose output it uses; -1 for none.
        dep_type : DependencyType
        output_size : int
            The most bytes of its output (for the whole input, also in STREAMING). 0: the function's own array is used as
            it is, in memory that the graph counts but does not place.
        row_size : int
            Instead of `output_size`: bytes for every row of the input.
        in_place : bool
            The function changes its input and returns it. Where the input is still needed it gets a copy.
        rowwise : bool
            A row of the output depends on that row of the input alone: ADAPTIVE may cut the input.

        Raises
        ------
        InvalidArgumentError
            For values that are none, or a second SEQUENTIAL edge.
        """
        values = (("index", index, 0), ("depends_on", depends_on, -1), ("output_size", output_size, 0), ("row_size", row_size, 0))
        for name, value, least in values:
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
                raise InvalidArgumentError(f"{name} is {value!r}, expected an integer of {least} or more")
        if fn is not None and not callable(fn):
            raise InvalidArgumentError(f"layer {index}: fn is {type(fn).__name__}, expected a callable or None")
        try:
            kind = DependencyType(dep_type)
        except ValueError:
            raise InvalidArgumentError(f"dep_type is a DependencyType, not {dep_type!r}") from None
        layer = self.layers.get(int(index)) or Layer(int(index))
        edge = (int(depends_on), kind)
        if kind is DependencyType.SEQUENTIAL and any(k is kind and d != depends_on >= 0 for d, k in layer.edges):
            raise InvalidArgumentError(f"layer {index} has its input from two layers; further edges are RESIDUAL or ATTENTION")
        if layer.row_size and not row_size:
            output_size = 0  # an open model's layer knows better
        if max(output_size, layer.output_size) and max(row_size, layer.row_size):
            raise InvalidArgumentError(f"layer {index} has an output_size and a row_size; give one of them")
        self.layers[int(index)] = layer
        layer.function = fn if fn is not None else layer.function
        layer.output_size = max(layer.output_size, int(output_size))
        layer.row_size = max(layer.row_size, int(row_size))
        layer.in_place, layer.rowwise = layer.in_place or in_place, layer.rowwise or rowwise
        if depends_on >= 0 and edge not in layer.edges:
            layer.edges.append(edge)
        self.prepared = False

    def keep_output(self, index: int, keep: bool = True) -> None:
        """Keep a layer's output to the end of the pass; takes effect with the next :meth:`prepare`."""
        layer = self._layer(index)
        if layer.keep is not keep:
            layer.keep, layer.unneeded, self.prepared = keep, layer.unneeded and not keep, False

    @property
    def _by_rows(self) -> bool:
        return any(layer.row_size for layer in self.layers.values())

    def _connect(self) -> None:
        """From edges by number to the layers themselves."""
        for layer in self.layers.values():
            layer.users = 0
        for layer in self.layers.values():
            by_kind: dict[DependencyType, list[Layer]] = {kind: [] for kind in DependencyType}
            for d, kind in layer.edges:
                if d not in self.layers:
                    raise InvalidArgumentError(f"layer {layer.index} depends on layer {d}, which was not added")
                by_kind[kind].append(self.layers[d])
            layer.source = next(iter(by_kind[DependencyType.SEQUENTIAL]), None)
            layer.others = tuple(by_kind[DependencyType.ATTENTION])
            layer.residuals = tuple(by_kind[DependencyType.RESIDUAL])
            used = by_kind[DependencyType.SEQUENTIAL] + by_kind[DependencyType.ATTENTION] + by_kind[DependencyType.RESIDUAL]
            layer.sources = tuple({d.index: d for d in used}.values())
            for source in layer.sources:
                source.users += 1

    def _topological(self) -> list[int]:
        """Kahn's algorithm; of several layers that could run the one with the lowest number does."""
        before = {i: {d for d, _ in layer.edges} for i, layer in self.layers.items()}
        after: dict[int, list[int]] = {i: [] for i in self.layers}
        for i, edges in before.items():
            for d in edges:
                after[d].append(i)
        waiting = {i: len(edges) for i, edges in before.items()}
        ready = [i for i, n in waiting.items() if n == 0]
        heapq.heapify(ready)
        order = []
        while ready:
            i = heapq.heappop(ready)
            order.append(i)
            for user in after[i]:
                waiting[user] -= 1
                if waiting[user] == 0:
                    heapq.heappush(ready, user)
        if len(order) < len(self.layers):
            stuck = sorted(i for i, n in waiting.items() if n)
            raise InvalidArgumentError(f"layers {', '.join(map(str, stuck[:8]))} depend on each other in a cycle")
        return order

    def _layout(self, mode: ExecutionMode, rows: int, total: int, align: int = ALIGN) -> Layout:
        """Where outputs would lie in a mode, for so many rows of an input of `total`."""
        end = len(self._sequence)
        step = {layer.index: n for n, layer in enumerate(self._sequence)}
        last = dict(step)
        for layer in self._sequence:
            for d in layer.sources:
                last[d.index] = max(last[d.index], step[layer.index])
        roots: dict[int, int] = {}
        spans: dict[int, list[int]] = {}
        for n, layer in enumerate(self._sequence):
            size, source = layer.bytes_for(rows, total), layer.source
            shares = (
                layer.in_place and source is not None and last[source.index] == n and not source.keep
                and mode is not ExecutionMode.NORMAL and source not in layer.others and source not in layer.residuals
                and source.bytes_for(rows, total) > 0 and size > 0
            )  # fmt: skip
            roots[layer.index] = roots[source.index] if shares and source is not None else layer.index
            stays = layer.stays and mode is not ExecutionMode.STREAMING
            span = spans.setdefault(roots[layer.index], [n, n, 0])
            span[1] = max(span[1], end if stays or mode is ExecutionMode.NORMAL else last[layer.index])
            span[2] = max(span[2], size)
        offsets, nbytes = assign_offsets([(a, b, n) for a, b, n in spans.values()], align)
        places = {i: (at, span[2]) for (i, span), at in zip(spans.items(), offsets, strict=True)}
        return Layout(roots, places, nbytes)

    def _apply(self, layout: Layout) -> None:
        for layer in self._sequence:
            root = layout.roots[layer.index]
            layer.shares = root != layer.index
            layer.offset, layer.size = layout.places[root]

    def _layer(self, index: int) -> Layer:
        layer = self.layers.get(index) if isinstance(index, (int, np.integer)) else None
        if layer is None:
            numbers: Sequence[int] = sorted(self.layers)
            have = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
            raise InvalidArgumentError(f"there is no layer {index!r}; the layers are {have}")
        return layer
