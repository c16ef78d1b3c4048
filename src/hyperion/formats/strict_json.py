"""JSON without surprises: a key once, a bounded depth, errors with the byte where they are.

Headers of safetensors files and indexes may have 100 MB, and what a general parser builds of them takes twenty times
that. :class:`Scanner` walks over the text and builds only what it is asked for. :func:`parse_object` is for small files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from hyperion.errors import FormatError

__all__ = ["Scanner", "parse_object"]

MAX_DEPTH = 64
MAX_STEPS = 1 << 19
"""Strings, keys and values that a scanner walks over before it gives up: more would take seconds."""
MAX_STRING = 16 << 20
MAX_PARSED_ITEMS = 1 << 16
"""The same for what is parsed at once: every one becomes a Python object."""

_SPACE = rb"[ \t\n\r]*"
_PLAIN = re.compile(_SPACE + rb'"([^"\\\x00-\x1f]{0,1000})"')
_OPENING = re.compile(_SPACE + rb'"')
_MARK = re.compile(_SPACE + rb"([^ \t\n\r])")
_LITERAL = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_CONTROL = re.compile(rb"[\x00-\x1f]")
_BAD_ESCAPE = re.compile(rb'\\(?:[^"/bfnrtu]|u(?![0-9a-fA-F]{4}))')


class Scanner:
    """A cursor over the bytes of one JSON value.

    Parameters
    ----------
    data : bytes-like
        The text, UTF-8.
    what : str
        Name of the file, for messages.
    base : int
        Where `data` begins in that file, so that errors carry the file's offsets.
    """

    def __init__(self, data: bytes | bytearray, what: str, base: int = 0) -> None:
        self.data, self.what, self.base = data, what, base
        self.at = 0
        self._steps = 0

    def fail(self, message: str, at: int | None = None) -> FormatError:
        """The error for what stands at `at` (by default the cursor)."""
        offset = self.base + (self.at if at is None else at)
        return FormatError(f"{self.what}: {message} (at byte {offset})", path=self.what, offset=offset)

    def step(self, n: int = 1) -> None:
        """Count work, so that a hostile text cannot make it last."""
        self._steps += n
        if self._steps > MAX_STEPS:
            raise self.fail(f"more than {MAX_STEPS} strings and values")

    def shown(self, at: int | None = None) -> str:
        """The text at the cursor, shortened, for messages."""
        start = self.at if at is None else at
        return repr(bytes(self.data[start : start + 40]))[1:] if start < len(self.data) else "the end"

    def mark(self) -> bytes:
        """The next character that is not white space; the cursor moves behind it."""
        match = _MARK.match(self.data, self.at)
        if match is None:
            raise self.fail("the JSON text ends early", len(self.data))
        self.at = match.end()
        return match[1]

    def expect(self, mark: bytes) -> None:
        """Move behind a character that must come next."""
        start = self.at
        if self.mark() != mark:
            self.at = start
            raise self.fail(f"expected {mark.decode()!r}, got {self.shown()}")

    def string(self) -> str:
        """The string at the cursor."""
        start = self.at
        plain = _PLAIN.match(self.data, self.at)
        if plain is not None:
            self.step()
            self.at = plain.end()
            raw = plain[1]
        else:
            first, end = self._string_bounds()
            raw = bytes(self.data[first - 1 : end + 1])
        try:
            text = raw.decode()
            if plain is None:
                del raw  # it may be nearly all of the text
                text = json.loads(text)
                text.encode()
        except UnicodeDecodeError as error:
            raise self.fail("a string is not UTF-8", start + error.start) from None
        except (ValueError, UnicodeEncodeError):  # an escape that is none, half of a surrogate pair
            raise self.fail("a string has an invalid escape", start) from None
        return text

    def _string_bounds(self) -> tuple[int, int]:
        """(first byte, closing quote) of the string at the cursor, which moves behind it."""
        opening = _OPENING.match(self.data, self.at)
        if opening is None:
            raise self.fail(f"expected a string, got {self.shown()}")
        end = first = opening.end()
        while True:
            self.step()
            end = self.data.find(b'"', end, first + MAX_STRING)
            if end < 0:
                raise self.fail(f"a string has no end, or more than {MAX_STRING} bytes")
            if self._slashes(first, end) % 2 == 0:
                break
            end += 1
        control = _CONTROL.search(self.data, first, end)
        if control is not None:
            raise self.fail("a string has a control character", control.start())
        self.at = end + 1
        return first, end

    def _slashes(self, first: int, end: int) -> int:
        """How many backslashes stand right before `end`."""
        at = end
        while at > first and self.data[at - 1] == 0x5C:
            part = self.data[max(first, at - 4096) : at]
            at -= len(part) - len(part.rstrip(b"\\"))
        return end - at

    def members(self) -> Iterator[str]:
        """Keys of the object at the cursor; whoever asks takes each value before the next key."""
        self.expect(b"{")
        start = self.at
        if self.mark() == b"}":
            return
        self.at = start
        while True:
            key = self.string()
            self.expect(b":")
            yield key
            start = self.at
            mark = self.mark()
            if mark == b"}":
                return
            if mark != b",":
                self.at = start
                raise self.fail(f"expected ',' or '}}', got {self.shown()}")

    def skip(self) -> None:
        """Move behind the value at the cursor, whatever it is."""
        open_ = bytearray()
        while True:
            self.step()
            closed = self._enter(open_)
            while closed:
                if not open_:
                    return
                start = self.at
                mark = self.mark()
                if mark == b",":
                    if open_[-1] == 0x7B:
                        self._key()
                    break
                if mark != (b"}" if open_[-1] == 0x7B else b"]"):
                    self.at = start
                    raise self.fail(f"expected ',' or the end of a list, got {self.shown()}")
                open_.pop()

    def _enter(self, open_: bytearray) -> bool:
        """Go into the value at the cursor; True if that was all of it."""
        start = self.at
        mark = self.mark()
        if mark in (b"{", b"["):
            inside = self.at
            if self.mark() == (b"}" if mark == b"{" else b"]"):
                return True
            self.at = inside
            if len(open_) == MAX_DEPTH:
                raise self.fail(f"JSON is nested more than {MAX_DEPTH} deep")
            open_ += mark
            if mark == b"{":
                self._key()
            return False
        if mark == b'"':
            self.at = start
            first, end = self._string_bounds()
            raw = bytes(self.data[first:end])
            if b"\\" in raw and _BAD_ESCAPE.search(raw.replace(b"\\\\", b"")):
                raise self.fail("a string has an invalid escape", first)
            return True
        literal = _LITERAL.match(self.data, self.at - 1)
        if literal is None:
            self.at -= 1
            raise self.fail(f"expected a JSON value, got {self.shown()}")
        self.at = literal.end()
        return True

    def _key(self) -> None:
        self.string()
        self.expect(b":")

    def end(self) -> None:
        """Only white space is left."""
        rest = _MARK.match(self.data, self.at)
        if rest is not None:
            raise self.fail(f"expected the end of the JSON text, got {self.shown(rest.start(1))}", rest.start(1))


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises
    ------
    FormatError
        For bytes that are not UTF-8 or not JSON, a key that comes twice, nesting that is too deep, too many values, or
        another value than an object.
    """
    items = sum(data.count(mark) for mark in (b"{", b"[", b",", b":"))
    if items > MAX_PARSED_ITEMS:
        raise FormatError(f"{what}: about {items} JSON values, expected at most {MAX_PARSED_ITEMS}", path=what, offset=0)
    try:
        value = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_refuse)
    except RecursionError:
        raise FormatError(f"{what}: JSON is nested too deep", path=what, offset=0) from None
    except UnicodeDecodeError as error:
        raise FormatError(f"{what}: not UTF-8 at byte {error.start}", path=what, offset=error.start) from None
    except json.JSONDecodeError as error:
        at = len(error.doc[: error.pos].encode())
        raise FormatError(f"{what}: not JSON: {error.msg} (at byte {at})", path=what, offset=at) from None
    except ValueError as error:  # _once and _refuse, and integers with too many digits
        raise FormatError(f"{what}: {error}", path=what, offset=0) from None
    if not isinstance(value, dict):
        raise FormatError(f"{what}: expected a JSON object, got {type(value).__name__}", path=what, offset=0)
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
