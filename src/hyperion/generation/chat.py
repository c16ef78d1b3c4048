"""Conversations: messages in, answers out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hyperion.errors import InvalidArgumentError
from hyperion.generation.config import GenerationConfig
from hyperion.generation.streaming import Chunk, stream_tokens
from hyperion.models.arguments import integer
from hyperion.tokenizer.chat import check_messages

if TYPE_CHECKING:
    from hyperion.generation.model import Model
    from hyperion.models import Session
    from hyperion.tokenizer import Tokenizer

__all__ = ["PLAIN", "Conversation", "chat_prompt"]

PLAIN = "plain"
"""Name of the template for models that have none: a transcript, in which a blank line ends an answer."""

_TRANSCRIPT = (
    "{% for m in messages %}{{ m.role | upper }}:\n{{ m.content | trim }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:\n{% endif %}"
)
_END_OF_ANSWER = "\n\n"
_OTHERS = frozenset(("user", "tool", "function", "ipython"))
"""Roles whose words come from outside."""

_GIVEN = frozenset(("self", "messages", "tools", "template", "bos_token", "eos_token"))
"""Variables of a template that have their own way there."""

Message = Mapping[str, Any]


def chat_prompt(
    model: Model,
    messages: Sequence[Message],
    config: GenerationConfig,
    *,
    template: str | None = None,
    tools: Sequence[Any] | None = (),
    variables: Mapping[str, Any] | None = None,
) -> tuple[list[int], GenerationConfig]:
    """A conversation as the tokens that the model was trained on, and the settings that its answer needs.

    Control tokens that are written in the messages of a user or a tool stay text: nobody ends his own message with them.

    Raises
    ------
    InvalidArgumentError
        If there is no message, the model has no template, or the template refuses the conversation.
    """
    if isinstance(messages, Sequence) and not messages:
        raise InvalidArgumentError("a conversation needs at least one message")
    if not isinstance(variables, (Mapping, type(None))) or not all(isinstance(name, str) for name in variables or ()):
        raise InvalidArgumentError(f"variables are a mapping from names to values, not {variables!r:.60}")
    if twice := sorted(_GIVEN.intersection(variables or ())):
        raise InvalidArgumentError(f"the template's variables {', '.join(twice)} cannot be given twice")
    tools = () if tools is None else tools
    if isinstance(tools, (str, bytes)) or not isinstance(tools, Sequence):
        raise InvalidArgumentError(f"tools are a list of descriptions, not {type(tools).__name__}")
    tokenizer, given = model.tokenizer, dict(variables or {})
    if template == PLAIN:
        text = tokenizer.render_chat(messages, template=_TRANSCRIPT, tools=tools, **given)
        stops = (*config.stop, _END_OF_ANSWER)
        return tokenizer.encode(text), GenerationConfig.merge(config, {"stop": stops})
    guarded, mark = guard_markup(tokenizer, messages, [template or tokenizer.chat_template, tools, given])
    text = tokenizer.render_chat(guarded, template=template, tools=tools, **given)
    pieces = text.split(mark) if mark else [text]
    return [i for piece in pieces for i in tokenizer.encode(piece, add_special=False, parse_special=True)], config


def guard_markup(tokenizer: Tokenizer, messages: Any, others: Any = None) -> tuple[Any, str]:
    """Messages with a mark inside of every control token that a user or a tool wrote, and the mark; "" if there is none.

    The rendered text is cut at the marks, which leaves no such token whole, whatever the template does with contents.
    `others` is what else the template writes: the mark is a character that is nowhere.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        return messages, ""  # rendering says what is wrong
    try:
        written = set(json.dumps([messages, others], ensure_ascii=False, skipkeys=True, default=str))
    except (ValueError, RecursionError):
        return messages, ""  # likewise
    mark = next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in written)  # for private use, by definition
    guarded = [_guarded(tokenizer, message, mark) for message in messages]
    changed = any(new is not old for new, old in zip(guarded, messages, strict=True))
    return (guarded, mark) if changed else (messages, "")


def _guarded(tokenizer: Tokenizer, message: Any, mark: str) -> Any:
    content = message.get("content") if isinstance(message, Mapping) and message.get("role") in _OTHERS else None
    if isinstance(content, str):
        safe = _broken(tokenizer, content, mark)
        return message if safe == content else {**message, "content": safe}
    if isinstance(content, list):  # parts, as {"type": "text", "text": ...}
        parts = [
            {**part, "text": _broken(tokenizer, part["text"], mark)}
            if isinstance(part, Mapping) and isinstance(part.get("text"), str) else part
            for part in content
        ]  # fmt: skip
        return message if parts == content else {**message, "content": parts}
    return message


def _broken(tokenizer: Tokenizer, text: str, mark: str) -> str:
    """The text with a mark behind the first character of each control token in it."""
    while True:
        ids = {i for piece in text.split(mark) for i in tokenizer.encode(piece, add_special=False, parse_special=True)}
        names = [tokenizer.id_to_token(i) or "" for i in sorted(ids) if tokenizer.is_special(i)]
        found = [name for name in names if len(name) > 1 and name in text]
        if not found:
            return text
        for name in found:
            text = text.replace(name, name[0] + mark + name[1:])


class Conversation:
    """A conversation that keeps its history and its key/value cache, so that a turn evaluates its new tokens only.

    Made by :meth:`Model.conversation`. Every answer is the one that :meth:`Model.chat` gives for the same messages: the
    cache is kept as far as its tokens are those of the history. It holds a session until it is closed.

    Attributes
    ----------
    messages : list of dict
        The history, which may be changed between turns.
    evaluated : int
        Tokens of the latest prompt that had to be evaluated; the others were in the cache.
    forgotten : int
        Messages that were dropped to make room.
    """

    def __init__(
        self,
        model: Model,
        config: GenerationConfig | None = None,
        *,
        system: str | None = None,
        messages: Sequence[Message] = (),
        template: str | None = None,
        tools: Sequence[Any] | None = (),
        variables: Mapping[str, Any] | None = None,
        room: int | None = None,
        **settings: Any,
    ) -> None:
        self._model, self._template, self._tools, self._variables = model, template, tools, variables
        self._room = None if room is None else integer(room, "room", 0)
        self.config = GenerationConfig.merge(config, settings)
        self.messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
        check_messages(messages)
        self.messages += [dict(m) for m in messages]
        check_messages(self.messages)  # the system's too
        self.evaluated = self.forgotten = 0
        self._session: Session = model.session()
        self._answer: Iterator[Chunk] | None = None

    def send(
        self, content: str, config: GenerationConfig | None = None, *,
        progress: Callable[[int, int], None] | None = None, **settings: Any,
    ) -> Iterator[Chunk]:  # fmt: skip
        """Say something and stream the answer, which joins the history when it ends or is broken off.

        Parameters
        ----------
        content : str
            The user's message.
        config : GenerationConfig, optional
            For this answer; by default the conversation's. Keyword arguments override its fields.
        progress : callable, optional
            Called with (tokens done, tokens in all) while the message is evaluated.

        Returns
        -------
        iterator of Chunk
            Close it (or begin the next turn) to break the answer off; a message without any answer is taken back.

        Raises
        ------
        InvalidArgumentError
            If the conversation does not fit the context; :meth:`forget` makes room, and so does `room`.
        """
        self._break_off()
        merged = GenerationConfig.merge(config if config is not None else self.config, settings)
        if not isinstance(content, str):
            raise InvalidArgumentError(f"a message is text, not {type(content).__name__}")
        question = {"role": "user", "content": content}
        ids, adapted = self._prompt(question, merged)
        while self._room is not None and len(ids) + self._room > self._model.context_length and self.forget():
            ids, adapted = self._prompt(question, merged)
        self._model.check_prompt(ids)
        self._answer = self._run(question, ids, adapted, progress)
        return self._answer

    def _prompt(self, question: dict[str, Any], config: GenerationConfig) -> tuple[list[int], GenerationConfig]:
        return chat_prompt(
            self._model, [*self.messages, question], config, template=self._template, tools=self._tools, variables=self._variables
        )

    def _run(
        self, question: dict[str, Any], ids: list[int], config: GenerationConfig, progress: Callable[[int, int], None] | None
    ) -> Iterator[Chunk]:
        pieces: list[str] = []
        answered = False

        def counted(done: int, total: int) -> None:
            self.evaluated = total
            if progress is not None:
                progress(done, total)

        try:
            for chunk in stream_tokens(self._model, self._session, ids, config, counted):
                answered = True
                pieces.append(chunk.text)
                yield chunk
        finally:
            if answered:
                self.messages += [question, {"role": "assistant", "content": "".join(pieces)}]

    def ask(self, content: str, config: GenerationConfig | None = None, **settings: Any) -> str:
        """Say something and return the whole answer; the arguments are those of :meth:`send`."""
        return "".join(chunk.text for chunk in self.send(content, config, **settings))

    def forget(self) -> bool:
        """Drop the oldest question with its answer, never a system message; False when there is none."""
        self._break_off()
        start = next((i for i, m in enumerate(self.messages) if m["role"] != "system"), None)
        if start is None:
            return False
        end = next((i for i, m in enumerate(self.messages) if i > start and m["role"] == "user"), len(self.messages))
        self.forgotten += end - start
        del self.messages[start:end]
        return True

    def _break_off(self) -> None:
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.close()  # type: ignore[attr-defined]  # a generator

    def close(self) -> None:
        """Give the cache's memory back; the messages stay."""
        self._break_off()
        self._session.close()

    def __enter__(self) -> Conversation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
