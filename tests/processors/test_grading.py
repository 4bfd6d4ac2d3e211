"""The grading ladder: outcomes by grader, hostile answers, and lists that never shift, on the real math-verify."""

import asyncio
import json
import subprocess
import sys
import time

import pytest
from forest import countdown, problem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors.grading import Grader, grade_fast, guard, reward
from schemas.settings import Settings, VerifySection

HOSTILE = [
    "9^9^9^9",
    "9^{9^{9^{9}}}",
    "99999999!",
    "((9!)!)!",
    r"\binom{1000000000}{100000000}",
    r"\sum_{n=1}^{99999999} n^{-2}",
    "9**9**9**9",
    "((((" * 500,
    "{" * 1900,
    r"\frac{1}{" * 200 + "1" + "}" * 200,
    r"\sqrt{" * 150 + "2" + "}" * 150,
    "1e999999999",
    "9" * 1999,
    "x" * 100_000,
    "\x00\x01",
    "\ud800",
    "\u202e5",
    "}{",
    "\\",
    "\\\\" * 900,
    "$" * 1000,
    "__import__('os').system('touch /tmp/hostile')",
    "lambda: 1",
    "().__class__",
    "import os",
    r"\input{/etc/passwd}",
    r"\int_0^\infty \frac{\sin(x^7)}{\cosh(x^5)+1} dx",
    "(x+1)^{3000}",
    "nan",
    "oo",
    r"\infty",
    "1/0",
    "x=" * 300,
]
"""Answers meant to run, hang, crash or confuse a grader."""
OUTCOMES = {"correct", "wrong", "unparsable", "timeout", "rejected"}


@pytest.fixture(scope="module")
def grader():
    made = Grader(Settings(verify=VerifySection(timeout_s=1.0)))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("kind", "gold", "answer", "outcome"),
    [
        ("numeric", "18", "18", "correct"),
        ("numeric", "18", "$18.00", "correct"),
        ("numeric", "18", "18 dollars", "correct"),
        ("numeric", "1234", "1,234", "correct"),
        ("numeric", "18", "19", "wrong"),
        ("numeric", "18", "eighteen", "unparsable"),
        ("numeric", "18", "9 + 9", "unparsable"),
        ("numeric", "0.1", "1/10", "correct"),
        ("numeric", "1/3", "0.333333", "wrong"),
        ("numeric", "five", "5", "wrong"),
        ("text", "Evelyn", " evelyn. ", "correct"),
        ("text", "Evelyn", "Eve", "wrong"),
        ("text", ".", "!", "wrong"),
        ("math", r"\frac{1}{2}", "0.5", "correct"),
        ("math", "(3,4)", r"\left(3, 4\right)", "correct"),
        ("math", "12", "13", "wrong"),
        ("math", "12", "9^9^9^9", "rejected"),
    ],
)
def test_what_needs_no_computer_algebra(kind, gold, answer, outcome):
    assert grade_fast(problem(gold, kind), f"Some steps.\n\nAnswer: {answer}") == outcome


def test_countdown_is_graded_by_its_metadata_and_no_answer_is_unparsable():
    asked = countdown([3, 4, 5], 35)
    assert grade_fast(asked, "Answer: (3 + 4) * 5") == "correct"
    assert grade_fast(asked, "Answer: 35") == "wrong"
    for kind in ("numeric", "math", "text", "countdown"):
        assert grade_fast(problem("7", kind), "I do not know") == "unparsable"
        assert grade_fast(problem("7", kind), "") == "unparsable"


def test_what_only_computer_algebra_can_tell(grader):
    cases = {
        (r"\sum_{k=1}^{10} k", "55"): "correct",
        (r"\int_0^1 x^2 dx", r"\frac13"): "correct",
        ("y = 1/x", "xy = 1"): "correct",
        (r"\sum_{k=1}^{10} k", "54"): "wrong",
        ("2x", "}{"): "unparsable",
    }
    for (gold, answer), outcome in cases.items():
        asked = problem(gold, "math")
        assert grade_fast(asked, f"Answer: {answer}") is None
        verdict = grader.grade_sync(asked, f"Answer: {answer}")
        assert (verdict.outcome, verdict.answer) == (outcome, answer)


@pytest.mark.parametrize(
    ("gold", "answer", "outcome"),
    [
        ("x^2+2x+1", "(x+1)^2", "correct"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", "correct"),
        (r"\{1,2\}", r"\{2,1\}", "correct"),
        ("(3,4)", "(4,3)", "wrong"),
        ("x^2", "x^3", "wrong"),
        ("5", "x", "wrong"),
    ],
)
def test_what_our_own_algebra_tells(gold, answer, outcome):
    assert grade_fast(problem(gold, "math"), f"Answer: {answer}") == outcome


async def test_a_pair_may_be_bare_answers_or_whole_solutions(grader):
    assert (await grader.grade_pair("#### 18", "9 * 2 = 18 dollars.\nThe answer is $18.")).outcome == "correct"
    assert (await grader.grade_pair("18", "It is hard to say. I give up.")).outcome == "unparsable"
    said = "The cat sat on the mat because it was tired."
    assert (await grader.grade_pair(said, said.upper(), "text")).outcome == "correct"
    task = json.dumps({"numbers": [3, 4, 5], "target": 35})
    assert (await grader.grade_pair("35", "(3 + 4) * 5", "countdown", task)).outcome == "correct"
    assert (await grader.grade_pair("35", "35", "countdown", task)).outcome == "wrong"


async def test_seconds_leave_out_the_wait_for_a_free_process(grader):
    slow = r"\int_0^\infty \frac{\sin(x^7)}{\cosh(x^5)+1} dx"
    pairs = [(problem(r"\pi", "math"), f"Answer: {slow} + {number}") for number in range(3)]
    verdicts = await grader.grade_many(pairs)
    assert [verdict.outcome for verdict in verdicts] == ["timeout"] * 3
    assert all(0.9 < verdict.seconds < 2.5 for verdict in verdicts)


@pytest.mark.parametrize("kind", ["numeric", "text", "countdown"])
@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_answers_are_quick_and_never_correct_without_computer_algebra(kind, answer):
    start = time.perf_counter()
    asked = countdown([3, 4, 5], 35) if kind == "countdown" else problem("7", kind)
    for text in (f"Answer: {answer}", rf"\boxed{{{answer}}}", answer):
        assert grade_fast(asked, text) in OUTCOMES - {"correct"}
    assert time.perf_counter() - start < 2


async def test_a_hostile_batch_gets_one_outcome_each_in_order(grader):
    """Honest answers between the hostile ones show that nothing shifts and that nobody is left damaged."""
    pairs = []
    for number, answer in enumerate(HOSTILE):
        pairs += [
            (problem("7", "math"), f"Answer: {answer}"),
            (problem(f"{number}x", "math"), f"Answer: x+x*{number - 1}"),
        ]
    verdicts = await asyncio.wait_for(grader.grade_many(pairs), 120)
    assert len(verdicts) == len(pairs)
    assert all(verdict.outcome in OUTCOMES - {"correct"} for verdict in verdicts[::2])
    assert [verdict.outcome for verdict in verdicts[1::2]] == ["correct"] * len(HOSTILE)
    limit = grader.settings.max_answer_chars
    assert all(len(verdict.answer) <= limit for verdict in verdicts)


mixes = st.lists(st.sampled_from(["right", "wrong", "unreadable", "refused", "algebra", "algebra wrong"]), max_size=12)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mixes)
def test_any_mix_of_failures_keeps_order_and_length(grader, kinds):
    made = {
        "right": (problem("7", "numeric"), "Answer: 7", "correct"),
        "wrong": (countdown([1, 2], 3), "Answer: 1 - 2", "wrong"),
        "unreadable": (problem("7", "math"), "no answer", "unparsable"),
        "refused": (problem("7", "math"), "Answer: 9^9^9^9", "rejected"),
        "algebra": (problem(r"\sum_{k=1}^{3} k", "math"), "Answer: 6", "correct"),
        "algebra wrong": (problem(r"\sum_{k=1}^{3} k", "math"), "Answer: 7", "wrong"),
    }
    verdicts = asyncio.run(grader.grade_many([made[kind][:2] for kind in kinds]))
    assert [verdict.outcome for verdict in verdicts] == [made[kind][2] for kind in kinds]


def test_guards_refuse_what_explodes_and_let_answers_through():
    for answer in (
        "2^{100}",
        "(x^2)^3",
        r"\frac{x^{10}}{y^{20}}",
        r"\binom{10}{3}",
        "5!",
        "x^{2.5}",
        "12345678901234567890",
        "10^{12}",
    ):
        assert guard(answer), answer
    for answer in HOSTILE[:8]:
        assert not guard(answer), answer


def test_only_correct_is_rewarded():
    assert {outcome for outcome in OUTCOMES if reward(outcome) == 1} == {"correct"}
    assert {reward(outcome) for outcome in OUTCOMES - {"correct"}} == {-1}


ARITHMETIC = """
import asyncio, json, sys
from processors.grading import Grader
from schemas.messages import Problem
from schemas.settings import Settings
grader = Grader(Settings())
asked = Problem(id="1", question="q", answer="7", grader="numeric", source="s")
verdicts = asyncio.run(grader.grade_many([(asked, "Answer: 7")] * 3))
heavy = [name for name in ("math_verify", "sympy", "torch", "vllm") if name in sys.modules]
print(json.dumps([len(verdicts), grader.pool.pids(), heavy]))
"""


def test_arithmetic_never_loads_computer_algebra_or_torch():
    out = subprocess.run([sys.executable, "-c", ARITHMETIC], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == [3, [], []]
