"""Grading processes that can be killed: math-verify and others reached over JSON lines, started at the first question.

A Worker is one subprocess (processors/grading_worker.py) that forks a child to grade and kills it past the deadline.
Here is the second line: a worker that dies or goes silent is killed and replaced and its question asked again, so that
every question gets exactly one outcome, whoever was killed in between.
"""

import asyncio
import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import msgspec

from schemas.errors import Told
from schemas.messages import Outcome
from schemas.settings import VerifySection

START_S = 120.0
"""Importing math-verify takes 2 s alone and much longer on a busy machine."""
ATTEMPTS = 3
"""Workers that may die on a question before it is taken to be the cause."""
STARTS = 5
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
REMEMBERED = 8192


class By(msgspec.Struct, frozen=True):
    """Who judges an answer, and what it needs for it beside the gold answer."""

    judge: str = "math"
    """'math': math-verify; 'gym': the reasoning-gym scorer that the metadata name; else an installed grader."""
    metadata: str = ""
    """The problem's. 'gym': gym_graders.Scored as JSON; the caller has checked its name."""
    question: str = ""


MATH = By()


class GraderFailed(Told, RuntimeError):
    """An installed grader cannot be used, or raised what only a defect of its own explains; the text says which."""


class GraderBroken(RuntimeError):
    """The grading process does not start; the text holds what it said."""


class WorkerDied(Exception):
    """The worker ended or went silent while it held a question."""


class NotStarted(Exception):
    """The worker ended or went silent before it held a question."""


class Worker:
    """One grading subprocess; not safe for two threads at once."""

    def __init__(self, settings: VerifySection) -> None:
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.asked = 0

    def ready(self) -> None:
        """Start the process if there is none.

        Raises:
            NotStarted: when it does not start.
        """
        if self.process is None:
            self._start()

    def ask(self, gold: str, answer: str, by: By = MATH) -> Outcome:
        """The outcome.

        Raises:
            GraderFailed: an installed grader cannot judge at all.
            WorkerDied: when the process ended or missed its own deadline by far; it is gone then.
            NotStarted: when it did not get as far as that.
        """
        process = self.process or self._start()
        self.asked += 1
        fields = {"id": self.asked, "gold": gold, "answer": answer, **msgspec.structs.asdict(by)}
        request = json.dumps(fields).encode() + b"\n"
        limit = START_S if by != MATH else 2 * self.settings.timeout_s + 10  # another judge is imported at first
        assert process.stdin
        try:
            process.stdin.write(request)
            process.stdin.flush()
            reply = json.loads(self._line(process, limit))
        except (OSError, ValueError) as error:
            self.end()
            raise WorkerDied(str(error)) from error
        if reply.get("id") == self.asked and "failed" in reply:
            raise GraderFailed(f"the grader {by.judge!r} fails: {reply['failed']}; its package must be put right")
        outcome = next((known for known in OUTCOMES if known == reply.get("outcome")), None)
        if reply.get("id") != self.asked or outcome is None:
            self.end()
            raise WorkerDied("an answer to another question")
        return outcome

    def _start(self) -> subprocess.Popen[bytes]:
        limits = ["--memory-mb", str(self.settings.memory_mb), "--timeout-s", str(self.settings.timeout_s)]
        self.process = process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("grading_worker.py")), *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            ready = json.loads(self._line(process, START_S))
        except (OSError, ValueError) as error:
            self.end()
            raise NotStarted(str(error)) from error
        assert "ready" in ready
        return process

    def _line(self, process: subprocess.Popen[bytes], seconds: float) -> bytes:
        """The next line of its output; ValueError (empty JSON) where it ended or stayed silent."""
        assert process.stdout
        descriptor, deadline, line = process.stdout.fileno(), time.monotonic() + seconds, b""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        while not line.endswith(b"\n"):
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise ValueError("silent")
            part = os.read(descriptor, 4096)
            if not part:
                raise ValueError("ended")
            line += part
        return line

    def end(self) -> None:
        """Kill and reap the process, if there is one."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()


class Pool:
    """`settings.workers` workers behind a thread each; answers already decided are remembered."""

    def __init__(self, settings: VerifySection) -> None:
        self.settings = settings
        self.workers = [Worker(settings) for _ in range(max(1, settings.workers))]
        self.free: queue.LifoQueue[Worker] = queue.LifoQueue()
        for worker in self.workers:
            self.free.put(worker)
        self.executor = ThreadPoolExecutor(len(self.workers), "grading")
        self.known: OrderedDict[tuple[str, str, By], Outcome] = OrderedDict()
        self.lock = threading.Lock()

    def pids(self) -> list[int]:
        """The process ids of the running workers."""
        return [process.pid for worker in self.workers if (process := worker.process)]

    async def ask(self, gold: str, answer: str, by: By = MATH) -> tuple[Outcome, float]:
        """As `timed`, without blocking the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, self.timed, gold, answer, by)

    def ask_sync(self, gold: str, answer: str, by: By = MATH) -> Outcome:
        """The outcome; as `timed`."""
        return self.timed(gold, answer, by)[0]

    def timed(self, gold: str, answer: str, by: By = MATH) -> tuple[Outcome, float]:
        """The outcome and the seconds it took, once a worker was free and ready.

        'rejected' for a question on which every worker died.

        Args:
            gold: the gold answer.
            answer: the answer said.
            by: who judges.

        Raises:
            GraderFailed: an installed grader cannot judge at all.
            GraderBroken: when no worker can be started.
        """
        key = (gold, answer, by)
        with self.lock:
            if key in self.known:
                self.known.move_to_end(key)
                return self.known[key], 0.0
        worker = self.free.get()
        try:
            outcome, seconds = self._try(worker, gold, answer, by)
        finally:
            self.free.put(worker)
        if outcome in ("correct", "wrong", "unparsable"):
            with self.lock:
                self.known[key] = outcome
                while len(self.known) > REMEMBERED:
                    self.known.popitem(last=False)
        return outcome, seconds

    def _try(self, worker: Worker, gold: str, answer: str, by: By) -> tuple[Outcome, float]:
        asked = started = 0
        while asked < ATTEMPTS:
            try:
                worker.ready()
                start = time.perf_counter()
                return worker.ask(gold, answer, by), time.perf_counter() - start
            except WorkerDied:
                asked += 1
            except NotStarted as error:
                started += 1
                if started == STARTS:
                    hint = "the grading process does not start; try `python -c 'import math_verify'`"
                    raise GraderBroken(f"{hint}: {error}") from error
                time.sleep(0.1 * started)
        return "rejected", time.perf_counter() - start

    def close(self) -> None:
        """Kill all workers; a later question starts them again."""
        for worker in self.workers:
            worker.end()
