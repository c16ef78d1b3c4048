"""One sequence of tokens and its key/value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from hyperion._kernels.nn import Cache
from hyperion.errors import HyperionRuntimeError, InvalidArgumentError

if TYPE_CHECKING:
    from hyperion.models.transformer import Transformer

__all__ = ["Session"]


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

    def __init__(self, model: Transformer, buffer: Any, capacity: int) -> None:
        self._model: Transformer | None = model
        self._buffer = buffer
        self.capacity = capacity
        self.nbytes: int = buffer.nbytes
        self.history = History(Cache(model.shape, model.config.layers, capacity, buffer))

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
            model, self._model = self._model, None
            self.history.cache = None
            model.release_session(self, self._buffer)
            self._buffer = None

    def __del__(self) -> None:
        model = getattr(self, "_model", None)
        if model is not None:
            self._model = self.history.cache = None
            model.drop_session(self._buffer)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a session is neither copied nor pickled: its tokens, evaluated in another session, give the same state")

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
