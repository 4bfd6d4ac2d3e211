r"""Parts of the real line, however they are written.

'(1, 2]', '1 < x \le 2', 'x > 1', '(-\infty, 1) \cup \{3\}', '\mathbb{R}', 'x \ne 2', '\{x \mid x < 5\}'.
"""

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import msgspec

from processors.grading_text import split

INFINITY: Final = r"\infty"
_MIRROR: Final = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}
RELATIONS: Final = ("<", ">", r"\le", r"\ge", r"\ne")
_NAME = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?|[A-Za-z]\([A-Za-z]\)")
_MEMBER = re.compile(r"(?:\\?[A-Za-z]+|[A-Za-z]\([A-Za-z]\))\s*\\in(?![A-Za-z])\s*")
_BUILDER = re.compile(r"\\\{\s*(?P<name>\\?[A-Za-z])\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||\\mid|:)(?P<rule>.*)\\\}")
_WITHOUT = re.compile(r"\\mathbb\{R\}\s*(?:\\setminus|\\backslash|-|\\)\s*(?P<points>\\\{.*\\\})")


class Part(msgspec.Struct, frozen=True):
    """An interval by the texts of its ends and whether they belong to it; a point has equal ends."""

    low: str
    low_closed: bool
    high: str
    high_closed: bool


Region = list[Part]
_LINE: Final = Part("-" + INFINITY, False, INFINITY, False)


def member(text: str) -> str:
    r"""What 'x \in S' says x is in, else the text."""
    return _MEMBER.sub("", text, count=1) if _MEMBER.match(text) else text


def variable(text: str) -> str:
    """The name that an inequality is about, '' for other texts."""
    sides = split(text, *RELATIONS, "or", ",")
    return next((side for side in sides if _NAME.fullmatch(side)), "") if _signs(text) else ""


def region(text: str) -> Region | None:
    """The region that a plain answer describes, or None; a pair in round brackets is one too."""
    text = member(text)
    builder = _BUILDER.fullmatch(text)
    if builder:
        return region(builder["rule"].strip())
    if text == r"\mathbb{R}":
        return [_LINE]
    without = _WITHOUT.fullmatch(text)
    if without:
        return _holes(split(without["points"][2:-2], ",", ";"))
    pieces = split(re.sub(r"(?<=[)\]])\s*U\s*(?=[(\[])", r"\\cup ", text), r"\cup")
    if len(pieces) == 1:
        pieces = split(text, "or", ",", ";") if any(sign in text for sign in RELATIONS) else pieces
        if text[:1] in ("(", "[") and split(text, *RELATIONS) == [text]:
            pieces = [text]
    parts = [_part(piece) for piece in pieces]
    found = [part for some in parts if some for part in some]
    return found if all(parts) else None


def _part(text: str) -> Region | None:
    if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        ends = split(text[1:-1], ",", ";")
        if len(ends) != 2 or not all(ends):
            return None
        return [Part(_end(ends[0]), text[0] == "[", _end(ends[1]), text[-1] == "]")]
    if text.startswith(r"\{") and text.endswith(r"\}"):
        points = split(text[2:-2], ",", ";")
        return [Part(point, True, point, True) for point in points] if all(points) else None
    return _relation(text)


def _relation(text: str) -> Region | None:
    sides = split(text, *RELATIONS)
    signs = _signs(text)
    if len(sides) == 2 and len(signs) == 1:
        left, right = sides
        sign = signs[0]
        if not _NAME.fullmatch(left) and _NAME.fullmatch(right) and sign != r"\ne":
            left, right, sign = right, left, _MIRROR[sign]
        if not _NAME.fullmatch(left) or not right or _NAME.fullmatch(right):
            return None
        if sign == r"\ne":
            return _holes([right])
        closed = sign in (r"\le", r"\ge")
        right = _end(right)
        above = Part(right, closed, INFINITY, False)
        return [above if sign in (">", r"\ge") else Part("-" + INFINITY, False, right, closed)]
    if len(sides) == 3 and len(signs) == 2 and _NAME.fullmatch(sides[1]) and r"\ne" not in signs:
        if signs[0] in (">", r"\ge"):
            sides, signs = sides[::-1], [_MIRROR[sign] for sign in signs[::-1]]
        if any(sign in (">", r"\ge") for sign in signs):
            return None
        return [Part(_end(sides[0]), signs[0] == r"\le", _end(sides[2]), signs[1] == r"\le")]
    return None


def _signs(text: str) -> list[str]:
    return re.findall(r"<|>|\\(?:le|ge|ne)(?![A-Za-z])", text)


def _holes(points: list[str]) -> Region | None:
    """The line without some points; only for one, or whole numbers in order, do we know the order."""
    if not all(points) or (len(points) > 1 and not all(re.fullmatch(r"-?[0-9]+", point) for point in points)):
        return None
    ends = ["-" + INFINITY, *(sorted(points, key=int) if len(points) > 1 else points), INFINITY]
    return [Part(low, False, high, False) for low, high in pairwise(ends)]


def _end(text: str) -> str:
    bare = text.replace(" ", "")
    return INFINITY if bare == "+" + INFINITY else bare if bare.endswith(INFINITY) else text


def same_regions(gold: Region, answer: Region, same: Callable[[str, str], bool | None]) -> bool | None:
    """Equality as sets of parts, ends compared by `same`."""
    if len(gold) != len(answer):
        return False
    left = list(answer)
    for part in gold:
        verdicts = [_same_part(part, other, same) for other in left]
        if True in verdicts:
            left.pop(verdicts.index(True))
        elif None in verdicts:
            return None
        else:
            return False
    return True


def _same_part(one: Part, other: Part, same: Callable[[str, str], bool | None]) -> bool | None:
    if (one.low_closed, one.high_closed) != (other.low_closed, other.high_closed):
        return False
    verdicts = [_same_end(one.low, other.low, same), _same_end(one.high, other.high, same)]
    return False if False in verdicts else None if None in verdicts else True


def _same_end(one: str, other: str, same: Callable[[str, str], bool | None]) -> bool | None:
    if INFINITY in one or INFINITY in other:
        return one == other
    return same(one, other)
