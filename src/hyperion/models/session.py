"""One sequence of tokens and its key/value cache."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from hyperion._kernels.nn import Cache
from hyperion.errors import HyperionRuntimeError, MemoryBudgetError
from hyperion.memory import MemoryBudget, Reservation, allocate
from hyperion.models.arguments import integer

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
        """Forget every token from position `length` on; the next :meth:`eval` goes on there.

        The keys and values of the tokens before stay, so that another continuation of a common beginning costs only its
        own tokens. No memory is given back.

        Parameters
        ----------
        length : int
            Tokens to keep: from 0, which empties the session, to all that it has.

        Raises
        ------
        InvalidArgumentError
            If it has fewer tokens, or `length` is no integer. The session is as before.
        HyperionRuntimeError
            If the session or its model is closed.
        """
        self.model.check_idle()
        held = len(self.tokens)
        del self.tokens[integer(length, "the length to truncate to", 0, held, "the session's ") :]

    def close(self) -> None:
        """Give the cache's memory back. Closing twice is allowed."""
        if (model := self._model) is not None:  # another thread may close the model meanwhile
            model.check_idle()
            self._room.release(self)

    def detach(self) -> Any:
        """End the session: its buffer, which is the caller's now; None if it has ended before."""
        buffer, self._buffer = self._buffer, None
        self._model = self.history.cache = None
        return buffer

    def __del__(self) -> None:
        if getattr(self, "_model", None) is not None:
            self.detach().close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session is neither copied nor pickled: its tokens, evaluated in another session, give the same state")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SessionRoom:
    """The memory of a model's sessions. Where none is open, it holds what the plan has for one.

    Sessions that nobody holds are ended by finalizers, which give memory back and take none: they may run within any
    statement, in any thread. What is held again for the next session is taken when the model is called the next time.

    Parameters
    ----------
    budget : MemoryBudget
        The model's ledger.
    lock : Lock
        The model's, which is held when :meth:`open`, :meth:`settle` and :meth:`close` are called.
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
    def open_bytes(self) -> int:
        """Bytes of the open sessions."""
        return sum(s.nbytes for s in self.sessions)

    def open(self, model: Transformer, capacity: int) -> Session:
        """A new session of so many positions; MemoryBudgetError if the ledger does not hold another cache."""
        self.settle()
        if self._kept is not None:
            self._kept.release()
            self._kept = None
        try:
            session = Session(model, self, allocate(self._budget, "kv cache", self._nbytes(capacity), huge=False), capacity)
        except BaseException:
            self.settle()
            raise
        self._sessions.add(session)
        return session

    def release(self, session: Session) -> None:
        """End a session; again does nothing."""
        with self._lock:
            buffer = session.detach()
            if buffer is not None:
                buffer.close()
            self.settle()

    def settle(self) -> None:
        """Where no session is open, hold what the plan has for one, if the budget still has it."""
        if not self._closed and self._kept is None and not self.sessions:
            with contextlib.suppress(MemoryBudgetError):  # the next plan makes room, and until then opening a session says so
                self._kept = self._budget.reserve("kv cache", self._whole)

    def close(self) -> None:
        """End the sessions and give everything back, for good."""
        self._closed = True
        for session in self.sessions:
            if (buffer := session.detach()) is not None:  # None where a finalizer was first
                buffer.close()
        if self._kept is not None:
            self._kept.release()
            self._kept = None
