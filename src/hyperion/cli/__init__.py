"""The ``hyperion`` command. Results go to standard output, everything about them to standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        0; 2 with one line on standard error for input that cannot be served; 1 for a failure while running; 130 after
        Ctrl-C; 141 when the reader of standard output went away.
    """
    import click

    from hyperion.cli.app import app
    from hyperion.errors import ErrorCode, HyperionError, MemoryBudgetError

    try:
        status = app.main(args=argv, prog_name="hyperion", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as help_text:
        return complain(help_text.format_message())
    except click.ClickException as error:
        return complain("hyperion: " + " ".join(error.format_message().split()))
    except MemoryBudgetError as error:  # its table is the answer to "where would the bytes go?"
        return complain(f"hyperion: {error}")
    except HyperionError as error:
        complain("hyperion: " + " ".join(str(error).split()))
        return FAILED if error.code is ErrorCode.RUNTIME else BAD_INPUT
    return status if isinstance(status, int) else 0


def complain(message: str) -> int:
    """Say it on standard error and return the status for bad input."""
    print(message, file=sys.stderr)
    return BAD_INPUT
