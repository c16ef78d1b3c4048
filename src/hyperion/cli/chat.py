"""``hyperion chat``: a conversation at the terminal, or one line a message from a pipe."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hyperion.cli.common import (
    argument,
    decoded,
    emit,
    engine_options,
    model_path,
    note,
    progress_bar,
    read_text,
    sampling_options,
)
from hyperion.cli.settings import Settings, config_option

HELP = "/reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer."


@click.command("chat")
@click.argument("model", required=False)
@click.option("-s", "--system", help="A system message to begin with.")
@click.option(
    "--template", metavar="FILE", help='A Jinja chat template instead of the model\'s own, or "plain" for a transcript.'
)
@sampling_options(max_length=512)
@config_option
@engine_options
def command(model: str | None, system: str | None, template: str | None, config_file: str | None, **options: Any) -> None:
    """Talk with a chat model. Without MODEL, the small model that ships in the package.

    Every line of standard input is a message; only the answers go to standard output. A model without a chat template gets
    the plain one, a transcript in which a blank line ends an answer. What no longer fits the context is forgotten, the
    oldest first.
    """
    from hyperion import load_model

    settings = Settings(config_file)
    engine, config = settings.of(options)
    source = read_text(template) if template not in (None, "plain") else template
    settings.prepare()
    with model_path(model or settings.path) as path, progress_bar("loading", "B") as progress:
        loaded = load_model(path, **engine, progress=progress)
    with loaded:
        settings.apply(loaded)
        if source is None and loaded.tokenizer.chat_template is None:
            note(f"{Path(loaded.path).name} has no chat template: using a plain transcript")
            source = "plain"
        room = min(config.max_length, loaded.context_length // 2)
        with loaded.conversation(config, system=system and argument(system, "the system message"), template=source, room=room) as conversation:
            if sys.stdin.isatty():
                note(HELP)
            talk(conversation)


def talk(conversation: Any) -> None:
    """Read messages and write answers until the input ends."""
    system = [m for m in conversation.messages if m["role"] == "system"]
    while (line := read_message()) is not None:
        message = line.strip()
        if message in ("/exit", "/quit"):
            return
        if message == "/reset":
            conversation.messages[:] = system
        elif message == "/help":
            note(HELP)
        elif message:
            answer(conversation, message)


def read_message() -> str | None:
    """The next line; None at the end of the input. Ctrl-C drops a line that is being typed."""
    if not sys.stdin.isatty():
        line = sys.stdin.buffer.readline()
        return said(decoded, line) if line else None
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() a history and editing)
    while True:
        try:
            return said(argument, input("> "))
        except EOFError:
            emit("\n")
            return None
        except KeyboardInterrupt:
            note(f"\n{HELP}")


def said(read: Callable[[Any, str], str], line: Any) -> str:
    """A line as text; one that is none is complained about and becomes an empty message."""
    try:
        return read(line, "the message")
    except click.BadParameter as error:
        note(f"hyperion: {error.message}")
        return ""


def answer(conversation: Any, message: str) -> None:
    """Stream one answer; Ctrl-C ends it and leaves what was said in the history."""
    from hyperion import InvalidArgumentError

    forgotten = conversation.forgotten
    try:
        with progress_bar("reading", "token") as progress:
            chunks = conversation.send(message, progress=progress)
            if conversation.forgotten > forgotten:
                note(f"[{conversation.forgotten - forgotten} earlier messages are forgotten: the context is full]")
            first = next(chunks)
        with contextlib.closing(chunks):
            emit(first.text)
            for chunk in chunks:
                emit(chunk.text)
        emit("\n")
    except KeyboardInterrupt:
        emit("\n")
        note("[stopped]")
    except InvalidArgumentError as error:  # a message too long, or one that the template refuses: the next may do
        note(f"hyperion: {error}")
