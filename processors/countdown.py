"""Whether an expression solves a countdown problem: a small parser over exact rationals, since text is never evaluated.

sum     = product (('+' | '-') product)*
product = factor (('*' | '/') factor)*
factor  = ('-' | '+')* (digits | '(' sum ')')
"""

import re
from collections import Counter
from fractions import Fraction

import msgspec

from processors.answers import clean, rational
from schemas.messages import Outcome

MAX_CHARS = 400
MAX_DEPTH = 24
_OPEN, _CLOSE = "()"
_SIGNS = (
    (re.compile("[\u00d7\u00b7\u22c5]|\\\\(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\u00f7|\\div(?![a-zA-Z])"), "/"),
)
_TOKENS = re.compile(r"(?:\s*(?:[0-9]{1,12}(?![0-9])|[-+*/()]))+\s*")
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")


class BadExpression(ValueError):
    """The text is not an arithmetic expression of the allowed form."""


class Task(msgspec.Struct, frozen=True):
    """A countdown problem's metadata: use every number exactly once to reach the target."""

    numbers: list[int]
    target: int


def grade(metadata: str, answer: str) -> Outcome:
    """The verdict on an answer such as '(3 + 4) * 5' or '(3 + 4) * 5 = 35'.

    'rejected' also stands for metadata that is no task: such a problem cannot be graded.
    """
    try:
        task = msgspec.json.decode(metadata, type=Task)
    except (msgspec.MsgspecError, UnicodeError):
        return "rejected"
    if len(answer) > MAX_CHARS:
        return "rejected"
    expression, equals, claimed = clean(answer).partition("=")
    try:
        numbers, value = evaluate(expression)
    except BadExpression:
        return "unparsable"
    if equals:
        claim = rational(claimed)
        if claim is None:
            return "unparsable"
        if claim.percent or claim.value != value:
            return "wrong"
    return "correct" if value == task.target and Counter(numbers) == Counter(task.numbers) else "wrong"


def evaluate(expression: str) -> tuple[list[int], Fraction | None]:
    """The numbers an expression uses, in order, and its exact value (None where it divides by zero).

    Raises:
        BadExpression: for text outside the grammar, or nested deeper than MAX_DEPTH.
    """
    for pattern, sign in _SIGNS:
        expression = pattern.sub(sign, expression)
    if len(expression) > MAX_CHARS or not _TOKENS.fullmatch(expression):
        raise BadExpression(expression[:80])
    parser = _Parser(_TOKEN.findall(expression))
    value = parser.sum(0)
    if parser.token:
        raise BadExpression(f"unexpected {parser.token}")
    return parser.numbers, value


class _Parser:
    """Recursive descent; recursion happens at parentheses only."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = [*tokens, ""]
        self.at = 0
        self.numbers: list[int] = []

    @property
    def token(self) -> str:
        return self.tokens[self.at]

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def sum(self, depth: int) -> Fraction | None:
        value = self.product(depth)
        while self.token in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            right = self.product(depth)
            value = None if value is None or right is None else value + sign * right
        return value

    def product(self, depth: int) -> Fraction | None:
        value = self.factor(depth)
        while self.token in ("*", "/"):
            divides = self.take() == "/"
            right = self.factor(depth)
            if value is None or right is None or (divides and right == 0):
                value = None
            else:
                value = value / right if divides else value * right
        return value

    def factor(self, depth: int) -> Fraction | None:
        sign = 1
        while self.token in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        token = self.take() if self.token else ""
        if token.isdecimal():
            self.numbers.append(int(token))
            return Fraction(sign * int(token))
        if token != _OPEN or depth >= MAX_DEPTH:
            raise BadExpression(f"unexpected {token or 'end'}")
        value = self.sum(depth + 1)
        if not self.token or self.take() != _CLOSE:
            raise BadExpression("an open parenthesis")
        return None if value is None else sign * value
