"""The language of the tiny policy's lessons: a problem is a state, a solution is lines that change the state.

Every line names the state it starts from ("Use 3, 5, 7 to make 24: 5 + 3 = 8"), so that whoever goes on copies from
the line just above, and whoever starts again copies from the question: local copying is what a small model can do.
"""

from dataclasses import dataclass
from random import Random
from typing import Protocol


@dataclass(frozen=True)
class Line:
    """One step of a solution."""

    text: str
    after: "State | None"
    """The state that it leads to; None after the answer."""
    honest: bool = True
    """False where the result was falsified on purpose (for lessons in checking; such lines are never learned)."""


class State(Protocol):
    """Where a solution stands."""

    def next_line(self, rng: Random, *, plan: bool, slip: bool = False) -> Line:
        """A next step.

        Args:
            rng: chooses among the possible steps.
            plan: look ahead for a step that leads to a solution.
            slip: falsify the result.
        """
        ...


@dataclass(frozen=True)
class Lesson:
    """A problem as the learner sees it."""

    family: str
    question: str
    start: State
    gold: int
    """The target, or the sum."""


@dataclass(frozen=True)
class Attempt:
    """A solution from some state to an answer."""

    lines: list[Line]
    right: bool


class Family(Protocol):
    """Where lessons come from."""

    def __call__(self, rng: Random) -> Lesson:
        """A problem that is not held out."""
        ...


def attempt(state: State, rng: Random, *, plan: bool, slip: bool = False) -> list[Line]:
    """Lines from `state` to an answer; with `slip` one of them (not the answer) has a false result."""
    lines: list[Line] = []
    position: State | None = state
    falsified = not slip
    while position is not None:
        now = not falsified and rng.random() < 0.5
        line = position.next_line(rng, plan=plan, slip=now)
        falsified = falsified or not line.honest
        lines.append(line)
        position = line.after
    return lines
