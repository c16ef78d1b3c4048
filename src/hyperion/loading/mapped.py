"""A model file as memory: layers listed without reading, brought in and given back within a limit."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import time
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperion.errors import (
    HyperionError,
    HyperionRuntimeError,
    InvalidArgumentError,
    MemoryBudgetError,
)
from hyperion.formats import Container, TensorInfo, open_container
from hyperion.loading.descriptors import (
    DEFAULT_PRIORITY,
    Layer,
    LayerDescriptor,
    LayerWeights,
    MappedModelStats,
    MmapConfig,
    create_default_mmap_config,
)
from hyperion.loading.layer_reads import LayerReader, called
from hyperion.loading.layers import group_layers
from hyperion.loading.pages import AROUND, FileMapping
from hyperion.loading.workers import Workers
from hyperion.memory import MemoryBudget, format_size, process_budget

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "LayerDescriptor",
    "LayerWeights",
    "MappedModel",
    "MappedModelStats",
    "MmapConfig",
    "create_default_mmap_config",
    "open_mapped_model",
]

POLL = 0.05
"""Seconds between looks at signals while waiting."""


class MappedModel:
    """Any model file, mapped: layers and tensors are listed without reading weights.

    A layer is brought in when its weights are asked for, or before by :meth:`prefetch_layer_weights`, and is then kept until
    it is released or others need its room. Layers that are kept never pass `max_cache_size` together. A single layer
    that is larger is handed out as plain views: its pages come in when they are touched, it is not counted, and they are
    given back when another layer is asked for. Giving a layer up never invalidates its arrays; they bring their pages in
    again. A file that was changed, truncated or replaced is an error when a layer is asked for.

    Safe to use from several threads.

    Parameters
    ----------
    path : str, PathLike or Container
        A GGUF or safetensors file, or a Hugging Face directory; the architecture need not be known. A container that is open
        already stays its owner's, who closes it after the mapped model.
    config : MmapConfig, optional
        Copied; :attr:`config` is the copy, whose fields may be set while the model is open.
    budget : MemoryBudget, optional
        The ledger in which kept layers are reserved; the process's by default.

    Raises
    ------
    HyperionIOError, FormatError
        As for :func:`hyperion.formats.open_container`.
    InvalidArgumentError
        If `config` is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Container,
        config: MmapConfig | None = None,
        *,
        budget: MemoryBudget | None = None,
    ) -> None:
        if config is not None and not isinstance(config, MmapConfig):
            raise InvalidArgumentError(f"config is {type(config).__name__}, expected MmapConfig or None")
        self.config = dataclasses.replace(config) if config is not None else MmapConfig()
        self._lock = threading.Condition(threading.RLock())
        self._closed = True
        self._borrowed = isinstance(path, Container)
        self.container: Container = path if isinstance(path, Container) else open_container(path)
        self._maps: dict[str, FileMapping] = {}
        try:
            for file in self.container.files:
                self._maps[file] = FileMapping(self.container.check_unchanged(file), file)
            ledger = budget if budget is not None else process_budget()
            self._reservation = ledger.reserve(f"mapped layers of {os.path.basename(self.container.path)}", 0)
        except BaseException:
            self._close_files()
            raise
        self._layers = [Layer(i, g) for i, g in enumerate(group_layers(self.container.tensors.values()))]
        self._used = 0
        self._accesses = 0
        self._loose: set[int] = set()  # layers that were too large to be kept and have been handed out
        self._stats = MappedModelStats()
        self._reader = LayerReader(self.container, self._maps)
        self._workers = Workers("hyperion-prefetch")
        self._closed = False
        _models.add(self)

    # ---- what is there ---------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """What was opened."""
        return self.container.path

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The container's metadata."""
        return self.container.metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """All tensors by name."""
        return self.container.tensors

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def layer_count(self) -> int:
        """Number of layers: the blocks, the embedding and the output head."""
        return len(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def get_layer_descriptor(self, layer_index: int) -> LayerDescriptor:
        """The layer's descriptor; it stays up to date.

        Raises
        ------
        InvalidArgumentError
            If there is no such layer.
        """
        return self._layer(layer_index).descriptor

    @property
    def layers(self) -> list[LayerDescriptor]:
        """Descriptors of all layers."""
        return [layer.descriptor for layer in self._layers]

    def layer_tensors(self, layer_index: int) -> tuple[TensorInfo, ...]:
        """The layer's tensors in the order of the file; errors as for :meth:`get_layer_descriptor`."""
        return self._layer(layer_index).tensors

    @property
    def memory_usage(self) -> int:
        """Bytes of the layers that are in memory or on their way there."""
        return self._used

    @property
    def stats(self) -> MappedModelStats:
        """Counters since the model was opened."""
        with self._lock:
            return dataclasses.replace(self._stats, cached_bytes=self._used)

    # ---- weights ---------------------------------------------------------------------------------------------------

    def get_layer_weights(self, layer_index: int, dequantize: bool = False) -> LayerWeights:
        """A layer's weights, brought in if they are not there.

        Parameters
        ----------
        layer_index : int
        dequantize : bool
            Arrays are float32 in the tensor's shape, computed at each access of the mapping. Otherwise they are what is
            stored (see :class:`LayerWeights`).

        Raises
        ------
        InvalidArgumentError
            If there is no such layer.
        HyperionIOError
            If the file has changed, ended early or fails; the message names the layer.
        FormatError
            If the file has checksums, and a layer that is brought in does not fit them.
        MemoryBudgetError
            If the ledger has no room although all other layers were given up.
        UnsupportedError
            From the mapping's access, where a type cannot be dequantized.
        HyperionRuntimeError
            If the model is closed.
        """
        layer = self._layer(layer_index)
        with self._lock:
            self._check_open()
            self._check_files(layer)
            for other in list(self._loose - {layer.index}):
                self._discard(self._layers[other])
            room: bool | None = None
            while room is None:  # waiting lets others in: the layer may be there afterwards
                self._wait_for(layer)
                if layer.error is not None:
                    error, layer.error = layer.error, None
                    raise error
                hit, arrays = layer.descriptor.is_active, layer.arrays
                room = False if hit else self._make_room(layer)
                if room is None:
                    self._lock.wait(POLL)
            layer.loading = load = room
        if load:
            arrays = self._load(layer)
        elif not hit:
            arrays = self._reader.arrays(layer, self._count_bytes)
        with self._lock:
            if not layer.descriptor.is_active:
                self._loose.add(layer.index)
            self._count_access(layer, hit)
        return LayerWeights(arrays, layer.infos, dequantize)

    def count_pass(self) -> None:
        """Count an access of every layer that is in memory: an engine that reads their arrays is about to use them all.

        Raises
        ------
        HyperionIOError
            If a file has changed.
        """
        with self._lock:
            self._check_open()
            for path in self.container.files:
                self.container.check_unchanged(path)
            for layer in self._layers:
                if layer.descriptor.is_active:
                    self._count_access(layer, True)

    def _wait_for(self, layer: Layer) -> None:
        """Until a layer that is on its way is there, or is not; signals are answered."""
        while layer.loading:
            self._lock.wait(POLL)
        self._check_open()

    def prefetch_layer_weights(self, layer_index: int) -> bool:
        """Begin to bring a layer in, in the background.

        Room is made as for a layer that is asked for, but neither layers that were prefetched and not used yet nor the
        one that was used last are given up for it. What goes wrong in the background is raised when the layer is asked for.

        Returns
        -------
        bool
            True if the layer is in memory or on its way; False if prefetching is switched off or there is no room.
        """
        layer = self._layer(layer_index)
        with self._lock:
            self._check_open()
            self._check_files(layer)
            if layer.kept:
                return True
            if not self.config.prefetch_enabled or not self._make_room(layer, ahead=True):
                return False
            layer.loading = layer.wanted = True
            layer.error = None
            self._add(prefetches=1)
            self._workers.submit(self.config.prefetch_threads, self._load_ahead, layer)
        return True

    def release_layer_weights(self, layer_index: int) -> None:
        """Give a layer's memory back now. Arrays that are still held stay valid and read the file again."""
        layer = self._layer(layer_index)
        with self._lock:
            self._check_open()
            self._wait_for(layer)
            layer.error = None
            self._drop(layer)

    # ---- priorities ------------------------------------------------------------------------------------------------

    def set_layer_priority(self, layer_index: int, priority: float) -> None:
        """The higher a layer's priority, the later it is given up; 0 by default.

        Raises
        ------
        InvalidArgumentError
            If there is no such layer, or `priority` is no finite number.
        """
        layer = self._layer(layer_index)
        if isinstance(priority, bool) or not isinstance(priority, (int, float, np.number)) or not math.isfinite(priority):
            raise InvalidArgumentError(f"a priority is a finite number, not {priority!r}")
        layer.descriptor.priority = float(priority)

    def reset_layer_priorities(self) -> None:
        """All priorities back to the default."""
        for layer in self._layers:
            layer.descriptor.priority = DEFAULT_PRIORITY

    # ---- closing ---------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give everything back. Arrays that are still held stay valid; the mapping ends with the last one.

        Closing twice is allowed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._workers.close()
        with self._lock:
            while any(layer.loading for layer in self._layers):  # in another thread, which will see that it may stop
                self._lock.wait(POLL)
            for layer in self._layers:
                self._drop(layer)
            self._lock.notify_all()
        self._reservation.release()
        self._close_files()

    def _close_files(self) -> None:
        for mapping in self._maps.values():
            mapping.close()
        if not self._borrowed:
            self.container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not getattr(self, "_closed", True):
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"{format_size(self._used)} in memory"
        return f"MappedModel({self.path!r}, {len(self)} layers, {state})"

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def _layer(self, index: int) -> Layer:
        if isinstance(index, bool) or not hasattr(index, "__index__") or not 0 <= index.__index__() < len(self._layers):
            raise InvalidArgumentError(f"layer {index!r} of {self.path}: expected 0 to {len(self._layers) - 1}")
        return self._layers[index.__index__()]

    def _check_open(self) -> None:
        if self._closed:
            raise HyperionRuntimeError(f"{self.path}: the model is closed", path=self.path)

    def _check_files(self, layer: Layer) -> None:
        for path in {t.path for t in layer.tensors}:
            self.container.check_unchanged(path, called(layer))

    def _count_bytes(self, nbytes: int) -> None:
        """Count bytes that were read; before each read it comes with 0, and raises if the model was closed meanwhile."""
        with self._lock:
            if not nbytes:
                self._check_open()
            self._add(bytes_read=nbytes)

    def _add(self, **counts: int) -> None:
        self._stats = dataclasses.replace(self._stats, **{k: getattr(self._stats, k) + n for k, n in counts.items()})

    def _count_access(self, layer: Layer, hit: bool) -> None:
        d = layer.descriptor
        self._add(hits=int(hit), misses=int(not hit))
        layer.wanted = False
        self._accesses += 1
        if d.access_count:
            interval = self._accesses - layer.last
            layer.period = interval if math.isinf(layer.period) else (layer.period + interval) / 2
        layer.last = self._accesses
        d.access_count += 1
        d.last_accessed = max(time.time_ns(), d.last_accessed + 1)

    # -- room

    def _make_room(self, layer: Layer, ahead: bool = False) -> bool | None:
        """Reserve the layer's bytes, giving others up.

        Returns
        -------
        bool or None
            False if it is too large to be kept, or (ahead) there is no room; None if there will be room when a layer that
            is on its way has arrived.
        """
        limit = int(self.config.max_cache_size)
        if layer.size > limit:
            return False
        while True:
            refusal: MemoryBudgetError | None = None
            if self._used + layer.size <= limit:
                try:
                    self._reservation.resize(self._used + layer.size)
                except MemoryBudgetError as error:
                    refusal = error
                else:
                    self._used += layer.size
                    peak = max(self._stats.peak_cached_bytes, self._used)
                    self._stats = dataclasses.replace(self._stats, peak_cached_bytes=peak)
                    return True
            victim = self._victim(layer, ahead)
            if victim is not None:
                self._drop(victim)
                self._add(evictions=1)
            elif ahead:
                return False
            elif any(other.loading for other in self._layers):
                return None
            elif refusal is not None:
                raise refusal
            else:  # nothing is kept: the sum cannot pass the limit
                raise HyperionRuntimeError(f"{called(layer)}: {self._used} bytes are kept by nobody")

    def _victim(self, layer: Layer, ahead: bool) -> Layer | None:
        """The layer to give up: of the lowest priority, and among those the one that is needed last."""
        kept = [o for o in self._layers if o.descriptor.is_active and o is not layer and o.size]
        if ahead:
            priority = layer.descriptor.priority
            kept = [o for o in kept if not o.wanted and o.last != self._accesses and o.descriptor.priority <= priority]
        small = int(self.config.min_layer_cache_size)

        def rank(other: Layer) -> tuple[bool, float, bool, float, int]:
            wait = self._expected_wait(other) if self.config.adaptive_caching else 0.0
            return other.size <= small, other.descriptor.priority, other.wanted, -wait, other.last

        return min(kept, key=rank, default=None)

    def _expected_wait(self, layer: Layer) -> float:
        """Accesses until a layer is needed again, if it goes on as before; a layer that is overdue has changed its ways."""
        wait = layer.last + layer.period - self._accesses
        return wait if wait > 0 else float(self._accesses - layer.last)

    # -- bringing in and giving back

    def _load_ahead(self, layer: Layer) -> None:
        try:
            self._load(layer)
        except HyperionError as error:
            with self._lock:
                layer.error = error

    def _load(self, layer: Layer) -> dict[str, np.ndarray]:
        """Bring in a layer whose room is reserved. It ends active, or not loading and with its room given back."""
        arrays: dict[str, np.ndarray] = {}
        whole = False
        try:
            arrays = self._reader.arrays(layer, self._count_bytes)
            self._reader.read(layer, self._count_bytes)
            whole = True
        finally:
            with self._lock:
                layer.loading = False
                if whole and not self._closed:
                    layer.arrays = arrays
                    layer.descriptor.cached_weights = LayerWeights(arrays, layer.infos)
                    layer.descriptor.is_active = True
                    self._unmap_around(layer)
                else:
                    layer.wanted = False
                    self._give_back(layer)
                self._lock.notify_all()
        return arrays

    def _drop(self, layer: Layer) -> None:
        if layer.descriptor.is_active:
            layer.descriptor.is_active, layer.descriptor.cached_weights = False, None
            layer.arrays, layer.wanted = {}, False
            self._give_back(layer)
        self._discard(layer)

    def _discard(self, layer: Layer) -> None:
        self._loose.discard(layer.index)
        self._unmap_around(layer)
        for path, start, end in layer.ranges:
            self._maps[path].forget(start, end)

    def _unmap_around(self, layer: Layer) -> None:
        """Unmap a layer, or if it is kept what came in with it, but no layer that is kept."""
        kept = [r for other in self._layers if other.kept for r in other.ranges]
        for path, start, end in layer.ranges:
            near = [(a, b) for p, a, b in kept if p == path and a < end + AROUND and b > start - AROUND]
            self._maps[path].unmap(start, end, near)

    def _give_back(self, layer: Layer) -> None:
        self._used -= layer.size
        self._reservation.resize(self._used)  # smaller: never refused

    def _after_fork(self) -> None:
        """In a forked child: its threads are gone, and with them what they were loading."""
        self._lock = threading.Condition(threading.RLock())
        self._workers = Workers("hyperion-prefetch")
        for layer in self._layers:
            if layer.loading:
                layer.loading = layer.wanted = False
                self._give_back(layer)


_models: weakref.WeakSet[MappedModel] = weakref.WeakSet()


def _after_fork() -> None:
    for model in list(_models):
        if not model.closed:
            model._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def open_mapped_model(path: str | os.PathLike[str], config: MmapConfig | None = None) -> MappedModel:
    """Open any model file as a :class:`MappedModel`; see there."""
    return MappedModel(path, config)
