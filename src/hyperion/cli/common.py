"""What the commands share: options, the demo model, progress bars, output and memory figures."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hyperion.errors import HyperionIOError

if TYPE_CHECKING:
    from hyperion.generation.pruning import Measurement

DEMO_MODEL = "shakespeare-q8_0.gguf"
BROKEN_PIPE = 141  # what a shell reports of a program that SIGPIPE ended

as_json = click.option("--json", "json_output", is_flag=True, help="Print one JSON object instead of text.")


def engine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that `load_model` takes; pass them on as ``**engine``."""
    options = [
        click.option("--memory-budget", metavar="SIZE", help='Bytes to use at most, such as "512MB" or "2GiB".'),
        click.option("--threads", type=int, help="Threads; by default the processors that the process may use."),
        click.option("--context-length", type=int, help="Positions; by default the model's own, at most 4096."),
        click.option("--kv-type", type=click.Choice(["f16", "q8_0", "q4_0"]), default="f16", show_default=True),
        click.option("--io", type=click.Choice(["auto", "direct", "buffered", "mmap"]), default="auto", show_default=True),
        click.option("--simd", metavar="LEVEL", help="Force an instruction set: generic, avx2, avx512, ..."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def measured(path: str, text: str | None, engine: dict[str, Any]) -> Measurement | None:
    """Perplexity and speed of the model in a file on a text, None without one; `engine`: what :func:`engine_options` gave."""
    from hyperion.generation import load_model
    from hyperion.generation.pruning import measure

    if text is None:
        return None
    with load_model(path, **engine) as model:
        return measure(model, text)


ENGINE = ("memory_budget", "threads", "context_length", "kv_type", "io", "simd")


def sampling_options(max_length: int | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that a `GenerationConfig` takes; :func:`settings_of` finds them."""
    options = [
        click.option("-n", "--max-length", type=int, default=max_length, show_default=True, help="Tokens to generate at most."),
        click.option("--temperature", type=float, help="0 always takes the most likely token."),
        click.option("--top-k", type=int, help="Keep the k most likely tokens; 0 keeps all."),
        click.option("--top-p", type=float, help="Keep the likeliest tokens that reach this probability together."),
        click.option("--min-p", type=float, help="Drop tokens less likely than this times the likeliest."),
        click.option("--repetition-penalty", type=float, help="Divides logits of tokens that were seen; 1 changes nothing."),
        click.option("--frequency-penalty", type=float, help="Subtracted for every time that a token was seen."),
        click.option("--presence-penalty", type=float, help="Subtracted once from tokens that were seen."),
        click.option("--stop", multiple=True, help="Text that ends the generation; may be given several times."),
        click.option("--seed", type=int, help="The same seed gives the same text."),
    ]

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def settings_of(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what `load_model` takes, what a `GenerationConfig` takes) of a command's options; those not given are left out."""
    engine = {name: options[name] for name in ENGINE}
    options = {**options, "stop": tuple(argument(text, "a stop string") for text in options["stop"])}
    return engine, {name: v for name, v in options.items() if name not in ENGINE and v is not None and v != ()}


@contextlib.contextmanager
def model_path(given: str | None) -> Iterator[Path]:
    """The named model, or the one that ships in the package."""
    if given is not None:
        yield Path(given)
        return
    resource = resources.files("hyperion") / "data" / DEMO_MODEL
    if not resource.is_file():
        raise HyperionIOError(f"this installation has no demo model ({DEMO_MODEL}); name a model")
    with resources.as_file(resource) as path:
        yield path


@contextlib.contextmanager
def progress_bar(label: str, unit: str) -> Iterator[Callable[[int, int], None] | None]:
    """A function for `progress=`; it draws on standard error, and None where that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    scaled = unit == "B"
    with tqdm(desc=label, unit=unit, leave=False, delay=0.3, file=sys.stderr, unit_scale=scaled, unit_divisor=1000) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def emit(text: str) -> None:
    """Write to standard output at once; a character that its encoding lacks becomes a question mark.

    Ends the command quietly when nobody reads any more.
    """
    try:
        try:
            sys.stdout.write(text)
        except UnicodeEncodeError:
            encoding = sys.stdout.encoding or "ascii"
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        abandon_output()
        raise click.exceptions.Exit(BROKEN_PIPE) from None
    except OSError as error:
        abandon_output()
        raise HyperionIOError(f"cannot write to standard output: {error.strerror or error}") from error


def abandon_output() -> None:
    """Throw away what standard output still holds, so that the interpreter's last flush succeeds."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def emit_json(value: object) -> None:
    """Write one JSON object and a newline to standard output."""
    emit(json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def note(text: str) -> None:
    """Write a line to standard error."""
    click.echo(text, err=True)


def read_text(path: str) -> str:
    """The content of a UTF-8 file, or of standard input for ``-``, line ends as they are."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise HyperionIOError(f"cannot read {path}: {error.strerror or error}", path=path) from error
    return decoded(data, "standard input" if path == "-" else path)


def decoded(data: bytes, what: str) -> str:
    """UTF-8 text, or the line that says where it is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"{what} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}") from None


def argument(text: str, what: str) -> str:
    """Text from the command line. Bytes that the locale has no characters for (``LC_ALL=C``) are read as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return decoded(os.fsencode(text), what)
    return text


class MemoryWatch:
    """Peak memory of a model's life: what the ledger counted and what the process grew by."""

    def __init__(self) -> None:
        from hyperion.performance.process import peak_resident

        self._peak_resident = peak_resident
        self.before = peak_resident()

    def figures(self, model: Any) -> dict[str, int | None]:
        """Bytes: the ledger's peak, the growth of the process's peak resident set, and the budget."""
        now = self._peak_resident()
        grown = None if now is None or self.before is None else now - self.before
        return {
            "peak_memory": model.memory_stats.peak_usage,
            "resident_growth": grown,
            "memory_budget": model.plan.budget,
        }


def memory_sentence(figures: dict[str, int | None]) -> str:
    """Those figures for a reader."""
    from hyperion.memory import format_size

    grown = figures["resident_growth"]
    peak, budget = figures["peak_memory"] or 0, figures["memory_budget"] or 0
    text = f"peak memory {format_size(peak)} of a budget of {format_size(budget)}"
    return text + (f"; the process grew by {format_size(grown)}" if grown is not None else "")
