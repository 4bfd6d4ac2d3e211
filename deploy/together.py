"""A trainer on several processes of a machine: with sft.ranks = 2, `factory sft` starts its own command anew as rank 1.

For several machines torchrun does the same (torchrun ... -m deploy.cli sft): where its variables are set, nothing is
started here. The first rank is the stage; the others obey it (trainers/ranks.py) and end when it ends.
"""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MEETING = "RANKS_MEETING_FILE"
"""The variable that names the file in which ranks of one machine find each other (trainers/ranks.py reads it)."""

GRACE_S = 30.0
"""For the others to end by themselves once the first has ended well."""
LAST_WORDS_S = 5.0
"""When another rank has died: what ended it may end the first as well, which then says why."""


def follows() -> bool:
    """Whether this process is a rank that obeys another."""
    return int(os.environ.get("RANK", "0")) > 0


def leads_its_machine() -> bool:
    """Whether this is the first rank of its machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


@contextmanager
def together(count: int) -> Iterator[None]:
    """Be rank 0 of `count` processes of this machine, and start the others."""
    if count == 1 or "RANK" in os.environ:
        yield
        return
    world = {name: str(count) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    # They find each other by a file, since torch's TCP store listens on every interface, and talk on loopback.
    meeting = tempfile.TemporaryDirectory(prefix="ranks-")
    world |= {MEETING: str(Path(meeting.name) / "meeting"), "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, *sys.orig_argv[1:]]
    others = [
        subprocess.Popen(command, env={**os.environ, **world, "RANK": rank, "LOCAL_RANK": rank})
        for rank in map(str, range(1, count))
    ]
    os.environ.update(world | {"RANK": "0", "LOCAL_RANK": "0"})
    patience, ending = 0.0, threading.Event()
    threading.Thread(target=_watch, args=(others, ending), name="ranks", daemon=True).start()
    try:
        yield
        patience = GRACE_S
    finally:
        ending.set()
        for other in others:
            _end(other, patience)
        meeting.cleanup()


def _watch(others: list["subprocess.Popen[bytes]"], ending: threading.Event) -> None:
    """End this process when another rank has died: it may wait for that one in the middle of a collective."""
    while not ending.wait(1.0):
        if any(other.poll() for other in others):
            if ending.wait(LAST_WORDS_S):
                return
            for other in others:
                _end(other, 0.0)
            print("factory: another rank has died; what it said stands above", file=sys.stderr, flush=True)
            os._exit(1)


def _end(process: "subprocess.Popen[bytes]", patience: float) -> None:
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
