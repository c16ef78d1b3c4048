"""Engines behind one face: text to ids, ids to bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import FormatError, InvalidArgumentError
from .bpe import CHARACTER_TO_BYTE
from .engine import guarded, library
from .sentencepiece import SPACE
from .stream import ByteStream, WholeStream
from .vocabulary import TokenKind

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Codec", "LibraryCodec", "PieceCodec", "check_text", "decoder_style", "no_token"]

_SKIPPED = (TokenKind.CONTROL, TokenKind.UNKNOWN)
_VERBATIM = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)


class Stream(Protocol):
    """A decoder that takes tokens one at a time."""

    def push(self, token: int) -> str:
        """Take one token and return the text that is complete with it, perhaps none."""

    def flush(self) -> str:
        """End the text and return what was held back."""


class Codec(Protocol):
    """What :class:`hyperion.Tokenizer` asks of an engine."""

    size: int
    memory_bytes: int

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a text."""

    def token(self, number: int) -> str | None:
        """Text of a token as the vocabulary writes it."""

    def number(self, text: str) -> int | None:
        """Id of a token."""

    def is_special(self, number: int) -> bool:
        """Whether the token is markup, not text."""

    def piece(self, token: int, skip_special: bool) -> bytes:
        """The bytes that a token stands for."""

    def decode(self, tokens: Iterable[int], *, skip_special: bool, continuation: bool) -> str:
        """Text of tokens."""

    def stream(self, *, skip_special: bool, continuation: bool) -> Stream:
        """Decode as they come."""

    def close(self) -> None:
        """Let the engine go."""


class PieceCodec:
    """What every engine whose tokens stand for bytes has in common.

    Parameters
    ----------
    kinds : mapping of int to int
        The :class:`TokenKind` of every token that is not ordinary text.
    style : {"bytes", "spaces", "whole"}
        How text is written in tokens: GPT-2's byte alphabet; SentencePiece's, with ``▁`` for a space and byte tokens;
        or in a way that only the engine's decoder knows.
    size : int
        Number of tokens.
    memory_bytes : int
        What the engine occupies.
    bos, eos : int or None
        Put around a text when special tokens are added.
    strips_prefix : bool
        A space before a text is not part of it ("spaces").
    prefix_once : bool
        That space is to be put before the text here ("spaces").
    refuse : callable or None
        Told of each text; raises if the vocabulary cannot express it.
    """

    def __init__(
        self,
        kinds: Mapping[int, int],
        style: str,
        *,
        size: int,
        memory_bytes: int,
        bos: int | None = None,
        eos: int | None = None,
        strips_prefix: bool = False,
        prefix_once: bool = False,
        refuse: Callable[[str], None] | None = None,
    ) -> None:
        self._kinds = kinds
        self._style = style
        self._bos, self._eos = bos, eos
        self._strips_prefix = strips_prefix
        self._space = self.number(SPACE) if prefix_once else None
        self._prefix_once = prefix_once
        self._refuse = refuse
        self.size = size
        self.memory_bytes = memory_bytes

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a text."""
        if self._refuse is not None:
            self._refuse(text)
        if self._prefix_once and text:
            text = " " + text
        ids = self._ids(text, add_special, parse_special)
        if self._space is not None and len(ids) > 1 and ids[0] == self._space and self._kinds.get(ids[1]) == TokenKind.CONTROL:
            del ids[0]  # the text starts with a control token: no text is there to put a space before
        if add_special and self._bos is not None:
            ids.insert(0, self._bos)
        if add_special and self._eos is not None:
            ids.append(self._eos)
        return ids

    def _ids(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """What the engine makes of a text."""
        raise NotImplementedError

    def token(self, number: int) -> str | None:
        """Text of a token as the vocabulary writes it."""
        raise NotImplementedError

    def number(self, text: str) -> int | None:
        """Id of a token."""
        raise NotImplementedError

    def is_special(self, number: int) -> bool:
        """Whether the token is markup, not text."""
        return self._kinds.get(number) in _SKIPPED

    def piece(self, token: int, skip_special: bool) -> bytes:
        """The bytes that a token stands for."""
        text = self.token(token)
        if text is None:
            raise no_token(token, self.size)
        kind = self._kinds.get(token, TokenKind.NORMAL)
        if kind in _VERBATIM:
            return b"" if skip_special and kind in _SKIPPED else text.encode()
        if self._style == "bytes":
            try:
                return bytes(map(CHARACTER_TO_BYTE.__getitem__, text))
            except KeyError:  # some vocabularies hold words that are not in GPT-2's alphabet: they mean themselves
                return b"".join(
                    bytes([CHARACTER_TO_BYTE[c]]) if c in CHARACTER_TO_BYTE else c.encode() for c in text
                )
        if kind == TokenKind.BYTE:
            return bytes([int(text[3:5], 16)])
        return text.replace(SPACE, " ").encode()

    def starts_with_prefix(self, token: int) -> bool:
        """Whether a space at the start of this token is not part of a text that starts with it."""
        return self._strips_prefix and self._kinds.get(token, TokenKind.NORMAL) not in _VERBATIM

    def decode(self, tokens: Iterable[int], *, skip_special: bool, continuation: bool) -> str:
        """Text of tokens."""
        return ByteStream(self, skip_special=skip_special, continuation=continuation).decode(tokens)

    def stream(self, *, skip_special: bool, continuation: bool) -> Stream:
        """Decode as they come."""
        return ByteStream(self, skip_special=skip_special, continuation=continuation)

    def close(self) -> None:
        """Let the engine go."""
        raise NotImplementedError


class LibraryCodec(PieceCodec):
    """A `tokenizers` engine.

    Parameters
    ----------
    engine : tokenizers.Tokenizer
    kinds, style, **options
        As for :class:`PieceCodec`.
    """

    def __init__(self, engine: tokenizers.Tokenizer, kinds: Mapping[int, int], style: str, **options: Any) -> None:
        self._engine: Any = engine
        self._lock = threading.Lock()
        super().__init__(kinds, style, **options)

    def _ids(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        # Whether special tokens are parsed is a state of the engine, not an argument: one call at a time.
        with self._lock, guarded("encode the text", building=False):
            self._engine.encode_special_tokens = not parse_special
            ids: list[int] = self._engine.encode(text, add_special_tokens=add_special).ids
        return ids

    def token(self, number: int) -> str | None:
        """Text of a token as the vocabulary writes it."""
        text: str | None = self._engine.id_to_token(number)
        return text

    def number(self, text: str) -> int | None:
        """Id of a token."""
        number: int | None = self._engine.token_to_id(text)
        return number

    def decode(self, tokens: Iterable[int], *, skip_special: bool, continuation: bool) -> str:
        """Text of tokens."""
        if self._style != "whole":
            return super().decode(tokens, skip_special=skip_special, continuation=continuation)
        ids = list(tokens)
        for token in ids:
            if self._engine.id_to_token(token) is None:
                raise no_token(token, self.size)
        with guarded("decode the tokens", building=False):
            text: str = self._engine.decode(ids, skip_special_tokens=skip_special)
        return text

    def stream(self, *, skip_special: bool, continuation: bool) -> Stream:
        """Decode as they come."""
        if self._style != "whole":
            return super().stream(skip_special=skip_special, continuation=continuation)
        engine = self._engine
        inner = library().decoders.DecodeStream(skip_special_tokens=skip_special)

        def step(token: int) -> str | None:
            if engine.id_to_token(token) is None:
                raise no_token(token, self.size)
            with guarded("decode a token", building=False):
                text: str | None = inner.step(engine, token)
            return text

        return WholeStream(step, lambda ids: self.decode(ids, skip_special=skip_special, continuation=continuation))

    def close(self) -> None:
        """Let the engine go."""
        self._engine = None


def no_token(number: int, size: int) -> InvalidArgumentError:
    """The error for an id that the vocabulary does not have."""
    return InvalidArgumentError(f"token {number} is not in the vocabulary of {size} tokens", token=number)


def decoder_style(engine: tokenizers.Tokenizer) -> tuple[str, bool]:
    """How the decoder of a ``tokenizer.json`` reads tokens, as ``style`` and ``strips_prefix`` of a codec."""
    decoder = engine.decoder
    if decoder is None:
        return "whole", False
    state = json.loads(decoder.__getstate__())
    steps = state.get("decoders", [state])
    names = [step.get("type") for step in steps]
    if names == ["ByteLevel"]:
        return "bytes", False
    spaces = any(s.get("type") == "Replace" and s.get("pattern") == {"String": SPACE} and s.get("content") == " " for s in steps)
    if spaces and set(names) <= {"Replace", "ByteFallback", "Fuse", "Strip"} and "ByteFallback" in names:
        strips = [s for s in steps if s.get("type") == "Strip"]
        plain = all(s.get("content") == " " and s.get("start") == 1 and s.get("stop") == 0 for s in strips)
        if plain and len(strips) <= 1:
            return "spaces", bool(strips)
    return "whole", False


def check_text(text: object) -> str:
    """The argument, if it is a text that has UTF-8."""
    if not isinstance(text, str):
        raise InvalidArgumentError(f"a text must be a str, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"the text has a lone surrogate at {error.start}, which is no character") from None
    return text


def check_size(size: int, path: object) -> None:
    """Refuse a vocabulary without tokens."""
    if size == 0:
        raise FormatError(f"{path}: the vocabulary is empty")
