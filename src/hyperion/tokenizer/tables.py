"""SentencePiece BPE: from tokens and their scores to the tables that merge by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .._kernels.pieces import NEVER, Pieces
from ..errors import FormatError
from .bpe import special_tokens
from .engine import guarded, library
from .pieces import SpecialTokens
from .sentencepiece import SPACE
from .vocabulary import TokenKind, Vocabulary

__all__ = ["Table", "build_sentencepiece"]

# What looking tokens up by their text may cost: a text that is one long token takes its length squared. Real vocabularies
# are far below; a file of megabyte-long tokens must not keep the encoder busy for hours.
_MOST_WORK = 2_000_000_000

_MERGEABLE = (TokenKind.NORMAL, TokenKind.USER_DEFINED, TokenKind.UNDEFINED)


class Table(NamedTuple):
    """What the engine of a SentencePiece vocabulary runs on; the fields are :class:`TableCodec`'s parameters."""

    pieces: Pieces
    special: SpecialTokens
    normalizer: Any
    prefix: bool


def build_sentencepiece(vocabulary: Vocabulary) -> tuple[Table, frozenset[str] | None]:
    """Make the tables of a SentencePiece vocabulary, which is consumed.

    SentencePiece joins, again and again, the neighbours whose union has the highest score, the leftmost of equals. Here
    tokens of one score are told apart by their number, and of the pairs that make one token those with the longer left part
    come first.

    Returns
    -------
    table : Table
    alphabet : frozenset of str or None
        The only characters that can be encoded; None if all can, by bytes or as the unknown token.

    Raises
    ------
    FormatError
        If tokens repeat, are too long, or the byte tokens are not ``<0x00>`` to ``<0xFF>``.
    """
    text, starts = _text(vocabulary)
    ranks = np.full(len(starts) - 1, NEVER, np.uint32)
    index = Pieces(text, starts, ranks)
    if index.repeated is not None:
        first, again = index.repeated
        twice = f"token {vocabulary.text(again)!r} is twice in the vocabulary, as {first} and as {again}"
        raise FormatError(twice, tokens=(first, again))
    vocabulary.promote(_Index(index))
    if vocabulary.add_bos is None:
        vocabulary.add_bos = vocabulary.bos_id is not None
    byte_pieces, unknown = _byte_pieces(vocabulary, index), vocabulary.unk_id
    alphabet = None
    if byte_pieces is None and unknown is None:
        alphabet = frozenset(t for t in vocabulary.tokens if len(t) == 1)
    words = _rank(vocabulary, starts, ranks) and (byte_pieces is not None or index.find(SPACE.encode()) is not None)
    pieces = Pieces(text, starts, ranks, byte_pieces, unknown, words)
    special = SpecialTokens(special_tokens(vocabulary))
    table = Table(pieces, special, _normalizer(vocabulary), vocabulary.add_space_prefix and not vocabulary.prefix_once)
    vocabulary.release()
    return table, alphabet


class _Index(Mapping[str, int]):
    """Token text to id."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces

    def __getitem__(self, text: str) -> int:
        number = self._pieces.find(text.encode())
        if number is None:
            raise KeyError(text)
        return number

    def __iter__(self) -> Iterator[str]:
        return (piece.decode() for i in range(len(self)) if (piece := self._pieces.piece(i)) is not None)

    def __len__(self) -> int:
        return len(self._pieces)


def _text(vocabulary: Vocabulary) -> tuple[bytes, np.ndarray]:
    """All tokens in UTF-8, and where each starts."""
    text, starts = bytearray(), np.zeros(len(vocabulary.tokens) + 1, np.int64)
    for i, token in enumerate(vocabulary.tokens):
        try:
            text += (token or vocabulary.text(i)).encode()
        except UnicodeEncodeError as error:
            raise FormatError(f"token {i} is not UTF-8: {error}", token=i) from None
        starts[i + 1] = len(text)
    if len(text) >= NEVER:
        raise FormatError(f"the vocabulary has {len(text)} bytes of text, which no vocabulary has")
    return bytes(text), starts.astype(np.uint32)


def _byte_pieces(vocabulary: Vocabulary, index: Pieces) -> np.ndarray | None:
    """The tokens of the 256 bytes, if all are there."""
    for i, kind in enumerate(vocabulary.kinds):
        if kind == TokenKind.BYTE and not _is_byte(vocabulary.tokens[i]):
            wrong = vocabulary.tokens[i]
            raise FormatError(f"a byte token must read <0x00> to <0xFF>, got {wrong!r:.40}", token=wrong)
    found = [index.find(b"<0x%02X>" % b) for b in range(256)]
    return None if None in found else np.array(found, np.uint32)


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text[:3] == "<0x" and text[5] == ">" and set(text[3:5]) <= set("0123456789ABCDEF")


def _rank(vocabulary: Vocabulary, starts: np.ndarray, ranks: np.ndarray) -> bool:
    """Write the rank of each token that merges touch; whether none of them has a space after another character."""
    kinds = np.frombuffer(vocabulary.kinds, np.uint8)
    merged = np.flatnonzero(np.isin(kinds, _MERGEABLE))
    lengths = np.diff(starts.astype(np.float64))[merged]
    if lengths @ lengths > _MOST_WORK:
        i = int(merged[lengths.argmax()])
        raise FormatError(f"the tokens are too long to be words: token {i} has {len(vocabulary.tokens[i])} characters")
    scores = np.asarray(vocabulary.scores, np.float64)[merged]
    ranks[merged[np.argsort(-scores, kind="stable")]] = np.arange(len(merged), dtype=np.uint32)
    touched = ranks != NEVER
    return not any(SPACE in t.lstrip(SPACE) for t, yes in zip(vocabulary.tokens, touched, strict=True) if yes)


def _normalizer(vocabulary: Vocabulary) -> Any:
    """The library's, where more is done to a text than to write its spaces as ``▁``."""
    if not vocabulary.charsmap and not vocabulary.squeeze_spaces:
        return None
    lib = library()
    kinds, steps = lib.normalizers, []
    with guarded("build the tokenizer", building=True):
        if vocabulary.charsmap:
            steps.append(kinds.Precompiled(vocabulary.charsmap))
        if vocabulary.squeeze_spaces:
            steps += [kinds.Replace(lib.Regex("^ +| +$"), ""), kinds.Replace(lib.Regex(" {2,}"), " ")]
        if vocabulary.add_space_prefix and not vocabulary.prefix_once:
            steps.append(kinds.Prepend(SPACE))
        return kinds.Sequence([*steps, kinds.Replace(" ", SPACE)])
