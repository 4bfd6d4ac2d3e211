"""reasoning-gym's own scorers: only those that evaluate no text, and only in the killable process."""

import inspect
import json
import re
import warnings

import pytest

from processors.grading import Grader
from processors.gym_graders import SCORED, may_score
from producers.sources.gym import Gym
from schemas.messages import Problem

EVALUATES = re.compile(
    r"\b(?:eval|exec|compile|parse_expr|sympify|literal_eval|__import__|open|subprocess|pickle|loadtxt)\b\s*\("
    r"|import (?:subprocess|pickle)|os\.system"
)


@pytest.fixture(scope="module")
def gym():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import reasoning_gym
    return reasoning_gym


def test_the_modules_of_allowed_scorers_evaluate_nothing(gym):
    from reasoning_gym.factory import DATASETS

    risky = {name for name in SCORED if EVALUATES.search(inspect.getsource(inspect.getmodule(DATASETS[name][0])))}
    assert risky == set()
    assert EVALUATES.search(inspect.getsource(inspect.getmodule(DATASETS["puzzle24"][0]))), "the pattern finds one"


def test_a_gold_answer_has_full_marks_after_its_entry_went_through_json(gym):
    for name in sorted(SCORED):
        dataset = gym.create_dataset(name, size=2, seed=3)
        for entry in dataset:
            told = json.loads(json.dumps({key: entry[key] for key in ("question", "answer", "metadata")}))
            assert gym.get_score_answer_fn(name)(entry["answer"], told) >= 1, name


def first(generator: str, **params) -> Problem:
    return next(item.problem for item in Gym(generator, params, 0).items() if item.problem)


async def test_another_right_answer_is_right(make_settings):
    """A palindrome of the same letters in another order, and a shortest path that only the grid can judge."""
    grader = Grader(make_settings())
    problem = first("palindrome_generation", min_length=5, max_length=9)
    assert problem.grader == "gym"
    gold = problem.answer
    half, middle = gold[: len(gold) // 2], gold[len(gold) // 2 : len(gold) - len(gold) // 2]
    other = half[::-1] + middle + half
    verdicts = await grader.grade_many([
        (problem, f"Answer: {answer}") for answer in (gold, other, gold + "x", "__import__('os').abort()", "")
    ])  # fmt: skip
    outcomes = [verdict.outcome for verdict in verdicts]
    assert outcomes == ["correct", "correct", "wrong", "wrong", "unparsable"]
    grader.close()


async def test_math_and_scorers_take_turns_in_one_process(make_settings):
    grader = Grader(make_settings())
    scored = first("shortest_path")
    math = Problem(id="m", question="", answer="x y", source="s")
    pairs = [(math, r"Answer: y x"), (scored, f"Answer: {scored.answer} up"), (math, r"Answer: y x^2")] * 2
    outcomes = [verdict.outcome for verdict in await grader.grade_many(pairs)]
    assert outcomes == ["correct", "wrong", "wrong"] * 2
    grader.close()


@pytest.mark.parametrize(
    "metadata", ["", "[]", "{}", '{"generator": "puzzle24", "entry": {}}', '{"generator": "sudoku"}', "\ud800"]
)
async def test_a_problem_file_cannot_name_another_scorer(make_settings, metadata):
    assert not may_score(metadata)
    problem = Problem(id="m", question="", answer="24", source="s", grader="gym", metadata=metadata)
    grader = Grader(make_settings())
    assert (await grader.grade(problem, "Answer: 24")).outcome == "rejected"
    assert grader.pool.pids() == []
