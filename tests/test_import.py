"""What `import hyperion` brings in. It stays quick because everything heavy waits until it is used."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "tokenizers", "jinja2", "click", "tqdm", "matplotlib", "scipy", "gguf", "safetensors", "torch", "transformers",
    "multiprocessing", "concurrent.futures", "asyncio", "urllib.request",
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    code = (
        f"import json, sys, numpy; before = set(sys.modules); {statement}; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_import_is_lazy():
    new = modules_after("import hyperion")
    assert "hyperion.errors" in new
    assert new & HEAVY == set()


def test_every_public_name_resolves():
    import hyperion

    assert len(set(hyperion.__all__)) == len(hyperion.__all__)
    for name in hyperion.__all__:
        assert getattr(hyperion, name) is not None
    assert set(hyperion.__all__) <= set(dir(hyperion))


def test_an_unknown_name_is_an_attribute_error():
    import hyperion

    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hyperion.no_such_name


def test_the_version_is_the_distribution_s():
    from importlib.metadata import PackageNotFoundError, version

    import hyperion

    try:
        expected = version("hyperion-lm")
    except PackageNotFoundError:  # built in place
        return
    assert hyperion.__version__ == expected


def test_type_checkers_see_the_lazy_names_where_they_are():
    import hyperion

    tree = ast.parse(Path(hyperion.__file__).read_text(encoding="utf-8"))
    (block,) = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = {name.name: f"hyperion.{node.module}" for node in block.body for name in node.names}
    assert seen == hyperion._LAZY
    assert set(seen) <= set(hyperion.__all__)
