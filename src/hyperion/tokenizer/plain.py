"""Plain vocabulary files: one token a line, its id the number of the line.

Two kinds, told apart by their content:

*WordPiece*, if any line starts with ``##`` (BERT's ``vocab.txt``): text is cut at white space and punctuation, and each
word is covered from the left by the longest pieces, those inside a word written with ``##``. A word that cannot be
covered is the unknown token. White space is not kept.

*Longest match* otherwise: at every place the longest token that fits is taken. Spaces are matched like any other
character if the vocabulary has them, as ``▁`` (SentencePiece's mark, U+2581) or as themselves; if it has neither, white
space separates words, and decoding puts one space between tokens. A character that no token covers is written in byte
tokens ``<0x00>`` to ``<0xFF>`` if the vocabulary has all of them, else it is the unknown token, one for a run of
such characters.

The unknown token is the first of ``[UNK]``, ``<unk>``, ``<UNK>``, ``[unk]``, ``<|unk|>``. Without one, a text that the
vocabulary does not cover is an error. Texts come back unchanged where spaces are matched and every character is covered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import FormatError, InvalidArgumentError
from .codec import Stream
from .engine import estimate_bytes, guarded, library
from .huggingface import read_bytes
from .sentencepiece import SPACE
from .stream import ByteStream

__all__ = ["LongestMatch", "WordPiece", "open_plain", "read_plain"]

_UNKNOWN = ("[UNK]", "<unk>", "<UNK>", "[unk]", "<|unk|>")
#: Markup by its usual look: never text, left out when decoding.
_MARKUP = re.compile(r"\[(?:UNK|unk|PAD|CLS|SEP|MASK|BOS|EOS)\]|</?s>|<(?:unk|UNK|pad|PAD|bos|eos|mask)>|<\|[^|<>\s]+\|>")


def read_plain(path: Path, max_tokens: int | None = None) -> list[str]:
    """Read the tokens of a plain vocabulary file.

    Parameters
    ----------
    path : Path
        UTF-8; lines end in LF or CR LF; a line may be a space, but not empty, unless it is the last.
    max_tokens : int, optional
        Read only so many lines.

    Raises
    ------
    FormatError
        If a line is not UTF-8, empty, or there twice; or there is none.
    """
    data = read_bytes(path)
    lines = data.split(b"\n") if max_tokens is None else data.split(b"\n", max_tokens)[:max_tokens]
    if lines and not lines[-1].rstrip(b"\r"):
        lines.pop()
    if not lines:
        raise FormatError(f"{path}: the vocabulary is empty", path=str(path), offset=0)
    tokens: list[str] = []
    seen: dict[str, int] = {}
    offset = 0
    for i, line in enumerate(lines):
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            at = offset + error.start
            raise FormatError(f"{path}: line {i + 1} is not UTF-8 (byte {at})", path=str(path), offset=at) from None
        if not text:
            raise FormatError(f"{path}: line {i + 1} is empty (byte {offset})", path=str(path), offset=offset)
        first = seen.setdefault(text, i)
        if first != i:
            raise FormatError(
                f"{path}: {text!r:.60} is on line {first + 1} and on line {i + 1} (byte {offset})",
                path=str(path),
                offset=offset,
            )
        tokens.append(text)
        offset += len(line) + 1
    return tokens


def open_plain(path: Path, *, max_tokens: int | None = None, case_sensitive: bool = True) -> LongestMatch | WordPiece:
    """Open a plain vocabulary file as what its content says it is."""
    tokens = read_plain(path, max_tokens)
    kind = WordPiece if any(t.startswith("##") and len(t) > 2 for t in tokens) else LongestMatch
    return kind(tokens, case_sensitive)


class _Plain:
    """What both kinds share: a list of tokens, and an index over them."""

    def __init__(self, tokens: list[str], case_sensitive: bool) -> None:
        self._tokens = tokens
        self._fold = (lambda text: text) if case_sensitive else str.lower
        # Without regard to case, the first of several spellings stands for all.
        self._index: dict[str, int] = {}
        for i, text in enumerate(tokens):
            self._index.setdefault(text if _MARKUP.fullmatch(text) else self._fold(text), i)
        self.unknown = next((self._index[t] for t in _UNKNOWN if t in self._index), None)
        self._special = frozenset(i for i, t in enumerate(tokens) if _MARKUP.fullmatch(t))
        self.size = len(tokens)
        self.memory_bytes = (64 << 10) + sum(100 + 4 * len(t) for t in tokens)

    def token(self, number: int) -> str | None:
        """Text of a token as the vocabulary writes it."""
        return self._tokens[number] if 0 <= number < self.size else None

    def number(self, text: str) -> int | None:
        """Id of a token."""
        return self._index.get(text if text in self._index else self._fold(text))

    def is_special(self, number: int) -> bool:
        """Whether the token is markup, not text."""
        return number in self._special

    def _text(self, token: int, skip_special: bool) -> str | None:
        if not 0 <= token < self.size:
            raise InvalidArgumentError(f"token {token} is not in the vocabulary of {self.size} tokens", token=token)
        return None if skip_special and token in self._special and token != self.unknown else self._tokens[token]

    def _split_special(self, text: str, parse_special: bool) -> Iterable[tuple[str, int | None]]:
        """Pieces of a text and, for special tokens, their ids."""
        if not parse_special or not self._special:
            yield text, None
            return
        names = sorted((self._tokens[i] for i in self._special), key=len, reverse=True)
        for part in re.split("(" + "|".join(map(re.escape, names)) + ")", text):
            number = self._index.get(part)
            yield part, number if number in self._special else None

    def _no_token(self, text: str) -> InvalidArgumentError:
        return InvalidArgumentError(f"the vocabulary has no token for {text!r:.60}, nor an unknown token")

    def close(self) -> None:
        """Let the vocabulary go."""
        self._tokens, self._index = [], {}


class LongestMatch(_Plain):
    """The longest token that fits, from the left.

    Parameters
    ----------
    tokens : list of str
    case_sensitive : bool
        If not, texts and tokens are compared in lower case.
    """

    def __init__(self, tokens: list[str], case_sensitive: bool) -> None:
        super().__init__(tokens, case_sensitive)
        text = [t for i, t in enumerate(tokens) if i not in self._special]
        self._space = SPACE if any(SPACE in t for t in text) else " " if any(" " in t for t in text) else ""
        self._bytes = [self._index.get(f"<0x{b:02X}>" if case_sensitive else f"<0x{b:02x}>") for b in range(256)]
        self._values = {} if None in self._bytes else {i: b for b, i in enumerate(self._bytes)}
        words = (t for t, i in self._index.items() if i not in self._special and i not in self._values)
        self._lengths = sorted({len(t) for t in words}, reverse=True)
        self._words = {t: i for t, i in self._index.items() if i not in self._special and i not in self._values}

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a text; a plain vocabulary says nothing of begin and end, so that none are added."""
        ids: list[int] = []
        for part, special in self._split_special(text, parse_special):
            if special is not None:
                ids.append(special)
            elif self._space:
                self._match(self._fold(part).replace(" ", self._space), ids)
            else:
                for word in self._fold(part).split():
                    self._match(word, ids)
        return ids

    def _match(self, text: str, ids: list[int]) -> None:
        at, end, gap = 0, len(text), False
        words, lengths = self._words, self._lengths
        while at < end:
            for length in lengths:
                number = words.get(text[at : at + length]) if length <= end - at else None
                if number is not None:
                    ids.append(number)
                    at, gap = at + length, False
                    break
            else:
                if self._values:
                    ids.extend(self._bytes[b] for b in text[at].replace(self._space or " ", " ").encode())  # type: ignore[misc]
                elif self.unknown is None:
                    raise self._no_token(text[at])
                elif not gap:
                    ids.append(self.unknown)
                    gap = True
                at += 1

    def piece(self, token: int, skip_special: bool) -> bytes:
        """The bytes that a token stands for."""
        text = self._text(token, skip_special)
        if text is None:
            return b""
        if token in self._values:
            return bytes([self._values[token]])
        if token in self._special:
            return text.encode()
        return text.replace(SPACE, " ").encode() if self._space == SPACE else text.encode()

    def starts_with_prefix(self, token: int) -> bool:
        """No space is added to texts."""
        return False

    def decode(self, tokens: Iterable[int], *, skip_special: bool, continuation: bool) -> str:
        """Text of tokens."""
        stream = self.stream(skip_special=skip_special, continuation=continuation)
        return "".join([*map(stream.push, tokens), stream.flush()])

    def stream(self, *, skip_special: bool, continuation: bool) -> Stream:
        """Decode as they come."""
        source = self if self._space else _Words(self, continuation)
        return ByteStream(source, skip_special=skip_special, continuation=True)


class _Words:
    """A space before every token but the first; byte tokens stand together."""

    def __init__(self, source: LongestMatch, continuation: bool) -> None:
        self._source, self._first, self._in_bytes = source, not continuation, False

    def piece(self, token: int, skip_special: bool) -> bytes:
        """The bytes of a token with the space before it."""
        data = self._source.piece(token, skip_special)
        if not data:
            return data
        joined = self._first or (self._in_bytes and token in self._source._values)
        self._first, self._in_bytes = False, token in self._source._values
        return data if joined else b" " + data

    def starts_with_prefix(self, token: int) -> bool:
        """The first token has no space."""
        return False


class WordPiece(_Plain):
    """BERT's pieces of words.

    Parameters
    ----------
    tokens : list of str
    case_sensitive : bool
        If not, texts lose their case and their accents, as BERT's uncased models do it.
    """

    def __init__(self, tokens: list[str], case_sensitive: bool) -> None:
        super().__init__(tokens, case_sensitive)
        lib = library()
        unknown = None if self.unknown is None else tokens[self.unknown]
        with guarded("build the tokenizer", building=True):
            model = lib.models.WordPiece(self._index, unk_token=unknown or "", max_input_chars_per_word=1000)
            self._engine: Any = lib.Tokenizer(model)
            self._engine.normalizer = lib.normalizers.BertNormalizer(lowercase=not case_sensitive)
            self._engine.pre_tokenizer = lib.pre_tokenizers.BertPreTokenizer()
        self.memory_bytes += estimate_bytes(len(tokens), 0)

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """Ids of a text; a plain vocabulary says nothing of begin and end, so that none are added."""
        ids: list[int] = []
        for part, special in self._split_special(text, parse_special):
            if special is not None:
                ids.append(special)
                continue
            try:
                with guarded("encode the text", building=False):
                    ids += self._engine.encode(part, add_special_tokens=False).ids
            except Exception:
                if self.unknown is None:
                    raise self._no_token(part) from None
                raise
        return ids

    def piece(self, token: int, skip_special: bool) -> bytes:
        """The bytes that a token stands for, with the space before a word."""
        text = self._text(token, skip_special)
        if text is None:
            return b""
        return text[2:].encode() if text.startswith("##") and len(text) > 2 else b" " + text.encode()

    def starts_with_prefix(self, token: int) -> bool:
        """The first word has no space."""
        return not self._tokens[token].startswith("##")

    def decode(self, tokens: Iterable[int], *, skip_special: bool, continuation: bool) -> str:
        """Text of tokens, one space between words."""
        return ByteStream(self, skip_special=skip_special, continuation=continuation).decode(tokens)

    def stream(self, *, skip_special: bool, continuation: bool) -> Stream:
        """Decode as they come."""
        return ByteStream(self, skip_special=skip_special, continuation=continuation)

    def close(self) -> None:
        """Let the engine go."""
        super().close()
        self._engine = None
