"""Chat templates: a conversation as the text that a model was trained on.

Templates are Jinja programs that come inside model files, so they are run as programs of strangers (see
:mod:`hyperion.tokenizer.sandbox`): CVE-2024-34359 was one that executed code.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import CodeType
from typing import Any

from ..errors import InvalidArgumentError, UnsupportedError
from . import limits

__all__ = ["render_chat"]

#: Longest source of a template; the longest in use have some 20,000 characters.
MAX_SOURCE = 1 << 16
#: Text that a template may make of an empty conversation; what it makes of a longer one may be longer.
BASE_CHARACTERS = 1 << 20
_RESERVED = frozenset(("messages", "tools", "bos_token", "eos_token", "add_generation_prompt"))


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    bos_token: str = "",
    eos_token: str = "",
    tools: Sequence[Any] = (),
    add_generation_prompt: bool = True,
    time_limit: float = 1.0,
    **extra: Any,
) -> str:
    """Render a chat template.

    Parameters
    ----------
    template : str
        Jinja source, as in ``tokenizer_config.json`` or ``tokenizer.chat_template``.
    messages : sequence of mapping
        ``{"role": "user", "content": "..."}`` each; other keys go to the template as they are.
    bos_token, eos_token : str
        The texts of these tokens, which templates write themselves.
    tools : sequence
        Descriptions of functions, as JSON-like data.
    add_generation_prompt : bool
        End with the begin of an answer.
    time_limit : float
        Seconds.
    **extra
        Further variables (``enable_thinking``, ``documents``, ...): JSON-like data.

    Returns
    -------
    str

    Raises
    ------
    InvalidArgumentError
        If the arguments are not as described; if the template is not Jinja, fails, refuses the conversation
        (``raise_exception``), takes too long or makes too much.
    UnsupportedError
        If the template is longer than 65,536 characters.

    Notes
    -----
    As in Hugging Face's `transformers`: blocks are trimmed, ``{% generation %}``, ``break`` and ``continue`` are
    known, and templates find ``raise_exception``, ``strftime_now`` and ``tojson`` (which leaves non-ASCII as it is).
    """
    _check(template, messages, time_limit)
    if _RESERVED & extra.keys():
        raise InvalidArgumentError(f"{sorted(_RESERVED & extra.keys())} cannot be given twice")
    # Imported here: jinja2 takes longer to import than all of Hyperion.
    from jinja2 import TemplateError

    from . import sandbox

    try:
        variables = {name: limits.plain(value) for name, value in extra.items()}
        # Templates ask "is there any tool?" both as `tools` and as `tools is not none`.
        variables |= {"messages": limits.plain(messages), "tools": limits.plain(tools) if tools else None}
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"the conversation cannot be given to a template: {error}") from None
    given = sum(limits.CHARACTERS * limits.weight_of(v) for v in variables.values())
    budget = limits.Limits(time_limit, BASE_CHARACTERS + 8 * given)
    environment = sandbox.Sandbox(budget)
    variables |= {"bos_token": bos_token, "eos_token": eos_token, "add_generation_prompt": add_generation_prompt}
    try:
        code = _compiled(template)
        made = environment.template_class.from_code(environment, code, dict(environment.globals))
        pieces, length = [], 0
        for piece in made.generate(variables):
            length += len(piece)
            budget.text(length if length > budget.characters else len(piece))
            pieces.append(piece)
        return "".join(pieces)
    except sandbox.TemplateRefusal as error:
        raise InvalidArgumentError(f"the chat template refuses this conversation: {error}") from None
    except limits.LimitError as error:
        raise InvalidArgumentError(f"the chat template goes beyond what a template may do: {error}") from None
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        where = f" (line {line})" if line else ""
        raise InvalidArgumentError(f"the chat template fails{where}: {error}") from None
    except Exception as error:  # noqa: BLE001 (a template can raise anything)
        raise InvalidArgumentError(f"the chat template fails: {type(error).__name__}: {str(error)[:500]}") from None


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> CodeType:
    from . import sandbox

    environment = sandbox.Sandbox(limits.Limits(10.0, BASE_CHARACTERS))
    code: CodeType = environment.compile(template)
    return code


def _check(template: object, messages: object, time_limit: object) -> None:
    if not isinstance(template, str):
        raise InvalidArgumentError(f"a template must be a str, got {type(template).__name__}")
    if len(template) > MAX_SOURCE:
        raise UnsupportedError(f"a template of {len(template)} characters; at most {MAX_SOURCE} are supported")
    check_messages(messages)
    if isinstance(time_limit, bool) or not isinstance(time_limit, (int, float)) or not time_limit > 0:
        raise InvalidArgumentError(f"time_limit must be a positive number of seconds, got {time_limit!r}")


def check_messages(messages: object) -> None:
    """Refuse what is no list of messages, each with a role and a content that can be text.

    Raises
    ------
    InvalidArgumentError
        If there is something else; a message may lack its content, as one that only calls tools does.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidArgumentError(f"messages must be a list of mappings, got {type(messages).__name__}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InvalidArgumentError(f"message {i} must be a mapping with 'role' and 'content', got {type(message).__name__}")
        if not isinstance(message.get("role"), str):
            raise InvalidArgumentError(f"message {i} has no 'role'")
        content = message.get("content")
        if isinstance(content, (bytes, bytearray)) or not isinstance(content, (str, Sequence, Mapping, type(None))):
            raise InvalidArgumentError(f"the content of message {i} is {type(content).__name__}, expected text or a list of parts")
