"""The text of configuration files: dotted keys with values out of TOML, JSON or ``key = value`` lines, and back."""

from __future__ import annotations

import collections
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperion.errors import InvalidArgumentError

__all__ = ["KEY", "flatten", "kind_of", "nest", "parse", "render"]

Value = int | float | bool | str

MAX_DEPTH = 64
KEY = re.compile(r"[\w-]+(\.[\w-]+){0,63}")

_LINES = {".conf", ".cfg", ".ini", ".txt", ""}
_INT = re.compile(r"[+-]?\d+", re.ASCII)
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)", re.ASCII)
_COMMENT = re.compile(r"(^|\s)[#;].*")


def kind_of(path: str | os.PathLike[str]) -> str:
    """What a file's suffix says it holds: "toml", "json" or "lines"."""
    suffix = Path(path).suffix.lower()
    if suffix in _LINES:
        return "lines"
    if suffix not in (".toml", ".json"):
        raise InvalidArgumentError(f"a configuration is .toml, .json, .conf, .cfg, .ini or .txt, not {suffix!r}: {os.fspath(path)}")
    return suffix[1:]


def parse(kind: str, text: str) -> Iterator[tuple[str, Any]]:
    """Keys and values of a text; ValueError, TypeError or RecursionError if it is none of that kind."""
    return _read_lines(text) if kind == "lines" else flatten("", _read_toml(text) if kind == "toml" else _read_json(text))


def render(kind: str, flat: Mapping[str, Value]) -> str:
    """The text of keys and values; ValueError if the kind cannot hold one."""
    if kind == "lines":
        return "".join(f"{line}\n" for line in _lines(flat))
    tree = nest(flat, arrays_at_top=False)
    if kind == "json":
        return json.dumps(tree, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    return "\n".join(_toml(tree)).lstrip() + "\n"


# ---- Trees ----------------------------------------------------------------------------------------


def flatten(prefix: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The scalars of a tree with their keys."""
    if depth > MAX_DEPTH:
        raise ValueError(f"{prefix[:60]}...: more than {MAX_DEPTH} levels of tables and arrays")
    if isinstance(value, Mapping) or type(value) is list:
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            if not KEY.fullmatch(str(name)):
                raise ValueError(f"a key is words of letters, digits, _ and - joined by dots, not {name!r:.80}")
            yield from flatten(f"{prefix}.{name}" if prefix else str(name), inner, depth + 1)
    elif value is not None:
        yield prefix, value


def nest(flat: Mapping[str, Any], arrays_at_top: bool = True) -> Any:
    """The tree of dotted keys; a table whose keys are 0, 1, 2, ... is an array."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, name = key.split(".")
        at = tree
        for table in tables:
            at = at.setdefault(table, {})
        at[name] = value
    done = {name: _arrays(inner) for name, inner in tree.items()}
    return _as_array(done) if arrays_at_top else done


def _arrays(value: Any) -> Any:
    return _as_array({name: _arrays(inner) for name, inner in value.items()}) if isinstance(value, dict) else value


def _as_array(table: dict[str, Any]) -> Any:
    names = [str(i) for i in range(len(table))]
    return [table[name] for name in names] if table and table.keys() == set(names) else table


# ---- The kinds of files ----------------------------------------------------------------------------------


def _read_toml(text: str) -> dict[str, Any]:
    try:
        import tomllib as reader  # Python 3.11
    except ImportError:
        from hyperion.config import toml as reader  # type: ignore[no-redef]
    return reader.loads(text)


def _read_json(text: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            repeated = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {repeated!r} is there twice")
        return table

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    tree = json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    if not isinstance(tree, dict):
        raise TypeError(f"expected an object at the top, not {type(tree).__name__}")
    return tree


def _read_lines(text: str) -> Iterator[tuple[str, Value]]:
    prefix = ""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            name = _COMMENT.sub("", line).strip()
            if not name.endswith("]") or not KEY.fullmatch(name[1:-1].strip()):
                raise ValueError(f"line {number}: expected [section], not {line[:60]!r}")
            prefix = name[1:-1].strip() + "."
            continue
        key, sign, value = line.partition("=")
        if not sign or not KEY.fullmatch(key.strip()):
            raise ValueError(f"line {number}: expected key = value, not {line[:60]!r}")
        try:
            yield prefix + key.strip(), _scalar(value.strip())
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


def _scalar(text: str) -> Value:
    """What a value's text means."""
    if text.startswith('"'):
        value, end = json.JSONDecoder(strict=False).raw_decode(text)
        if _COMMENT.sub("", text[end:]).strip():
            raise ValueError(f"{text[end:][:40]!r} after the closing quotation mark")
        return str(value)
    text = _COMMENT.sub("", text, count=1).strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _written(value: Value) -> str:
    """A value's text, which :func:`_scalar` reads as the same value."""
    if not isinstance(value, str):
        return json.dumps(value) if isinstance(value, bool) else repr(value)
    plain = value.isprintable() and value == value.strip() and not value.startswith('"')
    return value if plain and value and _scalar(value) == value else json.dumps(value)


def _lines(flat: Mapping[str, Value]) -> Iterator[str]:
    yield from (f"{key} = {_written(value)}" for key, value in flat.items() if "." not in key)
    for section in dict.fromkeys(key.partition(".")[0] for key in flat if "." in key):
        yield f"[{section}]"
        inside = len(section) + 1
        yield from (f"{key[inside:]} = {_written(value)}" for key, value in flat.items() if key.startswith(f"{section}."))


def _toml(tree: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The lines of a TOML table: values first, then a header for each table in it."""
    for name, value in tree.items():
        if not isinstance(value, dict):
            yield f"{_toml_key(name)} = {_toml_value(value)}"
    for name, value in tree.items():
        if isinstance(value, dict):
            inner = f"{path}.{_toml_key(name)}" if path else _toml_key(name)
            if any(not isinstance(v, dict) for v in value.values()):
                yield from ("", f"[{inner}]")
            yield from _toml(value, inner)


def _toml_key(name: str) -> str:
    return name if name.isascii() else json.dumps(name, ensure_ascii=False)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return f"[{', '.join(map(_toml_value, value))}]"
    return "{" + ", ".join(f"{_toml_key(name)} = {_toml_value(inner)}" for name, inner in value.items()) + "}"
