"""The project's own answer pairs, judged by hand as a careful mathematician would, through the real grader."""

import json
from collections import Counter
from pathlib import Path

import pytest

from processors.grading import Grader
from schemas.settings import Settings

PAIRS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def grader():
    made = Grader(Settings())
    yield made
    made.close()


async def test_every_pair_gets_the_outcome_it_was_judged_to_have(grader):
    wrong = []
    for pair in PAIRS:
        verdict = await grader.grade_pair(pair["gold"], pair["answer"])
        if verdict.outcome != pair["outcome"]:
            wrong.append((pair["gold"], pair["answer"], pair["outcome"], verdict.outcome))
    assert wrong == []


async def test_equality_of_bare_answers_does_not_depend_on_the_side(grader):
    """Except where the rules say so: units and names that one side leaves out, equations, base numerals, boxes."""
    sided = (
        "base",
        "solution",
        "boxes",
        "stated",
        "equation",
        "refused",
        "letter",
        "text",
        "name",
        "numeral",
        "everyday",
    )
    for pair in PAIRS:
        if pair["outcome"] in ("correct", "wrong") and not any(word in pair["why"] for word in sided):
            verdict = await grader.grade_pair(pair["answer"], pair["gold"])
            assert verdict.outcome == pair["outcome"], pair


def test_the_set_is_what_it_says_it_is():
    outcomes = Counter(pair["outcome"] for pair in PAIRS)
    assert len(PAIRS) >= 200
    assert min(outcomes["correct"], outcomes["wrong"]) >= 100
    assert len({(pair["gold"], pair["answer"]) for pair in PAIRS}) == len(PAIRS)
    assert all(pair.keys() == {"gold", "answer", "outcome", "why"} and pair["why"] for pair in PAIRS)
