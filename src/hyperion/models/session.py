"""One sequence of tokens and its key/value cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperion._kernels.nn import Cache
from hyperion.errors import HyperionRuntimeError, InvalidArgumentError

if TYPE_CHECKING:
    from hyperion.models.transformer import Transformer

__all__ = ["Session"]


class Session:
    """Low-level evaluation: tokens in, logits out, the cache kept between calls.

    Made by `Model.session()`. One session belongs to one thread at a time; several sessions of a model may be used from
    several threads. Its cache is reserved in the model's ledger and given back by :meth:`close` (or `with`).

    Attributes
    ----------
    tokens : list of int
        What it has evaluated.
    capacity : int
        Positions that it can hold.
    """

    def __init__(self, model: Transformer, buffer: Any, capacity: int) -> None:
        self._model: Transformer | None = model
        self._buffer = buffer
        self.capacity = capacity
        self.nbytes: int = buffer.nbytes
        self.cache: Cache | None = Cache(model.shape, model.config.layers, capacity, buffer)
        self.tokens: list[int] = []

    def __len__(self) -> int:
        return len(self.tokens)

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
            self.cache = None
            model.release_session(self, self._buffer)
            self._buffer = None

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
