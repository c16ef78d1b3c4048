"""``hyperion prune``: a model with fewer weights."""

from __future__ import annotations

import dataclasses
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


@click.command("prune")
@click.argument("src")
@click.argument("dst")
@click.option("--sparsity", type=float, default=0.5, show_default=True, help="Share of each matrix's blocks that becomes zero.")
@click.option("--block-size", type=int, default=32, show_default=True, help="Rows and columns of a block: 1, 2, 4, ... 256.")
@click.option("--type", metavar="TYPE", help="Type of all weight matrices; sparse storage is for q4_0 and q8_0.")
@click.option("--method", type=click.Choice(["absmax", "mse", "hqq"]), help="How scales are found, see convert.")
@click.option("--text", metavar="FILE", help="Report perplexity and speed on this UTF-8 text before and after.")
@engine_options
@as_json
def command(
    src: str, dst: str, sparsity: float, block_size: int, type: str | None, method: str | None, text: str | None,
    json_output: bool, **engine: Any,
) -> None:  # fmt: skip
    """Write the model SRC to DST (.hyperion or .gguf) without the blocks of least magnitude.

    Works through one matrix at a time, in bounded memory. A .hyperion file leaves out tiles of 16 rows and 32 columns that are
    zero, and the kernels skip them; the other options are for measuring with --text.
    """
    from hyperion.generation.pruning import PruneResult
    from hyperion.models.convert import prune
    from hyperion.models.prune import PruneConfig

    config = PruneConfig(sparsity=sparsity, block_size=block_size)
    content = None if text is None else read_text(text)

    before = measured(src, content, engine)
    with progress_bar("pruning", "B") as progress:
        written, tensors = prune(src, dst, config, type, method=method, progress=progress)
    result = PruneResult(tuple(tensors), written.source_bytes, written.nbytes, before, measured(dst, content, engine))
    if json_output:
        emit_json(dataclasses.asdict(result) | {"sparsity": result.sparsity})
    else:
        emit(f"{result}\n")
    note(f"wrote {dst}")
