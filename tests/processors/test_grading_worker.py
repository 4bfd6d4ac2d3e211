"""The forked grader alone, with judges that misbehave on purpose: each misdeed has its outcome."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from processors.grading_worker import Child, make_judge

MISDEEDS = {
    "allocate": "rejected",
    "recurse": "rejected",
    "raise": "unparsable",
    "print": "wrong",
    "loop": "timeout",
    "die": None,
}


def misbehave(asked: dict[str, str]) -> str:
    answer = asked["answer"]
    if answer == "allocate":
        bytearray(4 << 30)
    elif answer == "recurse":
        misbehave(asked)
    elif answer == "raise":
        raise ZeroDivisionError
    elif answer == "print":
        os.write(1, b'{"id": 1, "outcome": "correct"}\n')
    elif answer == "loop":
        while True:
            pass
    elif answer == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return "wrong"


def line(answer: str, gold: str = "g") -> bytes:
    return json.dumps({"id": 1, "gold": gold, "answer": answer, "judge": "math"}).encode() + b"\n"


@pytest.fixture
def memory_mb():
    """What this process has mapped already, and 200 MB."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") // (1 << 20) + 200


@pytest.mark.parametrize(("misdeed", "outcome"), MISDEEDS.items())
def test_each_misdeed_has_its_outcome(misdeed, outcome, memory_mb, capfd):
    child = Child({"math": misbehave}, memory_mb, 0.5)
    try:
        assert child.ask(line("honest")) == "wrong"
        start = time.monotonic()
        assert child.ask(line(misdeed)) == outcome
        assert time.monotonic() - start < 5
    finally:
        child.end()
    assert capfd.readouterr().out == "", "a grader's stdout is not the worker's"


def test_a_grader_whose_worker_is_gone_is_ended_by_its_alarm(memory_mb):
    child = Child({"math": misbehave}, memory_mb, 0.2)
    os.write(child.requests, line("loop"))
    os.close(child.requests)
    _, status = os.waitpid(child.pid, 0)
    assert os.WIFSIGNALED(status)
    os.close(child.replies)


def test_a_question_longer_than_a_pipe_is_answered(memory_mb):
    child = Child({"math": misbehave}, memory_mb, 5.0)
    try:
        assert child.ask(line("\u221a" * 9_000)) == "wrong"
    finally:
        child.end()


def test_the_judge_reads_latex_and_runs_nothing(tmp_path):
    judge = make_judge()
    target = tmp_path / "created"
    for text in (
        f"__import__('pathlib').Path('{target}').touch()",
        f"open('{target}', 'w')",
        f"\\text{{open('{target}','w')}}",
    ):
        assert judge({"gold": "5", "answer": text}) in {"wrong", "unparsable"}
        assert judge({"gold": text, "answer": "5"}) in {"wrong", "unparsable"}
    assert not target.exists()
    assert judge({"gold": "(1,2)", "answer": "(1, 2)"}) == "correct"
