"""A Jinja environment for templates that came with a file from anywhere.

Jinja's immutable sandbox keeps a template away from Python's internals. It does not keep it from looping for hours or
from filling memory, with one expression if need be. Here every step that can take long or make something large is
counted, before it is taken:

- loops, calls and operators look at the clock;
- operators, filters and methods that make text are charged by its length, and refuse what would be too long;
- lists, tuples and dicts know their weight (what they hold in all, shared parts counted each time), so that nothing can
  be built whose text or comparison would be exponential;
- filters and methods are those of a list.

Importing this module imports jinja2; :mod:`hyperion.tokenizer.chat` does it when a template is first rendered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MappingView
from datetime import datetime
from string import Formatter
from typing import Any, ClassVar

from jinja2 import Undefined, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import FILTERS as DEFAULT_FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .limits import CHARACTERS, LimitError, Limits, WeighedDict, WeighedList, WeighedTuple

__all__ = ["Sandbox", "TemplateRefusal"]

#: Elements of the longest range.
MAX_RANGE = 100_000
#: A number of at most so many bits can be raised or multiplied.
MAX_BITS = 4096
# Jinja's own filters whose result is no larger than a small multiple of what goes in.
_FILTER_NAMES = """
abs capitalize count d default dictsort first float groupby int items last length list lower map max min reject
rejectattr reverse select selectattr sort title trim unique upper wordcount
"""
_STR_NAMES = """
capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal isdigit isidentifier
islower isnumeric isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix replace rfind
rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill
"""
_OTHER_NAMES = "get items keys values copy index count is_integer"
_PLAIN_FILTERS, _STR_METHODS, _OTHER_METHODS = (frozenset(n.split()) for n in (_FILTER_NAMES, _STR_NAMES, _OTHER_NAMES))


class _Generation(Extension):
    """``{% generation %}`` marks the assistant's words for training; here it is only its content."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Guards(NodeTransformer):
    """Puts calls of the sandbox's methods where Jinja compiles plain Python."""

    def _call(self, method: str, *arguments: nodes.Expr) -> nodes.Call:
        return nodes.Call(nodes.EnvironmentAttribute(method), list(arguments), [], None, None)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._call("tick")))
        return node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return self._call("built", node)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        if node.ctx != "load":  # the names on the left of an assignment
            return node
        self.generic_visit(node)
        return self._call("built", node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call("joined", nodes.List(node.nodes))


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one rendering.

    Parameters
    ----------
    limits : Limits
    """

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, limits: Limits) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, "jinja2.ext.loopcontrols"],
            finalize=self.shown,
            cache_size=0,
        )
        self.limits = limits
        self.concat = self._concatenated  # type: ignore[method-assign]
        self.filters = {name: DEFAULT_FILTERS[name] for name in _PLAIN_FILTERS}
        for name in ("capitalize", "lower", "title", "trim", "upper"):
            self.filters[name] = self._counted(DEFAULT_FILTERS[name])
        self.filters |= {
            "batch": self._batch, "e": self._escape, "escape": self._escape, "format": self._format, "indent": self._indent,
            "join": self._join, "replace": self._replace, "round": self._round, "safe": self.shown, "string": self.shown,
            "sum": self._sum, "tojson": self._tojson,
        }  # fmt: skip
        self.globals = {
            "range": self._range, "dict": self._dict, "namespace": Namespace, "raise_exception": _raise_exception,
            "strftime_now": self._strftime_now,
        }  # fmt: skip
        self._trusted = {self.tick, self.built, self.joined, self._range, self._dict, self._strftime_now, _raise_exception}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Guards().visit(super()._parse(source, name, filename))
        return tree

    # --- what the guards call

    def tick(self) -> None:
        """Look at the clock."""
        self.limits.tick()

    def built(self, value: Any) -> Any:
        """A container that knows its weight."""
        return self._weighed(value)

    def joined(self, parts: list[Any]) -> str:
        """The operator ``~``."""
        texts = [self.shown(part) for part in parts]
        self.limits.text(sum(map(len, texts)))
        return "".join(texts)

    def shown(self, value: Any) -> str:
        """A value as text."""
        if isinstance(value, str):
            return str(value)
        if value is None or isinstance(value, (bool, int, float, Undefined)):
            return str(value)
        if isinstance(value, (list, tuple, dict, MappingView)):
            self.limits.text(CHARACTERS * self._weight(value))
            return str(value)
        return f"<{type(value).__name__}>"

    def _concatenated(self, parts: Iterable[str]) -> str:
        texts = list(parts)
        self.limits.text(sum(map(len, texts)))
        return "".join(texts)

    # --- weights

    def _weight(self, value: Any) -> int:
        known = getattr(type(value), "weight", None)
        if known is not None and value.weight > 1:
            weight: int = value.weight
            return weight
        total, stack = 0, [value]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                total += 1 + len(item) // CHARACTERS
            elif isinstance(item, (WeighedList, WeighedTuple, WeighedDict)) and item.weight > 1:
                total += item.weight
            elif isinstance(item, Mapping):
                total += 1 + len(item)
                stack.extend(item.values())
            elif isinstance(item, (list, tuple, MappingView)):
                total += 1
                stack.extend(item)  # type: ignore[arg-type]
            elif isinstance(item, Namespace):
                raise LimitError("it puts a namespace into a list")
            else:
                total += 1
            if total > self.limits.heaviest:
                self.limits.weight(total)
        return total

    def _weighed(self, value: Any) -> Any:
        if isinstance(value, (WeighedList, WeighedTuple, WeighedDict)) or not isinstance(value, (list, tuple, dict)):
            return value
        weight = self.limits.weight(self._weight(value))
        kind = WeighedList if isinstance(value, list) else WeighedDict if isinstance(value, dict) else WeighedTuple
        made = kind(value)
        made.weight = weight
        return made

    # --- what Jinja calls

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator between two values, once it is known that its result is small."""
        self.limits.tick()
        if operator == "%" and isinstance(left, str):
            return self._percent(str(left), right)
        if operator in ("*", "**"):
            if isinstance(left, (str, list, tuple)) or isinstance(right, (str, list, tuple)):
                return self._repeated(left, right)
            self._check_power(operator, left, right)
        if operator == "+":
            if isinstance(left, str) and isinstance(right, str):
                self.limits.text(len(left) + len(right))
            elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
                self.limits.weight(self._weight(left) + self._weight(right))
        return self._weighed(super().call_binop(context, operator, left, right))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """``obj[argument]``; a slice is a copy."""
        if isinstance(argument, slice) and isinstance(obj, (str, list, tuple)):
            if isinstance(obj, str):
                self.limits.text(len(obj))
            return self._weighed(obj[argument])
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format``, whose fields must be narrow; ``format_map`` is not needed."""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") not in ("format", "format_map"):
            return None
        source = str(owner)

        def format(*arguments: Any, **named: Any) -> str:
            self._check_fields(source, "{", [*arguments, *named.values()])
            return _NarrowFormatter(self).vformat(source, arguments, named)

        return format

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: B902, PYI063
        """Call a function or a method of the list."""
        self = __self
        self.limits.tick()
        owner = getattr(__obj, "__self__", None)
        if owner is None or owner is self or isinstance(__obj, (Macro, LoopContext)) or __obj in self._trusted:
            return super().call(__context, __obj, *args, **kwargs)
        name = getattr(__obj, "__name__", "")
        if isinstance(owner, str):
            if name not in _STR_METHODS:
                raise SecurityError(f"str.{name} is not for templates")
            args = tuple(list(self._ticking(a)) if isinstance(a, Iterator) else a for a in args)
            self._check_method(str(owner), name, args, kwargs)
        elif not isinstance(owner, LoopContext) and name not in _OTHER_METHODS:
            raise SecurityError(f"{type(owner).__name__}.{name} is not for templates")
        result = super().call(__context, __obj, *args, **kwargs)
        if isinstance(result, str):
            self.limits.text(len(result))
        return self._weighed(result)

    # --- sizes, known beforehand

    def _repeated(self, left: Any, right: Any) -> Any:
        value, times = (left, right) if isinstance(left, (str, list, tuple)) else (right, left)
        if not isinstance(times, int):
            raise TypeError(f"cannot multiply {type(left).__name__} and {type(right).__name__}")
        times = max(times, 0)
        if isinstance(value, str):
            self.limits.text(len(value) * times)
        else:
            self.limits.weight(self._weight(value) * times)
        return self._weighed(value * times)

    def _check_power(self, operator: str, left: Any, right: Any) -> None:
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length() if operator == "*" else left.bit_length() * max(right, 0)
            if bits > MAX_BITS:
                raise LimitError(f"it makes a number of more than {MAX_BITS} bits")

    def _check_fields(self, source: str, mark: str, values: Iterable[Any]) -> None:
        """Text that a format makes is no longer than its widths and its values together."""
        if "*" in source and mark == "%":
            raise LimitError("it uses a variable field width")
        widths = sum(min(int(n[:9]), 10**9) for n in re.findall(r"\d+", source))
        longest = max((len(self.shown(v)) for v in values), default=0)
        self.limits.text(len(source) + widths + source.count(mark) * max(longest, 400))

    def _percent(self, source: str, values: Any) -> str:
        arguments = values if isinstance(values, tuple) else list(values.values()) if isinstance(values, dict) else [values]
        self._check_fields(source, "%", arguments)
        return source % values

    def _check_method(self, owner: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if name in ("ljust", "rjust", "center", "zfill") and args and isinstance(args[0], int):
            self.limits.text(max(len(owner), args[0]))
        elif name == "replace" and len(args) >= 2 and isinstance(args[0], str) and isinstance(args[1], str):
            self.limits.text(_replaced_length(owner, args[0], args[1]))
        elif name == "join" and args:
            if not isinstance(args[0], (list, tuple, str, dict)):
                raise TypeError("join() takes a list")
            texts = [t for t in args[0] if isinstance(t, str)]
            self.limits.text(sum(map(len, texts)) + len(owner) * len(texts))
        elif name in ("split", "rsplit", "splitlines"):
            # A list of many words weighs far more than their text.
            self.limits.weight(len(owner) // 4)
            self.limits.text(len(owner))
        else:
            self.limits.text(len(owner))

    # --- filters and functions in place of Jinja's

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(value: Any, *args: Any) -> str:
            text = self.shown(value)
            self.limits.text(len(text))
            return str(function(text, *args))

        return counted

    def _batch(self, value: Iterable[Any], linecount: int, fill_with: Any = None) -> Iterator[Any]:
        if fill_with is not None:
            self.limits.weight(linecount)
        row: list[Any] = []
        for item in value:
            row.append(item)
            if len(row) >= linecount:
                yield self._weighed(row)
                row = []
        if row:
            yield self._weighed(row + [fill_with] * (linecount - len(row)) if fill_with is not None else row)

    def _escape(self, value: Any) -> str:
        text = self.shown(value)
        self.limits.text(5 * len(text))
        for sign, name in (("&", "&amp;"), (">", "&gt;"), ("<", "&lt;"), ("'", "&#39;"), ('"', "&#34;")):
            text = text.replace(sign, name)
        return text

    def _format(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if args and kwargs:
            raise TypeError("format takes either positional or named values")
        return self._percent(self.shown(value), kwargs or args)

    def _indent(self, value: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        margin = width if isinstance(width, str) else " " * min(width, self.limits.characters)
        lines = (self.shown(value) + "\n").splitlines()
        self.limits.text(sum(map(len, lines)) + (len(margin) + 1) * len(lines))
        out = lines[:1] + [margin + line if blank or line else line for line in lines[1:]]
        return (margin if first else "") + "\n".join(out)

    def _join(self, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        items = [v if attribute is None else self.getitem(v, attribute) for v in self._ticking(value)]
        between, texts, total = self.shown(d), [], 0
        for item in items:
            text = self.shown(item)
            total += len(text) + len(between)
            self.limits.text(min(len(text), 1 + self.limits.characters))
            if total > self.limits.characters:
                self.limits.text(total)
            texts.append(text)
        return between.join(texts)

    def _ticking(self, value: Iterable[Any]) -> Iterator[Any]:
        for item in value:
            self.limits.tick()
            yield item

    def _replace(self, value: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = self.shown(value), self.shown(old), self.shown(new)
        self.limits.text(_replaced_length(text, old, new))
        return text.replace(old, new, -1 if count is None else count)

    def _round(self, value: Any, precision: int = 0, method: str = "common") -> float:
        if not -400 <= precision <= 400:
            raise LimitError("it rounds to more digits than a number has")
        rounded: float = DEFAULT_FILTERS["round"](value, precision, method)
        return rounded

    def _sum(self, value: Iterable[Any], attribute: str | None = None, start: float = 0) -> float:
        total = start
        for item in self._ticking(value):
            number = item if attribute is None else self.getitem(item, attribute)
            if not isinstance(number, (int, float)) or not isinstance(total, (int, float)):
                raise TypeError("sum adds numbers")
            total += number
        return total

    def _tojson(
        self,
        value: Any,
        indent: int | None = None,
        ensure_ascii: bool = False,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 64):
            raise LimitError("it indents JSON by more than 64")
        if isinstance(value, (Iterator, MappingView)):
            value = [*value]  # type: ignore[misc]
        self.limits.text(CHARACTERS * self._weight(value))
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=tuple(separators) if separators else None,
            sort_keys=sort_keys,
        )
        parts, length = [], 0
        for part in encoder.iterencode(value):
            length += len(part)
            if length > self.limits.characters:
                self.limits.text(length)
            parts.append(part)
            self.limits.tick()
        self.limits.text(length)
        return "".join(parts)

    def _range(self, *bounds: int) -> range:
        made = range(*bounds)
        if len(made) > MAX_RANGE:
            raise LimitError(f"it counts over more than {MAX_RANGE} numbers")
        return made

    def _dict(self, *args: Any, **kwargs: Any) -> Any:
        return self._weighed(dict(*args, **kwargs))

    def _strftime_now(self, form: str) -> str:
        # A field width (a GNU extension) could ask for gigabytes.
        if not isinstance(form, str) or len(form) > 256 or re.search(r"%[^A-Za-z%]*\d", form):
            raise LimitError("it asks for a date in a form that is not served")
        return datetime.now().strftime(form)


class _NarrowFormatter(SandboxedFormatter):
    """``str.format`` whose nested widths are small and whose lists are counted."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        self._sandbox = sandbox

    def format_field(self, value: Any, format_spec: str) -> str:
        if any(int(n[:9]) > 1000 for n in re.findall(r"\d+", format_spec)):
            raise LimitError("it uses a field of more than 1000 characters")
        if not isinstance(value, (str, int, float)):
            value = self._sandbox.shown(value)
        return Formatter.format_field(self, value, format_spec)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        if conversion is None:
            return value
        self._sandbox.shown(value)
        return Formatter.convert_field(self, value, conversion)


def _replaced_length(text: str, old: str, new: str) -> int:
    if len(new) <= len(old):
        return len(text)
    return len(text) + text.count(old) * (len(new) - len(old))


def _raise_exception(message: Any = "") -> None:
    raise TemplateRefusal(str(message)[:1000])


class TemplateRefusal(Exception):
    """The template called ``raise_exception``."""
