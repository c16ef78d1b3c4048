"""SentencePiece's ``.model`` file.

A ``.model`` file is one protobuf message (``sentencepiece_model.proto``)::

    ModelProto      1 pieces (SentencePiece, repeated)  2 trainer_spec  3 normalizer_spec
    SentencePiece   1 piece (string)  2 score (float)  3 type (enum; GGUF's token types are the same numbers)
    TrainerSpec     3 model_type (1 unigram, 2 BPE)  35 byte_fallback  40 unk_id  41 bos_id  42 eos_id
    NormalizerSpec  1 name  2 precompiled_charsmap (bytes)  3 add_dummy_prefix  4 remove_extra_whitespaces
                    5 escape_whitespaces

Each field is a varint tag ``number << 3 | wire type`` and its payload: a varint (0), 8 bytes (1), a length and so many
bytes (2), or 4 bytes (5).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Any

from ..errors import FormatError, UnsupportedError
from .vocabulary import TokenKind, Vocabulary

__all__ = ["SPACE", "parse_model"]

#: What a space is inside the vocabulary (U+2581).
SPACE = "\u2581"


def parse_model(data: bytes, *, max_tokens: int | None = None) -> Vocabulary:
    """Read a SentencePiece ``.model`` file.

    Parameters
    ----------
    data : bytes
        The whole file.
    max_tokens : int, optional
        Read only the first so many pieces.

    Raises
    ------
    FormatError
        If the bytes are no such message.
    UnsupportedError
        If the model is not a BPE model, or writes spaces in another way.
    """
    tokens: list[str] = []
    scores: list[float] = []
    kinds = bytearray()
    trainer: dict[int, Any] = {}
    normal: dict[int, Any] = {}
    total = 0
    for number, value, offset in _fields(data, 0, len(data)):
        if number == 1:
            total += 1
            if max_tokens is None or total <= max_tokens:
                text, score, kind = _piece(data, value, offset)
                # User-defined pieces are looked for in the raw text, where a space is a space.
                tokens.append(text.replace(SPACE, " ") if kind == TokenKind.USER_DEFINED else text)
                scores.append(score)
                kinds.append(kind)
        elif number == 2:
            trainer.update(_scalars(data, value, offset))
        elif number == 3:
            normal.update(_scalars(data, value, offset))
    if total < 3:
        raise FormatError(f"a SentencePiece model of {total} pieces holds no text beside begin and end", offset=0)
    model_type = trainer.get(3, 1)
    if model_type != 2:
        name = {1: "unigram", 3: "word", 4: "char"}.get(model_type, str(model_type))
        raise UnsupportedError(f"SentencePiece models of type {name} are not supported; BPE ones are")
    if not normal.get(5, 1):
        raise UnsupportedError("SentencePiece models that do not escape spaces are not supported")
    self = Vocabulary(model="spm", tokens=tokens, kinds=kinds, scores=scores, cut=total > len(tokens), consume=True)
    self.add_space_prefix = bool(normal.get(3, 1))
    for attribute, number, default in (("unk_id", 40, 0), ("bos_id", 41, 1), ("eos_id", 42, 2)):
        value = _signed(trainer.get(number, default))
        if value >= total:
            raise FormatError(f"{attribute} is {value}, outside the {total} pieces", offset=0)
        setattr(self, attribute, value if 0 <= value < len(tokens) else None)
    self.charsmap, self.squeeze_spaces = normal.get(2, b""), bool(normal.get(4, 1))
    # Where spaces at the start are squeezed, the one put there must come later: then it comes before every stretch.
    self.prefix_once = self.add_space_prefix and not self.squeeze_spaces
    if not isinstance(self.charsmap, bytes):
        raise FormatError("the normalization rules must be bytes", offset=0)
    return self


def _piece(data: bytes, span: Any, offset: int) -> tuple[str, float, int]:
    fields = _scalars(data, span, offset)
    text, score, kind = fields.get(1, b""), fields.get(2, 0.0), fields.get(3, 1)
    if not isinstance(text, bytes) or not isinstance(score, float) or not isinstance(kind, int) or not 1 <= kind <= 6:
        raise FormatError(f"at byte {offset}: a piece must be a string, a float and a type from 1 to 6", offset=offset)
    if not math.isfinite(score):
        raise FormatError(f"at byte {offset}: the score of a piece is {score}; it must be finite", offset=offset)
    try:
        return text.decode(), score, kind
    except UnicodeDecodeError as error:
        raise FormatError(f"at byte {offset}: a piece is not UTF-8: {error}", offset=offset) from None


def _scalars(data: bytes, span: Any, offset: int) -> dict[int, Any]:
    """The fields of a submessage by number, the last one winning; strings stay bytes."""
    if not isinstance(span, slice):
        raise FormatError(f"at byte {offset}: a message was expected", offset=offset)
    return {
        number: data[value] if isinstance(value, slice) else value
        for number, value, _ in _fields(data, span.start, span.stop)
    }


def _fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, Any, int]]:
    """Yield number, value (int, float, or the slice of its bytes) and offset of each field between two offsets."""
    while at < end:
        start = at
        tag, at = _varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, at = _varint(data, at, end)
        elif wire == 2:
            length, at = _varint(data, at, end)
            if length > end - at:
                raise FormatError(f"at byte {start}: a field of {length} bytes where {end - at} are left", offset=start)
            value = slice(at, at + length)
            at += length
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            if size > end - at:
                raise FormatError(f"at byte {start}: a field is cut off", offset=start)
            value = struct.unpack_from("<d" if wire == 1 else "<f", data, at)[0]
            at += size
        else:
            raise FormatError(f"at byte {start}: wire type {wire} is none of a SentencePiece model", offset=start)
        if number == 0:
            raise FormatError(f"at byte {start}: field number 0", offset=start)
        yield number, value, start


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            raise FormatError(f"at byte {at}: the file ends inside a number", offset=at)
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise FormatError(f"at byte {at}: a number of more than 10 bytes", offset=at)


def _signed(value: Any) -> int:
    if not isinstance(value, int):
        raise FormatError("a token id of the trainer must be an integer", offset=0)
    return value - (1 << 64) if value >> 63 else value

