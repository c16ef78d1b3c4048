"""From logits to the next token."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from hyperion.errors import InvalidArgumentError
from hyperion.generation.config import GenerationConfig

__all__ = ["Sampler", "log_probability", "top_log_probabilities"]


BLOCK = 64
"""Logits of which one is the maximum that :func:`_among_largest` looks at."""


FIRST = 512
"""Tokens that are put in order at first where all may be drawn."""

LARGEST = float(np.finfo(np.float32).max)


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
        token = self.draw(logits, seen)
        return token, log_probability(logits, token)

    def draw(self, logits: np.ndarray, seen: Sequence[int]) -> int:
        """The next token alone, without its probability; parameters and errors as in a call."""
        adjusted = self._process(self._penalise(logits, seen), seen)
        return int(np.argmax(adjusted)) if self.config.temperature == 0 else self._draw(adjusted)

    def _penalise(self, logits: np.ndarray, seen: Sequence[int]) -> np.ndarray:
        c = self.config
        neutral = c.repetition_penalty == 1.0 and c.frequency_penalty == 0.0 and c.presence_penalty == 0.0
        if neutral or not len(seen):
            return logits
        window = seen if c.repetition_window == 0 else seen[-c.repetition_window :]
        ids, counts = np.unique(np.asarray(window, dtype=np.int64), return_counts=True)
        adjusted = logits.copy()
        values = adjusted[ids].astype(np.float64)
        with np.errstate(over="ignore"):  # a penalty of any size leaves a number, so that what it is taken from is not NaN
            if c.repetition_penalty != 1.0:
                values = np.where(values > 0, values / c.repetition_penalty, values * c.repetition_penalty)
            adjusted[ids] = np.clip(values - (c.frequency_penalty * counts + c.presence_penalty), -LARGEST, LARGEST)
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
        u = self.random.random()
        if n > FIRST and not 0 < c.top_k < n and (drawn := self._draw_of_many(logits, u)) is not None:
            return drawn
        ids = likeliest(logits, c.top_k if 0 < c.top_k < n else n)
        weights = self._weights(logits[ids], logits[ids[0]])
        keep = int(np.count_nonzero(weights))  # what a processor forbade is at the end, with weight 0
        if c.top_p < 1.0:
            total = np.cumsum(weights)
            keep = min(keep, int(np.searchsorted(total, c.top_p * total[-1])) + 1)
        if c.min_p > 0.0:
            keep = min(keep, int(np.count_nonzero(weights >= c.min_p)))
        total = np.cumsum(weights[: max(keep, 1)])
        pick = int(np.searchsorted(total, u * total[-1], side="right"))
        return int(ids[min(pick, len(total) - 1)])

    def _draw_of_many(self, logits: np.ndarray, u: float) -> int | None:
        """The draw where top_k leaves all tokens, without putting all in order: the likeliest mostly have the place of `u`.

        None where that would not be less work, as nearly all are needed, or some logits are not numbers.
        """
        c = self.config
        weights = self._weights(logits, logits.max())
        whole = float(weights.sum())
        if not np.isfinite(whole):
            return None
        allowed = weights >= c.min_p if c.min_p > 0.0 else weights > 0.0
        keep = int(np.count_nonzero(allowed))
        sum_kept = float(weights[allowed].sum()) if c.min_p > 0.0 else whole
        count = FIRST
        while count < logits.shape[0] // 2:
            ids = likeliest(logits, count)
            total = np.cumsum(weights[ids])
            cut = int(np.searchsorted(total, c.top_p * whole)) + 1 if c.top_p < 1.0 else keep
            last = min(keep, cut)
            if last <= count:  # all that may be drawn is in order
                pick = int(np.searchsorted(total[:last], u * total[last - 1], side="right"))
                return int(ids[min(pick, last - 1)])
            if c.top_p == 1.0 and u * sum_kept < total[-1]:  # the rest only counts
                return int(ids[np.searchsorted(total, u * sum_kept, side="right")])
            count *= 8
        return None

    def _weights(self, logits: np.ndarray, top: float) -> np.ndarray:
        """Probabilities, float64, of which the largest, that of the logit `top`, is 1."""
        scaled = logits.astype(np.float64)
        scaled -= top
        with np.errstate(over="ignore"):  # by a temperature that is next to nothing: weights of zero
            scaled /= self.config.temperature
        return np.exp(scaled, out=scaled)


def likeliest(logits: np.ndarray, k: int) -> np.ndarray:
    """Ids of the `k` largest logits, the largest first and equal ones in order of id: a draw depends on nothing else."""
    ids = _among_largest(logits, k) if k < logits.shape[0] else np.arange(logits.shape[0])
    return ids[np.lexsort((ids, -logits[ids]))[:k]]


def _among_largest(logits: np.ndarray, k: int) -> np.ndarray:
    """Ids of the `k` largest logits and of others, which equal or nearly reach them; unordered.

    The k-th largest of the maxima of blocks bounds the k-th largest logit from below, and few logits pass it: less
    work than a partition of all.
    """
    blocks = logits.shape[0] // BLOCK
    if blocks >= k:
        maxima = logits[: blocks * BLOCK].reshape(BLOCK, blocks).max(axis=0)
        bound = np.partition(maxima, blocks - k)[blocks - k]
    else:
        bound = -np.partition(-logits, k - 1)[k - 1]
    ids = np.flatnonzero(logits >= bound)
    return ids if len(ids) >= k else np.arange(logits.shape[0])  # fewer where some are NaN


def log_probability(logits: np.ndarray, token: int) -> float:
    """log softmax(logits)[token], in float64."""
    x = logits.astype(np.float64)
    x -= x.max()
    drawn = float(x[token])
    return drawn - float(np.log(np.exp(x, out=x).sum()))


def top_log_probabilities(logits: np.ndarray, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` most likely tokens and the natural logarithms of their probabilities, the likeliest first."""
    x = logits.astype(np.float64)
    x -= x.max()
    x -= np.log(np.exp(x).sum())
    count = min(count, x.shape[0])
    ids = likeliest(x, count)
    return tuple((int(i), float(x[i])) for i in ids)
