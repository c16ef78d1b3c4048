"""``hyperion perplexity``: how well a model predicts a text."""

from __future__ import annotations

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


@click.command("perplexity")
@click.argument("model")
@click.argument("text", metavar="FILE")
@click.option("--window", type=int, help="Tokens in a segment; by default the smaller of 512 and the context.")
@click.option("--segments", type=int, help="Score this many segments at most.")
@engine_options
@as_json
def command(
    model: str, text: str, window: int | None, segments: int | None, json_output: bool, **engine: Any
) -> None:
    """Print the perplexity of a UTF-8 text file ("-": standard input) under MODEL.

    The text is cut into segments that do not overlap; each begins with the model's begin-of-text token.
    """
    from hyperion import load_model

    content = read_text(text)
    watch = MemoryWatch()
    with model_path(model) as path, progress_bar("loading", "B") as progress:
        loaded = load_model(path, **engine, progress=progress)
    with loaded:
        start = time.perf_counter()
        with progress_bar("scoring", "segment") as progress:
            value = loaded.perplexity(content, window=window, segments=segments, progress=progress)
        seconds = time.perf_counter() - start
        figures = watch.figures(loaded)
    if json_output:
        emit_json({"perplexity": value, "seconds": seconds, **figures})
    else:
        emit(f"{value:.6f}\n")
    note(f"{seconds:.1f} s; {memory_sentence(figures)}")
