"""``hyperion convert``: a model in another format or with another numeric type."""

from __future__ import annotations

import dataclasses
import os
import time

import click

from hyperion.cli.common import as_json, emit_json, note, progress_bar


@click.command("convert")
@click.argument("src")
@click.argument("dst")
@click.option("--type", metavar="TYPE", help="Type of all weight matrices, such as q4_0, q4_k or f16; by default they keep theirs.")
@click.option("--mixed", metavar="GROUP=PRECISION,...",
              help="A precision (fp32, fp16, int8, int4) for each group (embedding, attention, ffn, output) in place of a type.")
@click.option("--format", type=click.Choice(["hyperion", "gguf"]), help="By default what DST's suffix says.")
@click.option("--method", type=click.Choice(["absmax", "mse", "hqq"]), help="How scales are found; by default the type's own way.")
@click.option("--dry-run", is_flag=True, help="Say what would be written, and write nothing.")
@as_json
def command(
    src: str, dst: str, type: str | None, mixed: str | None, format: str | None, method: str | None, dry_run: bool, json_output: bool
) -> None:
    """Write the model SRC to DST.

    SRC is a GGUF file, a .hyperion file or a Hugging Face directory; DST a .hyperion file, which opens without any packing
    work, or a GGUF file, which llama.cpp runs as well. DST appears when it is complete.
    """
    from hyperion.memory import format_size
    from hyperion.models.convert import convert, estimate_conversion
    from hyperion.models.mixed import parse_mixed_precision

    precisions = None if mixed is None else parse_mixed_precision(mixed)
    planned = estimate_conversion(src, dst, type, format, method, precisions)
    types = ", ".join(f"{name} {format_size(n)}" for name, n in sorted(planned.types.items(), key=lambda item: -item[1]))
    note(f"{'would write' if dry_run else 'writing'} {dst}: {format_size(planned.nbytes)} of tensors ({types}), "
         f"from {format_size(planned.source_bytes)}")  # fmt: skip
    for name, instead in planned.replaced.items():
        note(f"  {name}: {instead}, because {type or 'the type of its group'} does not divide its rows")
    seconds = 0.0
    if not dry_run:
        start = time.perf_counter()
        with progress_bar("converting", "B") as progress:
            convert(src, dst, type, format, method=method, mixed=precisions, progress=progress)
        seconds = time.perf_counter() - start
        note(f"{format_size(os.path.getsize(dst))} in {seconds:.1f} s")
    if json_output:
        emit_json({**dataclasses.asdict(planned), "seconds": seconds, "written": not dry_run})
