"""Arguments of an open model, checked where they come in."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Mapping
from typing import Any

from hyperion import cpu
from hyperion.errors import InvalidArgumentError
from hyperion.models.config import ModelConfig

__all__ = ["check_callback", "context_positions", "integer", "layer_choices", "share", "thread_count"]

DEFAULT_CONTEXT = 4096


def integer(value: Any, name: str, low: int, high: int | None = None, what: str = "") -> int:
    """An integer of Python or NumPy as Python's.

    Raises
    ------
    InvalidArgumentError
        If it is none (a bool, a float), or not between `low` and `high`, of which `what` says whose limit it is.
    """
    number = None if isinstance(value, bool) or not hasattr(value, "__index__") else operator.index(value)
    if number is None or number < low or (high is not None and number > high):
        limits = f"of {low} or more" if high is None else f"from {low} to {what}{high}"
        raise InvalidArgumentError(f"{name} is {value!r:.60}, expected an integer {limits}")
    return number


def thread_count(threads: int | None) -> int:
    """The number asked for, or that of the processors that the process may use."""
    return cpu.default_threads() if threads is None else integer(threads, "threads", 1, 1024)


def context_positions(wanted: int | None, config: ModelConfig) -> int:
    """The context length asked for, or the model's own within :data:`DEFAULT_CONTEXT`."""
    if wanted is None:
        return min(config.context_length, DEFAULT_CONTEXT)
    return integer(wanted, "context_length", 1, config.context_length, "the model's ")


def share(value: Any, name: str) -> float:
    """A number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise InvalidArgumentError(f"{name} is {value!r:.60}, expected a number from 0 to 1")
    return float(value)


def layer_choices(wanted: Any, layers: int) -> dict[int, bool]:
    """Layers by number, and what is to become of each."""
    if not isinstance(wanted, Mapping):
        raise InvalidArgumentError(f"layers are {wanted!r:.60}, expected a mapping of their numbers to True or False")
    for layer, choice in wanted.items():
        integer(layer, "a layer", 0, layers - 1, "the last, ")
        if not isinstance(choice, bool):
            raise InvalidArgumentError(f"layer {layer} is to be {choice!r:.60}, expected True or False")
    return dict(wanted)


def check_callback(function: Any, name: str) -> None:
    """Refuse what cannot be called before the work that it is to be told of."""
    if function is not None and not callable(function):
        raise InvalidArgumentError(f"{name} is {function!r:.60}, expected a function or None")
