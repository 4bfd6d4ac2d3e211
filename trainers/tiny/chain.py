"""Chains of sums and differences as lessons: each line computes the first few terms and carries the rest along.

How many terms a line takes is the learner's choice to make: one is safe, four at a leap go wrong often. That is where
its mistakes come from, and where search finds something to teach.
"""

from dataclasses import dataclass
from random import Random

from schemas.tiny_problems import is_held_out
from trainers.tiny.tasks import Lesson, Line

QUESTION = "State the final answer to the following arithmetic problem: {expression} ="
TERMS = (3, 9)
"""Fewest and most terms in lessons; problems (schemas.tiny_problems) lie within."""
LEAPS = (0.4, 0.3, 0.2, 0.1)
"""How often a line takes 1, 2, 3, 4 terms."""


@dataclass(frozen=True)
class Chain:
    """The sum so far and the signed terms that are left."""

    total: int
    terms: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        """The expression that is left."""
        return _expression(self.total, self.terms)

    @property
    def value(self) -> int:
        """What it comes to."""
        return self.total + sum(number if sign == "+" else -number for sign, number in self.terms)

    def next_line(self, rng: Random, *, plan: bool, slip: bool = False) -> Line:
        """See tasks.State; `plan` means nothing here."""
        del plan
        if not self.terms:
            return Line(f"Answer: {self.total}", None)
        leap = min(rng.choices((1, 2, 3, 4), LEAPS)[0], len(self.terms))
        taken = Chain(self.total, self.terms[:leap])
        value = taken.value + (rng.choice((-10, -2, -1, 1, 2, 10)) if slip else 0)
        return Line(f"Use {self.text}: {taken.text} = {value}", Chain(value, self.terms[leap:]), honest=not slip)


def _expression(total: int, terms: tuple[tuple[str, int], ...]) -> str:
    return " ".join([str(total), *(f"{sign} {number}" for sign, number in terms)])


def lesson(rng: Random) -> Lesson:
    """A chain that is not held out."""
    while True:
        count = rng.randint(*TERMS)
        terms = tuple((rng.choice("+-"), rng.randint(0, 9)) for _ in range(count - 1))
        start = Chain(rng.randint(0, 9), terms)
        if not is_held_out("chain_sum", {"expression": start.text}):
            return Lesson("chain_sum", QUESTION.format(expression=start.text), start, start.value)
