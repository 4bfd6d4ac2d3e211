"""The killable pool: whoever is killed, each question gets exactly one outcome, and nothing is left behind."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest
from forest import problem

from processors.grading import Grader
from processors.grading_pool import ATTEMPTS, GraderBroken, Pool, Worker
from schemas.settings import Settings, VerifySection

SLOW = r"\sum_{n=1}^{99999999} \frac{1}{n^2}"


@pytest.fixture(scope="module")
def pool():
    """One pool for all tests of this file: each must leave it able to answer, whatever it did to it."""
    made = Pool(VerifySection(timeout_s=1.0))
    yield made
    made.close()


def children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.NoSuchProcess:
        return []


def wait_for(true, seconds: float = 30.0):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_past_the_deadline_a_question_times_out_and_the_next_is_quick(pool):
    assert pool.ask_sync("2x", "x+x") == "correct"
    worker = pool.pids()
    start = time.monotonic()
    assert pool.ask_sync(r"\pi", SLOW) == "timeout"
    assert 0.9 < time.monotonic() - start < 15
    assert pool.ask_sync("2y", "y+y") == "correct"
    assert pool.pids() == worker, "only the forked child was killed: math-verify is not imported again"


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "child"])
async def test_killed_in_the_middle_of_a_batch_the_list_is_complete_and_right(victim):
    grader = Grader(Settings())
    try:
        pairs = [
            (problem(rf"\sum_{{k=1}}^{{{i + 1}}} k", "math"), f"Answer: {(i + 1) * (i + 2) // 2 + i % 2}")
            for i in range(150)
        ]
        running = asyncio.create_task(grader.grade_many(pairs))
        kills = 0
        while not running.done() and not kills:  # a question that is killed twice is rejected
            await asyncio.sleep(0.15)
            for pid in grader.pool.pids():
                graders = children(pid)  # it has some once it has begun to grade
                for one in graders and [pid] if victim == "worker" else graders:
                    os.kill(one, signal.SIGKILL)
                    kills += 1
        verdicts = await running
        assert kills >= 1
        right = [verdict.outcome for verdict in verdicts]
        assert right == ["correct" if i % 2 == 0 else "wrong" for i in range(150)]
    finally:
        grader.close()


def test_a_question_on_which_every_worker_dies_is_rejected(pool, monkeypatch):
    """Each worker is a process that is killed as it starts (importing math-verify for it would only take time)."""
    started = []

    def doomed(worker):
        worker.process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        worker.process.kill()
        started.append(worker.process)
        return worker.process

    monkeypatch.setattr(Worker, "_start", doomed)
    pool.close()
    assert pool.ask_sync("5x", "x+4x") == "rejected"
    assert len(started) == ATTEMPTS
    assert all(process.returncode is not None for process in started), "each of them is reaped"
    monkeypatch.undo()
    assert pool.ask_sync("5x", "x+4x") == "correct"


def test_killing_the_worker_leaves_no_grader_behind(pool):
    assert pool.ask_sync("4x", "2x+2x") == "correct"
    (worker,) = pool.pids()
    orphans = children(worker)
    assert len(orphans) == 1
    os.kill(worker, signal.SIGKILL)
    wait_for(
        lambda: not any(Path(f"/proc/{pid}").exists() and psutil.Process(pid).status() != "zombie" for pid in orphans)
    )
    assert pool.ask_sync("4y", "2y+2y") == "correct"


def test_close_ends_everything_and_a_later_question_starts_again(pool):
    assert pool.ask_sync("3x", "x+x+x") == "correct"
    (worker,) = pool.pids()
    pool.close()
    assert pool.pids() == []
    assert not psutil.pid_exists(worker)
    assert pool.ask_sync("3y", "y+y+y") == "correct"


def test_many_threads_share_the_workers():
    pool = Pool(VerifySection(workers=2))
    outcomes: dict[int, str] = {}

    def ask(number: int):
        outcomes[number] = pool.ask_sync(f"{number}x", f"{number - 1}x+x")

    try:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert outcomes == dict.fromkeys(range(40), "correct")
        assert len(pool.pids()) == 2
    finally:
        pool.close()


def test_a_pool_that_cannot_start_says_so(monkeypatch):
    monkeypatch.setattr("processors.grading_pool.sys.executable", "/bin/false")
    with pytest.raises(GraderBroken, match="import math_verify"):
        Pool(VerifySection()).ask_sync("2x", "x+x")


def test_what_was_decided_is_not_asked_again(pool, monkeypatch):
    assert pool.ask_sync("2x", "x+x") == "correct"

    def never(*_):
        raise AssertionError("asked again")

    monkeypatch.setattr(Worker, "ask", never)
    assert pool.ask_sync("2x", "x+x") == "correct"
