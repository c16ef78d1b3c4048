"""Entries by key, files of them, and configuration dataclasses as sections."""

from __future__ import annotations

import collections
import dataclasses
import enum
import os
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from hyperion.config.text import KEY, Value, flatten, kind_of, nest, parse, render
from hyperion.errors import FormatError, HyperionError, InvalidArgumentError
from hyperion.io import read_file, write_file

__all__ = ["Config", "ConfigEntry", "ConfigType", "get_config_value", "load_config", "set_config_value"]

T = TypeVar("T")

MAX_BYTES = 16 << 20
"""A larger file is no configuration (but perhaps a model)."""

_MISSING: Any = object()


class ConfigType(enum.Enum):
    """What a value is."""

    INT = "int"
    FLOAT = "float"
    BOOL = "bool"
    STRING = "string"


_PYTHON = {ConfigType.INT: int, ConfigType.FLOAT: float, ConfigType.BOOL: bool, ConfigType.STRING: str}


def _type_of(key: str, value: Any) -> ConfigType:
    if isinstance(value, int) and value.bit_length() > 64:
        raise InvalidArgumentError(f"{key}: an integer has at most 64 bits, not {value.bit_length()}")
    for kind, python in _PYTHON.items():
        if type(value) is python:
            return kind
    raise InvalidArgumentError(f"{key}: a value is an int, a float, a bool or a str, not {type(value).__name__}")


@dataclasses.dataclass(kw_only=True)
class ConfigEntry:
    """One typed value; checked when made and when a field is set.

    Parameters
    ----------
    key : str
        Words of letters, digits, ``_`` and ``-``, joined by dots.
    type : ConfigType, optional
        By default what the value is.
    value : int, float, bool or str
        Of that type; an int becomes a float where one is expected. NumPy's scalars are taken as Python's.
    """

    key: str
    type: ConfigType | None = None
    value: Value

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "key":
            if not isinstance(value, str) or not KEY.fullmatch(value):
                raise InvalidArgumentError(f"a key is words of letters, digits, _ and - joined by dots, not {value!r:.80}")
        elif name == "type":
            if value is not None and not isinstance(value, ConfigType):
                raise InvalidArgumentError(f"{self.key}: type is {value!r}, expected a ConfigType")
            if hasattr(self, "value"):  # not yet when it is made
                value = value or _type_of(self.key, self.value)
                object.__setattr__(self, "value", _fit(self.key, value, self.value))
        elif name == "value":
            value = value.item() if hasattr(value, "dtype") and hasattr(value, "item") and not value.shape else value
            if self.type is None:
                object.__setattr__(self, "type", _type_of(self.key, value))
            value = _fit(self.key, self.type, value)
        else:
            raise InvalidArgumentError(f"ConfigEntry has no field {name!r}; it has key, type, value")
        object.__setattr__(self, name, value)


def _fit(key: str, kind: Any, value: Any) -> Value:
    """The value as its type, or the error that says what was expected."""
    have = _type_of(key, value)
    if kind is ConfigType.FLOAT and have is ConfigType.INT:
        return float(value)
    if have is not kind:
        raise InvalidArgumentError(f"{key} is {value!r:.80}, expected {kind.name}, not {have.name}")
    return value


class Config:
    """Entries by key, in their order.

    Parameters
    ----------
    entries : iterable of ConfigEntry
        Copied.
    source : str
        How messages call it: the file's name.
    """

    def __init__(self, entries: Iterable[ConfigEntry] = (), *, source: str = "configuration") -> None:
        self.source = source
        self._entries: dict[str, ConfigEntry] = {}
        self._tables: collections.Counter[str] = collections.Counter()  # keys in each table
        for entry in entries:
            self.add(entry.key, entry.value, entry.type)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[ConfigEntry]:
        return iter([*self._entries.values()])

    def __contains__(self, key: object) -> bool:
        return key in self._entries or key in self._tables

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self._entries == other._entries

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Config({self.source!r}, {len(self)} entries)"

    # ---- values ----------------------------------------------------------------------------------------------

    def entry(self, key: str) -> ConfigEntry:
        """Return an entry; setting its value is setting the configuration's.

        Raises
        ------
        InvalidArgumentError
            If there is none.
        """
        try:
            return self._entries[key]
        except (KeyError, TypeError):
            known = ", ".join(list(self._entries)[:20]) + (", ..." if len(self) > 20 else "")
            raise InvalidArgumentError(f"{self.source} has no key {key!r}; it has {known or 'none'}") from None

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """Return a value, or the default where there is none; without a default that raises InvalidArgumentError."""
        return self.entry(key).value if default is _MISSING or key in self._entries else default

    def set(self, key: str, value: Value) -> None:
        """Give an entry that exists a value of its type.

        Raises
        ------
        InvalidArgumentError
            If there is no such key (:meth:`add` makes one), or the value is of another type.
        """
        self.entry(key).value = value

    def add(self, key: str, value: Value, type: ConfigType | None = None) -> None:
        """Append an entry.

        Raises
        ------
        InvalidArgumentError
            If the key exists, or is a table where other keys need a value (or the other way round).
        """
        entry = ConfigEntry(key=key, type=type, value=value)
        above = _above(key)
        taken = next((k for k in [key, *above] if k in self._entries), key if key in self._tables else None)
        if taken is not None:
            what = "is there already" if taken == key and key in self._entries else f"contradicts {taken!r}: a value and a table"
            raise InvalidArgumentError(f"the key {key!r} {what}")
        self._entries[key] = entry
        self._tables.update(above)

    def remove(self, key: str) -> None:
        """Remove an entry, or a table with all its keys; what is not there may be removed too."""
        for found in [k for k in self._entries if k == key or k.startswith(f"{key}.")]:
            del self._entries[found]
            self._tables.subtract(_above(found))
        self._tables = +self._tables

    @property
    def sections(self) -> list[str]:
        """Names of the tables at the top."""
        return [*dict.fromkeys(key.split(".", 1)[0] for key in self._entries if "." in key)]

    def section(self, name: str) -> dict[str, Any]:
        """Return a table as a dict: nested tables as dicts, arrays as lists; empty where there is none."""
        found = nest({key[len(name) + 1 :]: e.value for key, e in self._entries.items() if key.startswith(f"{name}.")})
        return found if isinstance(found, dict) else {str(i): value for i, value in enumerate(found)}

    # ---- dataclasses -----------------------------------------------------------------------------------------

    def put(self, config: Any, section: str | None = None) -> None:
        """Hold a configuration dataclass as a section, by default of its class's name, in place of one that is there.

        Fields that are None (or empty) stand for that by their absence.

        Raises
        ------
        InvalidArgumentError
            If it is no dataclass object, or a field cannot be written in a file.
        """
        if not dataclasses.is_dataclass(config) or isinstance(config, type):
            raise InvalidArgumentError(f"expected a configuration object, not {config!r:.80}")
        name = section or type(config).__name__
        found: list[tuple[str, Value]] = []
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            flat = [*flatten(f"{name}.{field.name}", _plain(value))]
            if not flat and not _is_default(field, value):
                raise InvalidArgumentError(f"{name}.{field.name} is {value!r}: a file can say that only of a field's default")
            found += flat
        checked = Config((ConfigEntry(key=key, value=value) for key, value in found), source=self.source)
        self.remove(name)
        for entry in checked:
            self.add(entry.key, entry.value)

    def make(self, cls: type[T], section: str | None = None) -> T:
        """Make a configuration dataclass of a section, by default that of its name; fields that it lacks are defaults.

        Raises
        ------
        InvalidArgumentError
            If the section has a key that is no field, lacks one that has no default, or a value does not fit.
        """
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise InvalidArgumentError(f"expected a configuration dataclass, not {cls!r:.80}")
        fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
        given, hints = self.section(section or cls.__name__), typing.get_type_hints(cls)
        for name in given:
            if name not in fields:
                raise InvalidArgumentError(f"{self.source}: {cls.__name__} has no field {name!r}; it has {', '.join(fields)}")
        absent = (dataclasses.MISSING, dataclasses.MISSING)
        missing = [n for n, f in fields.items() if n not in given and (f.default, f.default_factory) == absent]
        if missing:
            raise InvalidArgumentError(f"{self.source}: {cls.__name__} needs {', '.join(missing)}")
        try:
            return cls(**{name: _member(hints.get(name), value) for name, value in given.items()})
        except HyperionError as error:
            raise InvalidArgumentError(f"{self.source}: {error}") from error

    # ---- files -----------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file of the kind that its suffix says, whole or not at all. Comments of an earlier one are lost.

        Raises
        ------
        InvalidArgumentError
            If the suffix is not known, or JSON is to hold an infinity or a NaN.
        HyperionIOError
            If the file cannot be written.
        """
        try:
            text = render(kind_of(path), {key: entry.value for key, entry in self._entries.items()})
        except ValueError as error:
            raise InvalidArgumentError(f"{os.fspath(path)} cannot hold this configuration: {error}") from None
        write_file(path, text)


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a configuration file.

    Parameters
    ----------
    path : str or PathLike
        The suffix says what it holds: ``.toml``; ``.json``; ``.conf``, ``.cfg``, ``.ini``, ``.txt`` or none for lines
        ``key = value``. Before Python 3.11 TOML has no strings of several lines and no arrays of tables. A null in JSON is a key
        that is not there.

    Returns
    -------
    Config

    Raises
    ------
    FormatError
        If the content is not of that kind, repeats a key, or has a value that is no int, float, bool or str.
    HyperionIOError
        If it cannot be read.
    UnsupportedError
        For TOML that this Python cannot read.
    """
    kind, source = kind_of(path), os.fspath(path)
    size = os.stat(path).st_size if os.path.isfile(path) else 0
    if size > MAX_BYTES:
        raise FormatError(f"{source} has {size} bytes: a configuration file has at most {MAX_BYTES}", path=source)
    data = read_file(path)
    config = Config(source=source)
    try:
        for key, value in parse(kind, data.decode("utf-8-sig")):
            config.add(key, value)
    except (ValueError, RecursionError, TypeError) as error:  # what Unicode, JSON and TOML raise are ValueErrors too
        raise FormatError(f"{source}: {' '.join(str(error).split())}", path=source) from None
    return config


def get_config_value(config: Config, key: str, default: Any = _MISSING) -> Any:
    """Return the value of a key; see :meth:`Config.get`."""
    return config.get(key, default)


def set_config_value(config: Config, key: str, value: Value) -> None:
    """Give a key that exists a value of its type; see :meth:`Config.set`."""
    config.set(key, value)


def _above(key: str) -> list[str]:
    """Keys of the tables that hold a key."""
    return [key[:i] for i, c in enumerate(key) if c == "."]


def _plain(value: Any) -> Any:
    """A field's value as scalars and lists."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return value is default or value == default


def _member(hint: Any, value: Any) -> Any:
    """The member that a name means where an enumeration is expected."""
    for cls in [hint, *typing.get_args(hint)]:
        if isinstance(cls, type) and issubclass(cls, enum.Enum) and isinstance(value, str) and value.upper() in cls.__members__:
            return cls[value.upper()]
    return value
