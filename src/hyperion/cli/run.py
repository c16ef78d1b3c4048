"""``hyperion run``: generate text."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from hyperion.cli.common import (
    MemoryWatch,
    argument,
    as_json,
    emit,
    emit_json,
    engine_options,
    memory_sentence,
    model_path,
    note,
    progress_bar,
    read_text,
    sampling_options,
)
from hyperion.cli.settings import Settings, config_option


@click.command("run")
@click.argument("model", required=False)
@click.option("-p", "--prompt", help='Text to continue; "-" reads standard input.')
@click.option("-f", "--prompt-file", metavar="FILE", help="Read the prompt from a file.")
@sampling_options()
@click.option("--logprobs", type=int, help="With --json: this many likely tokens at every place, and all log probabilities.")
@config_option
@click.option("--plan", "show_plan", is_flag=True, help="Also print where the memory goes.")
@click.option("--report", "report_file", metavar="FILE", help="Write what bounds the run, and what to change (.txt, .md, .json, .png).")
@click.option("-q", "--quiet", is_flag=True, help="Print no figures.")
@engine_options
@as_json
def command(
    model: str | None,
    prompt: str | None,
    prompt_file: str | None,
    config_file: str | None,
    show_plan: bool,
    report_file: str | None,
    quiet: bool,
    json_output: bool,
    **options: Any,
) -> None:
    """Continue a prompt. Without MODEL, the small model that ships in the package.

    MODEL is a .gguf or .hyperion file or a Hugging Face directory. Only the text goes to standard output.

    A configuration file has the section load_model (path, memory_budget, threads, ...) and those of the classes
    GenerationConfig, MemoryConfig, MemoryOptimizerConfig, ProgressiveLoaderConfig and LayerSchedulerConfig.
    """
    from hyperion import load_model

    text = find_prompt(prompt, prompt_file)
    if report_file is not None:
        from hyperion.performance.report import kind_of

        kind_of(report_file)  # a suffix that nothing writes is better told of now
    settings = Settings(config_file)
    engine, config = settings.of(options)
    watch = MemoryWatch()
    settings.prepare()
    with model_path(model or settings.path) as path, progress_bar("loading", "B") as progress:
        loaded = load_model(path, **engine, progress=progress)
    with loaded:
        settings.apply(loaded)
        if show_plan:
            note(str(loaded.plan))
        with performance(loaded, report_file, settings.configs.get("PerformanceConfig")):
            run = generate(loaded, text, config, echo=not json_output)
        run.update(watch.figures(loaded))
    if json_output:
        emit_json(run)
    if not quiet:
        note(speed_sentence(run))
        note(memory_sentence(run))


@contextlib.contextmanager
def performance(model: Any, report_file: str | None, config: Any) -> Iterator[None]:
    """Measure what runs in the block and write a report about it, if one is asked for."""
    if report_file is None:
        yield
        return
    from hyperion import PerformanceAnalysis

    analysis = PerformanceAnalysis(config)
    with analysis.measure("generation", model=model):
        yield
    analysis.generate_report(report_file)


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
    return argument(prompt, "the prompt")


def generate(model: Any, prompt: str, config: Any, *, echo: bool) -> dict[str, Any]:
    """Generate, streaming the text to standard output if asked; return it with its figures."""
    ids = model.tokenizer.encode(prompt)
    pieces, tokens, reason = [], 0, None
    named: list[dict[str, Any]] = []
    start = first = time.perf_counter()
    with progress_bar("reading the prompt", "token") as progress:
        chunks = model.stream(ids, config, progress=progress)
        chunk = next(chunks, None)
    while chunk is not None:
        if chunk.token is not None:
            tokens += 1
            if config.logprobs:
                named.append(log_probabilities(model.tokenizer, chunk))
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
        **({"logprobs": named} if named else {}),
        "finish_reason": reason,
        "prompt_tokens": len(ids),
        "tokens": tokens,
        "prompt_seconds": first - start,
        "seconds": end - start,
        "prompt_tokens_per_second": len(ids) / (first - start) if first > start else None,
        "tokens_per_second": (tokens - 1) / (end - first) if tokens > 1 and end > first else None,
    }


def log_probabilities(tokenizer: Any, chunk: Any) -> dict[str, Any]:
    """A drawn token and its likeliest rivals, with the natural logarithms of their probabilities."""

    def entry(token: int, logprob: float) -> dict[str, Any]:
        return {"token": token, "piece": tokenizer.id_to_token(token), "logprob": logprob}

    return {**entry(chunk.token, chunk.logprob), "top": [entry(*pair) for pair in chunk.top_logprobs]}


def speed_sentence(run: dict[str, Any]) -> str:
    """The speeds of one run for a reader; the first token belongs to the prompt."""

    def speed(value: float | None) -> str:
        return "" if value is None else f" at {value:,.1f} tokens/s"

    return (
        f"prompt of {run['prompt_tokens']} tokens{speed(run['prompt_tokens_per_second'])}; "
        f"generated {run['tokens']} tokens{speed(run['tokens_per_second'])} ({run['finish_reason']})"
    )
