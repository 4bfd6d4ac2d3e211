"""The console everything is printed on: as wide as the terminal, and wide enough for our tables in a pipe or a log.

Also how durations are written.
"""

import sys

from rich.console import Console

PIPE_WIDTH = 120


def duration(seconds: float) -> str:
    """'0.35 s', '12.3 s', '3:05', '1:02:03' (hours, minutes, seconds)."""
    if abs(seconds) < 60:
        return f"{seconds:.2f} s" if abs(seconds) < 10 else f"{seconds:.1f} s"
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def console() -> Console:
    """A rich console on stdout."""
    return Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
