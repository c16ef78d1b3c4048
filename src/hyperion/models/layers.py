"""An open model's layers as functions of a graph: 0 is the embedding, then come the blocks, the last is the output head."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperion.errors import HyperionRuntimeError, InvalidArgumentError
from hyperion.models.evaluation import check_tokens
from hyperion.scheduling.forward import ForwardScheduler

if TYPE_CHECKING:
    from hyperion.models.session import History, Session
    from hyperion.models.transformer import Transformer

__all__ = ["EngineLayers", "Pass", "SteppedLayers"]


@dataclasses.dataclass(slots=True)
class Pass:
    """Tokens that go through the layers together.

    ids, positions and sequences have an entry for each token; `sequences` index `sessions`. x [tokens, dim] is the hidden
    state that blocks work on; `row` the place of the first token among those of one call; `finish` takes x to logits.
    """

    sessions: list[History]
    ids: np.ndarray
    positions: np.ndarray
    sequences: np.ndarray
    caches: list[Any]
    rotation: np.ndarray
    x: np.ndarray
    scratch: np.ndarray
    row: int = 0
    finish: Callable[[Pass], object] | None = None


class EngineLayers:
    """The layers that a model's own passes run through, and what is needed to run some of them again.

    Attributes
    ----------
    count : int
        Layers, the embedding and the head included.
    row_bytes : int
        Bytes of one token's hidden state.
    rows : int
        Tokens of the last call.
    kept : dict of int to ndarray
        Outputs float32 [rows, dim] that are to be kept, by layer.
    """

    def __init__(self, engine: Transformer) -> None:
        self.engine = engine
        self.count = engine.config.layers + 2
        self.row_bytes = engine.config.dim * 4
        self.kept: dict[int, np.ndarray] = {}
        self.record: list[Pass] = []
        self._now: Pass | None = None

    @property
    def lock(self) -> threading.Lock:
        """The model's; HyperionRuntimeError within a function that the model calls, where waiting for it would never end."""
        self.engine.check_idle()
        return self.engine._lock

    @property
    def rows(self) -> int:
        """Tokens of the last call."""
        return sum(len(p.ids) for p in self.record)

    def bind(self, graph: ForwardScheduler) -> None:
        """Add the layers to a graph whose input is a :class:`Pass`."""
        graph.add_layer(0, self._embed)
        for layer in range(1, self.count - 1):
            graph.add_layer(layer, self._block(layer), depends_on=layer - 1)
        graph.add_layer(self.count - 1, self._head, depends_on=self.count - 2)

    def _embed(self, work: Pass) -> np.ndarray:
        self._now = work
        self.embed(work)
        if self.kept:
            self._keep(0)
        return work.x

    def _block(self, layer: int) -> Callable[[np.ndarray], np.ndarray]:
        def run(x: np.ndarray) -> np.ndarray:
            work = self._now
            assert work is not None
            self.run_block(layer, work)
            if self.kept:
                self._keep(layer)
            return x

        return run

    def _head(self, x: np.ndarray) -> None:
        work, self._now = self._now, None
        assert work is not None and work.finish is not None
        work.finish(work)

    def _keep(self, layer: int) -> None:
        whole, work = self.kept.get(layer), self._now
        if whole is not None and work is not None:
            whole[work.row : work.row + len(work.x)] = work.x

    # ---- single layers; the model's lock is held -------------------------------------------------------------------

    def make_pass(self, sessions: list[History], ids: np.ndarray, positions: np.ndarray, sequences: np.ndarray) -> Pass:
        """A pass in the engine's own workspace, which holds `plan.chunk` tokens."""
        engine = self.engine
        x, scratch = engine.workspace.hidden(len(ids))
        caches = [session.cache for session in sessions]
        return Pass(sessions, ids, positions, sequences, caches, engine._rotation(positions), x, scratch)

    def embed(self, work: Pass) -> None:
        """The tokens' rows of the embedding."""
        weights = self.engine._weights
        assert weights is not None
        weights.embed(work.ids, work.x)

    def run_block(self, layer: int, work: Pass) -> None:
        """Layer 1 .. count - 2, in place on the pass's hidden state."""
        engine, weights = self.engine, self.engine._weights
        assert weights is not None
        engine.runtime.block_forward(
            engine.shape, weights.blocks[layer - 1], layer - 1, work.caches, work.positions, work.sequences, work.rotation,
            work.x, work.scratch,
        )  # fmt: skip
        weights.count_use(layer - 1)

    def enter(self, layer: int) -> None:
        """A layer is about to run out of turn: its streamed weights come next."""
        weights = self.engine._weights
        assert weights is not None
        if weights.ring is not None:
            first = weights.first_pieces[layer - 1]
            last = weights.first_pieces[layer] if layer < len(weights.first_pieces) else None
            if first != last and weights.ring.position != first:
                weights.ring.seek(first)

    def restart_stream(self) -> None:
        """Whatever ran, the next pass starts with the first layer."""
        weights = self.engine._weights
        if weights is not None and weights.ring is not None:
            weights.ring.restart()

    def rewind_stream(self) -> None:
        """Before a pass: go back to the first layer if single layers have run."""
        weights = self.engine._weights
        if weights is not None and weights.ring is not None and weights.ring.position:
            weights.ring.restart()

    def logits_of(self, x: np.ndarray, out: np.ndarray) -> None:
        """Final norm and output matrix for every row."""
        engine, weights = self.engine, self.engine._weights
        assert weights is not None and weights.output is not None
        for a in range(0, len(x), engine.plan.logits_rows):
            part = np.ascontiguousarray(x[a : a + engine.plan.logits_rows])
            rows = np.arange(len(part), dtype=np.int64)
            logits, scratch = engine.workspace.logits(len(part))
            self.enter(self.count - 1)
            engine.runtime.head_forward(weights.output_norm, engine.config.norm_eps, weights.output, part, rows, logits, scratch)
            weights.count_use(len(weights.blocks))
            out[a : a + len(part)] = logits

    # ---- what was evaluated last -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new call starts."""
        self.record = []

    def end(self, work: Pass, *, finished: bool) -> None:
        """A pass has ended: remember its tokens, and let go of the engine's buffers and the sessions' caches."""
        self._now = None
        none: Any = None
        work.x = work.scratch = work.rotation = work.caches = work.finish = none
        if finished:
            self.record.append(work)
        else:
            self.restart_stream()

    def tokens(self) -> np.ndarray:
        """Ids of the tokens evaluated last, int64."""
        return np.concatenate([p.ids for p in self.record])

    def compute(self, start: int, state: np.ndarray | None, stop: int) -> np.ndarray:
        """Run layers start + 1 .. stop again over the tokens evaluated last. The model's lock is held.

        Parameters
        ----------
        start : int
            The layer whose output `state` is; -1 to start from the tokens.
        state : ndarray or None
            float32 [rows, dim].
        stop : int
            The layer whose output is wanted.

        Returns
        -------
        ndarray
            float32 [rows, dim], logits [rows, vocab_size] for the last layer.

        Notes
        -----
        Blocks write the keys and values of the same tokens at the same positions once more: the same bits.
        """
        engine, record = self.engine, self.record
        engine._check_open()
        width = engine.config.vocab_size if stop == self.count - 1 else engine.config.dim
        out = np.empty((self.rows, width), np.float32)
        row = 0
        for p in record:
            for a in range(0, len(p.ids), engine.plan.chunk):
                rows = slice(a, a + engine.plan.chunk)
                n = len(p.ids[rows])
                self._run_again(p, rows, start, None if state is None else state[row : row + n], stop, out[row : row + n])
                row += n
        return out

    def _run_again(self, p: Pass, rows: slice, start: int, state: np.ndarray | None, stop: int, out: np.ndarray) -> None:
        work = self.make_pass(p.sessions, p.ids[rows], p.positions[rows], p.sequences[rows])
        if state is None:
            self.embed(work)
        else:
            work.x[:] = state
        try:
            for layer in range(max(start, 0) + 1, min(stop, self.count - 2) + 1):
                self.enter(layer)
                self.run_block(layer, work)
            if stop == self.count - 1:
                self.logits_of(work.x, out)
            else:
                out[:] = work.x
        finally:
            self.restart_stream()

    @property
    def closed(self) -> bool:
        """A session of the last call is closed: its keys and values are gone."""
        return any(s.cache is None for p in self.record for s in p.sessions)

    def replay(self, stop: int) -> np.ndarray:
        """The same as :meth:`compute` where sessions are closed: all their tokens go through a temporary one.

        Raises
        ------
        HyperionRuntimeError
            If a session was truncated before it was closed.
        MemoryBudgetError
            If the budget does not hold a session.
        """
        parts = []
        for session in dict.fromkeys(s for p in self.record for s in p.sessions):
            where = [p.positions[p.sequences == p.sessions.index(session)] for p in self.record if session in p.sessions]
            first, end = int(where[0][0]), int(where[-1][-1]) + 1
            if len(session.tokens) < end:
                raise HyperionRuntimeError("the session was truncated and closed: its tokens are gone")
            with self.engine.session(end) as again:
                copy = EngineLayers(self.engine)
                ids = np.array(session.tokens[:end], np.int64)
                none: Any = None
                copy.record = [
                    Pass([again.history], ids, np.arange(end, dtype=np.int64), np.zeros(end, np.int32), none, none, none, none)
                ]
                with self.lock:
                    parts.append(copy.compute(-1, None, stop)[first:])
        return np.concatenate(parts)

    # ---- bytes and times -------------------------------------------------------------------------------------------

    def ledger(self) -> tuple[int, int, int]:
        """(weights, hidden state, everything else) in bytes, as the plan and the open sessions have them."""
        engine = self.engine
        items = dict(engine.plan.items)
        open_caches = sum(s.nbytes for s in engine.open_sessions)
        if open_caches:
            items["kv cache"] = open_caches
        weights = sum(items.get(name, 0) for name in ("weights", "embedding", "stream ring", "norms and biases"))
        hidden = engine.plan.chunk * self.row_bytes
        return weights, hidden, sum(items.values()) - weights - hidden

    def waited(self) -> float:
        """Seconds that passes have waited for the stream."""
        ring = self.engine.weight_ring
        return 0.0 if ring is None else float(ring.stats["wait_seconds"])

    @property
    def stream(self) -> object:
        """What streams weights; None where everything is pinned."""
        return self.engine.weight_ring


class SteppedLayers:
    """The layers of an open model in a graph that somebody steps through: a sequence of its own, hidden states in the graph.

    The graph's input are token ids. Its chunks and the passes between two resets continue one sequence. Other passes of
    the model may run between two steps.
    """

    def __init__(self, engine: Transformer, graph: ForwardScheduler) -> None:
        self.engine, self.layers = engine, engine.layer_source()
        self.session: Session | None = None
        self.work: Pass | None = None
        graph.max_rows = engine.plan.chunk
        graph.on_reset, graph.on_close = self.reset, self.close
        row, last = engine.config.dim * 4, engine.config.layers + 1
        graph.add_layer(0, self.embed, row_size=row, rowwise=True)
        for layer in range(1, last):
            graph.add_layer(layer, self.block(layer), depends_on=layer - 1, row_size=row, in_place=True, rowwise=True)
        graph.add_layer(last, self.head, depends_on=last - 1, row_size=engine.config.vocab_size * 4, rowwise=True)
        graph.prepare()

    def embed(self, tokens: Sequence[int]) -> np.ndarray:
        """The first layer."""
        engine = self.engine
        engine._check_open()
        if self.session is None or self.session.closed:
            self.session = engine.session()
        session = self.session
        ids = check_tokens(engine, session, tokens)
        start, n = len(session), len(ids)
        x = np.empty((n, engine.config.dim), np.float32)
        none: Any = None
        positions = np.arange(start, start + n, dtype=np.int64)
        self.work = Pass([session.history], ids, positions, np.zeros(n, np.int32), none, none, x, none)
        layers = self.layers
        with engine._lock:
            engine._check_open()
            layers.embed(self.work)
            if start == 0 or not layers.record or layers.record[-1].sessions != [session.history]:
                layers.begin()
                layers.kept = {}
            layers.record.append(self.work)
        self.work.x = none
        session.tokens.extend(ids.tolist())
        return x

    def block(self, layer: int) -> Callable[[np.ndarray], np.ndarray]:
        """A block, in place."""

        def run(x: np.ndarray) -> np.ndarray:
            engine, p = self.engine, self.work
            if p is None or len(p.ids) != len(x):
                raise InvalidArgumentError("a block runs over the tokens that the embedding took")
            engine.check_idle()
            with engine._lock:
                engine._check_open()
                for a in range(0, len(x), engine.plan.chunk):
                    rows = slice(a, a + engine.plan.chunk)
                    work = self.layers.make_pass(p.sessions, p.ids[rows], p.positions[rows], p.sequences[rows])
                    work.x = x[rows]
                    try:
                        self.layers.enter(layer)
                        self.layers.run_block(layer, work)
                    except BaseException:
                        self.layers.restart_stream()
                        raise
            return x

        return run

    def head(self, x: np.ndarray) -> np.ndarray:
        """The last layer."""
        engine = self.engine
        out = np.empty((len(x), engine.config.vocab_size), np.float32)
        engine.check_idle()
        with engine._lock:
            engine._check_open()
            try:
                self.layers.logits_of(x, out)
            finally:
                self.layers.restart_stream()
        return out

    def reset(self) -> None:
        """Start the sequence anew."""
        self.work = None
        if self.session is not None and not self.session.closed:
            self.session.truncate(0)

    def close(self) -> None:
        """Give the sequence's cache back."""
        if self.session is not None:
            self.session.close()
