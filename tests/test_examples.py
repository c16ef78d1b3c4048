"""Every example runs as it stands, in an empty directory, without anything on standard error."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hyperion

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.py"))


def environment():
    """The package that these tests see, wherever it is, found from any directory."""
    here = str(Path(hyperion.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": here, "PYTHONIOENCODING": "utf-8", "PYTHONWARNINGS": "error"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path, tmp_path):
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment(), capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.strip()
