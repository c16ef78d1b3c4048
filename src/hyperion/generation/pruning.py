"""What pruning costs and gains: perplexity, bytes, speed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hyperion.generation.prompts import token_ids
from hyperion.memory import format_size
from hyperion.models.prune import PrunedTensor

if TYPE_CHECKING:
    from hyperion.generation.model import Model

__all__ = ["Measurement", "PruneResult", "measure"]

SPEED_TOKENS = 32


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A model at one time: its perplexity on a text, and the tokens a second that it decodes alone."""

    perplexity: float
    tokens_per_second: float


def measure(model: Model, text: str | Sequence[int]) -> Measurement:
    """Score a text, then decode the tokens of its beginning one by one."""
    value = model.perplexity(text)
    ids = model.tokenizer.encode(text) if isinstance(text, str) else token_ids(text, "a text to measure")
    ids = ids[: min(SPEED_TOKENS, model.context_length)]
    with model.session() as session:
        session.eval(ids[:1])
        start = time.perf_counter()
        for token in ids[1:]:
            session.eval([token])
        seconds = time.perf_counter() - start
    return Measurement(value, (len(ids) - 1) / seconds)


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """What pruning did. `str()` is a short report.

    Attributes
    ----------
    tensors : tuple of PrunedTensor
        Each matrix: how much of it went, how it is stored, and what the other way would take.
    bytes_before, bytes_after : int
        Bytes of the weights, of an open model those that every token reads.
    before, after : Measurement or None
        Perplexity and speed, where a text was given.
    """

    tensors: tuple[PrunedTensor, ...]
    bytes_before: int
    bytes_after: int
    before: Measurement | None = None
    after: Measurement | None = None

    @property
    def sparsity(self) -> float:
        """Share of the pruned matrices' weights that are zero now."""
        sizes = [(t.sparsity, t.dense_bytes) for t in self.tensors]
        return sum(s * n for s, n in sizes) / max(1, sum(n for _, n in sizes))

    def __str__(self) -> str:
        change = f"{format_size(self.bytes_before)} of weights became {format_size(self.bytes_after)}"
        lines = [f"{change}; {100 * self.sparsity:.0f}% of the pruned matrices is zero"]
        sparse = [t for t in self.tensors if t.storage == "sparse"]
        if sparse:
            kept, dense = sum(t.nbytes for t in sparse), sum(t.dense_bytes for t in sparse)
            lines.append(f"{len(sparse)} of {len(self.tensors)} matrices are stored sparse: {format_size(kept)} instead of {format_size(dense)}")
        if rest := [t for t in self.tensors if t.storage == "dense"]:
            empty = sum(t.empty_tiles for t in rest) / len(rest)
            lines.append(f"{len(rest)} stay dense, zeros included: {100 * empty:.0f}% of their tiles of 16 x 32 are empty, "
                         "too few for sparse storage to be smaller, or the type has none")  # fmt: skip
        if self.before is not None and self.after is not None:
            lines.append(f"perplexity {self.before.perplexity:.4g} -> {self.after.perplexity:.4g}, "
                         f"{self.before.tokens_per_second:.4g} -> {self.after.tokens_per_second:.4g} tokens/s")  # fmt: skip
        return "\n".join(lines)
