"""``hyperion plan``: where a budget goes, before anything is run."""

from __future__ import annotations

from typing import Any

import click

from hyperion.cli.common import as_json, emit, emit_json, engine_options, model_path, progress_bar


@click.command("plan")
@click.argument("model", required=False)
@engine_options
@as_json
def command(model: str | None, json_output: bool, **engine: Any) -> None:
    """Show what a memory budget would pin, stream and reserve for MODEL, and how fast it would run.

    The weights that the plan pins are loaded, to probe the kernels on them. Without MODEL, the small model in the package.
    """
    from hyperion import load_model

    with model_path(model) as path, progress_bar("loading", "B") as progress:
        loaded = load_model(path, **engine, progress=progress)
    with loaded:
        plan, prediction = loaded.plan, loaded.predict()
        if not json_output:
            emit(f"{plan}\nsmallest budget at this context: {loaded.smallest_budget} bytes\n")
            return
        emit_json(
            {
                "budget": plan.budget,
                "total": plan.total,
                "items": plan.items,
                "smallest_budget": loaded.smallest_budget,
                "context_length": plan.context_length,
                "prompt_chunk": plan.chunk,
                "resident": plan.resident,
                "weight_bytes": plan.weight_bytes,
                "pinned_bytes": plan.pinned_bytes,
                "bytes_per_token": prediction.bytes_per_token,
                "tokens_per_second": prediction.tokens_per_second,
                "bound": prediction.bound,
                "disk_bytes_per_second": prediction.disk_rate,
            }
        )
