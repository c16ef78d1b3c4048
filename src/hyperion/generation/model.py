"""The model as users hold it: text in, text out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from hyperion.errors import InvalidArgumentError
from hyperion.generation.batch import generate_batch
from hyperion.generation.config import GenerationConfig
from hyperion.generation.lookup import Advancer
from hyperion.generation.perplexity import perplexity
from hyperion.generation.sampling import Sampler
from hyperion.generation.stops import StopFilter
from hyperion.models import Session, Transformer

__all__ = ["Chunk", "Model", "load_model"]

MAX_DRAFTS = 7
"""Draft tokens that a streamed pass verifies along with the drawn one."""

Progress = Callable[[int, int], None]
Prompt = str | Sequence[int]


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
    """

    text: str
    token: int | None = None
    logprob: float | None = None
    finish_reason: str | None = None


class Model(Transformer):
    """An open language model; made by :func:`load_model`, closed by :meth:`close` or `with`."""

    @overload
    def generate(
        self, prompt: Prompt, config: GenerationConfig | None = None, *, progress: Progress | None = None, **settings: Any
    ) -> str: ...

    @overload
    def generate(
        self, prompt: list[str], config: GenerationConfig | None = None, *, progress: Progress | None = None, **settings: Any
    ) -> list[str]: ...

    def generate(
        self, prompt: Any, config: GenerationConfig | None = None, *, progress: Progress | None = None, **settings: Any
    ) -> str | list[str]:
        """Continue a prompt, or a list of prompts as one batch.

        Parameters
        ----------
        prompt : str, sequence of int, or list of those
            Text (tokenized with the special tokens that the model asks for) or token ids (taken as they are). The texts of
            a batch are those of each prompt alone; a pass over the weights serves all of them.
        config : GenerationConfig, optional
            Settings; keyword arguments such as `max_length=100, temperature=0.7` override its fields.
        progress : callable, optional
            Called with (tokens done, tokens in all) while the prompt is evaluated.

        Returns
        -------
        str or list of str
            The generated text, without the prompt; for a list of prompts a list of texts.

        Raises
        ------
        InvalidArgumentError
            If the prompt is empty or does not fit the context.
        """
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], (int, np.integer)):
            ids = [self._prompt_ids(p) for p in prompt]
            return generate_batch(self, ids, GenerationConfig.merge(config, settings), progress)
        return "".join(chunk.text for chunk in self.stream(prompt, config, progress=progress, **settings))

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, *, progress: Progress | None = None, **settings: Any
    ) -> Iterator[Chunk]:
        """Like :meth:`generate`, but yields a :class:`Chunk` for every token as it is drawn."""
        settings_checked = GenerationConfig.merge(config, settings)
        ids = self._prompt_ids(prompt)
        return self._stream(ids, settings_checked, progress)

    def _stream(self, ids: list[int], config: GenerationConfig, progress: Progress | None) -> Iterator[Chunk]:
        sampler, stops, text = Sampler(config), StopFilter(config.stop), self.tokenizer.stream()
        with self.session() as session:
            logits = self.forward([(session, ids)], progress=progress)[0][0]
            seen = list(ids)
            drafts = min(MAX_DRAFTS, self.plan.logits_rows - 1) if self.plan.streamed_bytes else 0
            advancer = Advancer(session, drafts)
            for count in range(1, config.max_length + 1):
                token, logprob = sampler(logits, seen)
                seen.append(token)
                if self.tokenizer.is_end(token) and not config.ignore_end:
                    yield Chunk(stops.push(text.flush()) + stops.flush(), token, logprob, "stop")
                    return
                piece = stops.push(text.push(token))
                if stops.stopped:
                    yield Chunk(piece, token, logprob, "stop")
                    return
                if count == config.max_length or len(advancer) == self.context_length:
                    piece += stops.push(text.flush())
                    reason = "stop" if stops.stopped else "length" if count == config.max_length else "context"
                    yield Chunk(piece + stops.flush(), token, logprob, reason)
                    return
                yield Chunk(piece, token, logprob)
                logits = advancer.advance(token, seen)

    def logits(self, tokens: Prompt) -> np.ndarray:
        """Logits at every position of a text.

        Parameters
        ----------
        tokens : sequence of int or str

        Returns
        -------
        ndarray
            float32 [n_tokens, vocab_size]; row i predicts token i + 1.
        """
        ids = self._prompt_ids(tokens)
        with self.session() as session:
            return self.forward([(session, ids)], logits="all")[0]

    def perplexity(
        self, text: Prompt, *, window: int | None = None, segments: int | None = None, progress: Progress | None = None
    ) -> float:
        """exp of the mean negative log-likelihood of a text; see :func:`hyperion.generation.perplexity.perplexity`."""
        return perplexity(self, text, window=window, segments=segments, progress=progress)

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
        else:
            try:
                ids = [int(t) for t in prompt]
            except (TypeError, ValueError):
                raise InvalidArgumentError(f"a prompt is text or token ids, not {type(prompt).__name__}") from None
        if not ids:
            raise InvalidArgumentError("the prompt is empty, and this model has no token to begin a text with")
        if len(ids) > self.context_length:
            raise InvalidArgumentError(f"the prompt has {len(ids)} tokens, the context holds {self.context_length}")
        return ids


def load_model(
    path: str | os.PathLike[str],
    *,
    memory_budget: int | str | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    kv_type: str = "f16",
    io: str = "auto",
    simd: str | None = None,
    progress: Progress | None = None,
) -> Model:
    """Open a model.

    Parameters
    ----------
    path : str or PathLike
        A .gguf file (any part of a split one), a .hyperion file, or a Hugging Face directory.
    memory_budget : int or str, optional
        Bytes that Hyperion may add to the process ("512MB" is 512 * 10**6, "2GiB" is 2 * 2**30). None takes what the
        machine or its cgroup has free.
    threads : int, optional
        Defaults to the processors that the process may use (affinity and cgroup quota).
    context_length : int, optional
        Positions of a session; defaults to the model's own, at most 4096.
    kv_type : {"f16", "q8_0", "q4_0"}
        Type of the key/value cache.
    io : {"auto", "direct", "buffered", "mmap"}
        How streamed weights are read: past the page cache, through it (and dropped behind), or by whichever of the two has
        been faster of late. "mmap" lets the kernels read a `.hyperion` file's own pages, which several processes then
        share; the file must not be truncated meanwhile.
    simd : str, optional
        Force an instruction set: "generic", "avx2", "avxvnni", "avx512" or "amx".
    progress : callable, optional
        Called with (bytes done, bytes in all) while weights are loaded.

    Returns
    -------
    Model

    Raises
    ------
    MemoryBudgetError
        If the budget cannot hold the model; nothing was read, the message has an itemised table and the smallest budget.
    UnsupportedError
        For an architecture, tensor type or tokenizer that is not implemented.
    FormatError, HyperionIOError
        For a file that is damaged, truncated or missing.
    """
    return Model(
        path, memory_budget=memory_budget, threads=threads, context_length=context_length, kv_type=kv_type, io=io, simd=simd,
        progress=progress,
    )  # fmt: skip


__all__ += ["Session"]
