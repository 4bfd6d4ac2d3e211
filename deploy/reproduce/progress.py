"""One line for the phase that runs: which it is, how far its goals are, how long it takes.

On a terminal the line is redrawn in place; elsewhere it is printed anew when it says something new, at most every ten
seconds.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.reproduce.goals import Goal
from processors import status

LINE_EVERY_S = 10.0


class Progress:
    """The lines of one experiment.

    Args:
        phases: how many there are.
    """

    def __init__(self, phases: int) -> None:
        self.phases = phases
        self.number = 0
        self.name = ""
        self.began = 0.0
        self.moved = 0.0
        """When it last came any further, time.monotonic()."""
        self._far: tuple[object, ...] = ()
        self._printed = 0.0
        self._shown = ""
        self._live = sys.stdout.isatty()

    def begin(self, number: int, name: str) -> None:
        """A phase begins."""
        self.number, self.name, self.began = number, name, time.monotonic()
        self.moved, self._far = self.began, ()
        self._printed, self._shown = 0.0, ""

    @property
    def seconds(self) -> float:
        """Since the phase began."""
        return time.monotonic() - self.began

    def show(self, goals: Sequence[Goal], reached: Sequence[int], data: Path) -> None:
        """How far it is."""
        tokens = sum(int(row.get("tokens") or 0) for row in status.read_all(data))
        if (tokens, *reached) != self._far:
            self.moved, self._far = time.monotonic(), (tokens, *reached)
        far = " · ".join(
            f"{goal.what} {min(done, goal.of):,}/{goal.of:,}" for goal, done in zip(goals, reached, strict=True)
        )
        self._tell(far + (f" · {tokens:,} tokens" if tokens else ""))

    def stopping(self) -> None:
        """It is being stopped gracefully."""
        self._tell("finishing what is in hand")

    def end(self, what: str) -> None:
        """It is over; the line stays."""
        line = self._line(what)
        print(f"\r\033[K{line}" if self._live else line, flush=True)

    def _line(self, what: str) -> str:
        seconds = int(self.seconds)
        return f"[{self.number:2d}/{self.phases}] {self.name}: {what} · {seconds // 60}:{seconds % 60:02d}"

    def _tell(self, what: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1  # a longer line would wrap and stay
            print(f"\r\033[K{self._line(what)[:width]}", end="", flush=True)
        elif what != self._shown and time.monotonic() - self._printed >= LINE_EVERY_S:
            print(self._line(what), flush=True)
            self._printed, self._shown = time.monotonic(), what
