r"""What a response says its answer is, and when two answers are the same number or text: exact and pure.

Model output is hostile until read: the patterns are linear in the text, digits are ASCII only (a superscript two is
not a 2), exponents have at most three digits, and nothing is ever evaluated.
"""

import re
import unicodedata
from collections import deque
from fractions import Fraction

import msgspec

_BOXED = re.compile(r"\\boxed\s*\{")
_ANSWER = re.compile(r"(?im)^\W{0,4}(?:the )?(?:final )?answer(?: is)?\s*[:=]\s*(?=\S)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

_LATEX = (
    (re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[dt]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"(?<=[0-9])\\[,; ](?=[0-9]{3}(?![0-9]))"), ""),
    (re.compile(r"\\!"), ""),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\\quad(?![a-zA-Z])|\u00a0|\u202f|\u2009"), " "),
    (re.compile(r"\\([$%])"), r"\1"),
    (re.compile("[\u2212\u2013\u2012]"), "-"),
)
_INNER_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")

_INTEGER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.[0-9]*)?|\.[0-9]+)"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?P<money>[$\u20ac\u00a3\u00a5]?)\s*(?P<minus>-?)\s*(?:"
    rf"(?:(?P<whole>{_INTEGER})(?:\s+|\s*(?=\\)))?(?:(?P<over>{_INTEGER})\s*/\s*(?P<under>{_INTEGER})"
    rf"|\\frac\s*(?:\{{\s*(?P<over2>[-+]?{_DECIMAL})\s*\}}\s*\{{\s*(?P<under2>[-+]?{_DECIMAL})\s*\}}|(?P<over1>[0-9])(?P<under1>[0-9])))"
    rf"|(?P<top>{_DECIMAL})\s*/\s*(?P<bottom>[-+]?{_DECIMAL})"
    rf"|(?P<plain>{_DECIMAL}(?:[eE][-+]?[0-9]{{1,3}})?))"
    r"\s*(?P<paid>[\u20ac\u00a3\u00a5]?)\s*(?P<percent>%|[Pp]ercent)?"
)
_UNITS = re.compile(r"(?<=\s)(?P<words>[A-Za-z]+(?:[ -][A-Za-z]+){0,4})")
_NOT_UNITS = re.compile(
    r"(?i)\b(?:and|or|to|of|thousand|million|billion|trillion|hundred|dozen|half|halves|thirds?|quarters?|pi|e|i|squared"
    r"|cubed|times|plus|minus|divided|over|by|mod|remainder|percent|point|negative|not)\b"
)
"""Words that change a number instead of naming what is counted."""


def changes_number(text: str) -> bool:
    """Whether words behind a number say more than what is counted ('million', 'and a half')."""
    return _NOT_UNITS.search(text) is not None


class Rational(msgspec.Struct, frozen=True):
    """An exact number, whether written as a percentage (`value` is the number before the sign), and its currency."""

    value: Fraction
    percent: bool = False
    currency: str = ""

    def same(self, other: "Rational") -> bool:
        r"""Equality of two answers.

        A percent sign is a unit that graders of MATH and GSM8K leave out, and also a factor of 1/100: where only one
        side has it, both readings count (50% is 50 to one gold answer and 0.5 to another). Two currencies differ.
        """
        if self.currency and (other.percent or other.currency not in ("", self.currency)):
            return False
        if self.percent and other.currency:
            return False
        if self.percent == other.percent or self.value == other.value:
            return self.value == other.value
        mine, others = (side.value / 100 if side.percent else side.value for side in (self, other))
        return mine == others


def extract_answer(text: str) -> str:
    r"""The last answer that a response states: a balanced \boxed{...} or the rest of an 'Answer:' line; '' for none.

    A statement that was begun last and not finished (an open brace at the end) is not replaced by an earlier one.
    """
    boxed, line = _last(_BOXED, text), answer_line(text)
    if boxed is not None and (line is None or boxed.start() > line.start()):
        return balanced(text, boxed.end())[0]
    if line is None:
        return ""
    end = text.find("\n", line.end())
    return text[line.end() : end if end >= 0 else len(text)].strip(" \t\r*_`")


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def answer_line(text: str) -> re.Match[str] | None:
    """The beginning of the last 'Answer:' line, up to what it states."""
    return _last(_ANSWER, text)


def balanced(text: str, start: int) -> tuple[str, int]:
    """The text from `start` to the brace that closes the one before it, and where that ends; '' where none does."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[start : brace.start()].strip(), brace.end()
    return "", len(text)


def clean(answer: str) -> str:
    r"""The answer without what only dresses it: math delimiters, \left, thin spaces, a full stop at the end."""
    for pattern, new in _LATEX:
        answer = pattern.sub(new, answer)
    answer = " ".join(answer.split()).strip("*`_ ")
    if answer.endswith(".") and not answer.endswith(".."):
        answer = answer[:-1].rstrip("*`_ ")
    for left, right in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if len(answer) > len(left + right) and answer.startswith(left) and answer.endswith(right):
            answer = answer[len(left) : -len(right)].strip()
    return answer


def normal(answer: str) -> str:
    """The form in which equal strings are equal answers; a space between two words or numbers stays ('1 1/2')."""
    return _INNER_SPACE.sub("", _TEXT.sub(r"\1", clean(answer)))


def words(answer: str) -> str:
    """The form of a text answer: case, spacing and punctuation around it do not count."""
    plain = unicodedata.normalize("NFC", _TEXT.sub(r"\1", clean(answer)))
    return " ".join(plain.casefold().split()).strip(" .,;:!?'\"()[]")


def rational(answer: str, *, units: bool = False) -> Rational | None:
    r"""The exact number that an answer is, or None.

    Integers with or without thousands separators, decimals, a/b, \frac{a}{b}, mixed numbers, currency, percent.

    Args:
        answer: as extract_answer gives it.
        units: whether words may follow the number ('18 apples'); never for algebra, where '3 pi' is not 3.
    """
    text = _TEXT.sub(r" \1", clean(answer)) if units else clean(answer)
    match = _NUMBER.match(text)
    if match is None:
        return None
    rest = _UNITS.fullmatch(text, match.end()) if units else None
    named = rest is not None and not _NOT_UNITS.search(rest["words"])
    if match.end() != len(text) and not named:
        return None
    value = _value(match)
    return None if value is None else Rational(value, bool(match["percent"]), match["money"] or match["paid"])


def _value(match: re.Match[str]) -> Fraction | None:
    over = match["over"] or match["over1"] or match["over2"] or match["top"]
    under = match["under"] or match["under1"] or match["under2"] or match["bottom"]
    if match["sign"] and match["minus"]:
        return None
    if over is None or under is None:
        value = _number(match["plain"])
    else:
        if _number(under) == 0:
            return None
        value = _number(match["whole"] or "0") + _number(over) / _number(under)
    return -value if "-" in (match["sign"], match["minus"]) else value


def _number(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def answer_key(answer: str) -> str:
    """The same for answers that are equal as numbers or as strings; what 'pairwise distinct answers' compares."""
    number = rational(answer)
    return normal(answer) if number is None else f"{number.value}{'%' if number.percent else ''}"
