"""SentencePiece vocabularies on Hyperion's own tables, which are small beside those of the library.

A text is first cut at the special tokens in it. Each stretch between two of them is normalized and merged by itself. Where no
token has a space after another character, no merge crosses the start of a run of spaces: such a stretch, if it has no normalizer,
goes in slices, and needs work space for a slice or its longest word only. A large work space counts in the process's ledger.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .._kernels.pieces import Pieces, work_bytes
from ..memory import process_budget
from .codec import PieceCodec
from .sentencepiece import SPACE

__all__ = ["SpecialTokens", "TableCodec"]

SLICE = 1 << 13
"""Characters that are normalized and merged at a time."""

LEDGER_FROM = 1 << 20
"""Work space of fewer bytes belongs to what every process has."""

# Unicode's White_Space, which is not quite what str.isspace() tells.
_WHITE = re.compile("[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*")


class SpecialTokens:
    """Finds tokens in raw text: the leftmost, the longest of those that start there.

    Parameters
    ----------
    tokens : iterable of (id, text, special, rstrip)
        ``special`` tokens are found only when special tokens are to be parsed; ``rstrip`` ones swallow the white space
        after them.
    """

    def __init__(self, tokens: Iterable[tuple[int, str, bool, bool]]) -> None:
        self._tokens = {text: (number, special, strips) for number, text, special, strips in tokens if text}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def find(self, text: str, parse_special: bool) -> Iterator[tuple[int, int, int]]:
        """Yield start, end and id of each."""
        end = 0
        for match in self._pattern.finditer(text) if self._pattern is not None else ():
            number, special, strips = self._tokens[match.group()]
            if (special and not parse_special) or match.start() < end:
                continue
            end = _WHITE.match(text, match.end()).end() if strips else match.end()  # type: ignore[union-attr]
            yield match.start(), end, number


class TableCodec(PieceCodec):
    """A SentencePiece vocabulary.

    Parameters
    ----------
    pieces : Pieces
    special : SpecialTokens
    normalizer : tokenizers.normalizers.Normalizer or None
        What is done to a stretch of text; None writes spaces as ``▁`` and does nothing else.
    prefix : bool
        A ``▁`` goes before every stretch, if there is no normalizer that does it.
    kinds, **options
        As for :class:`PieceCodec`.
    """

    def __init__(
        self, pieces: Pieces, special: SpecialTokens, normalizer: Any, prefix: bool, kinds: Mapping[int, int], **options: Any
    ) -> None:
        self._pieces, self._special, self._normalizer, self._prefix = pieces, special, normalizer, SPACE if prefix else ""
        super().__init__(kinds, "spaces", **options)

    def _ids(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        ids: list[int] = []
        at = 0
        for start, end, token in self._special.find(text, parse_special):
            self._stretch(text[at:start], ids)
            ids.append(token)
            at = end
        self._stretch(text[at:], ids)
        return ids

    def _stretch(self, text: str, ids: list[int]) -> None:
        """Append the tokens of text without special ones."""
        if not text:
            return
        if self._normalizer is not None:
            ids += self._encode(self._normalizer.normalize_str(text))
            return
        prefix = self._prefix
        for part in _slices(text) if self._pieces.words else (text,):
            ids += self._encode(prefix + part.replace(" ", SPACE))
            prefix = ""

    def _encode(self, text: str) -> list[int]:
        encoded = text.encode()
        work = work_bytes(len(encoded))
        with process_budget().reserve("encoding a text", work) if work >= LEDGER_FROM else contextlib.nullcontext():
            return self._pieces.encode(encoded).tolist()

    def token(self, number: int) -> str | None:
        """Text of a token as the vocabulary writes it."""
        piece = self._pieces.piece(number)
        return None if piece is None else piece.decode()

    def number(self, text: str) -> int | None:
        """Id of a token."""
        return self._pieces.find(text.encode())

    def close(self) -> None:
        """Let the tables go."""
        self._pieces = None  # type: ignore[assignment]


def _slices(text: str) -> Iterator[str]:
    """A text in parts that end where a run of spaces starts."""
    start = 0
    while len(text) - start > SLICE:
        at = text.find(" ", start + SLICE)
        while at > 0 and text[at - 1] in (" ", SPACE):
            at = text.find(" ", at + 1)
        if at < 0:
            break
        yield text[start:at]
        start = at
    yield text[start:] if start else text
