"""The console everything is printed on: as wide as the terminal, and wide enough for our tables in a pipe or a log."""

import sys

from rich.console import Console

PIPE_WIDTH = 120


def console() -> Console:
    """A rich console on stdout."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
