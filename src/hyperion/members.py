"""Members of enumerations, given as such or by name."""

from __future__ import annotations

import enum
from typing import TypeVar

from hyperion.errors import InvalidArgumentError

Member = TypeVar("Member", bound=enum.Enum)


def member(cls: type[Member], value: object, what: str) -> Member:
    """A member of `cls`, or the one with this name in any case; `what` is how the message calls it.

    Raises
    ------
    InvalidArgumentError
        For anything else.
    """
    if isinstance(value, cls):
        return value
    if isinstance(value, str) and value.upper() in cls.__members__:
        return cls[value.upper()]
    raise InvalidArgumentError(f"{what} is {value!r:.60}, expected a {cls.__name__}: {', '.join(cls.__members__)}")
