"""One sequence of tokens and its key/value cache."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from hyperion._kernels.nn import Cache
from hyperion.errors import HyperionRuntimeError, InvalidArgumentError
from hyperion.memory import MemoryBudget, Reservation, allocate

if TYPE_CHECKING:
    from hyperion.models.transformer import Transformer

__all__ = ["History", "Session", "SessionRoom"]


class History:
    """What a session has evaluated: its tokens, and their keys and values while it is open.

    The engine remembers a call's sequences by it, not by the session, so that a session goes when its user lets it go.
    """

    __slots__ = ("cache", "tokens")

    def __init__(self, cache: Cache) -> None:
        self.tokens: list[int] = []
        self.cache: Cache | None = cache


class Session:
    """Low-level evaluation: tokens in, logits out, the cache kept between calls.

    Made by `Model.session()`. One session belongs to one thread at a time; several sessions of a model may be used from
    several threads. Its cache is reserved in the model's ledger and given back by :meth:`close` (or `with`), or when nobody
    holds the session any more.

    Attributes
    ----------
    capacity : int
        Positions that it can hold.
    """

    def __init__(self, model: Transformer, room: SessionRoom, buffer: Any, capacity: int) -> None:
        self._room, self._buffer = room, buffer
        self.capacity = capacity
        self.nbytes: int = buffer.nbytes
        self.history = History(Cache(model.shape, model.config.layers, capacity, buffer))
        self._model: Transformer | None = model  # when it holds all that closing gives back

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def tokens(self) -> list[int]:
        """What it has evaluated."""
        return self.history.tokens

    @property
    def closed(self) -> bool:
        """Whether its cache was given back."""
        return self._model is None

    @property
    def model(self) -> Transformer:
        """The model that the session belongs to; HyperionRuntimeError once it is closed."""
        if self._model is None:
            raise HyperionRuntimeError("the session is closed")
        return self._model

    def eval(self, tokens: Sequence[int]) -> np.ndarray:
        """Evaluate tokens after those already in the session.

        Parameters
        ----------
        tokens : sequence of int
            At least one token id.

        Returns
        -------
        ndarray
            float32 [vocab_size]: logits of the token that would follow the last one.

        Raises
        ------
        InvalidArgumentError
            For an id outside of the vocabulary, no token, or more tokens than the context holds. The session is as before.
        """
        return self.model.forward([(self, tokens)], logits="last")[0][0]

    def truncate(self, length: int) -> None:
        """Forget every token from position `length` on."""
        if not 0 <= length <= len(self.tokens):
            raise InvalidArgumentError(f"cannot truncate a session of {len(self.tokens)} tokens to {length}")
        del self.tokens[length:]

    def close(self) -> None:
        """Give the cache's memory back. Closing twice is allowed."""
        if self._model is not None:
            self._model = self.history.cache = None
            self._room.release(self, self._buffer)
            self._buffer = None

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:
            self._model = self.history.cache = None
            self._room.drop(self._buffer)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session is neither copied nor pickled: its tokens, evaluated in another session, give the same state")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SessionRoom:
    """The memory of a model's sessions. Where none is open, it holds what the plan has for one.

    Parameters
    ----------
    budget : MemoryBudget
        The model's ledger.
    lock : Lock
        The model's, which is held when :meth:`open` is called.
    nbytes : callable
        Bytes of a cache of so many positions.
    context_length : int
        Positions of the session that the plan has.

    Raises
    ------
    MemoryBudgetError
        If the ledger does not hold one cache of the whole context.
    """

    def __init__(self, budget: MemoryBudget, lock: threading.Lock, nbytes: Callable[[int], int], context_length: int) -> None:
        self._budget, self._lock, self._nbytes = budget, lock, nbytes
        self._whole = nbytes(context_length)
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._kept: Reservation | None = self._budget.reserve("kv cache", self._whole)
        self._closed = False

    @property
    def sessions(self) -> list[Session]:
        """Those that are open."""
        return [s for s in self._sessions if not s.closed]

    @property
    def kept(self) -> bool:
        """Whether the plan's memory for a session is free."""
        return self._kept is not None

    def open(self, model: Transformer, capacity: int) -> Session:
        """A new session of so many positions; MemoryBudgetError if the ledger does not hold another cache."""
        first, self._kept = self._kept, None
        if first is not None:
            first.release()
        try:
            buffer = allocate(self._budget, "kv cache", self._nbytes(capacity), huge=False)
        except BaseException:
            if first is not None:
                self._keep()
            raise
        session = Session(model, self, buffer, capacity)
        self._sessions.add(session)
        return session

    def release(self, session: Session, buffer: Any) -> None:
        """Give a closed session's cache back."""
        with self._lock:
            self._sessions.discard(session)
            buffer.close()
            self._keep()

    def drop(self, buffer: Any) -> None:
        """Give the cache of a session back that nobody holds. Finalizers call it, in any thread: it waits for no lock."""
        buffer.close()
        if self._lock.acquire(blocking=False):
            try:
                self._keep()
            finally:
                self._lock.release()

    def close(self) -> None:
        """Give what is kept back, for good."""
        self._closed = True
        if self._kept is not None:
            self._kept.release()
            self._kept = None

    def _keep(self) -> None:
        if not self._closed and self._kept is None and not self.sessions:
            self._kept = self._budget.reserve("kv cache", self._whole)
