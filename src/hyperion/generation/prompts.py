"""What a model is asked with: text, or token ids from wherever they come."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from hyperion.errors import InvalidArgumentError

__all__ = ["token_ids"]


def token_ids(values: Any, what: str) -> list[int]:
    """Token ids as Python's integers.

    Raises
    ------
    InvalidArgumentError
        If they are none; `what` says what they should have been.
    """
    try:
        if isinstance(values, (bytes, bytearray, memoryview)):  # text that was not decoded would pass for ids
            raise TypeError
        return [operator.index(t) for t in values]
    except TypeError:
        raise InvalidArgumentError(f"{what} is text or token ids (integers), not {_kind(values)}") from None


def _kind(value: object) -> str:
    """What something that should have been a prompt is, and what is in it."""
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        return f"{name} of {value.dtype} and shape {value.shape}"
    if isinstance(value, (list, tuple)):
        return f"{name} of {', '.join(sorted({type(v).__name__ for v in value}))}"
    return name
