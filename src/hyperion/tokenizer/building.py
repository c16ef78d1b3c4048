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

# What a SentencePiece vocabulary takes beside its text, which the file's metadata and the tables have each: in the tables a
# start, a rank and up to four slots a token; of the metadata a length, an end, a score and a type; special tokens. While the
# tables are made, a second set of slots, columns of scores and ranks, and the text once more.
_TABLES_BASE = 512 << 10
_TABLE_BYTES, _METADATA_BYTES = 24, 24
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
    """Bytes that the engine for these GGUF keys occupies, with `building` at its peak while it is made."""
    tokens, merges = metadata.get(TOKENS_KEY), metadata.get(MERGES_KEY)
    n = len(tokens) if hasattr(tokens, "__len__") else 0  # type: ignore[arg-type]
    if metadata.get(MODEL_KEY) == "llama":
        text = _text_bytes(tokens) if n else 0
        kept = _TABLES_BASE + 2 * text + n * (_TABLE_BYTES + _METADATA_BYTES)
        return kept + text + n * _TABLE_BUILDING if building else kept
    return estimate_bytes(n, len(merges) if hasattr(merges, "__len__") else 0, building=building)  # type: ignore[arg-type]


def _text_bytes(tokens: Any) -> int:
    """Bytes of UTF-8, at most, in a list of strings; bad ones are told of when they are read."""
    nbytes = getattr(tokens, "nbytes", None)
    return nbytes if isinstance(nbytes, int) else sum(4 * len(t) for t in tokens if isinstance(t, (str, bytes)))


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
