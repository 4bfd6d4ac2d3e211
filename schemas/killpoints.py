"""Named points of the factory's own flow at which a test may kill something; nothing happens here in ordinary life.

A crash at a moment that a clock chose proves little: the moments that matter are milliseconds long. So the code says
where they are (`passed("sink:output")`), and tests/crash says which of them is the last one that a process sees. The
environment variable ASTRO_KILL_POINTS names a folder; a file in it that is called like a point arms that point, and
holds the number of the passage (1 = the first, whichever process makes it) and, optionally, the process id to kill
instead of the passing process. Each file kills once: the restarted process passes and goes on.
"""

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "ASTRO_KILL_POINTS"
FIRED = "fired.log"
"""In the folder: a line `point pid time` for each kill, written just before it."""

_STAGE = {"working": "the answers are made, nothing is sent", "output": "they are acknowledged, the offset is not"}
_TRAINER = {
    "working": "a step is planned, not taken",
    "output": "the step is taken and its message is under way, no checkpoint counts it",
    "checkpoint": "the checkpoint's files are written, not renamed",
    "saved": "the checkpoint is there, the version is not",
    "announcement": "the version's directory is there, not announced",
    "announced": "the version is announced, nothing was done after",
}
POINTS: Mapping[str, str] = {
    "produce:working": "a batch of problems is chosen, nothing is sent",
    "produce:output": "the batch is acknowledged",
    "prompts:working": "prompts are chosen, nothing is sent",
    "prompts:output": "the prompts are acknowledged",
    **{f"{s}:{at}": says for s in ("search", "linearize", "verify", "sample") for at, says in _STAGE.items()},
    "sink:working": "rows wait, nothing is committed",
    "sink:output": "one table's commit is done, the next table's is not",
    **{f"{trainer}:{at}": says for trainer in ("sft", "rl") for at, says in _TRAINER.items()},
    "rl:offsets": "a checkpoint is there, the offsets that follow it are not committed",
    "evaluate:working": "every problem is answered, nothing is sent",
    "evaluate:output": "all rows of an evaluation but the last are acknowledged",
    "base:announcement": "version 0 is announced and was not seen to come back",
    "engine:announcement": "new weights are in the engine, not probed",
}
"""Every point and what has and has not happened there."""

_FOLDER = os.environ.get(VARIABLE)


class NoSuchPoint(ValueError):
    """A point that the code does not have; the text lists those that it has."""


def passed(point: str) -> None:
    """Say that the flow is at a point.

    Raises:
        NoSuchPoint: only where the variable is set: for a point, or a file in the folder, that is not one of POINTS.
    """
    if _FOLDER is None:
        return
    check([point, *(path.name.removesuffix(".passed") for path in Path(_FOLDER).iterdir() if path.name != FIRED)])
    armed = Path(_FOLDER, point)
    try:
        nth, *victim = map(int, armed.read_text("utf-8").split())
    except FileNotFoundError:
        return
    if _count(armed.with_name(f"{point}.passed")) == nth:
        pid = victim[0] if victim else os.getpid()
        with armed.with_name(FIRED).open("a", encoding="utf-8") as log:
            log.write(f"{point} {pid} {time.time():.3f}\n")
        os.kill(pid, signal.SIGKILL)


def check(points: list[str]) -> None:
    """Refuse what is not a point.

    Raises:
        NoSuchPoint: naming it and listing all.
    """
    if unknown := sorted(set(points) - set(POINTS)):
        raise NoSuchPoint(f"no kill point is called {', '.join(unknown)}; there are: {', '.join(POINTS)}")


def _count(file: Path) -> int:
    """The number of this passage: a byte is appended for each, which is atomic over processes and threads."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, b".")
        return os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)
