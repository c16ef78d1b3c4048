"""What a stranger's template may use: time, text, and lists that know their weight.

The weight of a container is the number of elements in it and in all that it holds, shared parts counted each time, and
one more for every :data:`CHARACTERS` characters of text. Its text, its comparison and its hash take no longer than that.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["CHARACTERS", "LimitError", "Limits", "WeighedDict", "WeighedList", "WeighedTuple", "plain", "weight_of"]

#: Characters of text that weigh as much as one element of a list.
CHARACTERS = 16


class LimitError(Exception):
    """The template takes too long or makes too much."""


class WeighedList(list[Any]):
    """A list that knows its weight."""

    weight = 1


class WeighedTuple(tuple[Any, ...]):
    """A tuple that knows its weight."""

    weight = 1


class WeighedDict(dict[Any, Any]):
    """A dict that knows its weight."""

    weight = 1


class Limits:
    """What one rendering may use.

    Parameters
    ----------
    seconds : float
        Wall time.
    characters : int
        Length of the longest text, the result included.
    """

    def __init__(self, seconds: float, characters: int) -> None:
        self.seconds = seconds
        self.characters = characters
        self.heaviest = characters // 4 + 10_000
        self._end = time.monotonic() + seconds
        self._left = 64 * characters

    def tick(self) -> None:
        """Look at the clock."""
        if time.monotonic() > self._end:
            raise LimitError(f"it takes more than {self.seconds:g} s")

    def text(self, length: int) -> None:
        """Account for a text that is about to be made."""
        if length > self.characters:
            raise LimitError(f"it makes a text of more than {self.characters} characters")
        self._left -= length
        if self._left < 0:
            raise LimitError("it makes too much text on the way")
        self.tick()

    def weight(self, total: int) -> int:
        """Account for a container that is about to be made."""
        if total > self.heaviest:
            raise LimitError(f"it makes a list of more than {self.heaviest} elements in all")
        self._left -= 8 * total
        return total


def plain(value: Any) -> Any:
    """Messages and tools as the plain lists, dicts and scalars that templates are written for."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        made: Any = WeighedDict((str(k), plain(v)) for k, v in value.items())
        made.weight = 1 + sum(1 + weight_of(v) for v in made.values())
    elif isinstance(value, Iterable):
        made = WeighedList(plain(v) for v in value)
        made.weight = 1 + sum(map(weight_of, made))
    else:
        raise TypeError(f"a conversation is made of texts, numbers, lists and mappings, not of {type(value).__name__}")
    return made


def weight_of(value: Any) -> int:
    """Weight of something :func:`plain` made."""
    if isinstance(value, str):
        return 1 + len(value) // CHARACTERS
    weight: int = getattr(value, "weight", 1)
    return weight
