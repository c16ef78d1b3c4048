"""Writes api_map.md: every name of the reference with its Python name and the file that has it.

``python docs/make_api_map.py`` writes the file; ``tests/test_api_map.py`` fails while it is not what this makes.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
import sys
from pathlib import Path
from typing import Any

import hyperion

HERE = Path(__file__).resolve().parent
MAP = HERE / "api_map.md"
ABSENT = "not there"

HEAD = """\
# From the reference to Python

Every struct, enum, function and handle of the C-shaped reference, the name that it has in Python, and the file of the
package that defines it. `hyperion.` stands before every Python name. Procedures with a method beside them are one line
that calls it. This file is made by `python docs/make_api_map.py`, and a test compares it with what can be imported.
"""


def documented() -> dict[str, Any]:
    """The names that the reference documents."""
    found: dict[str, Any] = json.loads((HERE / "documented_api.json").read_text(encoding="utf-8"))
    return found


def defined_in(value: Any) -> str:
    """The file that defines a class or function, from the package's folder on."""
    module = sys.modules[value.__module__]
    file = Path(inspect.getsourcefile(module) or module.__name__.replace(".", "/"))
    package = Path(hyperion.__file__).resolve().parent
    return file.resolve().relative_to(package.parent).as_posix()


def method_of(value: Any) -> str:
    """What a procedure's docstring refers to: the method that it calls."""
    if value.__module__ != "hyperion.functional":
        return ""
    found = re.search(r":(?:meth|attr|class|func):`~?(?:hyperion\.)?([^`]+)`", inspect.getdoc(value) or "")
    return f"`{found[1]}`" if found else ""


def members_of(value: Any, names: list[str]) -> list[str]:
    """Those of `names` that a class has."""
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return [name for name in names if name in value.__members__]
    fields = getattr(value, "__dataclass_fields__", {})
    return [name for name in names if name in fields or hasattr(value, name)]


def row(c_name: str, python: str, parts: list[str] | None) -> str:
    """One line of a table."""
    value = getattr(hyperion, python, None)
    if value is None:
        return f"| `{c_name}` | `{python}` | {ABSENT} | |"
    if parts is None:
        last = method_of(value)
    else:
        has = members_of(value, parts)
        last = ", ".join(f"`{name}`" if name in has else f"{name}: {ABSENT}" for name in parts)
    return f"| `{c_name}` | `{python}` | {defined_in(value)} | {last} |"


def table(title: str, columns: str, rows: list[str]) -> str:
    """A heading and its table."""
    return "\n".join([f"\n## {title}\n", f"| {columns} |", "|---|---|---|---|", *rows, ""])


def make() -> str:
    """The whole document."""
    api = documented()
    structs = [row(c, entry["python"], entry["fields"]) for c, entry in api["dataclasses"].items()]
    enums = [row(c, entry["python"], entry["members"]) for c, entry in api["enums"].items()]
    functions = [row(c, entry["python"], None) for c, entry in api["functions"].items()]
    handles = [row(f"Hyperion{name}", name, None) for name in api["classes"]]
    return HEAD + "".join(
        [
            table("Structs", "reference | Python | file | fields", structs),
            table("Enums", "reference | Python | file | members", enums),
            table("Functions", "reference | Python | file | calls", functions),
            table("Handles and results", "reference | Python | file | ", handles),
        ]
    )


if __name__ == "__main__":
    MAP.write_text(make(), encoding="utf-8")
    print(f"{MAP.name}: {MAP.read_text(encoding='utf-8').count(ABSENT)} names {ABSENT}")
