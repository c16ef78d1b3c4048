"""A reader of plain TOML 1.0 for Python 3.10, which has none: tables, dotted and quoted keys, strings of one line, numbers,
booleans, arrays and inline tables. Strings of several lines, arrays of tables, dates and times are refused.
"""

from __future__ import annotations

import re
from typing import Any

from hyperion.errors import UnsupportedError

__all__ = ["loads"]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n\x00-\x08\x0b-\x1f\x7f]*(?=\n|$))*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"((?:[^"\\\n\x00-\x08\x0b-\x1f\x7f]|\\.)*)"')
_LITERAL = re.compile(r"'([^'\n\x00-\x08\x0b-\x1f\x7f]*)'")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))")
_ESCAPED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_WORD = re.compile(r"[^\s,\[\]{}#\"'=]+")
_INT = re.compile(r"[+-]?(?:0|[1-9](?:_?[0-9])*)")
_BASED = {"0x": re.compile(r"[0-9a-fA-F](?:_?[0-9a-fA-F])*"), "0o": re.compile(r"[0-7](?:_?[0-7])*"), "0b": re.compile(r"[01](?:_?[01])*")}
_FLOAT = re.compile(r"[+-]?(?:0|[1-9](?:_?[0-9])*)(?:\.[0-9](?:_?[0-9])*)?(?:[eE][+-]?[0-9](?:_?[0-9])*)?|[+-]?(?:inf|nan)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{2}:[0-9]{2}")
_LEVELS = 200


class _Table(dict[str, Any]):
    """A table and what made it: "path" (a longer header), "header", "dotted" (keys with dots) or "inline".

    Keys with dots may go on with what headers only passed through; a header may only begin such a table.
    """

    made = "path"


class _Reader:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.levels = text, 0, 0

    # ---- characters

    def fail(self, what: str) -> ValueError:
        line = self.text.count("\n", 0, self.at) + 1
        return ValueError(f"line {line}: expected {what}, not {self.text[self.at : self.at + 20]!r}")

    def take(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise self.fail(what)
        self.at = match.end()
        return match

    def taken(self, sign: str) -> bool:
        found = self.text.startswith(sign, self.at)
        self.at += len(sign) if found else 0
        return found

    def refuse(self, *signs: str) -> None:
        for sign in signs:
            if self.text.startswith(sign, self.at):
                line = self.text.count("\n", 0, self.at) + 1
                raise UnsupportedError(f"line {line}: {sign} in TOML needs Python 3.11 or the package tomli")

    # ---- the file

    def file(self) -> dict[str, Any]:
        root = table = _Table()
        while self.take(_BLANK, "") and self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header(root)
            else:
                self.pair(table)
            self.take(_SPACE, "")
            if not re.compile(r"#|\n|$").match(self.text, self.at):
                raise self.fail("the end of the line")
            self.take(_BLANK, "")
        return root

    def header(self, root: _Table) -> _Table:
        self.refuse("[[")
        self.at += 1
        names = self.key()
        table = root
        for name in names:
            table = self.inside(table, name, "path", "header", "dotted")
        if table.made != "path":
            raise self.fail(f"a table that is not there yet ({'.'.join(names)})")
        table.made = "header"
        if not self.taken("]"):
            raise self.fail("]")
        return table

    def inside(self, table: _Table, name: str, *made: str) -> _Table:
        inner = table.setdefault(name, _Table())
        if not isinstance(inner, _Table) or inner.made not in made:
            raise self.fail(f"a table that can be added to, but {name} is a value or complete")
        return inner

    def pair(self, table: _Table) -> None:
        *tables, name = self.key()
        if not self.taken("="):
            raise self.fail("=")
        self.take(_SPACE, "")
        for part in tables:
            table = self.inside(table, part, "path", "dotted")
            table.made = "dotted"
        if name in table:
            raise self.fail(f"a new key, but {name} is there already")
        table[name] = self.value()

    def key(self) -> list[str]:
        names = []
        while True:
            self.take(_SPACE, "")
            sign = self.text[self.at : self.at + 1]
            names.append(self.string() if sign in ('"', "'") and sign else self.take(_BARE, "a key")[0])
            self.take(_SPACE, "")
            if not self.taken("."):
                return names

    # ---- values

    def value(self) -> Any:
        sign = self.text[self.at : self.at + 1]
        if sign in ('"', "'") and sign:
            return self.string()
        if sign == "[" or sign == "{":
            self.levels += 1
            if self.levels > _LEVELS:
                raise self.fail(f"at most {_LEVELS} levels of arrays")
            self.at += 1
            found = self.array() if sign == "[" else self.inline()
            self.levels -= 1
            return found
        return self.scalar(self.take(_WORD, "a value")[0])

    def string(self) -> str:
        self.refuse('"""', "'''")
        if self.text[self.at] == "'":
            return self.take(_LITERAL, "a string that ends on its line")[1]
        return _ESCAPE.sub(self.unescaped, self.take(_BASIC, "a string that ends on its line")[1])

    def unescaped(self, match: re.Match[str]) -> str:
        code = match[1] or match[2]
        if code:
            number = int(code, 16)
            if number > 0x10FFFF or 0xD800 <= number < 0xE000:
                raise self.fail("escapes of characters")
            return chr(number)
        if match[3] not in _ESCAPED:
            raise self.fail(f"an escape that TOML has, in the string before, \\{match[3]}")
        return _ESCAPED[match[3]]

    def array(self) -> list[Any]:
        items: list[Any] = []
        while self.take(_BLANK, "") and not self.taken("]"):
            items.append(self.value())
            self.take(_BLANK, "")
            if not self.taken(","):
                if not self.taken("]"):
                    raise self.fail(", or ]")
                break
        return items

    def inline(self) -> _Table:
        table = _Table()
        self.take(_SPACE, "")
        if not self.taken("}"):
            while True:
                self.pair(table)
                self.take(_SPACE, "")
                if self.taken("}"):
                    break
                if not self.taken(","):
                    raise self.fail(", or }")
        _close(table)
        return table

    def scalar(self, word: str) -> Any:
        if word in ("true", "false"):
            return word == "true"
        if _INT.fullmatch(word):
            return int(word.replace("_", ""))
        if word[:2] in _BASED and _BASED[word[:2]].fullmatch(word, 2):
            return int(word.replace("_", ""), 0)
        if _FLOAT.fullmatch(word):
            return float(word.replace("_", ""))
        self.at -= len(word)
        if _DATE.match(word):
            raise UnsupportedError(f"line {self.text.count(chr(10), 0, self.at) + 1}: dates and times are no values here: {word}")
        raise self.fail("a value")


def _close(table: _Table) -> None:
    table.made = "inline"
    for inner in table.values():
        if isinstance(inner, _Table):
            _close(inner)


def loads(text: str) -> dict[str, Any]:
    """Read TOML.

    Raises
    ------
    ValueError
        If it is none; the message names the line.
    UnsupportedError
        If it is TOML that this reader does not know.
    """
    return _Reader(text.replace("\r\n", "\n")).file()
