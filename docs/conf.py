"""How Sphinx makes the documents; ``sphinx-build -W docs docs/build`` after ``pip install ".[docs]"``.

The API pages and the figures are made while it runs: the pages from the package's public names, the figures by the
scripts in ``figures/``.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import make_api_pages

import hyperion

project = "Hyperion"
author = "the Hyperion developers"
copyright = author
version = release = hyperion.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.intersphinx", "sphinx.ext.viewcode", "numpydoc"]
exclude_patterns = ["build", "templates"]
templates_path = ["templates"]
default_role = "code"  # what stands between single backquotes
html_theme = "furo"
html_title = f"Hyperion {version}"
html_theme_options = {"navigation_with_keys": True}

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say it
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
intersphinx_mapping: dict[str, tuple[str, None]] = {}  # a build needs no network


def setup(app: object) -> None:
    """Make what is not written by hand."""
    made = HERE / "made"
    made.mkdir(exist_ok=True)
    make_api_pages.write(made)
    for script in sorted((HERE / "figures").glob("*.py")):
        runpy.run_path(str(script), run_name="__main__")
