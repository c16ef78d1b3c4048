"""One call of the engine: the tokens of some sessions, cut into passes, and the logits that come of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hyperion.errors import InvalidArgumentError

if TYPE_CHECKING:
    from hyperion.models.session import Session
    from hyperion.models.transformer import Transformer

__all__ = ["Evaluation", "Sink", "Work", "check_tokens"]

Work = Sequence[tuple["Session", Sequence[int]]]

Sink = Callable[[int, int, np.ndarray], None]
"""Takes (entry of the work, place among its tokens, float32 [vocab_size] logits in the engine's own buffer)."""


class Evaluation:
    """What a call has to evaluate. The model's lock is held while it runs.

    Parameters
    ----------
    engine : Transformer
    work : sequence of (Session, tokens)
    every : bool
        The logits of every token are wanted, not those of each session's last one.
    sink : callable
        See :data:`Sink`.
    """

    def __init__(self, engine: Transformer, work: Work, every: bool, sink: Sink) -> None:
        self._engine, self._every, self._sink = engine, every, sink
        if not isinstance(work, (list, tuple)) or not all(isinstance(w, (list, tuple)) and len(w) == 2 for w in work):
            raise InvalidArgumentError(f"work is {work!r:.60}, expected a sequence of pairs: a session, and its tokens")
        self._sessions = [session for session, _ in work]
        self._ids = [check_tokens(engine, session, tokens) for session, tokens in work]
        if len({id(s) for s in self._sessions}) != len(work):
            raise InvalidArgumentError("a session may take part in a pass once")
        self._done = [0] * len(work)

    @property
    def sizes(self) -> list[int]:
        """Tokens of each entry."""
        return [len(ids) for ids in self._ids]

    def run(self, progress: Callable[[int, int], None] | None) -> None:
        """All passes."""
        engine, total = self._engine, sum(self.sizes)
        engine._layers.begin()
        engine.scheduler.begin_forward(total)
        while batch := self._cut():
            self._pass(batch)
            engine.loader.after_pass()
            for i, part in batch:
                self._sessions[i].tokens.extend(part.tolist())
                self._done[i] += len(part)
            if progress is not None:
                progress(sum(self._done), total)

    def _cut(self) -> list[tuple[int, np.ndarray]]:
        """As much of the work as one pass takes, in order: entries and their next tokens."""
        plan = self._engine.plan
        room = plan.logits_rows if self._every else plan.chunk
        left = [i for i, ids in enumerate(self._ids) if self._done[i] < len(ids)][: plan.logits_rows]
        batch = []
        for i in left:
            part = self._ids[i][self._done[i] :][:room]
            room -= len(part)
            if len(part):
                batch.append((i, part))
        return batch

    def _pass(self, batch: list[tuple[int, np.ndarray]]) -> None:
        """One pass over all layers."""
        engine, layers = self._engine, self._engine._layers
        sessions, lengths = [self._sessions[i] for i, _ in batch], [len(part) for _, part in batch]
        positions = np.concatenate([np.arange(len(s), len(s) + n, dtype=np.int64) for s, n in zip(sessions, lengths, strict=True)])
        sequences = np.repeat(np.arange(len(batch), dtype=np.int32), lengths)
        work = layers.make_pass([s.history for s in sessions], np.concatenate([part for _, part in batch]), positions, sequences)
        work.row = layers.rows
        work.finish = lambda work: self._head(batch, work.x)
        finished = False
        try:
            layers.rewind_stream()
            assert engine._weights is not None
            engine._weights.begin_pass()
            engine.scheduler.run_pass(work)
            finished = True
        finally:
            layers.end(work, finished=finished)

    def _head(self, batch: list[tuple[int, np.ndarray]], x: np.ndarray) -> None:
        """Final norm and output matrix for the rows whose logits are wanted (one of them at least: the stream goes on)."""
        engine, weights = self._engine, self._engine._weights
        assert weights is not None and weights.output is not None
        places: list[tuple[int, int]] = []
        rows: list[int] = []
        row = 0
        for i, part in batch:
            first, n = self._done[i], len(part)
            if self._every:
                places += [(i, first + j) for j in range(n)]
                rows += range(row, row + n)
            elif first + n == len(self._ids[i]):
                places.append((i, first + n - 1))
                rows.append(row + n - 1)
            row += n
        wanted = np.array(rows or [row - 1], dtype=np.int64)
        out, scratch = engine.workspace.logits(len(wanted))
        engine.runtime.head_forward(weights.output_norm, engine.config.norm_eps, weights.output, x, wanted, out, scratch)
        weights.count_use(len(weights.blocks))
        for (i, place), logits in zip(places, out, strict=False):  # a row that nobody wants has no place
            self._sink(i, place, logits)


def check_tokens(engine: Transformer, session: Session, tokens: Sequence[int]) -> np.ndarray:
    """Ids that a session of the engine can go on with, int64 [n].

    Raises
    ------
    InvalidArgumentError
        If they are none, no ids of the vocabulary, or more than the session holds; or if the session is another model's.
    """
    if session.model is not engine:
        raise InvalidArgumentError("the session belongs to another model")
    try:
        given = np.asarray(tokens)
    except (TypeError, ValueError):
        given = np.empty(1, object)
    if given.size and given.dtype.kind not in "iu":  # a float is refused and not cut off, and bytes are no ids
        raise InvalidArgumentError(f"tokens are integers, not {tokens!r:.60}")
    ids = given.astype(np.int64)
    vocab_size = engine.config.vocab_size
    if ids.ndim != 1 or ids.size == 0:
        raise InvalidArgumentError(f"expected one or more token ids in one dimension, got shape {ids.shape}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        bad = int(ids[(ids < 0) | (ids >= vocab_size)][0])
        raise InvalidArgumentError(f"token id {bad} is outside of the vocabulary of {vocab_size}")
    if len(session) + ids.size > session.capacity:
        raise InvalidArgumentError(
            f"{len(session)} tokens and {ids.size} more do not fit the context of {session.capacity}; "
            f"open the model with a larger context_length (the model allows {engine.config.context_length})"
        )
    return ids
