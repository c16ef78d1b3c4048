"""Tokens to text, as a whole or one at a time, never half a character."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ByteStream", "PieceSource", "WholeStream"]


class PieceSource(Protocol):
    """What a stream asks of a tokenizer."""

    def piece(self, token: int, skip_special: bool) -> bytes:
        """The bytes of a token; none for a special one that is skipped."""

    def starts_with_prefix(self, token: int) -> bool:
        """Whether a space at the start of this token is not part of the text when the text starts with it."""


class ByteStream:
    """Decodes tokens whose bytes, one after the other, are the text.

    Parameters
    ----------
    source : PieceSource
        Where a token's bytes come from.
    skip_special : bool
        Leave special tokens out.
    continuation : bool
        The text goes on after other text, so that a space at its start stays.
    """

    def __init__(self, source: PieceSource, *, skip_special: bool, continuation: bool) -> None:
        self._source = source
        self._skip_special = skip_special
        self._at_start = not continuation
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Take one token and return the text that is complete with it, perhaps none.

        Raises
        ------
        InvalidArgumentError
            If the vocabulary has no such token.
        """
        data = self._source.piece(token, self._skip_special)
        if self._at_start and data:
            self._at_start = False
            if data.startswith(b" ") and self._source.starts_with_prefix(token):
                data = data[1:]
        return self._decoder.decode(data)

    def flush(self) -> str:
        """End the text: what is left of an incomplete character comes out as U+FFFD."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of all tokens, then end it."""
        rest, begin = iter(tokens), []
        for token in rest:
            begin.append(self.push(token))
            if not self._at_start:
                break
        data = b"".join(map(_Pieces(self._source, self._skip_special).__getitem__, rest))
        return "".join([*begin, self._decoder.decode(data), self.flush()])


class _Pieces(dict[int, bytes]):
    """The bytes of tokens, each asked for once: a text has few different ones."""

    def __init__(self, source: PieceSource, skip_special: bool) -> None:
        self._source, self._skip_special = source, skip_special

    def __missing__(self, token: int) -> bytes:
        data = self[token] = self._source.piece(token, self._skip_special)
        return data


class WholeStream:
    """Decodes tokens of a ``tokenizer.json`` whose decoder looks at more than one token's bytes.

    The library's own stream finds what is new; it withholds an incomplete character, which :meth:`flush` gives out.

    Parameters
    ----------
    step : callable
        Takes one token, returns the new text or None.
    decode : callable
        Takes all tokens, returns the whole text.
    """

    def __init__(self, step: Callable[[int], str | None], decode: Callable[[list[int]], str]) -> None:
        self._step, self._whole = step, decode
        self._tokens: list[int] = []
        self._length = 0

    def push(self, token: int) -> str:
        """Take one token and return the text that is complete with it, perhaps none."""
        text = self._step(token) or ""
        self._tokens.append(token)
        self._length += len(text)
        return text

    def flush(self) -> str:
        """End the text and return what was held back."""
        rest = self._whole(self._tokens)[self._length :]
        self._tokens, self._length = [], 0
        return rest
