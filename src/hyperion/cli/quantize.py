"""``hyperion quantize``: a model in fewer bits, and what that costs."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import click

from hyperion.cli.common import (
    as_json,
    emit,
    emit_json,
    engine_options,
    measured,
    note,
    progress_bar,
    read_text,
)


@click.command("quantize")
@click.argument("src")
@click.argument("dst")
@click.option("--type", metavar="TYPE", help="Type of all weight matrices: q8_0, q6_k, q5_k, q4_k, q4_0, ...  [default: q4_k, with a method q4_0]")
@click.option("--mixed", metavar="GROUP=PRECISION,...",
              help="A precision (fp32, fp16, int8, int4) for each group (embedding, attention, ffn, output) in place of a type.")
@click.option("--method", type=click.Choice(["absmax", "mse", "hqq"]), help="How scales are found; by default the type's own way.")
@click.option("--text", metavar="FILE", help="Report perplexity and speed on this UTF-8 text before and after.")
@engine_options
@as_json
def command(
    src: str, dst: str, type: str | None, mixed: str | None, method: str | None, text: str | None, json_output: bool, **engine: Any
) -> None:
    """Write the model SRC to DST (.hyperion or .gguf) with quantized weights, and say what it saves and costs.

    As `convert`, one layer at a time in bounded memory; the engine's options are for measuring with --text.
    """
    from hyperion.memory import format_size
    from hyperion.models.convert import convert
    from hyperion.models.mixed import parse_mixed_precision

    if type is not None and mixed is not None:
        raise click.UsageError("--type and --mixed exclude each other")
    precisions = None if mixed is None else parse_mixed_precision(mixed)
    content = None if text is None else read_text(text)

    before = measured(src, content, engine)
    with progress_bar("quantizing", "B") as progress:
        wanted = type or (None if mixed else "q4_0" if method else "q4_k")
        written = convert(src, dst, wanted, method=method, mixed=precisions, progress=progress)
    for name, instead in written.replaced.items():
        note(f"  {name}: {instead}, because the wanted type does not divide its rows")
    after, size = measured(dst, content, engine), os.path.getsize(dst)
    figures = {
        "types": written.types, "source_bytes": written.source_bytes, "tensor_bytes": written.nbytes, "file_bytes": size,
        "before": before and dataclasses.asdict(before), "after": after and dataclasses.asdict(after),
    }  # fmt: skip
    if json_output:
        emit_json(figures)
    else:
        emit(f"weights: {format_size(written.source_bytes)} before, {format_size(written.nbytes)} after\n")
        if before is not None and after is not None:
            emit(f"perplexity: {before.perplexity:.4f} before, {after.perplexity:.4f} after\n")
            emit(f"decoding: {before.tokens_per_second:,.1f} tokens/s before, {after.tokens_per_second:,.1f} after\n")
    note(f"wrote {dst}, {format_size(size)}")
