"""The ledger: who reserved how many bytes, under which limit.

A :class:`MemoryBudget` counts; it allocates nothing. Everything of some size reserves before it allocates and
gives back when it closes. Budgets form a tree with one root a process (:func:`process_budget`): a reservation
counts in its budget and in all ancestors, in all or in none.
"""

from __future__ import annotations

import _thread
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from .._kernels.blocks import Pool, Site, calling_site
from ..errors import HyperionRuntimeError, InvalidArgumentError, MemoryBudgetError
from .machine import available_memory, total_memory
from .sizes import enough, format_size, parse_size

if TYPE_CHECKING:
    from typing_extensions import Self


class _Lock:
    """One lock for all ledgers: they are touched a few times a second.

    It is reentrant, because the collector may release a reservation in the middle of any statement of the
    thread that holds it. Such a release waits in `deferred` until that thread is done with its own change.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.depth = 0
        self.deferred: list[tuple[MemoryBudget, str, int, int]] = []
        if hasattr(os, "register_at_fork"):
            release = self._lock.release
            os.register_at_fork(before=self._lock.acquire, after_in_parent=release, after_in_child=release)

    def __enter__(self) -> None:
        try:
            self._lock.acquire()
            self.depth += 1
        except BaseException:  # Ctrl-C is heard between the two: nobody would give the lock back
            self._forget_lost()
            raise

    def __exit__(self, *error: object) -> None:
        try:
            while self.depth == 1 and self.deferred:
                budget, owner, nbytes, idle = self.deferred.pop()
                budget._count(owner, -nbytes, 0, -idle)
        finally:
            self.depth -= 1
            self._lock.release()
            if self.depth == 0:
                self._forget_lost()

    def _forget_lost(self) -> None:
        """Give back what interrupted statements of this thread took of the lock and did not count."""
        while self._lock._is_owned() and self.depth == 0:  # type: ignore[attr-defined]
            self._lock.release()


_lock = _Lock()


@dataclass(frozen=True)
class MemoryStats:
    """What a ledger or a pool counted.

    Attributes
    ----------
    current_usage, peak_usage : int
        Bytes now, and at most at one time. A ledger's: reserved. A pool's: what its live blocks asked for.
    total_allocated : int
        Bytes of all reservations (growth by resizing included) or of all blocks ever made.
    allocation_count : int
        Reservations or blocks ever made.
    fragmentation_ratio : float
        Share of the held memory that is held but that nobody asked for, 0 to 1: blocks and pages that are free but
        not given back, rounding to size classes and whole pages, a pool's tables. A ledger's reservations that
        are neither a pool's nor whole pages count as used in full.
    by_owner : dict
        Bytes reserved now by each owner; those of a child budget as ``"child/owner"``.
    held : int
        Bytes that may be resident for it. A ledger's: reserved.
    """

    current_usage: int
    peak_usage: int
    total_allocated: int
    allocation_count: int
    fragmentation_ratio: float = 0.0
    by_owner: Mapping[str, int] = field(default_factory=dict)
    held: int = 0


class Reservation:
    """Bytes that a budget counts for an owner until :meth:`release`; a context manager.

    Made by :meth:`MemoryBudget.reserve`. One that is dropped without release gives its bytes back when it is
    collected.
    """

    __slots__ = ("__weakref__", "_budget", "_idle", "_nbytes", "_owner", "_released", "_site")

    def __init__(self, budget: MemoryBudget, owner: str) -> None:
        self._budget, self._owner, self._nbytes, self._idle, self._released = budget, owner, 0, 0, False
        self._site: Site | None = None

    @property
    def owner(self) -> str:
        """For whom the bytes are."""
        return self._owner

    @property
    def nbytes(self) -> int:
        """Bytes reserved; 0 once released."""
        return self._nbytes

    @property
    def released(self) -> bool:
        """Whether the bytes were given back."""
        return self._released

    def resize(self, nbytes: int | str) -> None:
        """Change the size.

        Raises
        ------
        MemoryBudgetError
            If the growth does not fit; the size is then what it was.
        HyperionRuntimeError
            If it was released.
        """
        self._change(parse_size(nbytes), False)

    def grow(self, nbytes: int) -> None:
        """Add bytes; errors as for :meth:`resize`. Unlike that, it may run at the same time in several threads."""
        self._change(nbytes, True)

    def _change(self, size: int, relative: bool) -> None:
        with _lock:
            released, grown = self._released, size if relative else size - self._nbytes
            refusal = self._budget._refusal({self._owner: grown}) if grown > 0 and not released else None
            if refusal is None and not released:
                self._budget._count(self._owner, grown)
                self._nbytes += grown
                if self._site is not None:
                    self._site.grown(grown, 0) if grown > 0 else self._site.shrunk(-grown, 0)
        if released:
            raise HyperionRuntimeError(f"the reservation of {self._owner!r} is released")
        if refusal is not None:
            raise refusal()

    def shrink(self, nbytes: int) -> None:
        """Give some of the bytes back. Like :meth:`release` it may be called from a finalizer."""
        with _lock:
            nbytes = min(nbytes, self._nbytes)
            self._nbytes -= nbytes
            if nbytes:
                _lock.deferred.append((self._budget, self._owner, nbytes, 0))
                if self._site is not None:
                    self._site.shrunk(nbytes, 0)

    def release(self) -> None:
        """Give the bytes back. May be called again."""
        with _lock:
            nbytes, self._nbytes, self._released = self._nbytes, 0, True
            if nbytes:
                _lock.deferred.append((self._budget, self._owner, nbytes, self._idle))
            if self._site is not None:
                self._site.shrunk(nbytes, 1)
                self._site = None

    def forget_site(self) -> None:
        """Do not count it for the line that made it: that line does not own it."""
        with _lock:
            if self._site is not None:
                self._site.shrunk(self._nbytes, 1)
                self._site = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def __del__(self) -> None:
        interrupted = False
        while not getattr(self, "_released", True):
            try:
                self.release()
            except KeyboardInterrupt:  # it would be lost here, and the bytes with it: it is sent again
                interrupted = True
        if interrupted:
            _thread.interrupt_main()

    def __repr__(self) -> str:
        return f"Reservation({self._owner!r}, {self._nbytes} bytes)"


class MemoryBudget:
    """A limit and the account of what is reserved under it. Safe to use from several threads.

    Parameters
    ----------
    limit : int or str, optional
        Bytes, as :func:`parse_size` reads them. Without one a root takes what is available now, and a child
        is bounded by its ancestors alone.
    parent : MemoryBudget, optional
        Budget in which everything reserved here counts too.
    name : str
        How messages and the parent's table call it.

    Raises
    ------
    InvalidArgumentError
        If the limit is not a size.
    """

    def __init__(
        self, limit: int | str | None = None, *, parent: MemoryBudget | None = None, name: str = "memory"
    ) -> None:
        if parent is not None and not isinstance(parent, MemoryBudget):
            raise InvalidArgumentError(f"parent must be a MemoryBudget or None, not {type(parent).__name__}")
        self._name, self._parent = str(name), parent
        if limit is None and parent is None:
            limit = available_memory()
        self._limit = None if limit is None else parse_size(limit)
        self._used = self._peak = self._total = self._reservations = self._idle = 0
        self._pools: weakref.WeakSet[Pool] | None = None
        self._owners: dict[str, int] = {}
        self._closed = False

    @property
    def name(self) -> str:
        """How messages call it."""
        return self._name

    @property
    def parent(self) -> MemoryBudget | None:
        """The budget in which this one counts."""
        return self._parent

    @property
    def limit(self) -> int | None:
        """Bytes that this budget may hold; None for a child without a limit of its own."""
        return self._limit

    @property
    def used(self) -> int:
        """Bytes reserved now, those of child budgets included."""
        return self._used

    @property
    def peak(self) -> int:
        """The most bytes that were reserved at one time."""
        return self._peak

    @property
    def total_reserved(self) -> int:
        """Bytes of all reservations ever made, growth by resizing included."""
        return self._total

    @property
    def reservation_count(self) -> int:
        """Reservations ever made."""
        return self._reservations

    @property
    def available(self) -> int:
        """Bytes that can still be reserved here, under the limits of all ancestors."""
        with _lock:
            return max(0, min(b._limit - b._used for b in self._chain() if b._limit is not None))

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def by_owner(self) -> dict[str, int]:
        """Return the bytes that each owner has reserved now, largest first; a child's as ``"child/owner"``."""
        with _lock:
            owners = dict(self._owners)
        return dict(sorted(owners.items(), key=lambda item: (-item[1], item[0])))

    def stats(self) -> MemoryStats:
        """Return all counters of one moment."""
        with _lock:
            idle = self._idle + sum(pool.idle for pool in self._pools or ())
            return MemoryStats(
                self._used,
                self._peak,
                self._total,
                self._reservations,
                min(1.0, idle / self._used) if self._used else 0.0,
                self.by_owner(),
                self._used,
            )

    def add_pool(self, pool: Pool) -> None:
        """Ask a pool that is reserved here how much of it is idle, whenever statistics are taken."""
        for budget in self._chain():
            if budget._pools is None:
                budget._pools = weakref.WeakSet()
            budget._pools.add(pool)

    def child(self, name: str, limit: int | str | None = None) -> MemoryBudget:
        """Return a new budget whose reservations count here too.

        Raises
        ------
        HyperionRuntimeError
            If this budget is closed.
        """
        self._check_open()
        return MemoryBudget(limit, parent=self, name=name)

    def set_limit(self, limit: int | str) -> None:
        """Change the limit.

        Raises
        ------
        MemoryBudgetError
            If more than that is reserved; the limit is then what it was.
        """
        size = parse_size(limit)
        with _lock:
            refusal = self._describe({}, self._used, size) if size < self._used else None
            if refusal is None:
                self._limit = size
        if refusal is not None:
            raise refusal()

    def reserve(self, owner: str, nbytes: int | str, idle: int = 0) -> Reservation:
        """Reserve bytes.

        Parameters
        ----------
        owner : str
            For whom, in the table; several reservations may share an owner.
        nbytes : int or str
            How many.
        idle : int
            How many of them serve nobody (rounding), for the fragmentation ratio.

        Raises
        ------
        MemoryBudgetError
            If they do not fit here or in an ancestor: nothing is reserved then, and the message has the table
            of owners and the smallest limit that would do (``context["required"]``).
        HyperionRuntimeError
            If this budget or an ancestor is closed.
        """
        reservation = self.reserve_all({owner: nbytes})[owner]
        if idle:
            with _lock:
                reservation._idle = idle
                self._count(owner, 0, 0, idle)
        return reservation

    def reserve_all(self, items: Mapping[str, int | str]) -> dict[str, Reservation]:
        """Reserve for several owners at once, for all or for none; errors as for :meth:`reserve`."""
        sizes = {owner: parse_size(nbytes) for owner, nbytes in items.items()}
        result = {owner: Reservation(self, owner) for owner in sizes}
        self._check_open()
        with _lock:
            refusal = self._refusal(sizes)
            if refusal is None:
                site = calling_site("reservation") if _observer is not None else None
                for owner, nbytes in sizes.items():
                    self._count(owner, nbytes, 1)
                    result[owner]._nbytes = nbytes
                    if site is not None:
                        site.grown(nbytes, 1)
                        result[owner]._site = site
        if refusal is not None:
            raise refusal()
        return result

    def check(self, items: Mapping[str, int | str]) -> None:
        """Raise the error that :meth:`reserve_all` would raise, and reserve nothing."""
        sizes = {owner: parse_size(nbytes) for owner, nbytes in items.items()}
        self._check_open()
        with _lock:
            refusal = self._refusal(sizes)
        if refusal is not None:
            raise refusal()

    def close(self) -> None:
        """Refuse further reservations; those that exist count until released. May be called again."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        limit = "no limit" if self._limit is None else f"limit {format_size(self._limit)}"
        return f"MemoryBudget({self._name!r}, {limit}, used {format_size(self._used)})"

    # -- the rest under the lock

    def _chain(self) -> list[MemoryBudget]:
        chain: list[MemoryBudget] = []
        budget: MemoryBudget | None = self
        while budget is not None:
            chain.append(budget)
            budget = budget._parent
        return chain

    def _check_open(self) -> None:
        for budget in self._chain():
            if budget._closed:
                raise HyperionRuntimeError(f"the memory budget {budget._name!r} is closed")

    def _refusal(self, items: Mapping[str, int]) -> Callable[[], MemoryBudgetError] | None:
        """Return None when the items fit; otherwise what makes the error.

        The error itself is made outside the lock, as it calls the user's error handler.
        """
        asked, prefix = sum(items.values()), ""
        for budget in self._chain():
            required = budget._used + asked
            if budget._limit is not None and required > budget._limit:
                named = {prefix + owner: nbytes for owner, nbytes in items.items()}
                return budget._describe(named, required, budget._limit)
            prefix = f"{budget._name}/{prefix}"
        return None

    def _count(self, owner: str, nbytes: int, reservations: int = 0, idle: int = 0) -> None:
        budget, path = self, owner
        while True:
            budget._used += nbytes
            budget._idle += idle
            if nbytes > 0:
                budget._total += nbytes
            budget._peak = max(budget._peak, budget._used)
            budget._reservations += reservations
            budget._owners[path] = budget._owners.get(path, 0) + nbytes
            if not budget._owners[path]:
                del budget._owners[path]
            if budget._parent is None:
                break
            path = f"{budget._name}/{path}"
            budget = budget._parent
        if _observer is not None and nbytes:
            _observer(self, path, nbytes)

    def _describe(
        self, items: Mapping[str, int], required: int, limit: int
    ) -> Callable[[], MemoryBudgetError]:
        asked = sum(items.values())
        owners = self.by_owner()
        rows = [(owner, nbytes, "in use") for owner, nbytes in owners.items()]
        rows += [(owner, nbytes, "asked for") for owner, nbytes in items.items()]
        rows.append(("total", required, ""))
        width = max(len(owner) for owner, _, _ in rows)
        lines = (f"  {owner:{width}}  {nbytes:>17,}  {state}" for owner, nbytes, state in rows)
        table = "\n".join(line.rstrip() for line in lines)
        if items:
            what = f"cannot hold {format_size(asked)} more for {', '.join(items)}"
        else:
            what = f"cannot shrink to that: {format_size(required)} are in use"
        return partial(
            MemoryBudgetError,
            f"the memory budget {self._name!r} of {limit:,} bytes {what};"
            f" the smallest that would do is {required:,} bytes ({enough(required)})\n{table}",
            budget=self._name,
            limit=limit,
            asked=asked,
            used=self._used,
            required=required,
            by_owner=owners,
            items=dict(items),
        )


_observer: Callable[[MemoryBudget, str, int], object] | None = None
"""Told of every change, under the lock; None while nobody listens."""


def observe(observer: Callable[[MemoryBudget, str, int], object] | None) -> None:
    """Let a function hear of every change of a ledger from now on; None ends that.

    It is called with the budget in which the change was made, the owner as the root names it, and the bytes more (or
    less); it must be quick and not raise.
    """
    global _observer
    with _lock:
        _observer = observer


def observer() -> Callable[[MemoryBudget, str, int], object] | None:
    """Return who hears of every change."""
    return _observer


_process: MemoryBudget | None = None


def process_budget() -> MemoryBudget:
    """Return the ledger of this process; its limit is :func:`total_memory` until it is set."""
    global _process
    with _lock:
        if _process is None:
            _process = MemoryBudget(total_memory(), name="process")
        return _process
