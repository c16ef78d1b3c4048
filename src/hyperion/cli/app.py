"""The group of commands."""

from __future__ import annotations

import click

import hyperion
from hyperion.cli import bench, chat, convert, inspect, perplexity, plan, prune, quantize, run, tokenize


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(hyperion.__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Run language models in the memory you have."""


for module in (run, chat, plan, inspect, tokenize, convert, quantize, prune, perplexity, bench):
    app.add_command(module.command)
