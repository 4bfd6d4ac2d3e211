"""Goals are numbers in the tables: each is reached exactly when what it names is really there."""

import time
from pathlib import Path

import pyarrow as pa
import pytest

from deploy.reproduce import goals as g
from deploy.reproduce import tables
from processors.dataset import Datasets
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.load import load
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE

SETTINGS = load(environment={}, flags=["sft.hand_over_steps=6", "rl.max_steps=4", "evaluate.versions=[2,5]"])


class Written:
    """A data directory that a test writes rows into."""

    def __init__(self, data: Path) -> None:
        self.data, self.at = data, 0
        self.datasets = Datasets(data / "datasets")

    def add(self, *messages) -> None:
        self.datasets.create()
        for message in messages:
            table = BY_MESSAGE[type(message)].table
            place = Place(topic=table, topic_id="t", partition=0, offset=self.at, time_ms=self.at, sha="")
            self.datasets.append(table, pa.Table.from_batches([message_batch(message, place, TABLES[table])]), {})
            self.at += 1

    def reached(self, *goals: g.Goal) -> list[int]:
        return tables.reached(self.data, goals)

    def versions(self, sql: str) -> list[int]:
        return [row[0] for row in tables.rows(self.data, sql)]


@pytest.fixture
def written(tmp_path) -> Written:
    return Written(tmp_path)


def problem(number: int, source: str = "countdown") -> m.Problem:
    return m.Problem(id=f"p{number}", question="q", answer="a", source=source)


def tree(number: int, tokens: int = 100) -> m.Tree:
    fields = {"policy_version": 0, "policy_sha": "", "seed": 0, "iterations": 0, "prompt_tokens": 0, "requests": 0}
    return m.Tree(
        id=f"t{number}", problem=problem(number), nodes=[], generated_tokens=tokens, seconds=0, solved=True, **fields
    )


def trace(number: int) -> m.Trace:
    fields = {"tree_sha": "", "arm": "direct", "walk": [], "segments": [], "text": "", "backtracks": 0}
    return m.Trace(id=f"x{number}", tree_id=f"t{number}", problem=problem(number), wrong_answers=[], **fields)


def example(number: int) -> m.Example:
    fields = {"trace_sha": "", "arm": "direct", "text": "", "backtracks": 0, "verdict": "correct", "checks": []}
    return m.Example(id=f"x{number}", tree_id=f"t{number}", problem=problem(number), **fields)


def filtered(stage: str, key: str, why: str = "w") -> m.Filtered:
    return m.Filtered(id=f"{stage}{key}", stage=stage, input_topic="", input_id=key, why=why)


def weights(version: int, trainer: str = "rl", step: int = 0, handover: bool = False) -> m.Weights:
    return m.Weights(
        policy="policy", version=version, parent=0, path="", sha256=f"s{version}", trainer=trainer, step=step,
        handover=handover,
    )  # fmt: skip


def step(trainer: str, number: int) -> m.TrainingStep:
    fields = {"version": 0, "loss": 0, "lr": 0, "grad_norm": 0, "tokens": 0, "rows": []}
    return m.TrainingStep(id=f"{trainer}:{number}", run=trainer, trainer=trainer, step=number, **fields)


def answers(version: int, number: int, asked: str = "a") -> m.Answers:
    lists = {"texts": ["x"], "verdicts": ["correct"], "tokens": [1], "backtracks": [0], "finishes": ["stop"]}
    return m.Answers(
        id=f"{asked}{version}{number}", asked=asked, policy="policy", version=version, sha=f"s{version}", trainer="rl",
        problem=problem(number, "test"), **lists,
    )  # fmt: skip


def evaluation(version: int, source: str, asked: str = "a") -> m.Evaluation:
    numbers = {"pass_at_1": 1, "low": 1, "high": 1, "tokens": 1, "backtracks": 0, "unparsable": 0}
    return m.Evaluation(
        id=f"{asked}{version}{source}", policy="policy", version=version, sha=f"s{version}", trainer="rl",
        source=source, problems=2, asked=asked, samples=1, greedy=False, max_tokens=192, **numbers,
    )  # fmt: skip


def test_without_tables_nothing_is_reached(written):
    assert written.reached(g.searched(3), *g.trained(SETTINGS, rl=True)) == [0] * 5
    assert written.versions(g.LAST_ONES) == []


def test_a_problem_is_searched_when_all_that_follows_from_it_is_there(written):
    goal = g.searched(3)
    written.add(problem(1), problem(2), problem(3), problem(4))
    assert written.reached(goal) == [0]
    written.add(tree(1), tree(2), filtered("search", "p3"))
    assert written.reached(goal) == [1], "the third has a reason, two wait for the linearizer"
    written.add(trace(1), filtered("linearize", "t2"))
    assert written.reached(goal, g.worded()) == [2, 1]
    written.add(example(1))
    assert written.reached(goal, g.worded()) == [3, 2]
    assert tables.number(written.data, g.worded().of_sql) == 2


def test_tokens_are_those_of_the_trees(written):
    written.add(tree(1, 30), tree(2, 12))
    goal = g.spent_as_much("search")
    assert written.reached(goal) == [42] == [tables.number(written.data, goal.of_sql)]


def test_training_is_done_with_its_last_version(written):
    goals = g.trained(SETTINGS, rl=True)
    assert [goal.of for goal in goals] == [6, 1, 4, 1]
    written.add(*(step("sft", n) for n in range(1, 7)), *(step("rl", n) for n in range(1, 5)), weights(0, "base"))
    assert written.reached(*goals) == [6, 0, 4, 0]
    written.add(weights(2, "sft", 6, handover=True), weights(3, step=2))
    assert written.reached(*goals) == [6, 1, 4, 0]
    written.add(weights(4, step=4))
    assert written.reached(*goals) == [6, 1, 4, 1]
    assert len(g.trained(SETTINGS, rl=False)) == 2


def test_an_evaluation_counts_when_its_answers_are_there(written):
    goal = g.evaluated("test", SETTINGS)
    assert goal.of == 2
    written.add(evaluation(2, "test"), evaluation(2, "all"), answers(2, 1))
    assert written.reached(goal) == [0]
    written.add(answers(2, 2, asked="other"))
    assert written.reached(goal) == [0]
    written.add(answers(2, 2))
    assert written.reached(goal) == [1]
    written.add(*(answers(5, n, "d") for n in (1, 2)), evaluation(5, "dev", "d"), evaluation(5, "all", "d"))
    assert written.reached(goal) == [1], "another file"
    assert written.reached(g.evaluated("dev", SETTINGS)) == [1]
    written.add(*(answers(7, n) for n in (1, 2)), evaluation(7, "test"), evaluation(7, "all"))
    assert written.reached(goal) == [1], "a version that is not wanted"


def test_the_versions_of_the_table_and_of_the_curve(written):
    written.add(weights(0, "base"), weights(1, "sft"), weights(2, "sft", handover=True))
    assert written.versions(g.LAST_ONES) == [2]
    assert written.versions(g.curve(3)) == [2]
    written.add(*(weights(n) for n in range(3, 13)))
    assert written.versions(g.LAST_ONES) == [2, 12]
    assert written.versions(g.curve(3)) == [2, 7, 12]
    assert written.versions(g.curve(2)) == [2, 12]
    assert written.versions(g.curve(100)) == list(range(2, 13))
    assert len(written.versions(g.curve(8))) <= 8


def test_a_version_given_up_is_told(written):
    written.add(filtered("evaluate", "5:s5", "not evaluated: log-probs differ"), filtered("evaluate", "6:s6", "other"))
    assert written.versions(g.given_up([5], 0.0)) == ["5:s5: not evaluated: log-probs differ"]
    assert written.versions(g.given_up([5], time.time() + 60)) == []
    assert written.versions(g.given_up([2], 0.0)) == []
