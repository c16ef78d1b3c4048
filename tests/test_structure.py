"""The shape of the source tree: imports point down, files stay short, public names are documented."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hyperion"

# A module may import from the tiers above it in this list and from its own package; not from a neighbour.
TIERS = [
    {"errors"},
    {"_kernels"},
    {"io", "members"},
    {"cpu", "cpu_counters", "memory", "config"},
    {"dense"},
    {"tensor"},
    {"quantization", "tokenizer"},
    {"sparse"},
    {"formats"},
    {"loading"},
    {"scheduling"},
    {"models"},
    {"generation"},
    {"performance"},
    {"functional"},
    {"cli"},
]
LEVEL = {name: level for level, names in enumerate(TIERS) for name in names}
MAY_CALL_KERNELS = {"_kernels", "cpu", "memory", "dense", "tensor", "quantization", "sparse", "tokenizer", "loading", "models"}
FACADES = {"__init__", "__main__"}  # the package's own entry points see everything

MODULES = sorted(SOURCE.rglob("*.py")) + sorted(SOURCE.rglob("*.pyi"))
CYTHON = sorted(SOURCE.rglob("*.pyx")) + sorted(SOURCE.rglob("*.pxd"))


def name_of(path: Path) -> str:
    return str(path.relative_to(SOURCE))


def component(path: Path) -> str:
    """The part of the house that a file belongs to: the first folder or the module itself."""
    return path.relative_to(SOURCE).parts[0].split(".")[0]


def package_of(path: Path) -> list[str]:
    """The package that a relative import in this file starts from."""
    return ["hyperion", *path.relative_to(SOURCE).parts[:-1]]


def absolute(path: Path, level: int, module: str) -> list[str]:
    if level == 0:
        return module.split(".")
    package = package_of(path)
    return package[: len(package) - level + 1] + [part for part in module.split(".") if part]


def python_imports(path: Path):
    """(line, dotted name as a list) of every import in a Python file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            base = absolute(path, node.level, node.module or "")
            for alias in node.names:
                yield node.lineno, [*base, alias.name]


CYTHON_FROM = re.compile(r"^\s*from\s+(\.*)([\w.]*)\s+c?import\s+(.+)$")
CYTHON_IMPORT = re.compile(r"^\s*c?import\s+([\w., ]+)")


def cython_imports(path: Path):
    """The same for a Cython file, read line by line: the standard parser does not know cimport."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := CYTHON_FROM.match(line):
            base = absolute(path, len(match[1]), match[2])
            for name in re.findall(r"[A-Za-z_]\w*", match[3].split("#")[0]) or [""]:
                yield number, [*base, name]
        elif match := CYTHON_IMPORT.match(line):
            for name in match[1].split(","):
                yield number, name.split(" as ")[0].strip().split(".")


def own_imports(path: Path):
    """(line, component) of every import of hyperion by a file; the package's own names count as the component ''."""
    imports = python_imports if path in set(MODULES) else cython_imports
    for line, parts in imports(path):
        if parts[0] == "hyperion":
            name = parts[1] if len(parts) > 1 else ""
            yield line, name if name in LEVEL else ""


def test_the_reader_of_imports_sees_every_spelling(tmp_path, monkeypatch):
    module = SOURCE / "models" / "x.py"
    assert absolute(module, 0, "hyperion.cpu") == ["hyperion", "cpu"]
    assert absolute(module, 1, "blocks") == ["hyperion", "models", "blocks"]
    assert absolute(module, 2, "loading.mapped") == ["hyperion", "loading", "mapped"]
    file = tmp_path / "x.pyx"
    file.write_text("from hyperion._kernels.threads cimport hyp_team, a as b\ncimport hyperion.cpu\nimport numpy as np\n")
    found = [".".join(parts) for _, parts in cython_imports(file)]
    assert {"hyperion._kernels.threads.hyp_team", "hyperion.cpu", "numpy"} <= set(found)


@pytest.mark.parametrize("path", MODULES + CYTHON, ids=name_of)
def test_imports_point_down(path):
    own = component(path)
    if own in FACADES:
        return
    assert own in LEVEL, f"{own} has no place in the tiers"
    wrong = []
    for line, other in own_imports(path):
        if other == own:
            continue
        if not other and own == "cli":  # the last tier uses what users use
            continue
        if not other:
            wrong.append(f"line {line}: imports the package itself")
        elif LEVEL[other] >= LEVEL[own]:
            wrong.append(f"line {line}: {own} may not import {other}")
        elif other == "_kernels" and own not in MAY_CALL_KERNELS:
            wrong.append(f"line {line}: {own} may not call _kernels")
    assert not wrong, f"{name_of(path)}: " + "; ".join(wrong)


def tracked(*folders: str) -> list[Path]:
    """Files under version control, or all of them in an unpacked source distribution."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *folders]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    except (OSError, subprocess.CalledProcessError):
        return [p for folder in folders for p in sorted((ROOT / folder).rglob("*")) if p.is_file()]


def is_text(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" not in file.read(4096)


def written_files() -> list[Path]:
    files = [p for p in tracked("src", "tests", "benchmarks", "examples", "docs") if "__pycache__" not in p.parts]
    generated = SOURCE / "_kernels"
    return [p for p in files if not (p.parent == generated and p.suffix == ".c") and is_text(p)]


def test_no_file_is_longer_than_800_lines():
    suffixes = {".py", ".pyi", ".pyx", ".pxd", ".c", ".h"}
    long = {
        str(p.relative_to(ROOT)): n
        for p in written_files()
        if p.suffix in suffixes and (n := len(p.read_text(encoding="utf-8").splitlines())) > 800
    }
    assert not long


def test_no_file_names_a_path_of_one_machine():
    paths = re.compile("|".join(["/" + "work/", "/" + "home/", "/" + "root/", "/" + "Users/", "/" + "tmp/", r"[A-Z]:\\" + "Users"]))
    found = [
        f"{p.relative_to(ROOT)}:{n}: {line.strip()}"
        for p in written_files()
        for n, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1)
        if paths.search(line)
    ]
    assert not found, "\n".join(found)


def test_no_file_holds_both_sides_of_a_merge():
    marker = "<" * 7 + " "
    assert [str(p.relative_to(ROOT)) for p in written_files() if f"\n{marker}" in p.read_text(encoding="utf-8")] == []


def is_public(path: Path) -> bool:
    """Whether users may import from a module: no part of its name starts with an underscore (packages aside)."""
    return not any(p.startswith("_") and p != "__init__.py" for p in path.relative_to(SOURCE).parts)


@pytest.mark.parametrize("path", [p for p in MODULES if p.suffix == ".py" and is_public(p)], ids=name_of)
def test_public_names_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    missing = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_"):
            if not ast.get_docstring(node) and not is_overload(node):
                missing.append(node.name)
            if isinstance(node, ast.ClassDef) and not node.bases:  # an override has the docstring of what it overrides
                missing += [
                    f"{node.name}.{item.name}"
                    for item in node.body
                    if isinstance(item, ast.FunctionDef)
                    and not item.name.startswith("_")
                    and not ast.get_docstring(item)
                    and not is_overload(item)
                ]
    assert not missing, f"{name_of(path)}: no docstring on {', '.join(missing)}"


def is_overload(node: ast.stmt) -> bool:
    """Overload declarations and property setters are documented at the function that they belong to."""
    names = [ast.unparse(d) for d in getattr(node, "decorator_list", [])]
    return any(n.split(".")[-1] in {"overload", "setter", "deleter"} for n in names)


def test_every_package_is_a_package():
    """A folder with modules but no __init__.py would be left out of the wheel."""
    folders = {p.parent for p in MODULES}
    assert [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()] == []
