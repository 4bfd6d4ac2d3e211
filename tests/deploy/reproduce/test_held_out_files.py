"""The test and dev files: reserved problems only, none twice, the same each time."""

import itertools
import json
from pathlib import Path

import pytest

from deploy.reproduce import problems
from producers.sources.held_out import Reserved, held_out
from producers.sources.opening import open_all
from schemas.load import load
from schemas.tiny_problems import is_held_out


def keys(content: bytes) -> list[tuple[tuple[int, ...], int]]:
    facts = [json.loads(json.loads(line)["metadata"]) for line in content.splitlines()]
    return [(tuple(sorted(one["numbers"])), one["target"]) for one in facts]


def test_no_problem_is_in_both_or_twice_and_all_are_reserved():
    made = problems.files(30, 10)
    both = keys(made["test"]) + keys(made["dev"])
    assert len(both) == len(set(both)) == 40
    assert all(is_held_out("countdown", {"numbers": numbers, "target": target}) for numbers, target in both)
    assert made == problems.files(30, 10)
    assert problems.files(5, 5)["test"] == b"".join(made["test"].splitlines(keepends=True)[:5])


def test_the_evaluation_asks_them_with_their_own_grader_and_no_producer_emits_one(tmp_path):
    problems.write(tmp_path, problems.files(20, 5))
    settings = load(environment={}, flags=[f"evaluate.file={tmp_path / 'test.jsonl'}", "evaluate.problems=20"])
    asked = held_out(settings)
    assert len(asked) == 20
    assert {(one.source, one.grader) for one in asked} == {("test", "countdown")}
    assert all({"numbers", "target"} <= json.loads(one.metadata).keys() for one in asked)
    reserved = Reserved(settings)
    source = next(one for one, _ in open_all(settings) if one.name == "countdown")
    produced = [item.problem for item in itertools.islice(source.items(), 300) if item.problem and not item.held_out]
    texts = {one.question for one in asked}
    assert not texts & {one.question for one in produced}
    assert not any(reserved.why(one) for one in produced[:100])
    assert all(reserved.why(one) for one in asked)


def test_more_than_are_reserved_is_refused():
    with pytest.raises(ValueError, match="are reserved"):
        problems.files(10_000, 1)


def test_another_file_in_its_place_is_refused(tmp_path: Path):
    made = problems.files(4, 2)
    problems.write(tmp_path, made)
    assert {name: (tmp_path / f"{name}.jsonl").read_bytes() for name in made} == made
    problems.write(tmp_path, made)
    with pytest.raises(problems.OtherProblems, match=r"test\.jsonl"):
        problems.write(tmp_path, problems.files(5, 2))
