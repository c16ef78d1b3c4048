"""The model as users hold it: text in, text out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np

from hyperion.errors import InvalidArgumentError
from hyperion.generation.batch import generate_batch
from hyperion.generation.chat import Conversation, chat_prompt
from hyperion.generation.config import GenerationConfig
from hyperion.generation.perplexity import perplexity
from hyperion.generation.prompts import token_ids
from hyperion.generation.pruning import PruneResult, measure
from hyperion.generation.streaming import Chunk, stream_tokens
from hyperion.memory import format_size
from hyperion.models import Session, Transformer
from hyperion.models.prune import PruneConfig

__all__ = ["Chunk", "Model", "load_model"]

Progress = Callable[[int, int], None]
Prompt = str | Sequence[int]


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
        with self.session() as session:
            yield from stream_tokens(self, session, ids, config, progress)

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        template: str | None = None,
        tools: Sequence[Any] | None = (),
        variables: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> str:
        """Answer the last message of a conversation.

        Parameters
        ----------
        messages : sequence of mapping
            ``{"role": "system" | "user" | "assistant", "content": str}`` each; other keys go to the template as they are.
        config : GenerationConfig, optional
            Settings; keyword arguments override its fields.
        template : str, optional
            Jinja source instead of the model's own chat template, or "plain": a transcript of roles and contents, in which
            a blank line ends the answer, for models that were not trained on conversations.
        tools : sequence, optional
            Descriptions of functions for the template, as JSON-like data.
        variables : mapping, optional
            Further variables of the template, such as ``{"enable_thinking": False}``.
        progress : callable, optional
            Called with (tokens done, tokens in all) while the prompt is evaluated.

        Returns
        -------
        str
            The answer.

        Raises
        ------
        InvalidArgumentError
            If the model has no template, the template refuses the conversation, or it does not fit the context.

        See Also
        --------
        conversation : keeps the history and the cache between turns.
        """
        return "".join(
            chunk.text
            for chunk in self.stream_chat(
                messages, config, template=template, tools=tools, variables=variables, progress=progress, **settings
            )
        )

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        config: GenerationConfig | None = None,
        *,
        template: str | None = None,
        tools: Sequence[Any] | None = (),
        variables: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        **settings: Any,
    ) -> Iterator[Chunk]:
        """Like :meth:`chat`, but yields a :class:`Chunk` for every token as it is drawn."""
        merged = GenerationConfig.merge(config, settings)
        ids, merged = chat_prompt(self, messages, merged, template=template, tools=tools, variables=variables)
        self.check_prompt(ids)
        return self._stream(ids, merged, progress)

    def conversation(
        self,
        config: GenerationConfig | None = None,
        *,
        system: str | None = None,
        messages: Sequence[Mapping[str, Any]] = (),
        template: str | None = None,
        tools: Sequence[Any] | None = (),
        variables: Mapping[str, Any] | None = None,
        room: int | None = None,
        **settings: Any,
    ) -> Conversation:
        """Begin a conversation that keeps its history and its cache; close it or use `with`.

        Parameters
        ----------
        config : GenerationConfig, optional
            Settings of every answer; keyword arguments override its fields.
        system : str, optional
            A system message to begin with.
        messages : sequence of mapping
            An earlier history.
        template, tools, variables
            As in :meth:`chat`.
        room : int, optional
            Positions of the context to keep for an answer: where a prompt leaves fewer, the oldest questions are forgotten
            with their answers. By default nothing is forgotten and a prompt that does not fit raises.
        """
        return Conversation(
            self, config, system=system, messages=messages, template=template, tools=tools, variables=variables, room=room,
            **settings,
        )  # fmt: skip

    def logits(self, tokens: Prompt) -> np.ndarray:
        """Logits at every position of a text.

        Parameters
        ----------
        tokens : sequence of int or str

        Returns
        -------
        ndarray
            float32 [n_tokens, vocab_size]; row i predicts token i + 1. It is yours and not in the budget.
        """
        ids = self._prompt_ids(tokens)
        with self.session() as session:
            return self.forward([(session, ids)], logits="all")[0]

    def perplexity(
        self, text: Prompt, *, window: int | None = None, segments: int | None = None, progress: Progress | None = None
    ) -> float:
        """exp of the mean negative log-likelihood of a text; see :func:`hyperion.generation.perplexity.perplexity`."""
        return perplexity(self, text, window=window, segments=segments, progress=progress)

    def prune(
        self,
        config: PruneConfig,
        *,
        text: Prompt | None = None,
        folder: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> PruneResult:
        """Thin the weights out and go on with what is left; :meth:`save` keeps it.

        Within the model's budget, matrix by matrix, as in :meth:`apply_mixed_precision`, also where it says what becomes of
        sessions and what happens after an error.

        Parameters
        ----------
        config : PruneConfig
        text : str or sequence of int, optional
            Measures perplexity and speed before and after.
        folder, progress
            See :meth:`apply_mixed_precision`.

        Returns
        -------
        PruneResult

        Raises
        ------
        InvalidArgumentError
            If the configuration is none, or the text has fewer than two tokens.
        MemoryBudgetError, HyperionIOError
            As :meth:`apply_mixed_precision`.
        """
        before = None if text is None else measure(self, text)
        weights = self.plan.weight_bytes
        tensors = self.prune_weights(config, folder=folder, progress=progress)
        after = None if text is None else measure(self, text)
        return PruneResult(tuple(tensors), weights, self.plan.weight_bytes, before, after)

    def __repr__(self) -> str:
        if self._closed:
            return f"<Model {self.path!r}: closed>"
        held = f"{format_size(self.plan.budget)} of memory, {format_size(self.plan.streamed_bytes)} read in every pass"
        return f"<Model {self.path!r}: {self.config.architecture}, context of {self.context_length}, {held}>"

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
        else:
            ids = token_ids(prompt, "a prompt")
            if not ids:
                raise InvalidArgumentError("the prompt has no token ids: expected one or more, or text")
        self.check_prompt(ids)
        return ids

    def check_prompt(self, ids: Sequence[int]) -> None:
        """Raise InvalidArgumentError for a prompt that is empty or does not fit the context."""
        if not ids:
            raise InvalidArgumentError("the prompt is empty, and this model has no token to begin a text with")
        if len(ids) > self.context_length:
            raise InvalidArgumentError(f"the prompt has {len(ids)} tokens, the context holds {self.context_length}")


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
