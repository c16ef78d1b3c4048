"""From a vocabulary to the engine that runs it, and what that takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import InvalidArgumentError
from .bpe import build_bpe
from .codec import LibraryCodec, PieceCodec
from .engine import estimate_bytes
from .pieces import TableCodec
from .sentencepiece import SPACE
from .tables import build_sentencepiece
from .vocabulary import MERGES_KEY, MODEL_KEY, TOKENS_KEY, TokenKind, Vocabulary

__all__ = ["codec_from_vocabulary", "estimate_metadata"]

# What the file's metadata has of a vocabulary beside text: a length and an end for each string, a score and a type a token.
_STRING_BYTES, _COLUMN_BYTES = 16, 8
# What the tables of a SentencePiece vocabulary take beside text: a start, a rank and up to four slots a token; special tokens.
# While they are made, a second set of slots, columns of scores and ranks, and the text once more.
_TABLES_BASE = 512 << 10
_TABLE_BYTES = 24
_TABLE_BUILDING = 64


def codec_from_vocabulary(vocabulary: Vocabulary) -> PieceCodec:
    """Make the engine of a vocabulary, which is consumed."""
    size, merges = len(vocabulary.kinds), len(vocabulary.merges or ())
    options: dict[str, Any] = {}
    if vocabulary.model == "bpe":
        engine, missing = build_bpe(vocabulary)
        options["refuse"] = _refuse_bytes(missing) if missing else None
        memory = estimate_bytes(size, merges)
    else:
        table, alphabet = build_sentencepiece(vocabulary)
        options["refuse"] = None if alphabet is None else _refuse_characters(alphabet)
        memory = _TABLES_BASE + table.pieces.nbytes
    options |= {
        "size": size,
        "memory_bytes": memory,
        "bos": vocabulary.bos_id if vocabulary.add_bos else None,
        "eos": vocabulary.eos_id if vocabulary.add_eos else None,
        "strips_prefix": vocabulary.add_space_prefix,
        "prefix_once": vocabulary.add_space_prefix and vocabulary.prefix_once,
    }
    kinds = {i: kind for i, kind in enumerate(vocabulary.kinds) if kind != TokenKind.NORMAL}
    if vocabulary.model == "bpe":
        return LibraryCodec(engine, kinds, "bytes", **options)
    return TableCodec(*table, kinds, **options)


def estimate_metadata(metadata: Mapping[str, Any], *, building: bool) -> int:
    """Bytes that these GGUF keys and the engine for them occupy, with `building` at their peak while it is made."""
    tokens, text = _strings(metadata.get(TOKENS_KEY))
    merges, merge_text = _strings(metadata.get(MERGES_KEY))
    held = text + merge_text + (tokens + merges) * _STRING_BYTES + tokens * _COLUMN_BYTES
    if metadata.get(MODEL_KEY) == "llama":
        kept = _TABLES_BASE + text + tokens * _TABLE_BYTES
        return held + kept + (text + tokens * _TABLE_BUILDING if building else 0)
    return held + estimate_bytes(tokens, merges, building=building)


def _strings(strings: Any) -> tuple[int, int]:
    """How many, and bytes of UTF-8 in them; bad ones are told of when they are read."""
    if not hasattr(strings, "__len__"):
        return 0, 0
    nbytes = getattr(strings, "nbytes", None)
    if not isinstance(nbytes, int):
        nbytes = sum(len(s.encode("utf-8", "replace") if isinstance(s, str) else s) for s in strings if isinstance(s, (str, bytes)))
    return len(strings), nbytes


def _refuse_bytes(missing: frozenset[int]) -> Callable[[str], None]:
    def refuse(text: str) -> None:
        absent = missing.intersection(text.encode())
        if absent:
            raise InvalidArgumentError(f"the vocabulary has no token for byte 0x{min(absent):02X}, which the text holds")

    return refuse


def _refuse_characters(alphabet: frozenset[str]) -> Callable[[str], None]:
    def refuse(text: str) -> None:
        absent = set(text.replace(" ", SPACE)) - alphabet
        if absent:
            raise InvalidArgumentError(
                f"the vocabulary has no token for {min(absent)!r}, nor byte tokens, nor an unknown token"
            )

    return refuse
