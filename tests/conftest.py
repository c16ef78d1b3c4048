"""Fixtures that every test module may use."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import hyperion

settings.register_profile("hyperion", deadline=None)  # no test asserts a time: machines are busy
settings.load_profile("hyperion")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference models and vocabularies beside the checkout; tests that need it are skipped without it."""
    if not SHARED.is_dir():
        pytest.skip("the folder of reference data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def path(shared: Path) -> Path:
    """A small model with Q4_0 weights."""
    return shared / "models" / "shakespeare" / "shakespeare-q4_0.gguf"


@pytest.fixture
def model(path: Path) -> Iterator[hyperion.Model]:
    """That model, open for one test."""
    with hyperion.load_model(path, memory_budget="64MB", context_length=64) as model:
        yield model
