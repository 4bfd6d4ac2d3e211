"""Countdown as lessons: questions in reasoning-gym's words, and solutions that are sometimes planned, often guessed.

A planned attempt knows a first step that leads to the target; a guessed one takes any first step and computes honestly
what comes of it. A learner shown planned ones only would learn to write the target behind any equals sign.
"""

from dataclasses import dataclass
from random import Random

from schemas.tiny_problems import COUNTDOWN, is_held_out
from trainers.tiny.tasks import Lesson, Line

QUESTIONS = (
    (
        "Using all the numbers {numbers}, create an expression that equals {target}.",
        "\nYou can only use each number once.",
    ),
    ("Find a way to make {target} using all of these numbers: {numbers}.", "\nEach number can only be used once."),
    ("Calculate {target} using all of these numbers: {numbers}.", "\nEach number may be used at most once."),
)
FORMAT = """

Final answer format instructions:
1. Provide your solution as a arithmetic expression (no '=' sign).
2. Do not include the target number in the expression.
3. Use '*' for multiplication.
4. Use '/' for division.
5. Do not include any other text or formatting."""
LARGEST = 90
"""Steps never go beyond: the tokenizer has one token for each number up to here."""
HIT, MISS = ", hit", ", miss"
"""A last step ends with whether its result is the target: whoever checks a solution later needs to find one word."""
CAREFUL = 0.95
"""How often a last step that reaches the target is seen where there is one."""


@dataclass(frozen=True)
class Item:
    """A number that may be used, and the expression it came from."""

    value: int
    text: str

    @property
    def operand(self) -> str:
        """The expression as a part of a larger one."""
        return f"({self.text})" if " " in self.text else self.text


@dataclass(frozen=True)
class Move:
    """An operation on two of the items."""

    left: Item
    sign: str
    right: Item
    value: int
    rest: tuple[Item, ...]

    @property
    def after(self) -> "Countdown":
        """The items afterwards, the result first; the target is filled in by the caller."""
        joined = Item(self.value, f"{self.left.operand} {self.sign} {self.right.operand}")
        return Countdown((joined, *self.rest), 0)


@dataclass(frozen=True)
class Countdown:
    """The numbers left and the target."""

    items: tuple[Item, ...]
    target: int

    def moves(self) -> list[Move]:
        """Every step with a whole positive result up to LARGEST, the larger number first."""
        found = []
        for i, one in enumerate(self.items):
            for j in range(i + 1, len(self.items)):
                other = self.items[j]
                big, small = (one, other) if one.value >= other.value else (other, one)
                rest = tuple(item for k, item in enumerate(self.items) if k not in (i, j))
                found += [Move(big, sign, small, value, rest) for sign, value in _results(big.value, small.value)]
        return found

    def reaches(self) -> bool:
        """Whether the target can be made from here."""
        if len(self.items) == 1:
            return self.items[0].value == self.target
        return any(self.then(move).reaches() for move in self.moves())

    def then(self, move: Move) -> "Countdown":
        """The state after a move."""
        return Countdown(move.after.items, self.target)

    def next_line(self, rng: Random, *, plan: bool, slip: bool = False) -> Line:
        """See tasks.State."""
        if len(self.items) == 1:
            return Line(f"Answer: {self.items[0].text}", None)
        moves = self.moves()
        look = plan or (len(self.items) == 2 and rng.random() < CAREFUL)
        good = [move for move in moves if self.then(move).reaches()] if look else []
        move = rng.choice(good or moves)
        if slip:
            near = [move.value + error for error in (-10, -2, -1, 1, 2, 10)]
            wrong = rng.choice([value for value in near if 1 <= value <= LARGEST])
            move = Move(move.left, move.sign, move.right, wrong, move.rest)
        numbers = ", ".join(str(item.value) for item in self.items)
        equation = f"{move.left.value} {move.sign} {move.right.value} = {move.value}"
        if not move.rest:
            equation += HIT if move.value == self.target else MISS
        return Line(f"Use {numbers} to make {self.target}: {equation}", self.then(move), honest=not slip)


def _results(big: int, small: int) -> list[tuple[str, int]]:
    results = [("+", big + small)]
    if big > small:
        results.append(("-", big - small))
    results.append(("*", big * small))
    if small > 1 and big % small == 0:
        results.append(("/", big // small))
    return [(sign, value) for sign, value in results if value <= LARGEST]


def question(numbers: list[int], target: int, wording: int) -> str:
    """The question in reasoning-gym's words, its trailing newline stripped (as the chat template does)."""
    first, second = QUESTIONS[wording]
    return first.format(numbers=", ".join(map(str, numbers)), target=target) + second + FORMAT


def lesson(rng: Random) -> Lesson:
    """A solvable problem that is not held out."""
    while True:
        numbers = [rng.randint(COUNTDOWN["min_value"], COUNTDOWN["max_value"]) for _ in range(3)]
        state = Countdown(tuple(Item(number, str(number)) for number in numbers), 0)
        for _ in range(2):
            state = state.then(rng.choice(state.moves()))
        target = state.items[0].value
        in_range = COUNTDOWN["min_target"] <= target <= COUNTDOWN["max_target"]
        if in_range and not is_held_out("countdown", {"numbers": numbers, "target": target}):
            break
    start = Countdown(tuple(Item(number, str(number)) for number in numbers), target)
    return Lesson("countdown", question(numbers, target, rng.randrange(3)), start, target)
