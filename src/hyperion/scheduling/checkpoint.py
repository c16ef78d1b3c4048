"""Which layer outputs to keep, and which to compute again, when a chain of layers is gone through backwards.

A sweep visits the layers from the last to the first; visiting layer k takes its input x[k], the output of layer k - 1.
x[0] is the chain's input and always at hand. Every other state occupies memory while it exists: one that is kept, and the
input and the output of a layer that runs. With little memory states are dropped and computed again from the nearest one
that was kept; the plans made here do so with the fewest executions of layers.

References
----------
Griewank and Walther, "Algorithm 799: revolve", ACM TOMS 26 (2000): chains of equal layers.
Beaumont et al., "Optimal checkpointing for heterogeneous chains", arXiv 1911.13214: unequal ones. As there, a state that
is kept is kept until it was visited.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence

import numpy as np

from hyperion.errors import InvalidArgumentError, MemoryBudgetError
from hyperion.memory import format_size

__all__ = ["Reversal", "Step", "plan_reversal", "revolve"]

UNITS = 512
"""Memory is counted in units of the sizes' greatest common divisor, at most so many; larger units round sizes up."""

LONGEST = 128
"""Unequal layers that are planned by their own sizes; longer chains are planned as if all had the largest."""

NEVER = 1 << 29
"""The cost of what does not fit."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a sweep.

    action "advance": compute x[stop] from x[start], and keep it; "visit": layer `stop` takes x[stop]; "free": drop x[stop].
    """

    action: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Reversal:
    """A plan to visit all layers backwards.

    Attributes
    ----------
    steps : tuple of Step
    executions : int
        Layers that run in all: the first way through the chain and everything that is computed again.
    peak : int
        The most bytes of states at one time.
    """

    steps: tuple[Step, ...]
    executions: int
    peak: int

    @property
    def kept_first(self) -> tuple[int, ...]:
        """States that are kept while the chain is gone through forwards, before the first visit."""
        return tuple(
            s.stop for s in self.steps[: next((n for n, s in enumerate(self.steps) if s.action == "visit"), 0)]
        )


def revolve(layers: int, slots: int) -> int:
    """The fewest executions of layers that a backward sweep over a chain takes, by the closed form.

    Parameters
    ----------
    layers : int
        Layers that are visited.
    slots : int
        States that can be held beside the chain's input, the one at hand included. Layers work in place (or one more
        state than `slots` exists while a layer runs).

    Returns
    -------
    int
        With r the smallest number such that layers <= C(slots + r, slots): r * layers - C(slots + r, slots + 1).

    Raises
    ------
    InvalidArgumentError
        Without a slot for the state at hand, or for less than one layer.
    """
    if layers < 1 or slots < (layers > 1):
        raise InvalidArgumentError(f"a sweep over {layers} layers with {slots} slots cannot be")
    if layers == 1:
        return 0
    r = 0
    while math.comb(slots + r, slots) < layers:
        r += 1
    return r * layers - math.comb(slots + r, slots + 1)


def plan_reversal(
    sizes: Sequence[int],
    limit: int,
    *,
    in_place: bool = False,
    always: Collection[int] = (),
    never: Collection[int] = (),
) -> Reversal:
    """The plan with the fewest executions of layers that keeps within a number of bytes.

    Parameters
    ----------
    sizes : sequence of int
        Bytes of x[k] for every layer k that is visited; sizes[0], the chain's input, does not count.
    limit : int
        Bytes that states may take at any moment, 0 or more.
    in_place : bool
        A layer's output takes the place of its input, unless the input is kept.
    always, never : collections of int
        States that have to be kept when they are first computed, and such as are only held while they are visited.

    Raises
    ------
    MemoryBudgetError
        If the limit does not even hold one layer's input and output; the error has the smallest limit that does.
    """
    n = len(sizes)
    if n == 0 or limit < 0 or any(s < 0 for s in sizes):
        raise InvalidArgumentError(f"a chain has one layer or more with sizes of 0 or more and a limit of 0 or more, not {n} and {limit}")
    sizes = [0, *(int(s) for s in sizes[1:])]
    smallest = _transient(sizes, 0, n - 1, in_place)
    if limit < smallest:
        raise MemoryBudgetError(
            f"a limit of {format_size(limit)} for layer outputs does not hold one layer's input and output; "
            f"the smallest that does is {smallest} bytes",
            limit=limit,
            smallest=smallest,
        )
    always = set(always) & set(range(1, n))
    never = (set(never) & set(range(1, n))) - always
    table = _make_table(sizes, limit, in_place, always, never)
    if always and table.cost(0, n, table.units) >= NEVER:  # what should be kept does not fit
        table = _make_table(sizes, limit, in_place, set(), never)
    steps: list[Step] = []
    table.unroll(steps)
    return Reversal(tuple(steps), sum(s.stop - s.start for s in steps if s.action == "advance"), _peak(steps, sizes, in_place))


def _transient(sizes: Sequence[int], i: int, k: int, in_place: bool) -> int:
    """Bytes beside x[i] that exist while x[k] is computed from it."""
    pairs = (sizes[t] + (sizes[t - 1] if t - 1 > i and not in_place else 0) for t in range(i + 1, k + 1))
    return max(pairs, default=0)


def _peak(steps: Sequence[Step], sizes: Sequence[int], in_place: bool) -> int:
    live = peak = 0
    for s in steps:
        if s.action == "advance":
            peak = max(peak, live + _transient(sizes, s.start, s.stop, in_place))
            live += sizes[s.stop]
        elif s.action == "free":
            live -= sizes[s.stop]
    return peak


def _make_table(sizes: list[int], limit: int, in_place: bool, always: set[int], never: set[int]) -> _Table:
    states = sizes[1:]
    if sum(sizes) <= limit and not never:
        return _KeepAll(sizes, limit, in_place, set(), set())
    if len(sizes) > LONGEST and len(set(states)) > 1:
        if limit < (1 if in_place else 2) * max(states):  # too tight to be planned by the largest size
            return _KeepNothing(sizes, limit, in_place, set(), set())
        sizes = [0] + [max(states)] * len(states)
        states = sizes[1:]
    if len(set(states)) <= 1 and not always and not never:
        return _EqualTable(sizes, limit, in_place)
    return _Table(sizes, limit, in_place, always, never)


class _Table:
    """cost(i, j, m): the fewest executions that visit layers j - 1 .. i, with x[i] at hand and m units for other states.

    A unit is the sizes' greatest common divisor, or larger where that makes too many. Kept states are rounded up to units;
    what a layer needs while it runs is compared in bytes with what the kept ones leave.
    """

    def __init__(self, sizes: list[int], limit: int, in_place: bool, always: set[int], never: set[int]) -> None:
        self.n, self.bytes, self.in_place, self.always, self.never = len(sizes), sizes, in_place, always, never
        self.limit = min(limit, sum(sizes) + max(sizes))  # more changes nothing
        unit = math.gcd(*sizes) or 1
        self.unit = unit if self.limit // unit <= UNITS else -(-self.limit // UNITS)
        self.units = self.limit // self.unit
        self.sizes = [-(-s // self.unit) for s in sizes]
        self.fill()

    def fill(self) -> None:
        """All segments, the shortest first."""
        width = self.units + 1
        self.costs = {(i, i + 1): np.zeros(width, np.int32) for i in range(self.n)}
        for length in range(2, self.n + 1):
            for i in range(self.n - length + 1):
                j = i + length
                best = np.full(width, NEVER, np.int32)
                for k, need in self.splits(i, j):
                    candidate = (k - i) + self.costs[i, k][need:]
                    if k < j - 1:
                        candidate += self.costs[k, j][need - self.sizes[k] : width - self.sizes[k]]
                    np.minimum(best[need:], candidate, out=best[need:])
                self.costs[i, j] = np.minimum(best, NEVER)

    def splits(self, i: int, j: int) -> list[tuple[int, int]]:
        """(k, units that are needed) of every state that may be the next one kept after x[i]."""
        found, most = [], 0
        for k in range(i + 1, j):
            most = max(most, self.bytes[k] + (self.bytes[k - 1] if k - 1 > i and not self.in_place else 0))
            if most > self.limit:
                break
            need = self.units - (self.limit - most) // self.unit
            if k == j - 1:  # visited next: it is at hand, and nothing else is needed
                found.append((k, need))
            elif k not in self.never and self.sizes[k] <= self.units:
                found.append((k, max(need, self.sizes[k])))
            if k in self.always:
                break
        return found

    def cost(self, i: int, j: int, m: int) -> int:
        """One entry."""
        return 0 if j == i + 1 else int(self.costs[i, j][m])

    def unroll(self, steps: list[Step]) -> None:
        """The steps of the best plan."""
        todo: list[tuple[str, int, int, int]] = [("sweep", 0, self.n, self.units)]
        while todo:
            action, i, j, m = todo.pop()
            if action == "free":
                steps.append(Step("free", i, i))
            elif j == i + 1:
                steps.append(Step("visit", i, i))
            else:
                k = self.best_split(i, j, m)
                steps.append(Step("advance", i, k))
                todo += [("sweep", i, k, m), ("free", k, k, 0), ("sweep", k, j, m - self.sizes[k])]

    def best_split(self, i: int, j: int, m: int) -> int:
        """The state that is kept next."""
        fits = [k for k, need in self.splits(i, j) if need <= m]
        return min(fits, key=lambda k: (k - i) + self.cost(k, j, m - self.sizes[k]) + self.cost(i, k, m))


class _KeepNothing(_Table):
    """Every state from the chain's input."""

    def fill(self) -> None:
        pass

    def cost(self, i: int, j: int, m: int) -> int:
        return 0

    def best_split(self, i: int, j: int, m: int) -> int:
        return j - 1


class _KeepAll(_KeepNothing):
    """Everything fits."""

    def best_split(self, i: int, j: int, m: int) -> int:
        return i + 1


class _EqualTable(_Table):
    """The same where all states have one size: the cost depends on the number of layers alone."""

    def __init__(self, sizes: list[int], limit: int, in_place: bool) -> None:
        super().__init__(sizes, limit, in_place, set(), set())

    def fill(self) -> None:
        width = self.units + 1
        unit = self.sizes[-1] if self.n > 1 else 0
        self.lengths = [np.zeros(width, np.int32)] * 2
        for length in range(2, self.n + 1):
            best = np.full(width, NEVER, np.int32)
            for m in range(1, length):
                need = unit * (1 if m == 1 or self.in_place else 2)
                if need <= self.units:
                    right = self.lengths[length - m][need - unit : width - unit]
                    np.minimum(best[need:], m + right + self.lengths[m][need:], out=best[need:])
            self.lengths.append(np.minimum(best, NEVER))

    def cost(self, i: int, j: int, m: int) -> int:
        return int(self.lengths[j - i][m])
