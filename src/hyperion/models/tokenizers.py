"""The tokenizer of a model file, and the memory that it takes."""

from __future__ import annotations

import os

from hyperion.errors import FormatError
from hyperion.formats import Container
from hyperion.tokenizer import Tokenizer

__all__ = ["open_tokenizer", "tokenizer_bytes"]

TOKENIZER_BASE, HF_KEPT, HF_BUILDING = 4_000_000, 6, 16
"""Bytes that a tokenizer takes, and for each byte of tokenizer.json or tokenizer.model: for good, and while it is made."""


def tokenizer_bytes(container: Container, *, building: bool) -> int:
    """Bytes that the tokenizer will take, or take at most while it is made."""
    file = container.metadata.get("tokenizer_file")
    if file is not None:
        return TOKENIZER_BASE + os.path.getsize(file) * (HF_BUILDING if building else HF_KEPT)
    return Tokenizer.estimate_memory(container.metadata, building=building)


def open_tokenizer(container: Container) -> Tokenizer:
    """The tokenizer that a GGUF container holds, or that is beside a Hugging Face model."""
    if "config" not in container.metadata:
        return Tokenizer.from_metadata(container.metadata)
    if container.metadata.get("tokenizer_file") is None:
        raise FormatError(f"{container.path}: has no tokenizer.json and no tokenizer.model", path=container.path)
    return Tokenizer.from_file(container.metadata["tokenizer_file"])
