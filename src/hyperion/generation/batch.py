"""Several prompts as one batch: a pass over the weights serves all of them."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hyperion.errors import HyperionRuntimeError, MemoryBudgetError
from hyperion.generation.config import GenerationConfig
from hyperion.generation.sampling import Sampler
from hyperion.generation.stops import StopFilter

if TYPE_CHECKING:
    from hyperion.generation.model import Model
    from hyperion.models import Session

__all__ = ["generate_batch"]


@dataclasses.dataclass
class _Sequence:
    """One prompt on its way."""

    session: Session
    sampler: Sampler
    stops: StopFilter
    stream: object
    seen: list[int]
    text: list[str] = dataclasses.field(default_factory=list)
    count: int = 0
    done: bool = False

    def take(self, logits: np.ndarray, config: GenerationConfig, is_end: Callable[[int], bool]) -> int | None:
        """Draw a token; None when the sequence is over."""
        token = self.sampler.draw(logits, self.seen)
        self.seen.append(token)
        self.count += 1
        ended = is_end(token) and not config.ignore_end
        if not ended:
            self.text.append(self.stops.push(self.stream.push(token)))  # type: ignore[attr-defined]
        full = self.count == config.max_length or len(self.session) == self.session.capacity
        if ended or self.stops.stopped or full:
            self.text.append(self.stops.push(self.stream.flush()) + self.stops.flush())  # type: ignore[attr-defined]
            self.done = True
            return None
        return token


def generate_batch(
    model: Model, prompts: Sequence[list[int]], config: GenerationConfig, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Continue every prompt; each text is the one that :meth:`Model.generate` gives for it alone.

    Where the budget has no room for a cache for every prompt, pinned weights make room; where that is not enough the
    prompts run in the largest groups that fit.

    Returns
    -------
    list of str
        In the order of the prompts.
    """
    texts: list[str] = []
    before = model.plan
    todo = list(prompts)
    size = len(todo)
    moved = False
    try:
        while todo:
            size = min(size, len(todo))
            group = todo[:size]
            capacity = min(model.context_length, max(len(ids) for ids in group) + config.max_length)
            try:
                moved |= _make_room(model, size, capacity)
            except MemoryBudgetError:
                if size == 1:
                    raise
                size = (size + 1) // 2
                continue
            texts += _run(model, group, config, capacity, progress)
            todo = todo[size:]
    except BaseException:
        if moved:
            with contextlib.suppress(HyperionRuntimeError):  # closed meanwhile
                model.restore(before, later=True)
        raise
    if moved:
        model.restore(before)
    return texts


def _make_room(model: Model, size: int, capacity: int) -> bool:
    """See that `size` sessions fit beside the plan; whether the model moved to another plan."""
    extra = (size - 1) * model.session_bytes(capacity)
    if size <= model.plan.logits_rows and size <= model.plan.chunk and extra <= model.budget.available:
        return False
    model.replan(batch=size, reserve=extra)
    return True


def _run(
    model: Model, prompts: Sequence[list[int]], config: GenerationConfig, capacity: int, progress: Callable[[int, int], None] | None
) -> list[str]:
    sequences: list[_Sequence] = []
    try:
        for ids in prompts:
            stops = StopFilter(config.stop)
            sequences.append(_Sequence(model.session(capacity), Sampler(config), stops, model.tokenizer.stream(), list(ids)))
        rows = model.forward([(s.session, ids) for s, ids in zip(sequences, prompts, strict=True)], progress=progress)
        active = sequences
        while active:
            drawn = [(s, s.take(row[-1], config, model.tokenizer.is_end)) for s, row in zip(active, rows, strict=True)]
            active = [s for s, token in drawn if token is not None]
            if active:
                rows = model.forward([(s.session, [token]) for s, token in drawn if token is not None])
        return ["".join(s.text) for s in sequences]
    finally:
        for s in sequences:
            s.session.close()
