"""The countdown checker: exact, by its own parser, and nothing else than arithmetic is ever understood."""

import json
from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.countdown import BadExpression, evaluate, grade

TASK = json.dumps({"numbers": [3, 4, 5], "target": 35, "difficulty": {"other": [1]}})


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("(3 + 4) * 5", "correct"),
        ("(3 + 4) * 5 = 35", "correct"),
        (r"$(3 + 4) \times 5$", "correct"),
        ("5\u00d7(4+3).", "correct"),
        ("5 * (4 - -3)", "correct"),
        ("(3 + 4) * 5 = 34", "wrong"),
        ("(3 + 4) * 5 = 35%", "wrong"),
        ("3 + 4 * 5", "wrong"),
        ("35", "wrong"),
        ("3 * 4 * 5 - 25", "wrong"),
        ("(3 + 4) * 5 + 3 - 3", "wrong"),
        ("5 / (4 - 4)", "wrong"),
        ("(3 + 4) * 5 = 35 = 35", "unparsable"),
        ("(3 + 4) 5", "unparsable"),
        ("(3 + 4 5", "unparsable"),
        ("(3 + 4)) * 5", "unparsable"),
        ("7 ** 2", "unparsable"),
        ("7 // 2", "unparsable"),
        ("3 ^ 4", "unparsable"),
        ("3.0 + 4", "unparsable"),
        ("\u0663 + 4", "unparsable"),
        ("int('35')", "unparsable"),
        ("__import__('os').system('true')", "unparsable"),
        ("(" * 300, "unparsable"),
        ("(" * 30 + "3" + ")" * 30, "unparsable"),
        ("-" * 300 + "3", "wrong"),
        ("9" * 390, "unparsable"),
        ("3 + " * 1000 + "3", "rejected"),
        ("", "unparsable"),
        ("=", "unparsable"),
        ("\x00", "unparsable"),
    ],
)
def test_grades(answer, outcome):
    assert grade(TASK, answer) == outcome


@pytest.mark.parametrize(
    "metadata", ["", "{}", "[]", '{"numbers": "345", "target": 35}', '{"numbers": [3], "target": 1.5}', "\ud800"]
)
def test_a_problem_that_is_none_is_rejected(metadata):
    assert grade(metadata, "3") == "rejected"


def expression(rng: Random, numbers: list[int]) -> tuple[str, Fraction | None]:
    """A random expression over these numbers, and its value computed while it is built."""
    if len(numbers) == 1:
        return str(numbers[0]), Fraction(numbers[0])
    cut = rng.randrange(1, len(numbers))
    (left, a), (right, b) = expression(rng, numbers[:cut]), expression(rng, numbers[cut:])
    sign = rng.choice("+-*/")
    text = f"({left}){sign} ({right})"
    if a is None or b is None or (sign == "/" and b == 0):
        return text, None
    return text, {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else a}[sign]


@settings(deadline=None)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.integers())
def test_values_agree_with_how_the_expression_was_built(numbers, seed):
    text, value = expression(Random(seed), numbers)
    assert evaluate(text) == (numbers, value)


@settings(deadline=None)
@given(st.text(alphabet="0123456789+-*/() =", max_size=40))
def test_text_that_looks_like_arithmetic_is_valued_exactly_or_refused(text):
    try:
        numbers, value = evaluate(text)
    except BadExpression:
        return
    assert all(str(number) in text for number in numbers)
    assert value is None or isinstance(value, Fraction)
    assert "**" not in text
    assert "//" not in text


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_text_gets_an_outcome(text):
    assert grade(TASK, text) in {"correct", "wrong", "unparsable"}
