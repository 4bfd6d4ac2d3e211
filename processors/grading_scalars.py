r"""Whether two single answers agree: numbers with units, labelled values, equations, numerals, ratios.

A name before an equals sign ('x = 5', 'f(2) = 5', 'a + b = 5') labels the answer, but two names must agree, and an
equation that is still to be solved ('2x + 1 = 5') is no number. Decimals are exact: 0.333 is not 1/3. Verdicts have
three values: None where a part was not understood.
"""

import re
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise

from processors import grading_algebra as algebra
from processors.answers import normal, rational
from processors.grading_regions import INFINITY
from processors.grading_text import split, unwrapped
from processors.grading_units import PERCENT, factor, quantity

NAME = re.compile(
    r"(?:\\?[A-Za-z]+'*(?:_\{?\w+\}?)?'*|\\text\{[^{}]*\}|[A-Za-z]['\w]*(?:\^\{-1\})?\([^()]*\)|\\[a-z]+\s*[A-Za-z]+"
    r"|\|[A-Za-z]+\||\\(?:overline|vec|hat|bar|mathbf|text)\{[^{}]*\}|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\))"
)
"""What may stand before an equals sign as a name: x, x_1, f(2), AB, \angle ABC, |AB|, (x, y), a word in \text."""
_BASE = re.compile(r"\(?(?P<digits>[0-9A-Fa-f]+)\)?_\{?\s*(?:\\text\{)?(?P<base>[0-9]{1,2})\}?\}?")
_RATIO = re.compile(r"[^:]+(?::[^:]+)+")


def all_of(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether all are true, in three values."""
    found = list(verdicts)
    return False if False in found else None if None in found else True


def any_of(verdicts: Iterable[bool | None]) -> bool | None:
    """Whether one is true, in three values."""
    found = list(verdicts)
    return True if True in found else None if None in found else False


def scalars(gold: str, answer: str) -> bool | None:
    """Whether two plain texts without structure agree; None where one was not understood."""
    if normal(gold) == normal(answer):
        return True
    for rule in (_approximations, _infinities, _equations, _bases, _ratios):
        verdict = rule(gold, answer)
        if verdict is not None:
            return verdict
    return _quantities(gold, answer)


def _infinities(gold: str, answer: str) -> bool | None:
    ends = [text.replace(" ", "").removeprefix("+") for text in (gold, answer)]
    if not any(end in (INFINITY, "-" + INFINITY) for end in ends) or any("=" in end for end in ends):
        return None
    return ends[0] == ends[1]


def _approximations(gold: str, answer: str) -> bool | None:
    r"""'10\pi \approx 31.4' states both numbers; 'x \approx 3' one."""
    mine, others = split(gold, r"\approx"), split(answer, r"\approx")
    if len(mine) == len(others) == 1 or not all(mine) or not all(others):
        return None
    if max(len(mine), len(others)) > 2:  # a chain could name any number
        return False
    for left, *right in (mine, others):
        if right and not NAME.fullmatch(left) and not (agrees := algebra.near(left, right[0])):
            return agrees
    return any_of(scalars(one, other) for one in mine for other in others)


def _equations(gold: str, answer: str) -> bool | None:
    """By the sides of '=' signs; None where neither has one."""
    mine, others = (split(text, "=", r"\equiv") for text in (gold, answer))
    if len(mine) == 1 and len(others) == 1:
        return _inequalities(gold, answer)
    if not all(mine) or not all(others):
        return None
    if len(mine) > 1 and len(others) > 1:
        return _two_equations(mine, others)
    label, rest = (mine, answer) if len(mine) > 1 else (others, gold)
    if _is_label(label) and (label is others or not _is_sum(label[0])):
        return scalars(*((label[-1], rest) if label is mine else (rest, label[-1])))
    return False


def _is_sum(side: str) -> bool:
    """Whether a side is an expression in letters and no name: a gold equation is never just the value of one."""
    return not NAME.fullmatch(side) and len(algebra.letters(side) or ()) > 0


def _is_label(sides: list[str]) -> bool:
    """Whether what stands before the last '=' names the value, or is arithmetic that leads to it."""
    first = sides[0]
    if NAME.fullmatch(first) or re.search(r"\\(?!frac|sqrt|cdot|times|left|right)", first):
        return True
    letters = algebra.letters(first)
    if letters is None:
        return not re.search(r"[-+*/^]", first)
    if not letters:
        return algebra.same(first, sides[-1]) is not False
    return len(letters) > 1 and not re.search(r"[0-9]", re.sub(r"\^\{?[0-9]\}?", "", first))


def _two_equations(gold: list[str], answer: list[str]) -> bool | None:
    if len(gold) > 2 or len(answer) > 2:
        names = gold[0], answer[0]
        if all(NAME.fullmatch(name) for name in names) and normal(names[0]) == normal(names[1]):
            return scalars(gold[-1], answer[-1])
        return None
    factor_ = algebra.scaled((gold[0], gold[1]), (answer[0], answer[1]))
    if factor_:
        return True
    named = [bool(NAME.fullmatch(sides[0])) for sides in (gold, answer)]
    if all(named) and (normal(gold[0]) == normal(answer[0]) or any("(" in sides[0] for sides in (gold, answer))):
        return scalars(gold[1], answer[1])
    if all(named) and all(rational(sides[1]) is not None for sides in (gold, answer)):
        return False
    return None


def _inequalities(gold: str, answer: str) -> bool | None:
    signs = [re.findall(r"<|>|\\(?:le|ge|ne)(?![A-Za-z])", text) for text in (gold, answer)]
    if not signs[0] and not signs[1]:
        return None
    if len(signs[0]) != 1 or len(signs[1]) != 1:
        return False if not signs[0] or not signs[1] else None
    sides = [split(text, "<", ">", r"\le", r"\ge", r"\ne") for text in (gold, answer)]
    if any(len(parts) != 2 for parts in sides):  # a sign within a bracket that is open, or closed before it
        return None
    (left, right), (one, other) = sides
    direction = algebra.scaled((left, right), (one, other))
    if direction is None:
        return None
    mirror = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le", r"\ne": r"\ne"}
    said = signs[1][0] if direction > 0 else mirror[signs[1][0]]
    return direction != 0 and said == signs[0][0]


def _bases(gold: str, answer: str) -> bool | None:
    wanted, said = map(_BASE.fullmatch, (gold, answer))
    if any(match and _base(match) is None for match in (wanted, said)):
        return False
    if wanted and said:
        return _base(wanted) == _base(said)
    if wanted:
        return normal(answer) == wanted["digits"]
    if said:
        number = rational(gold)
        return normal(gold) == said["digits"] or (number is not None and number.value == _base(said))
    return None


def _base(numeral: re.Match[str]) -> int | None:
    base = int(numeral["base"])
    try:
        return int(numeral["digits"], base) if 2 <= base <= 36 else None
    except ValueError:
        return None


def _ratios(gold: str, answer: str) -> bool | None:
    texts = [re.sub(r"(?<=\d)\s+to\s+(?=\d)", ":", unwrapped(text)) for text in (gold, answer)]
    if not any(_RATIO.fullmatch(text) for text in texts):
        return None
    sides = []
    for text in texts:
        numbers = [rational(part) for part in text.split(":")]
        if len(numbers) == 1 and numbers[0] is not None:
            value = numbers[0].value
            sides.append([Fraction(value.numerator), Fraction(value.denominator)])
        elif any(number is None for number in numbers):
            return None
        else:
            sides.append([number.value for number in numbers if number])
    wanted, said = sides
    return len(wanted) == len(said) and all(
        a * d == b * c for (a, b), (c, d) in zip(pairwise(wanted), pairwise(said), strict=True)
    )


def _quantities(gold: str, answer: str) -> bool | None:
    """Numbers or expressions with their units; a percent sign is a unit or a factor of 1/100 (see Rational.same)."""
    wanted, said = quantity(gold), quantity(answer)
    percent = [side.unit == PERCENT for side in (wanted, said)]
    if any(percent):
        if percent[0] != percent[1] and (wanted.unit if percent[1] else said.unit):
            return False
        hundredth = [
            f"({side.core})/100" if flag else side.core for side, flag in zip((wanted, said), percent, strict=True)
        ]
        return any_of((_values(wanted.core, said.core), _values(*hundredth)))
    plain_verdict = algebra.same(gold, answer) if wanted.unit or said.unit else None
    if plain_verdict and not (wanted.unit and said.unit and wanted.unit != said.unit):
        return True
    ratio = factor(wanted.unit, said.unit)
    if ratio is None:
        return False
    return _values(wanted.core, said.core if ratio == 1 else f"({said.core})*{ratio.numerator}/{ratio.denominator}")


def _values(gold: str, answer: str) -> bool | None:
    one, other = rational(gold), rational(answer)
    if one is not None and other is not None:
        return one.value == other.value
    mine, others = (f"({number.value})" if number else text for number, text in ((one, gold), (other, answer)))
    return algebra.same(mine, others)
