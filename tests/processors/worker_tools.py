"""Starting, killing and observing worker processes on a real broker."""

import collections
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from processors import kafka
from schemas import messages as m
from schemas.codec import decode
from schemas.settings import Settings

SCRIPT = Path(__file__).with_name("worker_process.py")
ROOT = SCRIPT.parents[2]


def problem(index: int, question: str = "1+1?") -> m.Problem:
    return m.Problem(id=f"p{index}", question=question, answer="2", source="t", index=index)


def trace(index: int) -> m.Trace:
    return m.Trace(
        id=f"t{index}", tree_id="x", tree_sha="s", problem=problem(index), arm="direct", walk=[0], segments=[],
        text="Answer: 2", backtracks=0, wrong_answers=[],
    )  # fmt: skip


class Workers:
    """The worker processes of one test."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.file = folder / "settings.json"
        self.file.write_bytes(msgspec.json.encode(settings))
        self.journal = folder / "journal.txt"
        self.folder = folder
        self.all: list[subprocess.Popen[bytes]] = []

    def start(self, *stages: str, **plan) -> subprocess.Popen[bytes]:
        text = msgspec.json.encode({"stages": stages, "journal": str(self.journal), **plan}).decode()
        with (self.folder / f"stderr{len(self.all)}.txt").open("wb") as errors:
            worker = subprocess.Popen([sys.executable, str(SCRIPT), str(self.file), text], stderr=errors, cwd=ROOT)
        self.all.append(worker)
        return worker

    def errors(self, number: int = -1) -> str:
        return (self.folder / f"stderr{number % len(self.all)}.txt").read_text()

    def lines(self, kind: str) -> list[str]:
        """The ids whose handling 'begin's or 'end's, in order, repeats included."""
        text = self.journal.read_text() if self.journal.exists() else ""
        return [line.split()[1] for line in text.splitlines() if line.startswith(kind)]

    def status(self, stage: str) -> dict:
        """What the newest worker of a stage says of itself."""
        folder = Path(self.settings.factory.data) / "status"
        found = list(folder.glob(f"{stage}-*-{self.all[-1].pid}.json"))
        return msgspec.json.decode(found[0].read_bytes()) if found else {}

    def close(self) -> None:
        for worker in self.all:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


def stop(worker: subprocess.Popen[bytes], timeout: float = 60) -> int:
    worker.send_signal(signal.SIGTERM)
    return worker.wait(timeout)


def until(true: Callable[[], bool], seconds: float = 60, what: str = "") -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def answers(settings: Settings) -> collections.Counter[str]:
    """How often each input id was answered."""
    rows = (decode(record.value, m.Filtered) for record in kafka.tail(settings, "filtered", {}))
    return collections.Counter(row.input_id for row in rows)


def letters(settings: Settings) -> list[m.DeadLetter]:
    return [decode(record.value, m.DeadLetter) for record in kafka.tail(settings, "dead.letters", {})]
