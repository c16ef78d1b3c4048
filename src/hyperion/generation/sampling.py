"""From logits to the next token."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from hyperion.errors import InvalidArgumentError
from hyperion.generation.config import GenerationConfig

__all__ = ["Sampler", "log_probability", "top_log_probabilities"]


class Sampler:
    """Draws tokens as a :class:`GenerationConfig` says.

    The order is: repetition, frequency and presence penalties, logit processors, temperature, top_k, top_p, min_p.
    Arithmetic is float64 and the generator Python's (Mersenne Twister), so a seed and the same logits give the same tokens everywhere.
    """

    def __init__(self, config: GenerationConfig) -> None:
        self.config = config
        self.random = random.Random(config.seed)  # NumPy's would bring 8 MB of modules along

    def __call__(self, logits: np.ndarray, seen: Sequence[int]) -> tuple[int, float]:
        """The next token and the natural logarithm of its probability under the model.

        Parameters
        ----------
        logits : ndarray
            float32 [vocab_size], left unchanged.
        seen : sequence of int
            The tokens so far, prompt included.

        Raises
        ------
        InvalidArgumentError
            If a logit processor returns something else than logits, or leaves no token.
        """
        c = self.config
        adjusted = self._process(self._penalise(logits, seen), seen)
        token = int(np.argmax(adjusted)) if c.temperature == 0 else self._draw(adjusted)
        return token, log_probability(logits, token)

    def _penalise(self, logits: np.ndarray, seen: Sequence[int]) -> np.ndarray:
        c = self.config
        neutral = c.repetition_penalty == 1.0 and c.frequency_penalty == 0.0 and c.presence_penalty == 0.0
        if neutral or not len(seen):
            return logits
        window = seen if c.repetition_window == 0 else seen[-c.repetition_window :]
        ids, counts = np.unique(np.asarray(window, dtype=np.int64), return_counts=True)
        adjusted = logits.copy()
        values = adjusted[ids]
        if c.repetition_penalty != 1.0:
            values = np.where(values > 0, values / c.repetition_penalty, values * c.repetition_penalty)
        adjusted[ids] = values - (c.frequency_penalty * counts + c.presence_penalty)
        return adjusted

    def _process(self, logits: np.ndarray, seen: Sequence[int]) -> np.ndarray:
        processors = self.config.logit_processors
        if not processors:
            return logits
        shape, result = logits.shape, logits.copy()
        for processor in processors:  # type: ignore[union-attr]  # the config keeps a tuple
            result = np.asarray(processor(tuple(seen), result))
            if result.shape != shape or not np.issubdtype(result.dtype, np.floating):
                raise InvalidArgumentError(
                    f"a logit processor returned {result.dtype} of shape {result.shape}, expected floats of shape {shape}"
                )
        top = result.max()
        if not np.isfinite(top):  # NaN is the maximum of what holds one
            raise InvalidArgumentError(f"the logit processors made {top} the largest logit, expected a finite number")
        return result

    def _draw(self, logits: np.ndarray) -> int:
        c = self.config
        n = logits.shape[0]
        if 0 < c.top_k < n:
            ids = np.argpartition(-logits, c.top_k - 1)[: c.top_k]
        else:
            ids = np.arange(n)
        # most likely first; equal logits in order of token, so that the draw depends on nothing else
        ids = ids[np.lexsort((ids, -logits[ids]))]
        scaled = logits[ids].astype(np.float64)
        scaled = (scaled - scaled[0]) / c.temperature
        weights = np.exp(scaled)
        keep = int(np.count_nonzero(weights))  # what a processor forbade is at the end, with weight 0
        if c.top_p < 1.0:
            total = np.cumsum(weights)
            keep = min(keep, int(np.searchsorted(total, c.top_p * total[-1])) + 1)
        if c.min_p > 0.0:
            keep = min(keep, int(np.count_nonzero(weights >= c.min_p)))
        total = np.cumsum(weights[: max(keep, 1)])
        pick = int(np.searchsorted(total, self.random.random() * total[-1], side="right"))
        return int(ids[min(pick, len(total) - 1)])


def log_probability(logits: np.ndarray, token: int) -> float:
    """log softmax(logits)[token], in float64."""
    x = logits.astype(np.float64)
    top = x.max()
    return float(x[token] - top - np.log(np.exp(x - top).sum()))


def top_log_probabilities(logits: np.ndarray, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most likely tokens and the natural logarithms of their probabilities, the likeliest first."""
    x = logits.astype(np.float64)
    x -= x.max()
    x -= np.log(np.exp(x).sum())
    count = min(count, x.shape[0])
    ids = np.argpartition(-x, count - 1)[:count]
    ids = ids[np.lexsort((ids, -x[ids]))]
    return tuple((int(i), float(x[i])) for i in ids)
