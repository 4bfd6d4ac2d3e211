"""From the tables of an experiment to its arms: a matrix (seeds, problems) a metric and arm, all on the same problems.

An arm is a stage of a data directory: 'astro' gives astro_sft (the version that SFT handed over) and astro_rl (RL's
last one). The base has one set of answers, which stands beside every seed.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from deploy.reproduce.report_attempts import Courses
from deploy.reproduce.report_facts import Directory, Scored
from deploy.reproduce.report_numbers import Matrix
from processors.answers import extract_answer
from processors.grading import Grader
from schemas.errors import Told
from schemas.settings import Settings
from trainers.scores import maj_at_k, pass_at_k, vote

TEST = "test"
SIMPLE = ("pass_at_1", "tokens", "backtracks", "with_backtrack", "truncated", "unparsable")
"""Metrics that are columns of report_facts.SCORES."""


class NothingToReport(Told, RuntimeError):
    """The experiment has no answers yet; the text says what to do."""


class Cell(msgspec.Struct, frozen=True):
    """One seed of an arm: its values by metric and problem id, and its responses."""

    seed: int
    values: dict[str, dict[str, float]]
    scored: dict[str, Scored]
    spent: dict[str, Any]


class Table(msgspec.Struct, frozen=True):
    """One arm on the problems that all arms share."""

    name: str
    seeds: tuple[int, ...]
    values: dict[str, Matrix]
    """By metric, (seeds, problems)."""
    cells: tuple[Cell, ...]

    def on(self, seeds: Sequence[int]) -> dict[str, Matrix]:
        """The rows of these seeds; one row that stands for all of them (the base) is repeated."""
        if self.seeds == (-1,):
            return {name: np.repeat(matrix, len(seeds), axis=0) for name, matrix in self.values.items()}
        rows = [self.seeds.index(seed) for seed in seeds]
        return {name: matrix[rows] for name, matrix in self.values.items()}

    def at_k(self, kind: str) -> dict[int, str]:
        """The metrics 'pass@k' or 'maj@k', by k, 1 among them."""
        found = {int(name.partition("@")[2]): name for name in self.values if name.startswith(f"{kind}@")}
        return {1: "pass_at_1", **found}


@contextmanager
def graders() -> Iterator[Courses]:
    """A grader with the default limits, closed at the end."""
    grader = Grader(Settings())
    try:
        yield Courses(grader)
    finally:
        grader.close()


def tables(out: Path, plan: Mapping[str, Any]) -> dict[str, Table]:
    """Every arm that has answers to the test, by its name in the report, the base first.

    Args:
        out: the experiment's directory.
        plan: its plan.json.

    Raises:
        NothingToReport: when none has.
    """
    cells: dict[str, list[Cell]] = {}
    ks = [k for k in (2, 4, 8, 16, 32, 64) if k <= plan["samples"]]
    with graders() as courses:
        for directory, seed, name in places(plan):
            if not (out / directory / "datasets").exists():
                continue
            with Directory(out / directory) as facts:
                spent = facts.spent() if seed >= 0 else {}
                for stage, version in facts.versions().items():
                    if (stage == "base") == (seed < 0) and (scored := facts.scores(version, TEST)):
                        arm = "base" if stage == "base" else f"{name}_{stage}"
                        cells.setdefault(arm, []).append(cell(seed, scored, spent, ks, courses))
    if not cells:
        raise NothingToReport(f"{out}: no version has answered the test yet: `factory reproduce` goes on with it")
    shared = sorted(set.intersection(*(set(one.scored) for found in cells.values() for one in found)))
    if not shared:
        raise NothingToReport(f"{out}: the arms answered different problems: choose another --out")
    return {name: table(name, found, shared) for name, found in cells.items()}


def places(plan: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(directory, seed, the arm's name in the report) of the base (seed -1) and every trained arm."""
    dirs = plan["dirs"]
    trained = [(path, int(one["seed"]), one["arm"].replace("-", "_")) for path, one in dirs["arms"].items()]
    return [(dirs["search"], -1, "base"), *sorted(trained, key=lambda place: place[1])]


def cell(seed: int, scored: Sequence[Scored], spent: Mapping[str, Any], ks: Sequence[int], courses: Courses) -> Cell:
    """One seed's values of every metric."""
    values: dict[str, dict[str, float]] = {}
    for one in scored:
        for name, value in {**simple(one), **told(one, courses), **at_k(one, ks)}.items():
            values.setdefault(name, {})[one.problem.id] = value
    return Cell(seed, values, {one.problem.id: one for one in scored}, dict(spent))


def simple(one: Scored) -> dict[str, float]:
    """The columns of SCORES."""
    return {name: float(getattr(one, name)) for name in SIMPLE}


def told(one: Scored, courses: Courses) -> dict[str, float]:
    """Means over the samples of what the texts tell: first attempts, corrections, what backtracks leave."""
    found = [courses.of(one.problem, text, verdict) for text, verdict in zip(one.texts, one.verdicts, strict=True)]
    final = [verdict == "correct" for verdict in one.verdicts]
    first = [course.first_right for course in found]
    count = len(found)
    return {
        "first_attempt": sum(first) / count,
        "self_corrected": sum(last and not was for was, last in zip(first, final, strict=True)) / count,
        "spoiled": sum(was and not last for was, last in zip(first, final, strict=True)) / count,
        "left_right": sum(course.left_right for course in found) / count,
    }


def at_k(one: Scored, ks: Sequence[int]) -> dict[str, float]:
    """pass@k and maj@k of one problem (trainers/scores.py says how)."""
    right = [verdict == "correct" for verdict in one.verdicts]
    answers = [extract_answer(text) for text in one.texts]
    keys = {answer: vote(one.problem, answer) for answer in set(answers)}  # most samples repeat each other
    votes = [(keys[answer], correct) for answer, correct in zip(answers, right, strict=True)]
    fitting = [k for k in ks if k <= len(right)]
    return {
        **{f"pass@{k}": pass_at_k(len(right), sum(right), k) for k in fitting},
        **{f"maj@{k}": maj_at_k(votes, k) for k in fitting},
    }


def table(name: str, cells: Sequence[Cell], problems: Sequence[str]) -> Table:
    """The matrices of an arm."""
    metrics = [metric for metric in cells[0].values if all(metric in one.values for one in cells)]
    values = {
        metric: np.array([[one.values[metric][problem] for problem in problems] for one in cells]) for metric in metrics
    }
    return Table(name, tuple(one.seed for one in cells), values, tuple(cells))
