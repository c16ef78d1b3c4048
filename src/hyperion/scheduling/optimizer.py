"""The memory optimizer: budgets of live models, and temporary tensors that share memory by their lifetimes."""

from __future__ import annotations

import dataclasses
import math
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError
from hyperion.memory import MemoryBudget, MemoryStats, allocate, parse_size, process_budget
from hyperion.scheduling.lifetimes import assign_offsets
from hyperion.scheduling.plan import MemoryPlan

__all__ = ["MemoryOptimizer", "MemoryOptimizerConfig", "TensorScope"]


class Plannable(Protocol):
    """An open model, as far as the optimizer needs one."""

    def replan(self, memory_budget: int | str | None = None, *, tradeoff: float = 1.0) -> MemoryPlan: ...


@dataclasses.dataclass(kw_only=True)
class MemoryOptimizerConfig:
    """Settings of a :class:`MemoryOptimizer`; checked when made and when a field is set.

    Parameters
    ----------
    enable_tensor_reuse : bool
        Temporary tensors of a function share memory by their lifetimes.
    enable_in_place_ops : bool
        A result may take the place of an operand that is not used again.
    memory_speed_tradeoff : float
        0 uses the least memory, 1 all of the budget, for pinned weights, chunk size and kept activations. Results never
        change.
    max_memory_budget : int or str
        No model is given more; 0 sets no limit.
    """

    enable_tensor_reuse: bool = True
    enable_in_place_ops: bool = True
    memory_speed_tradeoff: float = 1.0
    max_memory_budget: int | str = 0

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("enable_tensor_reuse", "enable_in_place_ops"):
            if not isinstance(value, bool):
                raise InvalidArgumentError(f"MemoryOptimizerConfig.{name} is {value!r}, expected a bool")
        elif name == "memory_speed_tradeoff":
            value = _tradeoff(value)
        elif name == "max_memory_budget":
            value = parse_size(value)
        else:
            raise InvalidArgumentError(f"MemoryOptimizerConfig has no field {name!r}")
        object.__setattr__(self, name, value)


def _tradeoff(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value <= 1.0:
        raise InvalidArgumentError(f"memory_speed_tradeoff is {value!r}, expected a number from 0 to 1")
    return float(value)


class TensorScope:
    """Where a function takes its temporary arrays from, so that those which are never alive together share bytes.

    The first run of a function is recorded: an array lives from :meth:`empty` until nothing refers to it. From then on its
    arrays are placed in one arena by those lifetimes; a run that asks for other sizes is recorded anew.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._sizes: list[int] = []
        self._ends: list[int | None] = []
        self._clock = self._run = self._made = 0
        self._arena: Any = None
        self._offsets: list[int] = []
        self._planned: list[int] = []
        self._spans: list[tuple[int, int, int]] = []
        self._live: dict[int, tuple[int, int]] = {}
        self.arena_bytes = self.reused = self.recorded = 0

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        """An array without values, as `numpy.empty` gives it."""
        kind = np.dtype(dtype)
        dims = (shape,) if isinstance(shape, int) else tuple(shape)
        if any(n < 0 for n in dims) or kind.hasobject:
            raise InvalidArgumentError(f"an array of shape {dims} and dtype {kind} cannot be made here")
        number, nbytes = len(self._sizes), math.prod(dims) * kind.itemsize
        self._sizes.append(nbytes)
        self._ends.append(None)
        self._clock += 1
        self._made += 1
        base = self._place(number, nbytes)
        weakref.finalize(base, self._ended, self._made, number, self._run)  # every view of the array refers to its base
        return base[:nbytes].view(kind).reshape(dims)

    def _place(self, number: int, nbytes: int) -> np.ndarray:
        if nbytes and number < len(self._planned) and self._planned[number] == nbytes and self._sizes == self._planned[: number + 1]:
            start = self._offsets[number]
            free = all(at + size <= start or start + nbytes <= at for at, size in self._live.values())
            if free:
                self._live[self._made] = (start, nbytes)
                self.reused += 1
                return np.frombuffer(self._arena, np.uint8, nbytes, start)
        self.recorded += 1
        return np.empty(nbytes, np.uint8)

    def _ended(self, made: int, number: int, run: int) -> None:
        self._live.pop(made, None)
        if run == self._run:
            self._ends[number] = self._clock

    def finish(self) -> None:
        """After a run: place the arrays for the next one."""
        ends = [self._clock + 1 if end is None else end for end in self._ends]
        spans = [(i, max(i, end - 1), n) for i, (end, n) in enumerate(zip(ends, self._sizes, strict=True))]
        if spans != self._spans and not self._live:
            offsets, total = assign_offsets([s for s in spans if s[2]])
            placed = iter(offsets)
            if total > self.arena_bytes:
                self.close()
                self._arena, self.arena_bytes = allocate(self._budget, "tensor reuse", total), total
            self._offsets = [next(placed) if s[2] else 0 for s in spans]
            self._planned, self._spans = list(self._sizes), spans
        self._sizes, self._ends, self._clock = [], [], 0
        self._run += 1

    def close(self) -> None:
        """Give the arena back, once no array of it is alive."""
        if self._arena is not None:
            self._arena.close()
            self._arena, self.arena_bytes = None, 0
        self._planned, self._offsets, self._spans = [], [], []


class MemoryOptimizer:
    """Plans and re-plans the memory of open models, and runs functions with shared temporaries.

    Parameters
    ----------
    config : MemoryOptimizerConfig, optional
        Copied.
    budget : MemoryBudget, optional
        The ledger that arenas are reserved in; the process's by default.
    """

    def __init__(self, config: MemoryOptimizerConfig | None = None, *, budget: MemoryBudget | None = None) -> None:
        self.config = dataclasses.replace(config) if config is not None else MemoryOptimizerConfig()
        self._budget = MemoryBudget(None, parent=budget if budget is not None else process_budget(), name="optimizer")
        self._scopes: dict[Any, TensorScope] = {}
        self._closed = False

    def optimize_memory_usage(self, model: Plannable, memory_budget: int | str | None = None) -> MemoryPlan:
        """Move an open model to the plan for a budget; memory above it is really returned.

        Parameters
        ----------
        model : Model
        memory_budget : int or str, optional
            Defaults to `max_memory_budget`, which also bounds it.

        Returns
        -------
        MemoryPlan

        Raises
        ------
        MemoryBudgetError
            If the model does not work in it; the model is as before.
        """
        self._check_open()
        limit = parse_size(self.config.max_memory_budget)
        wanted = limit if memory_budget is None else parse_size(memory_budget)
        if limit:
            wanted = min(wanted, limit)
        return model.replan(wanted or None, tradeoff=self.config.memory_speed_tradeoff)

    def set_memory_speed_tradeoff(self, tradeoff: float) -> None:
        """Choose how much of a budget :meth:`optimize_memory_usage` spends on speed, from its next call on.

        A model keeps the weights pinned that there is memory for, and reads the others in every pass. Less memory means more
        reading, smaller prompt chunks and fewer kept activations; the results are the same bits at every setting.

        Parameters
        ----------
        tradeoff : float
            From 0.0, the least memory that the model works in, to 1.0, all of the budget.

        Raises
        ------
        InvalidArgumentError
            If it is not a number from 0 to 1; the setting is as before.
        """
        self.config.memory_speed_tradeoff = tradeoff

    def enable_in_place_operations(self, enable: bool = True) -> None:
        """Whether results may take the place of operands, in schedulers that this optimizer makes and in `in_place`."""
        self.config.enable_in_place_ops = enable

    def output_for(self, operand: np.ndarray) -> np.ndarray | None:
        """What to pass as `out=` of an operation whose operand is not used again: the operand, or None for a new array."""
        return operand if self.config.enable_in_place_ops and operand.flags.writeable else None

    def execute_with_tensor_reuse(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call ``function(scope, *args)``, whose temporary arrays come from the scope.

        Parameters
        ----------
        function : callable
            Takes temporaries with ``scope.empty(shape, dtype)``. Calls of the same function share one arena.

        Returns
        -------
        object
            What the function returned; an array is copied out of the arena.
        """
        self._check_open()
        scope = self._scopes.get(function)
        if scope is None:
            scope = self._scopes[function] = TensorScope(self._budget)
        result = function(scope, *args)
        if isinstance(result, np.ndarray):
            result = result.copy()
        if self.config.enable_tensor_reuse:
            scope.finish()
        else:
            scope.close()
            self._scopes.pop(function, None)
        return result

    @property
    def stats(self) -> MemoryStats:
        """Bytes of the arenas, now and at most."""
        self._check_open()
        return self._budget.stats()

    def _check_open(self) -> None:
        if self._closed:
            raise HyperionRuntimeError("the memory optimizer is closed")

    def close(self) -> None:
        """Give the arenas back; models stay as they are. Closing twice is allowed."""
        if not self._closed:
            for scope in self._scopes.values():
                scope.close()
            self._scopes.clear()
            self._closed = True
            self._budget.close()

    def __enter__(self) -> MemoryOptimizer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
