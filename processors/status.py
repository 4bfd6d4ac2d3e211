"""What a process is doing right now, as a small JSON file: the panel sees it without a connection to it.

A status is an observation, never a record: nothing reads it to decide what is done (offsets and tables say that).
"""

import bisect
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from schemas.settings import Settings

INTERVAL_S = 1.0
SILENT_S = 30.0
"""A process of another machine that has written nothing for this long has ended; clocks may differ by less."""
BOUNDS_S = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Of the counts of durations: from the cloning of a tree (milliseconds) to a search or an evaluation (minutes)."""


class Durations(NamedTuple):
    """How long units were in hand."""

    counts: list[int]
    """How many took at most each of BOUNDS_S and more than the bound before it; the last count is of longer ones."""
    seconds: float
    """Of all of them."""


class Status:
    """Counters and free-form fields of one stage in one process, written every second by a daemon thread.

    Args:
        settings: factory.data holds the `status` folder.
        stage: the stage's name; the file is data/status/<stage>-<host>-<pid>.json: where machines or containers share a
            data directory, each has processes of its own with the same numbers.
    """

    def __init__(self, settings: Settings, stage: str) -> None:
        self.stage = stage
        self.path = Path(settings.factory.data) / "status" / f"{stage}-{socket.gethostname()}-{os.getpid()}.json"
        self.started = time.time()
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {"records": 0, "errors": 0, "tokens": 0}
        self._fields: dict[str, Any] = {}
        self._in_flight = 0
        self._took = [0] * (len(BOUNDS_S) + 1)
        self._seconds = 0.0
        self._progress = self.started
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, **counts: int) -> None:
        """Count up, by any names: `add` with records=1 and tokens=250, say."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] = self._counts.get(name, 0) + count
            if counts.get("records"):
                self._progress = time.time()

    def set(self, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        """Set free-form fields, such as version=3. Values must be JSON."""
        with self._lock:
            self._fields.update(fields)

    @property
    @contextlib.contextmanager
    def in_flight(self) -> Iterator[None]:
        """`with status.in_flight:` counts one more unit in hand, and afterwards how long it was."""
        began = time.monotonic()
        with self._lock:
            self._in_flight += 1
        try:
            yield
        finally:
            took = time.monotonic() - began
            with self._lock:
                self._in_flight -= 1
                self._took[bisect.bisect_left(BOUNDS_S, took)] += 1
                self._seconds += took

    def durations(self) -> Durations:
        """How long the units that are done were in hand, those that failed too."""
        with self._lock:
            return Durations(list(self._took), self._seconds)

    def read(self) -> dict[str, Any]:
        """The status as it is written: stage, pid, times (s since the epoch), in_flight, counters, fields."""
        with self._lock:
            return {
                **self._fields,
                **self._counts,
                "in_flight": self._in_flight,
                "stage": self.stage,
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "started": self.started,
                "progress": self._progress,
                "time": time.time(),
            }

    def write(self) -> None:
        """Write the file once, by rename: a reader never sees half of it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(f".tmp{threading.get_ident()}")
        temporary.write_text(json.dumps(self.read()), "utf-8")
        temporary.replace(self.path)

    def start(self) -> Self:
        """Write now and then every second. A disk that is full is no reason to stop the work: the write is skipped."""
        self.write()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._loop, name=f"status-{self.stage}", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop writing and remove the file: a process that ended well leaves no status behind."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _loop(self) -> None:
        while not self._stopping.wait(INTERVAL_S):
            try:
                self.write()
            except OSError:
                continue


def alive(pid: int) -> bool:
    """Whether a process of this machine with that id exists (a zombie does not count)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return _signalable(pid)
    return bool(state) and state[0] != "Z"


def _signalable(pid: int) -> bool:
    """The same for systems without /proc."""
    if Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _running(status: dict[str, Any]) -> bool:
    """Whether the process that wrote a status runs: elsewhere (`host`), where it has written a moment ago."""
    if status.get("host", here := socket.gethostname()) == here:
        return alive(int(status["pid"]))
    return time.time() - float(status["time"]) < SILENT_S


def read_all(data: Path | str, *, clean: bool = True) -> list[dict[str, Any]]:
    """Every live process's status under a data directory, by stage and pid.

    Args:
        data: the data directory.
        clean: remove the files of dead processes; who only looks leaves them where they are.
    """
    found: list[dict[str, Any]] = []
    for path in sorted((Path(data) / "status").glob("*-*.json")):
        try:
            status = json.loads(path.read_text("utf-8"))
            running = _running(status)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if running:
            found.append(status)
        elif clean:
            with contextlib.suppress(OSError):  # another user's
                path.unlink(missing_ok=True)
    return found
