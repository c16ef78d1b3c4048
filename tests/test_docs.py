"""The tutorial and the guides: every block of code runs, in order, in an empty directory; the API pages have every name."""

import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import hyperion
from hyperion.cli.common import DEMO_MODEL

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = [DOCS / "tutorial.rst", *sorted((DOCS / "guides").glob("[!i]*.rst"))]


def blocks(path, language):
    """The code blocks of a page in one language."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for start, line in enumerate(lines):
        if line == f".. code-block:: {language}":
            body = []
            for following in lines[start + 1 :]:
                if following and not following.startswith(" "):
                    break
                body.append(following)
            yield textwrap.dedent("\n".join(body)).strip()


@pytest.fixture
def folder(tmp_path):
    """A directory with what the pages call files of the reader's."""
    demo = Path(hyperion.__file__).with_name("data") / DEMO_MODEL
    shutil.copy(demo, tmp_path / "my-model.gguf")
    (tmp_path / "text.txt").write_text("ROMEO:\nWhat light through yonder window breaks?\n" * 4, encoding="utf-8")
    return tmp_path


def environment(folder):
    """With a `hyperion` command that is the package under test."""
    here = str(Path(hyperion.__file__).resolve().parents[1])
    (folder / "bin").mkdir()
    command = folder / "bin" / "hyperion"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hyperion "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    path = str(folder / "bin") + os.pathsep + os.environ["PATH"]
    return {**os.environ, "PYTHONPATH": here, "PATH": path, "PYTHONIOENCODING": "utf-8"}


@pytest.mark.skipif(sys.platform == "win32", reason="the pages' commands are for a POSIX shell")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_block_of_a_page_runs(page, folder):
    env = environment(folder)
    commands = "set -e\n" + "\n".join(blocks(page, "sh"))
    code = "\n".join(blocks(page, "python"))
    assert code
    for arguments in (["sh", "-c", commands], [sys.executable, "-c", code]):
        done = subprocess.run(arguments, cwd=folder, env=env, capture_output=True, text=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr


def test_the_pages_are_all_listed():
    index = (DOCS / "guides" / "index.rst").read_text(encoding="utf-8").split()
    assert {page.stem for page in PAGES[1:]} <= set(index)


def test_the_api_pages_have_every_public_name():
    spec = importlib.util.spec_from_file_location("make_api_pages", DOCS / "make_api_pages.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    pages = maker.pages()
    assert sorted(name for names in pages.values() for name in names) == sorted(hyperion.__all__)
    assert set(pages) <= set(maker.ROOMS), "a new part of the package needs a title in docs/make_api_pages.py"
