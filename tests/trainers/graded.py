"""Graded answers to made-up problems, for the tests of the evaluator."""

from processors.grading import Verdict
from schemas.messages import Problem, Weights, content_id
from trainers.samples import Sample
from trainers.scores import Answered


def weights(version: int, sha: str = "", **fields) -> Weights:
    values = {"policy": "policy", "parent": version - 1, "path": f"/w/{version}", "trainer": "sft"} | fields
    return Weights(version=version, sha256=sha or f"sha{version}", **values)


def problem(source: str = "s", number: int = 0, **fields) -> Problem:
    values = {"question": f"{number}?", "answer": "1", "source": source} | fields
    return Problem(id=content_id(source, number), **values)


def answered(source: str, number: int, answer: str, *, text: str = "", tokens: int = 10, nth: int = 0) -> Answered:
    of = problem(source, number)
    sample = Sample(
        draw=content_id(source, number, nth), problem=of.id, number=nth, tokens=tokens, finish="stop", text=text
    )
    outcome = "correct" if answer == "1" else "wrong" if answer else "unparsable"
    return Answered(of, sample, Verdict(outcome, answer))
