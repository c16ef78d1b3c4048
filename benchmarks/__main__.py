"""``python -m benchmarks COMMAND``: each module that is listed here adds one command."""

from __future__ import annotations

import argparse

from benchmarks import (
    compare,
    dense,
    floor,
    kernels,
    pool,
    pruned,
    quantize,
    sparse,
    startup,
    streaming,
    variants,
)

COMMANDS = (compare, dense, floor, kernels, pool, pruned, quantize, sparse, startup, streaming, variants)


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Hyperion and its peers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rsplit(".", 1)[-1]
        command = commands.add_parser(name, help=(module.__doc__ or "").splitlines()[0], description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args) or 0


if __name__ == "__main__":
    raise SystemExit(main())
