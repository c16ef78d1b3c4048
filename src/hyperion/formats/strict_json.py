"""JSON without surprises: a key once, a bounded depth, no NaN."""

from __future__ import annotations

import json
from typing import Any

from hyperion.errors import FormatError

__all__ = ["parse_object"]


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    FormatError
        For bytes that are not UTF-8 or not JSON, a key that comes twice, nesting that is too deep, or another value than
        an object.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise FormatError(f"{what}: JSON is nested too deep", offset=0) from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8 at byte {error.start}", offset=error.start) from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{what}: not JSON: {error.msg} at character {error.pos}", offset=error.pos) from None
    except ValueError as error:  # _once and _refuse, and integers with too many digits
        raise FormatError(f"{what}: {error}", offset=0) from None
    if not isinstance(value, dict):
        raise FormatError(f"{what}: expected a JSON object, got {type(value).__name__}", offset=0)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"key {twice!r} comes twice")
    return result


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
