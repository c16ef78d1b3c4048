"""docs/api_map.md says where every documented name is, and it is there."""

import importlib.util
import re
from pathlib import Path

import pytest

import hyperion

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("make_api_map", DOCS / "make_api_map.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows():
    for line in (DOCS / "api_map.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `"):
            yield [cell.strip().strip("`") for cell in line.strip("|").split("|")]


def test_the_map_is_what_can_be_imported(maker):
    assert maker.make() == (DOCS / "api_map.md").read_text(encoding="utf-8"), "run: python docs/make_api_map.py"


def test_every_documented_name_has_a_row(maker):
    api = maker.documented()
    wanted = {*api["dataclasses"], *api["enums"], *api["functions"], *(f"Hyperion{name}" for name in api["classes"])}
    assert {cells[0] for cells in rows()} == wanted


def test_files_and_methods_of_the_map_exist():
    package = Path(hyperion.__file__).resolve().parent
    for reference, name, file, *rest in rows():
        if file == "not there":
            continue
        text = (package.parent / file).read_text(encoding="utf-8")
        assert re.search(rf"^(class|def|cdef class) {name}\b|^{name}\b.*=", text, re.MULTILINE), f"{reference}: {name} in {file}"
        if file == "hyperion/functional.py" and rest[0]:
            value = hyperion
            for part in rest[0].strip("`").split("."):
                value = getattr(value, part)
