"""One supervised child process: started, watched, restarted with backoff, stopped gracefully, its last error kept.

A child that dies without having made progress (its stages' record counts) since its last start uses up one of
`factory.restart_limit` lives; progress gives them back.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from schemas.errors import Told

FIRST_BACKOFF_S = 1.0
LAST_BACKOFF_S = 30.0
SENTENCE_LINES = 8
BAD_INPUT = 2
"""Exit code of a process that a restart cannot help: a wrong setting, a missing file."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run."""

    name: str
    stages: tuple[str, ...]
    arguments: tuple[str, ...]
    threads: int = 1


class GaveUp(Told, RuntimeError):
    """A process keeps dying without progress; the text holds its own last error."""


class Process:
    """A child that should be running.

    Args:
        spec: what to run.
        settings_file: the JSON settings handed to the child.
        log: where its stdout and stderr go.
        limit: deaths without progress before GaveUp.
    """

    def __init__(self, spec: Spec, settings_file: Path, log: Path, limit: int) -> None:
        self.spec = spec
        self.log = log
        self.limit = limit
        self.deaths = 0
        self.restarts = 0
        self.state = "new"
        self._settings_file = settings_file
        self._child: subprocess.Popen[bytes] | None = None
        self._next_start = 0.0
        self._records = 0  # processed in this life

    def start(self) -> None:
        """Start the child in a session of its own, so that a Ctrl-C reaches only the supervisor."""
        threads = str(self.spec.threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "deploy.cli", *self.spec.arguments]
        command += ["--settings", str(self._settings_file), "--parent", str(os.getpid())]
        with self.log.open("ab") as out:
            self._child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True
            )
        self.state = "running"
        self._records = 0

    @property
    def pid(self) -> int:
        """The child's process id, 0 where none runs."""
        return self._child.pid if self._child and self._child.poll() is None else 0

    def watch(self, records: int, now: float) -> None:
        """Notice a death, and start again when the backoff has passed.

        Args:
            records: what the child's stages have processed so far in this life.
            now: time.monotonic().

        Raises:
            GaveUp: when it died `limit` times without progress, or at once for an exit code that a restart cannot help.
        """
        if self.state == "backoff" and now >= self._next_start:
            self.start()
        self._records = max(records, self._records)
        if self.state != "running" or self._child is None or (code := self._child.poll()) is None:
            return
        if code == 0:
            self.state = "done"
            return
        self.deaths = 1 if self._records else self.deaths + 1
        if code == BAD_INPUT or self.deaths >= self.limit:
            raise GaveUp(f"{self.spec.name} stopped {self.deaths} time(s), exit code {code}: {self.last_error()}")
        self.restarts += 1
        self.state = "backoff"
        self._next_start = now + min(FIRST_BACKOFF_S * 2 ** (self.deaths - 1), LAST_BACKOFF_S)

    def ask_to_stop(self) -> None:
        """SIGTERM: finish what is in hand."""
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
        self.state = "stopping" if self.pid else "stopped"

    def wait(self, deadline: float) -> bool:
        """Wait until time.monotonic() = deadline, then SIGKILL. Whether it ended by itself."""
        if self._child is None:
            return True
        try:
            self._child.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            return False
        finally:
            self.state = "stopped"
        return True

    def last_error(self) -> str:
        """The last line with text in the child's log: its own words (of a sentence over several lines, the first)."""
        if not self.log.exists():
            return "no output"
        tail = self.log.read_bytes()[-8192:].decode("utf-8", "replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        told = [line for line in lines[-SENTENCE_LINES:] if line.startswith("factory: ")]
        return told[-1] if told else lines[-1] if lines else "no output"


def die_with(parent: int) -> None:
    """End this process (SIGTERM) when its supervisor is gone; checked every second by a daemon thread."""
    import threading

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
