"""How text is generated."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyperion.errors import InvalidArgumentError

__all__ = ["GenerationConfig", "LogitProcessor"]

LogitProcessor = Callable[[Sequence[int], np.ndarray], np.ndarray]
"""Takes (the tokens so far, float32 logits [vocab_size] that it may change) and returns logits of that shape."""


def _integer(low: int) -> Any:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low, f"an integer of {low} or more"


def _number(low: float, high: float, closed_high: bool = True) -> Any:
    def fits(v: Any) -> bool:
        return (
            isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) and low <= v
            and (v <= high if closed_high else v < high)
        )  # fmt: skip

    if math.isfinite(high):
        return fits, f"a number from {low} to {high}"
    return fits, f"a number of {low} or more" if math.isfinite(low) else "a finite number"


def _tuple(v: Any) -> Any:
    """Several things as a tuple; what is no such stays, and is refused."""
    try:
        return tuple(v)
    except TypeError:
        return v


def _stops(v: Any) -> bool:
    return isinstance(v, tuple) and all(isinstance(s, str) and s for s in v)


_ELSEWHERE = {
    "max_tokens": "max_length", "max_new_tokens": "max_length", "n_predict": "max_length", "temp": "temperature",
    "repeat_penalty": "repetition_penalty", "repeat_last_n": "repetition_window", "stop_sequences": "stop",
    "logits_processor": "logit_processors", "ignore_eos": "ignore_end",
}  # fmt: skip
"""What other libraries call the same things."""

_RULES: dict[str, Any] = {
    "max_length": _integer(1),
    "temperature": _number(0.0, math.inf),
    "top_k": _integer(0),
    "top_p": _number(0.0, 1.0),
    "min_p": _number(0.0, 1.0),
    "repetition_penalty": _number(1e-6, math.inf),
    "repetition_window": _integer(0),
    "frequency_penalty": _number(-math.inf, math.inf),
    "presence_penalty": _number(-math.inf, math.inf),
    "logit_processors": (lambda v: isinstance(v, tuple) and all(map(callable, v)), "functions (tokens, logits) -> logits"),
    "logprobs": _integer(0),
    "seed": (lambda v: v is None or (isinstance(v, int) and not isinstance(v, bool) and v >= 0), "None or an integer of 0 or more"),
    "stop": (_stops, "strings that are not empty"),
    "ignore_end": (lambda v: isinstance(v, bool), "a bool"),
}


@dataclasses.dataclass(kw_only=True)
class GenerationConfig:
    """Settings of one generation; checked when made and when a field is set.

    Parameters
    ----------
    max_length : int
        The most tokens to generate (the prompt is not counted).
    temperature : float
        The logits are divided by it; 0 takes the most likely token every time (greedy).
    top_k : int
        Keep the k most likely tokens; 0 keeps all.
    top_p : float
        Keep the smallest set of most likely tokens whose probabilities sum to at least this (nucleus sampling, Holtzman
        et al., arXiv 1904.09751); 1 keeps all.
    min_p : float
        Drop tokens less likely than this times the most likely one (arXiv 2407.01082); 0 keeps all.
    repetition_penalty : float
        Divide positive logits of tokens already seen by it and multiply negative ones (Keskar et al., arXiv
        1909.05858); 1 changes nothing.
    repetition_window : int
        How many of the latest tokens, prompt included, count as seen for the three penalties; 0 counts all.
    frequency_penalty : float
        Subtracted from a token's logit once for every time that the token was seen; negative values favour it.
    presence_penalty : float
        Subtracted once from the logit of every token that was seen.
    logit_processors : callable or sequence of callable
        Each is called before every draw, in order, with (tokens so far, logits) and returns the logits that count; -inf
        forbids a token. They run after the penalties and before temperature, top_k, top_p and min_p. In a batch every
        sequence calls them with its own tokens.
    logprobs : int
        How many of the most likely tokens each :class:`Chunk` names with their log probabilities under the model (before
        penalties and processors); 0 names none.
    stop : str or sequence of str
        Text that ends the generation; it is not part of the result.
    seed : int or None
        The same seed gives the same text on every thread count and every budget. None draws one.
    ignore_end : bool
        Go on past the model's end-of-generation tokens.
    """

    max_length: int = 128
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_processors: LogitProcessor | Sequence[LogitProcessor] = ()
    logprobs: int = 0
    stop: str | Sequence[str] = ()
    seed: int | None = None
    ignore_end: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _RULES:
            near = _ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name.lower(), _RULES, 1)), None)
            hint = f" (did you mean {near}?)" if near else ""
            raise InvalidArgumentError(f"GenerationConfig has no field {name!r}{hint}; it has {', '.join(_RULES)}")
        if name == "stop":
            value = (value,) if isinstance(value, (str, bytes)) else _tuple(value)
        elif name == "logit_processors":
            value = (value,) if callable(value) else _tuple(value)
        elif hasattr(value, "item") and getattr(value, "ndim", 0) == 0 and not isinstance(value, (int, float)):
            value = value.item()  # a NumPy scalar
        fits, expected = _RULES[name]
        if not fits(value):
            raise InvalidArgumentError(f"GenerationConfig.{name} is {value!r}, expected {expected}")
        object.__setattr__(self, name, value)

    @classmethod
    def merge(cls, config: GenerationConfig | None, overrides: dict[str, Any]) -> GenerationConfig:
        """A copy of `config` (or the defaults) with `overrides` set; unknown names raise."""
        if config is not None and not isinstance(config, cls):
            hint = "; settings by name go in as **settings" if isinstance(config, dict) else ""
            raise InvalidArgumentError(f"config is {config!r:.60}, expected a GenerationConfig or None{hint}")
        result = dataclasses.replace(config) if config is not None else cls()
        for name, value in overrides.items():
            setattr(result, name, value)
        return result
