"""What `import hyperion` brings in. It stays quick because everything heavy waits until it is used."""

import json
import subprocess
import sys

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
