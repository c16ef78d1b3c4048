"""Pools: memory in blocks, by one of four strategies, counted exactly and reserved in the ledger.

A pool reserves one range of address space and makes pages of it usable as blocks need them; what counts in the ledger
is what may be resident. Every block is aligned to 64 bytes. The process has one pool for everybody
(:func:`engine_pool`): :func:`alloc` and :func:`free` use it, and so do the engine's own buffers (:func:`allocate`).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

from .._kernels import blocks
from .._kernels.blocks import Block, Pool
from .._kernels.pool import PageBuffer, rounded
from ..errors import InvalidArgumentError
from ..members import member
from .budget import MemoryBudget, MemoryStats, process_budget
from .machine import total_memory
from .sizes import parse_size

__all__ = [
    "Block",
    "MemoryConfig",
    "MemoryPool",
    "MemoryStrategy",
    "alloc",
    "allocate",
    "create_pool",
    "engine_pool",
    "free",
    "init_memory",
]

_KEEP = 4 << 20
"""Idle bytes that a pool without a reservation of its own keeps for reuse."""


_HUGE_FROM = 32 << 20
"""Pools whose initial size is smaller are used in small pages: a few blocks would make much resident for nothing."""


class MemoryStrategy(enum.Enum):
    """How a pool makes blocks.

    Attributes
    ----------
    STATIC
        One after the other from one region; they are freed together: the memory is reused when the last of them was
        freed, or at :meth:`MemoryPool.reset`.
    POOLED
        Blocks of one size from a list of free ones, in constant time.
    DYNAMIC
        Any size: slots of size classes up to 32 KiB, runs of pages above. Neighbouring free runs are joined, and pages
        go back to the system.
    HYBRID
        As DYNAMIC below 256 KiB; larger blocks are pages of their own, which go back to the system at once.
    """

    STATIC = blocks.STATIC
    POOLED = blocks.POOLED
    DYNAMIC = blocks.DYNAMIC
    HYBRID = blocks.HYBRID


@dataclasses.dataclass(kw_only=True)
class MemoryConfig:
    """Settings of a pool; checked when made and when a field is set.

    Parameters
    ----------
    initial_pool_size : int or str
        Bytes that a pool of its own reserves in the ledger when it is made, so that blocks up to there are never
        refused; what it keeps when blocks are freed. The process-wide pool reserves only what it uses.
    max_pool_size : int or str, optional
        Bytes that the pool may hold. By default `initial_pool_size` for STATIC and POOLED; for the others what the
        ledger permits.
    block_size : int or str
        Size of a POOLED pool's blocks, rounded up to 64 bytes; the other strategies do not use it.
    strategy : MemoryStrategy or str
        How blocks are made; a name will do.
    track_allocations : bool
        Note the Python line that allocates each block, for :func:`hyperion.generate_memory_report`.
    enable_optimization : bool
        DYNAMIC and HYBRID: add size classes for the sizes that are really asked for, so that less is lost to rounding.
    """

    initial_pool_size: int | str = 1 << 20
    max_pool_size: int | str | None = None
    block_size: int | str = 4096
    strategy: MemoryStrategy | str = MemoryStrategy.HYBRID
    track_allocations: bool = False
    enable_optimization: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("initial_pool_size", "block_size"):
            value = parse_size(value)
        elif name == "max_pool_size":
            value = None if value is None else parse_size(value)
        elif name == "strategy":
            value = member(MemoryStrategy, value, "MemoryConfig.strategy")
        elif name in ("track_allocations", "enable_optimization"):
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"MemoryConfig.{name} is {value!r}, expected a bool")
        else:
            names = ", ".join(field.name for field in dataclasses.fields(MemoryConfig))
            raise InvalidArgumentError(f"MemoryConfig has no field {name!r}; it has {names}")
        if name == "block_size" and not value:
            raise InvalidArgumentError("MemoryConfig.block_size is 0, expected at least one byte")
        merged = {**self.__dict__, name: value}
        if merged.get("max_pool_size") is not None and merged["max_pool_size"] < merged["initial_pool_size"]:
            raise InvalidArgumentError(
                f"MemoryConfig: max_pool_size {merged['max_pool_size']} is less than initial_pool_size"
                f" {merged['initial_pool_size']}"
            )
        object.__setattr__(self, name, value)


class MemoryPool(Pool):
    """A pool of memory blocks; a context manager. Safe to use from several threads.

    Parameters
    ----------
    config : MemoryConfig, optional
        Copied.
    budget : MemoryBudget, optional
        Ledger in which the pool counts; that of the process by default.
    name : str
        Its owner in the ledger, and how messages call it.
    reserve : bool
        Reserve `initial_pool_size` in the ledger now. Otherwise only what blocks come to use.
    huge : bool
        Advise huge pages where they pay: in a pool of 32 MiB and more at first, which then becomes resident 2 MiB at a
        time, and for large blocks of a HYBRID pool.

    Raises
    ------
    InvalidArgumentError
        If the pool could not hold a single block.
    MemoryBudgetError
        If the ledger cannot hold the initial size.
    HyperionMemoryError
        If the system has no such address space.

    Notes
    -----
    A view of a block keeps its memory alive: freeing a block, or closing the pool, refuses new views at once, and the
    memory goes back with the last view. :meth:`reset` refuses while there are views. A block that is dropped is freed.

    ``alloc``, ``free``, ``reset``, ``trim`` and ``close`` are the compiled base class's.
    """

    __slots__ = ("_budget", "_config")

    def __init__(
        self,
        config: MemoryConfig | None = None,
        *,
        budget: MemoryBudget | None = None,
        name: str = "pool",
        reserve: bool = True,
        huge: bool = True,
    ) -> None:
        self._config = config = dataclasses.replace(config) if config is not None else MemoryConfig()
        self._budget = budget if budget is not None else process_budget()
        initial, strategy = parse_size(config.initial_pool_size), member(MemoryStrategy, config.strategy, "MemoryConfig.strategy")
        grows = strategy in (MemoryStrategy.DYNAMIC, MemoryStrategy.HYBRID)
        if config.max_pool_size is not None:
            capacity = parse_size(config.max_pool_size)
        else:
            capacity = max(initial, self._budget.limit or total_memory()) if grows else initial
        block = parse_size(config.block_size) if strategy is MemoryStrategy.POOLED else 1
        if capacity < -(-block // blocks.ALIGNMENT) * blocks.ALIGNMENT:
            raise InvalidArgumentError(
                f"a pool of {capacity} bytes cannot hold a block of {block} bytes (in multiples of {blocks.ALIGNMENT})"
            )
        reservation = self._budget.reserve(name, 0)
        if not reserve:  # the process's pool: whoever happens to use it first has not leaked it
            reservation.forget_site()
        super().__init__(
            strategy.value,
            capacity,
            block,
            initial if reserve else 0,
            initial if reserve else min(initial, _KEEP),
            huge=huge,
            huge_region=huge and initial >= _HUGE_FROM,
            demand=config.enable_optimization,
            flexible=grows and config.max_pool_size is None,
            track=config.track_allocations,
            reservation=reservation,
            read_size=parse_size,
            name=name,
        )
        self._budget.add_pool(self)

    @property
    def config(self) -> MemoryConfig:
        """A copy of the settings."""
        return dataclasses.replace(self._config)

    @property
    def budget(self) -> MemoryBudget:
        """The ledger in which the pool counts."""
        return self._budget

    @property
    def strategy(self) -> MemoryStrategy:
        """How blocks are made."""
        return member(MemoryStrategy, self._config.strategy, "MemoryConfig.strategy")

    def stats(self) -> MemoryStats:
        """Return all counters of one moment.

        `current_usage`, `peak_usage` and `total_allocated` are in bytes as they were asked for; `held` is what may be
        resident; `fragmentation_ratio` is 1 - current_usage / held: the share of the held memory that is in free
        blocks, rounding, tables and pages not yet given back.
        """
        current, peak, total, count, _, held = self.account
        ratio = 1 - current / held if held else 0.0
        return MemoryStats(current, peak, total, count, ratio, {self.name: self.reserved}, held)

    def pages(
        self,
        budget: MemoryBudget,
        owner: str,
        nbytes: int | str,
        *,
        huge: bool = True,
        on_release: Callable[[], object] | None = None,
    ) -> PageBuffer:
        """Return a buffer of whole zeroed pages that counts in this pool's statistics; see :func:`allocate`."""
        size = parse_size(nbytes)
        mapped = rounded(size)
        reservation = budget.reserve(owner, mapped, mapped - size)
        counted = False

        def release() -> None:  # called again where Ctrl-C breaks it off
            nonlocal counted, on_release
            if counted:
                counted = False
                self.count_pages(size, mapped, False)
            reservation.release()
            if on_release is not None:
                after, on_release = on_release, None
                after()

        try:
            buffer = PageBuffer(size, huge, release)
        except BaseException:
            reservation.release()
            raise
        self.count_pages(size, mapped, True)
        counted = True
        return buffer

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{self.account[4]} blocks of {self.account[0]} bytes in use"
        return f"MemoryPool({self.name!r}, {self.strategy.name}, {state})"


_engine_pool: MemoryPool | None = None


def engine_pool() -> MemoryPool:
    """Return the pool of the process, which serves :func:`alloc` and the engine's buffers.

    It is the one that :func:`init_memory` made, or a HYBRID pool with the default settings.
    """
    global _engine_pool
    pool = _engine_pool
    if pool is None or pool.closed:
        pool = _engine_pool = MemoryPool(reserve=False)
    return pool


def init_memory(config: MemoryConfig | None = None) -> MemoryPool:
    """Set up the memory of the process.

    Makes `config.max_pool_size` the limit of the process's ledger, and a new pool of these settings the process's pool
    (:func:`engine_pool`). That reserves address space; no page is touched and nothing counts in the ledger until
    blocks are used. Blocks and buffers of an earlier process pool stay valid, and it goes with the last of them.

    Parameters
    ----------
    config : MemoryConfig, optional
        Settings; with `track_allocations` memory tracking is turned on too.

    Returns
    -------
    MemoryPool
        The process's pool from now on.

    Raises
    ------
    MemoryBudgetError
        If more than `max_pool_size` is reserved already; nothing has changed then.
    HyperionMemoryError
        If the system has no such address space; nothing has changed then.
    """
    global _engine_pool
    budget = process_budget()
    pool = MemoryPool(config, reserve=False)
    pool.open()
    config = pool.config
    if config.max_pool_size is not None:
        budget.set_limit(config.max_pool_size)
    if _engine_pool is not None:
        _engine_pool.trim()
    _engine_pool = pool
    if config.track_allocations:
        from .tracking import enable_memory_tracking

        enable_memory_tracking(True)
    return pool


def alloc(size: int | str) -> Block:
    """Return a block of the process's pool.

    Parameters
    ----------
    size : int or str
        Bytes.

    Returns
    -------
    Block
        A writable buffer of uint8, aligned to 64 bytes; its content is undefined. Dropping it frees it.

    Raises
    ------
    MemoryBudgetError, HyperionMemoryError
        If the ledger, the pool or the system cannot hold it.
    """
    return engine_pool().alloc(size)


def free(block: Block) -> None:
    """Give a block back to the pool that it is from, as soon as no view uses it.

    Raises
    ------
    InvalidArgumentError
        If it is no block.
    HyperionRuntimeError
        If it was freed before.
    """
    if not isinstance(block, Block):
        raise InvalidArgumentError(f"free takes a Block that alloc returned, not {type(block).__name__}")
    block.free()


def create_pool(total_size: int | str, block_size: int | str) -> MemoryPool:
    """Return a pool of fixed blocks.

    Parameters
    ----------
    total_size : int or str
        Bytes that the pool reserves, and holds at most. (Its list of free blocks adds 4 bytes for each.)
    block_size : int or str
        Bytes of a block, rounded up to 64.

    Raises
    ------
    InvalidArgumentError
        If not a single block fits.
    MemoryBudgetError
        If the ledger cannot hold it.
    """
    return MemoryPool(
        MemoryConfig(initial_pool_size=total_size, block_size=block_size, strategy=MemoryStrategy.POOLED)
    )


def allocate(
    budget: MemoryBudget,
    owner: str,
    nbytes: int | str,
    *,
    huge: bool = True,
    on_release: Callable[[], object] | None = None,
) -> PageBuffer:
    """Reserve, then allocate zeroed pages through the process's pool: how the engine gets its large buffers.

    Parameters
    ----------
    budget : MemoryBudget
        Where the bytes count: `nbytes` rounded up to whole pages, as the system gives them.
    owner : str
        For whom.
    nbytes : int or str
        Size of the buffer.
    huge : bool
        As for ``PageBuffer``: advise huge pages, or decline them where the buffer fills gradually.
    on_release : callable, optional
        Called after the pages and the reservation were given back.

    Returns
    -------
    PageBuffer
        A writable buffer of uint8. Closing it gives the pages and the reservation back, once its last view is
        gone.

    Raises
    ------
    MemoryBudgetError
        If the budget cannot hold it.
    HyperionMemoryError
        If the system has no such memory; nothing stays reserved.
    """
    return engine_pool().pages(budget, owner, nbytes, huge=huge, on_release=on_release)
