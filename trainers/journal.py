"""The durable list of what each step trained on, written before the step, because a resume must train on the same.

One JSON line a step: {"step": 7, "rows": [ids in order]}. A line is on the disk before its step begins. A crash may
leave half a line at the end: its step never began, so it is cut off when the file is opened again.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec


class Planned(msgspec.Struct, frozen=True):
    """The rows of one step, in order."""

    step: int
    rows: list[str]


class Journal:
    """An append-only file of `Planned` lines.

    Args:
        path: the file; its folder is created.

    Raises:
        msgspec.DecodeError: for a whole line that is not a plan (the file was edited).
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self.lines = self._read()

    def _read(self) -> dict[int, Planned]:
        self._file.seek(0)
        whole, newline, _torn = self._file.read().rpartition(b"\n")
        self._file.truncate(len(whole) + len(newline))
        decoder = msgspec.json.Decoder(Planned)
        return {line.step: line for line in map(decoder.decode, whole.splitlines())}

    def append(self, step: int, rows: Sequence[str]) -> None:
        """Write the plan of a step and wait until the disk has it. A step that is planned already keeps its rows."""
        if step in self.lines:
            if self.lines[step].rows != list(rows):
                raise ValueError(f"step {step} was planned with other rows")
            return
        line = Planned(step=step, rows=list(rows))
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.lines[step] = line

    def drop(self, step: int) -> None:
        """Take back the plan of the last step: it cannot be taken, and another shall be planned in its place."""
        if step in self.lines and step == max(self.lines):
            line = msgspec.json.encode(self.lines.pop(step)) + b"\n"
            self._file.truncate(self._file.seek(0, os.SEEK_END) - len(line))
            os.fsync(self._file.fileno())

    def after(self, step: int) -> list[Planned]:
        """The plans of the steps after `step` without a gap, in order: what a resume from `step` replays."""
        found: list[Planned] = []
        while (step := step + 1) in self.lines:
            found.append(self.lines[step])
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
