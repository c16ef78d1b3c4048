"""The ``hyperion`` command. Results go to standard output, everything about them to standard error."""

from __future__ import annotations

import os
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
    try:
        open_standard_streams()
        return status_of(argv)
    except KeyboardInterrupt:  # while modules are imported too
        return INTERRUPTED


def status_of(argv: Sequence[str] | None) -> int:
    """:func:`main` without Ctrl-C."""
    import click

    from hyperion.cli.app import app
    from hyperion.cli.common import abandon_output
    from hyperion.errors import ErrorCode, HyperionError, MemoryBudgetError

    try:
        status = app.main(args=argv, prog_name="hyperion", standalone_mode=False)
    except click.Abort:
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
    except OSError as error:  # the library's own are HyperionIOError: this is a help text that cannot be written
        abandon_output()
        return complain(f"hyperion: {error.strerror or error}")
    return status if isinstance(status, int) else 0


def open_standard_streams() -> None:
    """Give a process that was started without standard input, output or error (``>&-``) the null device in its place.

    The descriptors are filled as well: a file that is opened later would take their numbers, and be written to by mistake.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  (open as long as the process)


def complain(message: str) -> int:
    """Say it on standard error and return the status for bad input."""
    print(message, file=sys.stderr)
    return BAD_INPUT
