"""Numbers of bytes: from text, and as text."""

from __future__ import annotations

import operator
import re
from typing import SupportsIndex

from ..errors import InvalidArgumentError

_SIZE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*([kmgtp]?)(i?)(b?)", re.IGNORECASE | re.ASCII)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_LARGEST = 2**63 - 1


def parse_size(size: str | float | SupportsIndex) -> int:
    """Return a number of bytes.

    Parameters
    ----------
    size : int or str
        Bytes (a float that is a whole number will do: ``2e9``), or text such as ``"512MB"`` (512 * 10**6), ``"512MiB"``
        (512 * 2**20), ``"1.5 GB"`` or ``"4096"``. Case does not matter. Fractions of a byte are dropped.

    Raises
    ------
    InvalidArgumentError
        If `size` is anything else, negative, or larger than an address space.
    """
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        known = match is not None and (match[4] or not match[2]) and (match[2] or not match[3])
        if match is None or not known or ("." in match[1] and not match[2]):
            bare = match is not None and match[2] and not match[3]
            hint = f' ("{match[1]}{match[2].upper()}B" counts in 1000s, "{match[1]}{match[2].upper()}iB" in 1024s)' if match and bare else ""
            raise InvalidArgumentError(
                f'a size is a number of bytes or text like "512MB" or "1.5 GiB", not {size!r}{hint}'
            )
        whole, _, part = match[1].partition(".")
        unit = (1024 if match[3] else 1000) ** _POWER[match[2].lower()]
        value = int(whole + part) * unit // 10 ** len(part)  # in integers: exact
    else:
        try:
            if isinstance(size, bool):
                raise TypeError
            whole_float = isinstance(size, float) and size.is_integer()
            value = int(size) if whole_float else operator.index(size)  # type: ignore[arg-type]
        except TypeError:
            kind = type(size).__name__
            raise InvalidArgumentError(f"a size is an integer or text, not {kind} {size!r}") from None
    if not 0 <= value <= _LARGEST:
        raise InvalidArgumentError(f"a size is from 0 to {_LARGEST} bytes, not {size!r}")
    return value


def format_size(nbytes: int) -> str:
    """Return a size in the decimal unit that suits it, with three digits: ``"1.50 GB"``, ``"17 B"``."""
    sign, value = ("-", -nbytes) if nbytes < 0 else ("", nbytes)
    if value < 1000:
        return f"{sign}{value} B"
    for power, prefix in enumerate("KMGTPE", 1):
        amount = value / 1000**power
        if amount < 999.5 or prefix == "E":
            break
    digits = 2 if amount < 9.995 else 1 if amount < 99.95 else 0
    return f"{sign}{amount:.{digits}f} {prefix}B"


def enough(nbytes: int) -> str:
    """Return the smallest size of at most three digits and a unit that is not below `nbytes`."""
    for power, prefix in enumerate(["", "K", "M", "G", "T", "P"]):
        amount = -(-nbytes // 1000**power)
        if amount < 1000 or prefix == "P":
            break
    return f"{amount}{prefix}B"
