"""What a response stated before its end: the answers between its backtracks, so that first attempts can be graded.

The mission's question is whether a model learns to err first in order to correct itself. So the first stated answer is
graded as the last one is, and so is what each backtrack leaves.
"""

import re
from collections.abc import Sequence

import msgspec

from processors.chat import GO_BACK, RESTART, STEP_END, count_backtracks, states_answer
from processors.grading import Grader
from schemas.messages import Outcome, Problem

_JUMP = re.compile(f"{re.escape(GO_BACK)}|{re.escape(RESTART)}")


class Course(msgspec.Struct, frozen=True):
    """How one response came to its end."""

    first_right: bool
    """Its first stated answer is right."""
    left_right: int
    """Backtracks before which the last stated answer was right."""


def stretches(text: str) -> list[list[str]]:
    """The steps that state an answer, stretch by stretch: one stretch more than there are backtracks.

    The sentence that announces a backtrack quotes an earlier step, so its own paragraph states nothing.
    """
    first, *others = _JUMP.split(text)
    pieces = [first, *(other.partition(STEP_END)[2] for other in others)]
    found = [[step for step in piece.split(STEP_END) if states_answer(step)] for piece in pieces]
    assert len(found) == count_backtracks(text) + 1
    return found


class Courses:
    """Grades the stated answers of responses; equal steps of one problem once.

    Args:
        grader: the factory's.
    """

    def __init__(self, grader: Grader) -> None:
        self.grader = grader
        self._problem = ""
        self._known: dict[str, bool] = {}

    def of(self, problem: Problem, text: str, verdict: Outcome) -> Course:
        """The course of one response.

        Args:
            problem: what was asked.
            text: the response.
            verdict: of the whole response, which is not graded again.
        """
        if problem.id != self._problem:
            self._problem, self._known = problem.id, {}
        parts = stretches(text)
        stated = [step for part in parts for step in part]
        if not stated:
            return Course(first_right=False, left_right=0)
        final = verdict == "correct"
        first = final if len(stated) == len(parts) == 1 else self._right(problem, stated[0])
        return Course(first, self._left(problem, parts))

    def _left(self, problem: Problem, parts: Sequence[Sequence[str]]) -> int:
        last, count = "", 0
        for part in parts[:-1]:
            last = part[-1] if part else last
            count += bool(last) and self._right(problem, last)
        return count

    def _right(self, problem: Problem, step: str) -> bool:
        if step not in self._known:
            self._known[step] = self.grader.grade_sync(problem, step).outcome == "correct"
        return self._known[step]
