"""Passes of an open model through its layers, and running some of them again over the tokens that were evaluated last."""

from __future__ import annotations

import time
from typing import Any, Protocol

import numpy as np

from hyperion.errors import HyperionRuntimeError, MemoryBudgetError
from hyperion.memory import allocate
from hyperion.scheduling.execution import (
    ExecutionPlan,
    LayerCounters,
    MemoryEstimate,
    forward_plan,
    sweep_plan,
)
from hyperion.scheduling.forward import ForwardScheduler
from hyperion.scheduling.graph import ExecutionMode
from hyperion.scheduling.policy import Policy
from hyperion.scheduling.runners import Runner, Visit, read_only

__all__ = ["LayerSource", "ModelRunner"]

PAGE = 4096


class LayerSource(Protocol):
    """What is asked of an open model.

    count: layers, embedding and head included; row_bytes: of one token's hidden state; rows: tokens evaluated last; kept:
    arrays [rows, dim] by layer that passes fill; lock: held while a pass runs and while `compute` does; closed: a session
    is closed, so that `replay` has to start from the first token; stream: what streams weights, or None; waited: seconds
    that its user has waited for the disk.
    """

    count: int
    row_bytes: int
    kept: dict[int, np.ndarray]
    lock: Any

    @property
    def rows(self) -> int: ...
    @property
    def stream(self) -> object: ...
    @property
    def closed(self) -> bool: ...
    def bind(self, graph: ForwardScheduler) -> None: ...
    def compute(self, start: int, state: np.ndarray | None, stop: int) -> np.ndarray: ...
    def replay(self, stop: int) -> np.ndarray: ...
    def tokens(self) -> np.ndarray: ...
    def ledger(self) -> tuple[int, int, int]: ...
    def waited(self) -> float: ...


class ModelRunner(Runner):
    """The layers of an open model. Its blocks work in place on one hidden state, so that a pass needs memory for those
    states only that are kept."""

    def __init__(self, model: Any, policy: Policy, counters: LayerCounters) -> None:
        super().__init__(policy, counters, model.budget)
        self.model = model
        self.source: LayerSource = model.layer_source()
        self.graph = ForwardScheduler(None, ExecutionMode.MEMORY_OPT, budget=model.budget)
        self.source.bind(self.graph)
        self.graph.prepare()
        self._stepper: ForwardScheduler | None = None
        self._buffer: Any = None
        self._choice: tuple[Any, tuple[int, ...]] | None = None
        self._stream: object = None
        self._seconds = self._waited = 0.0

    # ---- passes --------------------------------------------------------------------------------------------------

    def begin_forward(self, rows: int) -> None:
        """So many tokens are about to be evaluated: make room for the outputs that stay. The model's lock is held."""
        if self.policy.keeps_nothing:
            if self._buffer is not None:
                self.drop_kept()
            return
        kept, step = self._kept(rows), self._state_bytes(rows)
        nbytes = len(kept) * step
        if self._buffer is not None and self._buffer.nbytes < nbytes:
            self.drop_kept()
        if self._buffer is None and nbytes:
            try:
                self._buffer = allocate(self.budget, "kept layer outputs", nbytes, huge=False)
            except MemoryBudgetError:  # somebody was quicker: everything is computed again
                kept = ()
        self.source.kept = {}
        for n, layer in enumerate(kept):
            view = np.frombuffer(self._buffer, np.uint8, self.source.row_bytes * rows, n * step)
            self.source.kept[layer] = view.view(np.float32).reshape(rows, -1)
        self.note_peak(nbytes)

    def run_pass(self, work: Any) -> None:
        """Run all layers over a prepared pass. The model's lock is held."""
        graph, counters, stream = self.graph, self.counters, self.source.stream
        if stream is not self._stream:
            self._stream, self._seconds, self._waited = stream, 0.0, 0.0
        waited = 0.0 if stream is None else self.source.waited()
        before, step, start = graph.executed_layers, graph.execute_next, time.perf_counter()
        graph.reset()
        try:
            while step(work) is not None:
                pass
            counters.passes += 1
        except BaseException:
            graph.reset()  # nothing holds on to the engine's buffers
            raise
        finally:
            counters.executed += graph.executed_layers - before
            counters.stored += len(self.source.kept)
            if stream is not None:
                self._seconds += time.perf_counter() - start
                self._waited += self.source.waited() - waited

    @property
    def disk_share(self) -> float | None:
        """See :attr:`LayerScheduler.disk_share`."""
        return self._waited / self._seconds if self._seconds else None

    def drop_kept(self) -> None:
        """Let go of kept outputs and of the stream, which may be about to change. The model's lock is held."""
        self.source.kept = {}
        self._choice = None
        self._stream, self._seconds, self._waited = None, 0.0, 0.0
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None

    def release(self) -> None:
        """Let go of all kept outputs."""
        with self.source.lock:
            self.drop_kept()

    # ---- which outputs stay ----------------------------------------------------------------------------------------

    def _state_bytes(self, rows: int) -> int:
        """Bytes of a hidden state, as kept ones lie one after the other."""
        return -(-rows * self.source.row_bytes // 64) * 64

    def _sizes(self, rows: int) -> list[int]:
        """Of all outputs but the logits, which are no hidden state."""
        return [self._state_bytes(rows)] * (self.source.count - 1)

    def _limit(self, rows: int) -> int:
        """Bytes for kept outputs: the policy's, within what the ledger has free, in whole pages."""
        room = self.budget.available + (0 if self._buffer is None else self._buffer.nbytes)
        return self.policy.limit(self._sizes(rows), room // PAGE * PAGE, in_place=True)

    def _kept(self, rows: int) -> tuple[int, ...]:
        """Layers whose outputs a call over so many tokens keeps."""
        if self.policy.keeps_nothing or not rows:
            return ()
        limit = self._limit(rows)
        key = (rows, limit, self.policy.version)
        if self._choice is None or self._choice[0] != key:
            try:
                last = list(range(1, self.source.count))
                kept = self.policy.kept(self._sizes(rows), last, limit, chain=True, in_place=True)
            except MemoryBudgetError:  # not even one
                kept = ()
            self._choice = (key, kept)
        return self._choice[1]

    def plan(self) -> ExecutionPlan:
        """See :meth:`LayerScheduler.create_execution_plan`."""
        rows = self.source.rows or 1
        sizes, limit, order = self._sizes(rows), self._limit(rows), range(self.source.count - 1)
        if self.policy.keeps_nothing:
            return forward_plan(order, sizes, range(1, self.source.count), (), limit, True)
        return sweep_plan(self.policy.reversal(sizes, limit, in_place=True), order, sizes, limit, True)

    def estimate(self) -> MemoryEstimate:
        """See :meth:`LayerScheduler.estimate_memory_usage`."""
        weights, hidden, scratch = self.source.ledger()
        rows = self.source.rows
        kept = len(self._kept(rows)) * self._state_bytes(rows)
        return MemoryEstimate(weights=weights, activations=hidden + kept, scratch=scratch)

    # ---- step by step ----------------------------------------------------------------------------------------------

    def stepping_graph(self) -> ForwardScheduler:
        """Apart from the graph that the model's own passes run on."""
        if self._stepper is None:
            self._stepper = ForwardScheduler(self.model, ExecutionMode.MEMORY_OPT)
        return self._stepper

    def begin(self, input: Any) -> ForwardScheduler:
        graph = self.stepping_graph()
        graph.reset()
        return graph

    # ---- outputs -------------------------------------------------------------------------------------------------

    def output(self, index: int) -> np.ndarray:
        source = self.source
        with source.lock:
            rows = source.rows  # less than were kept where a call has failed
            if rows == 0:
                raise HyperionRuntimeError("no token was evaluated yet")
            if index in source.kept:
                return source.kept[index][:rows].copy()
            start = max((i for i in source.kept if i < index), default=-1)
            if not source.closed:  # the array is the caller's, and nothing else is needed
                self.count_again(index - start)
                return source.compute(start, source.kept.get(start), index)
        self.count_again(index + 1)
        return source.replay(index)

    def sweep(self, visit: Visit, input: Any) -> None:
        """See :meth:`LayerScheduler.reverse_sweep`."""
        source = self.source
        if input is not None:
            self.run(input)
        rows = source.rows
        if rows == 0:
            raise HyperionRuntimeError("no token was evaluated yet: give the token ids")
        states: dict[int, np.ndarray | None] = {0: None}
        with source.lock:
            limit = self._limit(rows)
            plan = self.policy.reversal(self._sizes(rows), limit, in_place=True)
            states |= {k: source.kept[k - 1][:rows].copy() for k in plan.kept_first if k - 1 in source.kept}
            self.drop_kept()
        with self.budget.reserve("layer outputs", plan.peak):
            self.note_peak(plan.peak)
            for step in plan.steps:
                if step.action == "advance" and step.stop not in states:
                    states[step.stop] = self._compute(step.start - 1, states[step.start], step.stop - 1)
                    self.count_again(step.stop - step.start)
                    self.counters.stored += 1
                elif step.action == "visit":
                    x = states[step.stop]
                    visit(step.stop, source.tokens() if x is None else read_only(x))
                elif step.action == "free":
                    states.pop(step.stop, None)
                if source.rows != rows:
                    raise HyperionRuntimeError("other tokens were evaluated in the middle of the sweep")

    def _compute(self, start: int, state: np.ndarray | None, stop: int) -> np.ndarray:
        with self.source.lock:
            if not self.source.closed:
                return self.source.compute(start, state, stop)
        return self.source.replay(stop)

    def close(self) -> None:
        super().close()
        if self._stepper is not None:
            self._stepper.close()
            self._stepper = None
        self.graph.close()
