"""Layers loaded and unloaded one by one, and the window of layers that is read ahead of the computation."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, Protocol, runtime_checkable

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError
from hyperion.memory import MemoryStats, format_size, parse_size

__all__ = ["LayerState", "LayerStatus", "ProgressiveConfig", "ProgressiveLoader", "ProgressiveLoaderConfig"]

SETTLED = 8
"""Passes without waiting after which the window shrinks by a slot."""


class LayerState(enum.IntEnum):
    """How much of a layer is in memory for good: nothing, some of it, or all."""

    UNLOADED = 0
    LOADING = 1
    LOADED = 2
    PINNED = 3


@dataclasses.dataclass(frozen=True)
class LayerStatus:
    """State of one layer.

    Attributes
    ----------
    state : LayerState
        UNLOADED: all of it is streamed. LOADING: the call that loads it is under way. LOADED: a part is pinned, the rest
        streamed. PINNED: all of it is pinned.
    pinned_bytes, streamed_bytes : int
    priority : int
        The higher, the later it is unloaded to make room.
    """

    UNLOADED = LayerState.UNLOADED
    LOADING = LayerState.LOADING
    LOADED = LayerState.LOADED
    PINNED = LayerState.PINNED

    state: LayerState
    pinned_bytes: int
    streamed_bytes: int
    priority: int = 0


@runtime_checkable
class Host(Protocol):
    """What a loader needs of the model that it is attached to."""

    @property
    def layer_count(self) -> int: ...
    def layer_bytes(self, layer: int) -> tuple[int, int]: ...
    def pin_layers(self, wanted: dict[int, bool]) -> None: ...
    @property
    def weight_ring(self) -> Any: ...


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@dataclasses.dataclass(kw_only=True)
class ProgressiveLoaderConfig:
    """Settings of a :class:`ProgressiveLoader`; checked when made and when a field is set.

    Parameters
    ----------
    enable_prefetch : bool
        Read ahead of the computation; without it a layer is read when it is needed.
    prefetch_window : int
        Layers to read ahead, as far as the ring holds them; 0 takes all that it holds.
    enable_adaptive_window : bool
        Widen the window while the computation waits for the disk, narrow it while it does not.
    max_memory_usage : int or str
        Pinned weights never pass it; 0 sets no limit beside the model's budget.
    enable_unload : bool
        Unload layers of the lowest priority to make room for one that is loaded.
    memory_threshold : int or str
        Pinned weights above it are unloaded when a layer is loaded; 0 for none.
    """

    enable_prefetch: bool = True
    prefetch_window: int = 0
    enable_adaptive_window: bool = True
    max_memory_usage: int | str = 0
    enable_unload: bool = True
    memory_threshold: int | str = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("max_memory_usage", "memory_threshold"):
            value = parse_size(value)
        elif name == "prefetch_window":
            if not _is_count(value):
                raise InvalidArgumentError(f"{type(self).__name__}.{name} is {value!r}, expected a count of layers")
        elif name in ("enable_prefetch", "enable_adaptive_window", "enable_unload"):
            if not _is_bool(value):
                raise InvalidArgumentError(f"{type(self).__name__}.{name} is {value!r}, expected a bool")
        else:
            raise InvalidArgumentError(f"{type(self).__name__} has no field {name!r}")
        object.__setattr__(self, name, value)


ProgressiveConfig = ProgressiveLoaderConfig


class ProgressiveLoader:
    """Decides which layers of a model are pinned, and how far the ring reads ahead.

    Layer 0 is the embedding, the blocks follow, the output head is the last. An open model has one as `model.loader`;
    what it pins and streams is what this object was told.

    Parameters
    ----------
    config : ProgressiveLoaderConfig
        Copied.
    model : optional
        An open model; :meth:`attach` gives one later.
    """

    def __init__(self, config: ProgressiveLoaderConfig | None = None, model: Host | None = None) -> None:
        self.config = dataclasses.replace(config) if config is not None else ProgressiveLoaderConfig()
        self.priorities: dict[int, int] = {}
        self.loads = self.unloads = self.passes = 0
        self.bytes_loaded = self.bytes_unloaded = 0
        self._peak = 0
        self._loading: int | None = None
        self._quiet = 0
        self._waited = 0.0
        self._closed = False
        self._host: Host | None = None
        if model is not None:
            self.attach(model)

    def attach(self, model: Host) -> None:
        """Serve this model from now on."""
        self._check_open()
        if not isinstance(model, Host):
            raise InvalidArgumentError(f"the model is {model!r:.60}, expected an open one")
        self._host = model
        self._peak = max(self._peak, self.memory_usage)
        self.apply_window()

    @property
    def _model(self) -> Host:
        self._check_open()
        if self._host is None:
            raise HyperionRuntimeError("the loader is not attached to a model: call attach(model) first")
        return self._host

    # ---- layers --------------------------------------------------------------------------------------------------

    def load_layer(self, layer: int) -> LayerStatus:
        """Pin all of a layer; layers of a lower priority make room if that is allowed.

        Raises
        ------
        MemoryBudgetError
            If it does not fit `max_memory_usage` or the model's budget; what was loaded before stays.
        """
        model = self._model
        self._check_layer(layer)
        pinned, total = model.layer_bytes(layer)
        if pinned == total:
            return self.status(layer)
        victims = self._victims(layer, total - pinned)
        freed = sum(model.layer_bytes(i)[0] for i in victims)
        self._loading = layer
        try:
            while True:
                try:
                    model.pin_layers({**dict.fromkeys(victims, False), layer: True})
                    break
                except MemoryBudgetError:  # the ledger is tighter than this loader's own limit
                    more = self._next_victim({layer, *victims}) if self.config.enable_unload else None
                    if more is None:
                        raise
                    victims.append(more)
                    freed += model.layer_bytes(more)[0]
        finally:
            self._loading = None
        self.loads += 1
        self.unloads += len(victims)
        self.bytes_loaded += total - pinned
        self.bytes_unloaded += freed
        self._peak = max(self._peak, self.memory_usage)
        self.apply_window()
        return self.status(layer)

    def unload_layer(self, layer: int) -> LayerStatus:
        """Pin nothing of a layer: its memory is returned, and every pass reads it."""
        model = self._model
        self._check_layer(layer)
        pinned, _ = model.layer_bytes(layer)
        if pinned:
            model.pin_layers({layer: False})
            self.unloads += 1
            self.bytes_unloaded += pinned
            self.apply_window()
        return self.status(layer)

    def status(self, layer: int) -> LayerStatus:
        """What of a layer is in memory."""
        self._check_layer(layer)
        pinned, total = self._model.layer_bytes(layer)
        state = LayerState.PINNED if pinned == total else LayerState.LOADED if pinned else LayerState.UNLOADED
        state = LayerState.LOADING if layer == self._loading else state
        return LayerStatus(state, pinned, total - pinned, self.priorities.get(layer, 0))

    def set_layer_priority(self, layer: int, priority: int) -> None:
        """The higher, the later a layer is unloaded to make room; 0 at first."""
        self._check_layer(layer)
        if not isinstance(priority, int) or isinstance(priority, bool):
            raise InvalidArgumentError(f"a layer's priority is an integer, not {priority!r}")
        self.priorities[layer] = priority

    def _victims(self, layer: int, wanted: int) -> list[int]:
        """Layers to unload so that `wanted` more bytes stay within this loader's own limits."""
        limits: list[Any] = [n for n in (self.config.max_memory_usage, self.config.memory_threshold) if n]
        victims: list[int] = []
        if not limits:
            return victims
        over = self.memory_usage + wanted - min(limits)
        while over > 0:
            victim = self._next_victim({layer, *victims}) if self.config.enable_unload else None
            if victim is None:
                if self.config.max_memory_usage and self.memory_usage + wanted > self.config.max_memory_usage:  # type: ignore[operator]
                    raise MemoryBudgetError(
                        f"layer {layer} needs {format_size(wanted)} more, {format_size(self.memory_usage)} are pinned, and the "
                        f"limit is {format_size(self.config.max_memory_usage)}"  # type: ignore[arg-type]
                    )
                break
            victims.append(victim)
            over -= self._model.layer_bytes(victim)[0]
        return victims

    def _next_victim(self, spared: set[int]) -> int | None:
        """The pinned layer with the lowest priority; of several the one that a pass uses last."""
        model = self._model
        candidates = [i for i in range(model.layer_count) if i not in spared and model.layer_bytes(i)[0]]
        return min(candidates, key=lambda i: (self.priorities.get(i, 0), -i), default=None)

    # ---- the window ----------------------------------------------------------------------------------------------

    @property
    def prefetch_window(self) -> float:
        """Layers that are read ahead: the ring's part in use ÷ what a layer streams; 0 where nothing is streamed."""
        ring = self._model.weight_ring
        streamed = self._streamed_a_layer()
        return 0.0 if ring is None or not streamed else ring.window * ring.slot_bytes / streamed

    def _streamed_a_layer(self) -> float:
        model = self._model
        streamed = [total - pinned for pinned, total in (model.layer_bytes(i) for i in range(model.layer_count))]
        busy = [n for n in streamed if n]
        return sum(busy) / len(busy) if busy else 0.0

    def apply_window(self) -> None:
        """Set the ring to what the configuration asks for."""
        ring = self._host.weight_ring if self._host is not None else None
        if ring is None:
            return
        slots = ring.slots
        if not self.config.enable_prefetch:
            slots = 1
        elif self.config.prefetch_window:
            slots = min(slots, max(1, round(self.config.prefetch_window * self._streamed_a_layer() / ring.slot_bytes)))
        ring.window = slots
        self._waited = ring.stats["wait_seconds"]

    def after_pass(self) -> None:
        """Called by the model after every pass: counts it, and moves the window by what was measured."""
        self.passes += 1
        ring = self._host.weight_ring if self._host is not None else None
        if ring is None or not (self.config.enable_prefetch and self.config.enable_adaptive_window):
            return
        waited, self._waited = ring.stats["wait_seconds"] - self._waited, ring.stats["wait_seconds"]
        if waited > 0.0:
            self._quiet = 0
            ring.window = min(ring.slots, ring.window + 1)
        else:
            self._quiet += 1
            if self._quiet >= SETTLED and ring.window > 2:
                self._quiet = 0
                ring.window -= 1

    # ---- figures -------------------------------------------------------------------------------------------------

    @property
    def memory_usage(self) -> int:
        """Bytes of weights that are pinned."""
        model = self._host
        return 0 if model is None else sum(model.layer_bytes(i)[0] for i in range(model.layer_count))

    @property
    def stats(self) -> MemoryStats:
        """Pinned bytes now and at most, bytes loaded in all, and how many layers were loaded."""
        self._check_open()
        owners = {} if self._host is None else {"pinned weights": self.memory_usage}
        usage = self.memory_usage
        return MemoryStats(usage, max(self._peak, usage), self.bytes_loaded, self.loads, 0.0, owners)

    def _check_layer(self, layer: int) -> None:
        count = self._model.layer_count
        if not _is_count(layer) or layer >= count:
            raise InvalidArgumentError(f"there is no layer {layer!r}; the model has layers 0 to {count - 1}")

    def _check_open(self) -> None:
        if self._closed:
            raise HyperionRuntimeError("the loader is closed")

    def close(self) -> None:
        """Let go of the model, which stays as it is; closing twice is allowed."""
        self._host = None
        self._closed = True

    def __enter__(self) -> ProgressiveLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
