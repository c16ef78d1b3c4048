"""How kernels are cut to the caches."""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from typing import Any

import numpy as np

from hyperion import cpu
from hyperion._kernels import dense as kernels
from hyperion.errors import InvalidArgumentError

__all__ = ["CacheConfig", "blocks"]

_UNKNOWN_L2, _UNKNOWN_L3 = 256 << 10, 4 << 20
_LARGEST_BLOCK = 1 << 16
_PANELS = 4096
"""Rows of a and columns of b that stand packed at most."""


@functools.cache
def _second_cache() -> int:
    return cpu.cache_sizes()["L2"] or _UNKNOWN_L2


def _default_block_size() -> int:
    """Depth at which 32 columns of float32 take a quarter of a core's second cache."""
    return max(64, _second_cache() // 4 // (32 * 4) // 8 * 8)


def _integer(name: str, value: Any, least: int, most: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)) or not least <= number <= most:
        raise InvalidArgumentError(f"CacheConfig.{name} is {value!r}, expected an integer from {least} to {most}")
    return number


def _line(name: str, value: Any) -> int:
    line = _integer(name, value, 16, 1024)
    if line & (line - 1):
        raise InvalidArgumentError(f"CacheConfig.{name} is {value!r}, expected a power of two from 16 to 1024")
    return line


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgumentError(f"CacheConfig.{name} is {value!r}, expected a bool")
    return bool(value)


_CHECKS: dict[str, Any] = {
    "block_size": lambda name, value: _integer(name, value, 1, _LARGEST_BLOCK),
    "cache_line_size": _line,
    "enable_prefetch": _flag,
    "prefetch_distance": lambda name, value: _integer(name, value, 1, 1024),
}


@dataclasses.dataclass(kw_only=True)
class CacheConfig:
    """Blocking and prefetching of products; each field is checked when it is set. No result depends on any of them.

    A product is cut into blocks of `block_size` float32 values along the dimension that is summed over. Deep blocks read and
    write the result less often; shallow ones stay in nearer caches. As many rows of the left matrix make a block as fit half of
    a core's second cache, at least 8 of the kernel's tiles.

    Parameters
    ----------
    block_size : int
        Depth of the blocks, in values. By default 32 columns of it take a quarter of this machine's second cache.
    cache_line_size : int
        Bytes of a cache line, a power of two: packed panels begin at its multiples, and it is the unit of
        `prefetch_distance`.
    enable_prefetch : bool
        Whether kernels ask for memory before they need it: for packed panels, and for the next tile of the result.
    prefetch_distance : int
        How many cache lines ahead in the panels, at least 1.

    Raises
    ------
    InvalidArgumentError
        If a value is out of range or a field unknown.
    """

    block_size: int = dataclasses.field(default_factory=_default_block_size)
    cache_line_size: int = 64
    enable_prefetch: bool = True
    prefetch_distance: int = 8

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _CHECKS:
            raise InvalidArgumentError(f"CacheConfig has no field {name!r}; it has {', '.join(_CHECKS)}")
        object.__setattr__(self, name, _CHECKS[name](name, value))

    def copy(self) -> CacheConfig:
        """A copy that later changes do not reach."""
        return dataclasses.replace(self)

    @property
    def prefetch_bytes(self) -> int:
        """Bytes between what is multiplied and what is prefetched; 0 where nothing is."""
        return self.prefetch_distance * self.cache_line_size if self.enable_prefetch else 0

    @classmethod
    def auto(cls, *, size: int = 1024, rounds: int = 3, threads: int | None = None, simd: str | None = None) -> CacheConfig:
        """Measure products on this machine and return the fastest settings among a few.

        Block sizes about the default are tried first, then ways of prefetching with the best of them; settings take turns, and their
        medians are compared. It takes some tenths of a second.

        Parameters
        ----------
        size : int
            Rows, columns and depth of the products.
        rounds : int
            Times that each setting is measured.
        threads, simd
            As for :func:`hyperion.matmul`.
        """
        from .matmul import matmul

        size, rounds = _integer("auto(size)", size, 1, 8192), _integer("auto(rounds)", rounds, 1, 1000)
        a, out = np.ones((size, size), np.float32), np.empty((size, size), np.float32)

        def fastest(settings: list[CacheConfig]) -> CacheConfig:
            seconds: list[list[float]] = [[] for _ in settings]
            for turn in range(-1, rounds):
                for config, times in zip(settings, seconds, strict=True):
                    start = time.perf_counter()
                    matmul(a, a, out, cache=config, threads=threads, simd=simd)
                    if turn >= 0:
                        times.append(time.perf_counter() - start)
            medians = [float(np.median(times)) for times in seconds]
            return settings[medians.index(min(medians))]

        default = cls()
        best = fastest([dataclasses.replace(default, block_size=max(8, default.block_size * n // 8)) for n in (2, 4, 8, 16)])
        others = [dataclasses.replace(best, prefetch_distance=n) for n in (4, 16)]
        return fastest([best, dataclasses.replace(best, enable_prefetch=False), *others])


@functools.cache
def _packed_values() -> int:
    """Floats that either matrix may have packed at a time: a quarter of the last cache."""
    return max(cpu.cache_sizes()["L3"] or _UNKNOWN_L3, _UNKNOWN_L3) // 4 // 4


def blocks(config: CacheConfig | None, level: str | None) -> kernels.Blocks:
    """What the kernels make of a configuration; None is the default one."""
    if config is None and isinstance(level, str):
        return _default_blocks(level)
    return _blocks(config or CacheConfig(), level)


@functools.cache
def _default_blocks(level: str) -> kernels.Blocks:
    return _blocks(CacheConfig(), level)


def _blocks(config: CacheConfig, level: str | None) -> kernels.Blocks:
    rows, cols = kernels.gemm_tile(level)
    depth = config.block_size
    block_rows = min(512, max(8 * rows, _second_cache() // 2 // 4 // depth))
    packed = max(1, min(_PANELS, _packed_values() // depth))
    return kernels.Blocks(
        block_rows, depth, max(packed, block_rows), max(packed, cols), config.prefetch_bytes, config.cache_line_size, level
    )
