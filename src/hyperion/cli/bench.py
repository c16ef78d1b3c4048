"""``hyperion bench``: how fast a model reads prompts and writes tokens under a budget."""

from __future__ import annotations

import statistics
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
)


@click.command("bench")
@click.argument("model", required=False)
@click.option("-p", "--prompt-tokens", type=click.IntRange(1), default=128, show_default=True, help="Tokens of the prompt.")
@click.option("-n", "--tokens", type=click.IntRange(1), default=32, show_default=True, help="Tokens decoded after it.")
@click.option("-r", "--rounds", type=click.IntRange(1), default=3, show_default=True, help="Repetitions; medians are printed.")
@engine_options
@as_json
def command(
    model: str | None, prompt_tokens: int, tokens: int, rounds: int, json_output: bool, **engine: Any
) -> None:
    """Measure MODEL: tokens per second of a prompt and of decoding, and bytes read from the disk for each token.

    Without MODEL, the small model that ships in the package. The prompt is arbitrary; nothing is sampled.
    """
    from hyperion import load_model

    watch = MemoryWatch()
    start = time.perf_counter()
    with model_path(model) as path, progress_bar("loading", "B") as progress:
        loaded = load_model(path, **engine, progress=progress)
    with loaded:
        loading = time.perf_counter() - start
        length = loaded.context_length
        if prompt_tokens + tokens > length:
            raise click.UsageError(f"{prompt_tokens} and {tokens} tokens do not fit the context of {length}; see --context-length")
        with progress_bar("measuring", "round") as bar:
            samples = []
            for n in range(rounds):
                samples.append(measure(loaded, prompt_tokens, tokens))
                if bar is not None:
                    bar(n + 1, rounds)
        figures = summary(samples) | {"load_seconds": loading, "threads": loaded.threads} | watch.figures(loaded)
        what = f"{loaded.describe()['simd']}, {loaded.threads} threads, {loaded.plan.streamed_bytes / 1e6:,.0f} MB streamed"
    if json_output:
        emit_json(figures)
    else:
        for name, unit in (("prefill", "tokens/s"), ("decode", "tokens/s")):
            low, high = figures[f"{name}_range"]
            emit(f"{name:<10} {figures[name]:>10,.1f} {unit} ({low:,.1f} to {high:,.1f})\n")
        emit(f"{'read':<10} {figures['read_per_token'] / 1e6:>10,.1f} MB a decoded token\n")
    note(f"{what}; loaded in {loading:.2f} s; {memory_sentence(figures)}")


def measure(model: Any, prompt_tokens: int, tokens: int) -> dict[str, float]:
    """One prompt and the tokens after it, each taken from the logits before it."""
    ids = [(7919 * i + 13) % model.config.vocab_size for i in range(prompt_tokens)]
    with model.session() as session:
        start = time.perf_counter()
        logits = session.eval(ids)
        middle, before = time.perf_counter(), model.stream_stats.get("bytes_used", 0)
        for _ in range(tokens):
            logits = session.eval([int(logits.argmax())])
        end, after = time.perf_counter(), model.stream_stats.get("bytes_used", 0)
    return {"prefill": prompt_tokens / (middle - start), "decode": tokens / (end - middle), "read": (after - before) / tokens}


def summary(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Medians, and between which values they lie."""
    figures: dict[str, Any] = {"read_per_token": statistics.median(s["read"] for s in samples), "rounds": len(samples)}
    for name in ("prefill", "decode"):
        values = [s[name] for s in samples]
        figures |= {name: statistics.median(values), f"{name}_range": [min(values), max(values)]}
    return figures
