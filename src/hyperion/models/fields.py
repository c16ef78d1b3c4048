"""Checked access to the key/value metadata of a model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperion.errors import FormatError

_MISSING = object()


class Fields:
    """Typed reads from a metadata mapping; a wrong type is a :class:`FormatError` that names the key.

    Parameters
    ----------
    values : Mapping
        The metadata.
    prefix : str
        Put before every key (GGUF's `llama.`).
    """

    def __init__(self, values: Mapping[str, Any], prefix: str = "") -> None:
        self.values = values
        self.prefix = prefix

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = _MISSING) -> Any:
        """The value at `key`; numbers come as Python numbers, a bool never passes for a number."""
        name = self.prefix + key
        value = self.values.get(name)
        if value is None:
            if default is _MISSING:
                raise FormatError(f"the model's metadata lacks {name!r}", key=name)
            return default
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if float in kinds and int not in kinds and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            expected = " or ".join(k.__name__ for k in kinds)
            raise FormatError(f"metadata {name!r} is {type(value).__name__} {value!r:.40}, expected {expected}", key=name)
        return value

    def integer(self, key: str, default: Any = _MISSING) -> int:
        """The integer at `key`."""
        return self.get(key, int, default)

    def number(self, key: str, default: Any = _MISSING) -> float:
        """The number at `key`, as a float."""
        return self.get(key, float, default)

    def has(self, key: str) -> bool:
        """Whether `key` has a value."""
        return self.values.get(self.prefix + key) is not None
