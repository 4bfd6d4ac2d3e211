"""The adversarial corpus through the real grader: deadlines, memory, order, and nothing that was written runs."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import hostile
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.grading import Grader
from schemas.messages import Problem
from schemas.settings import Settings, VerifySection

TIMEOUT_S = 1.0
SLACK_S = 1.0
"""Beyond the deadline: killing and forking the grading child, on a busy machine."""
OUTCOMES = {"correct", "wrong", "unparsable", "timeout", "rejected"}
SLOW = r"\int_0^\infty \frac{\sin(x^7)}{\cosh(x^5)+1} dx"


@pytest.fixture(scope="module")
def grader():
    made = Grader(Settings(verify=VerifySection(timeout_s=TIMEOUT_S, workers=2)))
    yield made
    made.close()


class Memory(threading.Thread):
    """The largest resident size (MB) of this process's descendants, looked at every 20 ms."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0.0
        self.over = threading.Event()

    def run(self):
        while not self.over.wait(0.02):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self.most = max(self.most, process.memory_info().rss / 2**20)


@pytest.mark.slow
async def test_the_corpus_within_deadline_and_memory(grader):
    """Pairs with a known verdict stand between the hostile ones: nothing shifts and nobody is left damaged."""
    texts = [*hostile.texts(), *hostile.attempts("/nowhere/target")]
    assert len(texts) > 200
    honest = [
        (rf"\sum_{{k=1}}^{{{n}}} k" if n % 4 == 0 else rf"\frac{{{n * (n + 1)}}}{{2}}") for n in range(len(texts))
    ]
    honest = [(gold, str(n * (n + 1) // 2 + n % 2)) for n, gold in enumerate(honest)]
    memory, before = Memory(), psutil.Process().memory_info().rss
    memory.start()
    pairs = [pair for text, other in zip(texts, honest, strict=True) for pair in ((hostile.GOLD, text), other)]
    verdicts = await asyncio.gather(*(grader.grade_pair(*pair) for pair in pairs))
    memory.over.set()
    assert len(verdicts) == len(pairs)
    for text, verdict in zip(texts, verdicts[::2], strict=True):
        assert verdict.outcome in OUTCOMES - {"correct"}, text[:80]
        assert verdict.seconds < TIMEOUT_S + SLACK_S, text[:80]
        assert len(verdict.answer) <= grader.settings.max_answer_chars
    assert [verdict.outcome for verdict in verdicts[1::2]] == [("correct", "wrong")[n % 2] for n in range(len(texts))]
    assert 10 < memory.most < 1024
    assert psutil.Process().memory_info().rss - before < 1024 * 2**20


async def test_hostile_golds_harm_nobody(grader):
    sums = (grader.grade_pair(rf"\sum_{{k=1}}^{{{n}}} k", str(n * (n + 1) // 2)) for n in (3, 4))
    assert {verdict.outcome for verdict in await asyncio.gather(*sums)} == {"correct"}  # both workers have started
    for gold in hostile.golds():
        for answer in ("7", "x+1", r"\{1,2\}"):
            start = time.perf_counter()
            assert (await grader.grade_pair(gold, answer)).outcome in OUTCOMES - {"correct"}
            assert time.perf_counter() - start < TIMEOUT_S + SLACK_S + 5


async def test_nothing_that_is_written_runs(grader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "ran"
    for text in hostile.attempts(str(target)):
        for gold, answer in (("7", text), (text, "7"), ("x+1", text), (r"\text{yes}", text)):
            verdict = await grader.grade_pair(gold, answer)
            assert verdict.outcome in OUTCOMES - {"correct"}, text
        for kind in ("numeric", "text", "countdown"):
            assert (await grader.grade_pair("7", text, kind, text)).outcome in OUTCOMES - {"correct"}
    assert list(tmp_path.iterdir()) == []


def asked(gold: str) -> Problem:
    return Problem(id="1", question="q", answer=gold, grader="math", source="s")


KINDS = {
    "quick": ("18", "Answer: 18", {"correct"}),
    "quick wrong": ("18", "Answer: 19", {"wrong"}),
    "ours": (r"2\sqrt{2}", r"Answer: \sqrt{8}", {"correct"}),
    "theirs": (r"\sum_{k=1}^{3} k", "Answer: 6", {"correct"}),
    "theirs wrong": (r"\sum_{k=1}^{3} k", "Answer: 5", {"wrong"}),
    "silent": ("18", "I do not know", {"unparsable"}),
    "refused": ("18", "Answer: 9^9^9^9", {"rejected"}),
    "slow": (r"\pi", f"Answer: {SLOW}", {"timeout"}),
    "large": ("18", r"\boxed{" + "1," * 300_000 + "}", {"rejected"}),
    "strange": ("18", "Answer: \ud800\x00\u202e", {"unparsable", "wrong"}),
}


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([kind for kind in KINDS if kind != "slow"]), max_size=30),
    st.integers(0, 1),
    st.lists(st.floats(0, 0.5), max_size=2),
)
def test_any_mix_keeps_order_and_length_while_processes_are_killed(grader, kinds, slow, kills):
    """Each list holds failures of every kind; meanwhile grading children are killed at random moments.

    One kill costs a question at most one of its attempts, so what has a verdict still gets it, in its place.
    """
    kinds = [*kinds, *["slow"] * slow, "theirs", "quick"]
    stop = threading.Event()

    def kill():
        for wait in kills:
            stop.wait(wait)
            for pid in grader.pool.pids():
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    for child in psutil.Process(pid).children():
                        os.kill(child.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    verdicts = asyncio.run(grader.grade_many([(asked(KINDS[kind][0]), KINDS[kind][1]) for kind in kinds]))
    stop.set()
    killer.join()
    assert len(verdicts) == len(kinds)
    for kind, verdict in zip(kinds, verdicts, strict=True):
        allowed = set(KINDS[kind][2])
        if (kind == "slow" and kills) or (kind in ("theirs", "theirs wrong") and len(kills) > 1):
            allowed.add("rejected")
        assert verdict.outcome in allowed, kind


def test_the_corpus_holds_what_its_name_promises():
    texts = hostile.texts()
    assert sum(len(text) >= 1_000_000 for text in texts) >= 5
    assert any(text.count("(") == 2000 for text in texts)
    assert not Path("/nowhere/target").exists()
