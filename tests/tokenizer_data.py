"""Vocabularies for the tests: small ones made here, and the metadata of GGUF files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from hyperion.tokenizer.bpe import BYTE_TO_CHARACTER

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def gguf_metadata(path: Path) -> dict[str, Any]:
    """The keys and values of a GGUF file that is known to be sound."""
    data = path.read_bytes()
    at = 16
    scalars = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def unpack(form: str) -> Any:
        nonlocal at
        (value,) = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def value(kind: int) -> Any:
        nonlocal at
        if kind == 8:
            length = unpack("Q")
            at += length
            return data[at - length : at].decode()
        if kind == 9:
            inner, count = unpack("I"), unpack("Q")
            if inner in scalars:
                form = f"<{count}{scalars[inner]}"
                found = list(struct.unpack_from(form, data, at))
                at += struct.calcsize(form)
                return found
            return [value(inner) for _ in range(count)]
        return unpack(scalars[kind])

    return {value(8): value(unpack("I")) for _ in range(unpack("Q"))}


def byte_bpe(words: tuple[str, ...] = (), pre: str = "gpt-2", special: tuple[str, ...] = ("<s>", "</s>")) -> dict[str, Any]:
    """A byte-level vocabulary: 256 bytes, the words with the merges that make them from the left, special tokens."""
    tokens = list(BYTE_TO_CHARACTER.values())
    merges = []
    for word in words:
        text = "".join(BYTE_TO_CHARACTER[b] for b in word.encode())
        for end in range(2, len(text) + 1):
            if text[:end] not in tokens:
                tokens.append(text[:end])
                merges.append(f"{text[: end - 1]} {text[end - 1]}")
    first = len(tokens)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, *special],
        "tokenizer.ggml.token_type": [NORMAL] * first + [CONTROL] * len(special),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": first,
        "tokenizer.ggml.eos_token_id": first + 1,
    }


def small_spm(pieces: tuple[str, ...] = ("▁", "a", "b", "▁a", "ab", "▁ab"), *, with_bytes: bool = True) -> dict[str, Any]:
    """A SentencePiece vocabulary: <unk>, <s>, </s>, byte tokens, pieces of rising score."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)] if with_bytes else []
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * (3 + len(bytes_)) + [float(i) for i in range(len(pieces))],
        "tokenizer.ggml.token_type": [UNKNOWN, CONTROL, CONTROL] + [BYTE] * len(bytes_) + [NORMAL] * len(pieces),
    }
