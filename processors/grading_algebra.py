r"""Whether two expressions in LaTeX are equal, by their values at a few points: quick, and safe on hostile text.

Two constants are equal when they agree to 120 of 200 bits; two expressions in letters when they do at every tried point
of their domain (the identity test of Schwartz, 1980). What processors/grading_reader.py cannot read, and values without
bounds, are left undecided: then math-verify is asked.
"""

import zlib
from typing import Final

from processors import grading_values as v
from processors.grading_reader import Point, Reader, Unread
from processors.grading_values import Undefined, Value

POINTS: Final = 5


def _point(number: int) -> Point:
    """A letter's value at one of the points: between 1/4 and 9/4, from the third on also negative."""

    def value(letter: str) -> Value:
        seed = zlib.crc32(f"{number} {letter}".encode())
        sign = -1 if number >= 2 and seed & 1 else 1
        return v.rational(sign * (2500 + (seed >> 1) % 19_997), 9_973)

    return value


def _read(text: str, number: int) -> tuple[Value, Reader]:
    reader = Reader(text, _point(number))
    return reader.whole(), reader


def same(gold: str, answer: str) -> bool | None:
    """Whether two expressions are equal; None where one of them is not read or has no value."""
    real: list[bool] = []
    unreal: list[bool] = []
    for number in range(POINTS):
        try:
            wanted, one = _read(gold, number)
            said, other = _read(answer, number)
        except Unread:
            return None
        except Undefined:
            continue
        agree = v.close(wanted, said, v.larger(one.scale, other.scale))
        if not one.letters and not other.letters:
            return agree
        is_real = one.imaginary or other.imaginary or not (one.unreal or other.unreal)
        (real if is_real else unreal).append(agree)
        if real and not real[-1]:
            return False
    return all(real or unreal) if real or unreal else None


def scaled(gold: tuple[str, str], answer: tuple[str, str]) -> int | None:
    """What the difference of the gold's sides is multiplied by to be the answer's: a factor > 0 (1), < 0 (-1), or none.

    Two equations are the same where there is one; two inequalities need a positive one. None: not read.
    """
    factors: list[Value] = []
    letters: set[str] = set()
    for number in range(POINTS):
        try:
            sides = [_read(text, number) for text in (*gold, *answer)]
            letters |= {letter for _, reader in sides for letter in reader.letters}
            wanted, said = v.sub(sides[0][0], sides[1][0]), v.sub(sides[2][0], sides[3][0])
            if v.close(wanted, v.ZERO, v.ONE):
                return None
            factors.append(v.div(said, wanted))
        except Unread:
            return None
        except Undefined:
            continue
    if len(factors) < 2 or not letters:
        return None
    first = factors[0]
    if v.is_zero(first) or not v.is_real(first) or not all(v.close(first, factor) for factor in factors):
        return 0
    return -1 if v.is_negative(first) else 1


def near(one: str, other: str) -> bool | None:
    """Whether two constants agree to about 1 %, as the sides of an approximation do; None where one is not read."""
    try:
        (left, _), (right, _) = _read(one, 0), _read(other, 0)
        return v.near(left, right)
    except (Unread, Undefined):
        return None


def letters(text: str) -> set[str] | None:
    """The variables of an expression; None where it is not read."""
    try:
        return _read(text, 0)[1].letters
    except (Unread, Undefined):
        return None
