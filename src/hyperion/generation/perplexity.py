"""How well a model predicts a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hyperion.errors import InvalidArgumentError
from hyperion.generation.prompts import token_ids
from hyperion.models.arguments import check_callback, integer

if TYPE_CHECKING:
    from hyperion.generation.model import Model

__all__ = ["perplexity"]


def perplexity(
    model: Model,
    text: str | Sequence[int],
    *,
    window: int | None = None,
    segments: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Perplexity of a text: exp of the mean negative log-likelihood.

    The text is tokenized once and cut into segments of `window` tokens that do not overlap; each begins with the model's
    begin-of-text token where it has one (which counts as one of them), and every token after the first is scored.

    Parameters
    ----------
    model : Model
    text : str or sequence of int
        Token ids are taken without special tokens.
    window : int, optional
        Tokens in a segment; defaults to the smaller of 512 and the model's context.
    segments : int, optional
        Score this many segments at most.
    progress : callable, optional
        Called with (segments done, segments in all).

    Returns
    -------
    float

    Raises
    ------
    InvalidArgumentError
        If the text is neither text nor token ids or has fewer than two tokens, or the window does not fit the context.
    """
    most = model.context_length
    window = min(512, most) if window is None else integer(window, "window", 2, most, "the context's ")
    segments = None if segments is None else integer(segments, "segments", 1)
    check_callback(progress, "progress")
    ids = model.tokenizer.encode(text, add_special=False) if isinstance(text, str) else token_ids(text, "a text to measure")
    begin = [model.tokenizer.bos_id] if model.tokenizer.add_bos and model.tokenizer.bos_id is not None else []
    step = window - len(begin)
    parts = [begin + ids[i : i + step] for i in range(0, len(ids), step)]
    parts = [p for p in parts if len(p) >= 2][:segments]
    if not parts:
        raise InvalidArgumentError("a text of at least two tokens is needed to measure perplexity")
    loss, count = 0.0, 0
    for done, part in enumerate(parts, 1):
        loss += _negative_log_likelihood(model, part)
        count += len(part) - 1
        if progress is not None:
            progress(done, len(parts))
    return float(np.exp(loss / count))


def _negative_log_likelihood(model: Model, ids: list[int]) -> float:
    """Of every token after the first. A row of logits is scored where the engine has it: many rows would pass the budget."""
    losses = []

    def score(entry: int, place: int, logits: np.ndarray) -> None:
        row = logits.astype(np.float64)
        target, top = row[ids[place + 1]], row.max()
        row -= top
        losses.append(float(top + np.log(np.exp(row, out=row).sum()) - target))

    with model.session() as session:
        model.forward([(session, ids[:-1])], logits="all", each=score)
    return math.fsum(losses)
