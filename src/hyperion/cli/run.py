"""``hyperion run``: generate text."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from hyperion.cli.common import (
    MemoryWatch,
    as_json,
    emit,
    emit_json,
    engine_options,
    memory_sentence,
    model_path,
    note,
    progress_bar,
    read_text,
)


@click.command("run")
@click.argument("model", required=False)
@click.option("-p", "--prompt", help='Text to continue; "-" reads standard input.')
@click.option("-f", "--prompt-file", metavar="FILE", help="Read the prompt from a file.")
@click.option("-n", "--max-length", type=int, help="Tokens to generate at most.")
@click.option("--temperature", type=float, help="0 always takes the most likely token.")
@click.option("--top-k", type=int, help="Keep the k most likely tokens; 0 keeps all.")
@click.option("--top-p", type=float, help="Keep the likeliest tokens that reach this probability together.")
@click.option("--min-p", type=float, help="Drop tokens less likely than this times the likeliest.")
@click.option("--repetition-penalty", type=float, help="1 changes nothing.")
@click.option("--stop", multiple=True, help="Text that ends the generation; may be given several times.")
@click.option("--seed", type=int, help="The same seed gives the same text.")
@click.option("--plan", "show_plan", is_flag=True, help="Also print where the memory goes.")
@click.option("-q", "--quiet", is_flag=True, help="Print no figures.")
@engine_options
@as_json
def command(
    model: str | None,
    prompt: str | None,
    prompt_file: str | None,
    show_plan: bool,
    quiet: bool,
    json_output: bool,
    **options: Any,
) -> None:
    """Continue a prompt. Without MODEL, the small model that ships in the package.

    MODEL is a .gguf file or a Hugging Face directory. Only the text goes to standard output.
    """
    from hyperion import GenerationConfig, load_model

    text = find_prompt(prompt, prompt_file)
    engine = {k: options.pop(k) for k in ("memory_budget", "threads", "context_length", "kv_type", "io", "simd")}
    settings = {k: v for k, v in options.items() if v is not None and v != ()}
    config = GenerationConfig(**settings)
    watch = MemoryWatch()
    with model_path(model) as path, progress_bar("loading", "B") as progress:
        loaded = load_model(path, **engine, progress=progress)
    with loaded:
        if show_plan:
            note(str(loaded.plan))
        run = generate(loaded, text, config, echo=not json_output)
        run.update(watch.figures(loaded))
    if json_output:
        emit_json(run)
    if not quiet:
        note(speed_sentence(run))
        note(memory_sentence(run))


def find_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """The prompt from wherever it comes."""
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("--prompt and --prompt-file exclude each other")
    if prompt_file is not None:
        return read_text(prompt_file)
    if prompt is None:
        raise click.UsageError("a prompt is needed: --prompt TEXT or --prompt-file FILE")
    if prompt == "-":
        return read_text("-")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("the prompt is not UTF-8 text") from None
    return prompt


def generate(model: Any, prompt: str, config: Any, *, echo: bool) -> dict[str, Any]:
    """Generate, streaming the text to standard output if asked; return it with its figures."""
    ids = model.tokenizer.encode(prompt)
    pieces, tokens, reason = [], 0, None
    start = first = time.perf_counter()
    with progress_bar("reading the prompt", "token") as progress:
        chunks = model.stream(ids, config, progress=progress)
        chunk = next(chunks, None)
    while chunk is not None:
        if chunk.token is not None:
            tokens += 1
        if tokens == 1:
            first = time.perf_counter()
        pieces.append(chunk.text)
        reason = chunk.finish_reason
        if echo and chunk.text:
            emit(chunk.text)
        chunk = next(chunks, None)
    end = time.perf_counter()
    if echo and sys.stdout.isatty():
        emit("\n")
    return {
        "text": "".join(pieces),
        "finish_reason": reason,
        "prompt_tokens": len(ids),
        "tokens": tokens,
        "prompt_seconds": first - start,
        "seconds": end - start,
        "prompt_tokens_per_second": len(ids) / (first - start) if first > start else None,
        "tokens_per_second": (tokens - 1) / (end - first) if tokens > 1 and end > first else None,
    }


def speed_sentence(run: dict[str, Any]) -> str:
    """The speeds of one run for a reader; the first token belongs to the prompt."""

    def speed(value: float | None) -> str:
        return "" if value is None else f" at {value:,.1f} tokens/s"

    return (
        f"prompt of {run['prompt_tokens']} tokens{speed(run['prompt_tokens_per_second'])}; "
        f"generated {run['tokens']} tokens{speed(run['tokens_per_second'])} ({run['finish_reason']})"
    )
