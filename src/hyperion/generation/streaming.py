"""One answer, token by token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from hyperion.generation.config import GenerationConfig
from hyperion.generation.lookup import Advancer
from hyperion.generation.sampling import Sampler, top_log_probabilities
from hyperion.generation.stops import StopFilter

if TYPE_CHECKING:
    from hyperion.generation.model import Model
    from hyperion.models import Session

__all__ = ["Chunk", "stream_tokens"]

MAX_DRAFTS = 7
"""Draft tokens that a streamed pass verifies along with the drawn one."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """A piece of a generation.

    Attributes
    ----------
    text : str
        Text that is certain now; may be empty while a character or a stop string is incomplete.
    token : int or None
        The token that was drawn; None for a last chunk that only says why the generation ended.
    logprob : float or None
        Natural logarithm of the token's probability under the model.
    finish_reason : str or None
        None while it goes on; "stop" (end-of-generation token or stop string), "length" (max_length) or "context"
        (no more room) in the last chunk.
    top_logprobs : tuple of (int, float)
        The likeliest tokens at this place with the natural logarithms of their probabilities under the model, as many as
        :attr:`GenerationConfig.logprobs` says, the likeliest first.
    """

    text: str
    token: int | None = None
    logprob: float | None = None
    finish_reason: str | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


def stream_tokens(
    model: Model,
    session: Session,
    ids: Sequence[int],
    config: GenerationConfig,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Chunk]:
    """Continue `ids` in a session, which may hold a beginning of them.

    Parameters
    ----------
    model : Model
    session : Session
        Tokens that it shares with `ids` from the start are not evaluated again; the others are forgotten.
    ids : sequence of int
        The whole prompt, at least one token.
    config : GenerationConfig
    progress : callable, optional
        Called with (tokens done, tokens in all) while the prompt is evaluated.

    Yields
    ------
    Chunk
        For every token as it is drawn.
    """
    sampler, stops, text = Sampler(config), StopFilter(config.stop), model.tokenizer.stream()
    session.truncate(shared_prefix(session.tokens, ids))
    logits = model.forward([(session, ids[len(session) :])], progress=progress)[0][0]
    seen = list(ids)
    drafts = min(MAX_DRAFTS, model.plan.logits_rows - 1) if model.plan.streamed_bytes else 0
    advancer = Advancer(session, drafts)
    for count in range(1, config.max_length + 1):
        token, logprob = sampler(logits, seen)
        top = top_log_probabilities(logits, config.logprobs) if config.logprobs else ()
        seen.append(token)
        if model.tokenizer.is_end(token) and not config.ignore_end:
            yield Chunk(stops.push(text.flush()) + stops.flush(), token, logprob, "stop", top)
            return
        piece = stops.push(text.push(token))
        if stops.stopped:
            yield Chunk(piece, token, logprob, "stop", top)
            return
        if count == config.max_length or len(advancer) == session.capacity:
            piece += stops.push(text.flush())
            reason = "stop" if stops.stopped else "length" if count == config.max_length else "context"
            yield Chunk(piece + stops.flush(), token, logprob, reason, top)
            return
        yield Chunk(piece, token, logprob, None, top)
        logits = advancer.advance(token, seen)


def shared_prefix(held: Sequence[int], wanted: Sequence[int]) -> int:
    """How many tokens two sequences share from the start, leaving at least one of `wanted` to be evaluated."""
    most = min(len(held), len(wanted) - 1)
    return next((i for i in range(most) if held[i] != wanted[i]), most)
