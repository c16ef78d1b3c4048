"""What a model's engine runs on, set while it is open: kernels for each operation, cuts to the caches, places in memory."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any

from hyperion._kernels import dispatch
from hyperion._kernels.nn import Runtime
from hyperion.cpu_counters import CacheCounters
from hyperion.dense import CacheConfig
from hyperion.errors import InvalidArgumentError

__all__ = ["CacheStats", "EngineTuning", "LayoutChange", "SIMDOpType", "WeightUse"]

ROWS_IN_PANEL = 16


class SIMDOpType(enum.IntEnum):
    """Operations whose kernels can be chosen one by one."""

    MATRIX_MUL = 0
    CONV = 1
    ACTIVATION = 2
    ATTENTION = 3


_KERNELS = {SIMDOpType.MATRIX_MUL: "matmul", SIMDOpType.ACTIVATION: "activation", SIMDOpType.ATTENTION: "attention"}
"""What an operation is called below; a language model has no convolution."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightUse:
    """What the weights of one layer cost each time that it runs."""

    hits: int = 0
    hit_bytes: int = 0
    misses: int = 0
    miss_bytes: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheStats:
    """The weight cache of a model since it was opened, and the processor's caches.

    Parameters
    ----------
    hits, hit_bytes : int
        Runs of weights that were in memory when a layer needed them (pinned, or mapped), one for each matrix.
    misses, miss_bytes : int
        Pieces of the stream that a layer had to take from the file.
    evictions : int
        Pieces whose memory was given up after use: all that were taken, as a stream's weights are never used twice.
    hardware_references, hardware_misses : int or None
        Accesses to the last level of cache, and misses, of this process since the first call for the model; None where the
        system does not count.
    """

    hits: int
    misses: int
    evictions: int
    hit_bytes: int
    miss_bytes: int
    hardware_references: int | None
    hardware_misses: int | None

    @property
    def hit_rate(self) -> float:
        """Share of the bytes that were in memory; 1.0 before anything ran."""
        total = self.hit_bytes + self.miss_bytes
        return self.hit_bytes / total if total else 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayoutChange:
    """What :func:`hyperion.optimize_memory_layout` changed.

    Parameters
    ----------
    layers : tuple of int
        Layers whose pinned panels were moved, numbered from the first block; the last one is the head.
    moved_bytes : int
        Bytes of them.
    kept : tuple of int
        Layers that stayed, because the budget has no room for their old and new place together.
    ring_bytes : int
        Bytes of the stream's ring, which was laid out anew; 0 where nothing is streamed.
    in_order_before, in_order_after : bool
        Whether the layers' addresses rise in the order of execution.
    """

    layers: tuple[int, ...]
    moved_bytes: int
    kept: tuple[int, ...]
    ring_bytes: int
    in_order_before: bool
    in_order_after: bool


class EngineTuning:
    """The settings of one model's kernels.

    Parameters
    ----------
    runtime : Runtime
        What they apply to.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.level = runtime.level_name
        self.plain: set[SIMDOpType] = set()
        self.cache: CacheConfig | None = None
        self.counters: CacheCounters | None = None

    def enable(self, operation: SIMDOpType | int, enable: bool) -> bool:
        """Run an operation's vector kernels, or its portable ones; whether the engine has that operation."""
        try:
            op = SIMDOpType(operation)
        except ValueError:
            raise InvalidArgumentError(f"op_type must be one of {', '.join(map(str, SIMDOpType))}, not {operation!r}") from None
        if not isinstance(enable, bool):
            raise InvalidArgumentError(f"enable must be a bool, not {enable!r}")
        if op not in _KERNELS:
            return False
        (self.plain.discard if enable else self.plain.add)(op)
        self._apply()
        return True

    def set_level(self, level: int | str | None) -> None:
        """Run another level, by name or number; operations that were switched off stay off."""
        if isinstance(level, bool) or not isinstance(level, (int, str, type(None))):
            raise InvalidArgumentError(f"level must be a name, a number or None, not {level!r}")
        name = dispatch.level_name(level) if isinstance(level, int) else level
        self.runtime.set_level(name, self._names())  # raises for a level that is not there
        self.level = self.runtime.level_name

    def configure(self, config: CacheConfig | None) -> None:
        """Cut products of weights by a configuration; None: by their size."""
        if config is not None and not isinstance(config, CacheConfig):
            raise InvalidArgumentError(f"config must be a CacheConfig or None, not {type(config).__name__}")
        self.cache = None if config is None else config.copy()
        if self.cache is None:
            self.runtime.set_tuning(0, 0, 0)
        else:
            panels = -(-self.cache.block_size // ROWS_IN_PANEL)
            self.runtime.set_tuning(panels, self.cache.prefetch_bytes, self.cache.cache_line_size)

    def describe(self) -> dict[str, Any]:
        """The level of each operation, and how products are cut."""
        operations = {op.name.lower(): "generic" if op in self.plain else self.level for op in _KERNELS}
        return {
            "simd_operations": {**operations, "conv": "none: a language model has no convolution"},
            "cache": "automatic" if self.cache is None else dataclasses.asdict(self.cache),
        }

    def hardware(self) -> list[int] | None:
        """References and misses of the last cache since the first call."""
        if self.counters is None:
            self.counters = CacheCounters()
        return self.counters.read()

    def close(self) -> None:
        """Stop counting."""
        if self.counters is not None:
            self.counters.close()

    def _names(self) -> set[str]:
        return {_KERNELS[op] for op in self.plain}

    def _apply(self) -> None:
        self.runtime.set_level(self.level, self._names())
