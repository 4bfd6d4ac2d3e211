r"""Answers before they are mathematics: one plain spelling, splitting at the top level, words, letters, clock times.

Everything here is linear in the text and evaluates nothing.
"""

import re
from collections.abc import Mapping
from typing import Final

from processors.answers import clean, words

_NAMES = r"text|textbf|textit|textrm|textsf|textnormal|mathrm|mathbf|mathit|mathsf|mbox|hbox|rm|bf"
_UNICODE: Final[Mapping[int, str]] = str.maketrans(
    {
        "\u00d7": r"\times ", "\u00b7": r"\cdot ", "\u22c5": r"\cdot ", "\u00f7": "/", "\u03c0": r"\pi ",
        "\u221a": r"\sqrt ", "\u00b2": "^2", "\u00b3": "^3", "\u00b0": r"^\circ ", "\u221e": r"\infty ",
        "\u2264": r"\le ", "\u2265": r"\ge ", "\u2260": r"\ne ", "\u222a": r"\cup ", "\u00b1": r"\pm ",
        "\u2208": r"\in ", "\u2205": r"\emptyset ", "\u211d": r"\mathbb{R}", "\u00bd": r"\frac{1}{2}",
        "\u00bc": r"\frac{1}{4}", "\u00be": r"\frac{3}{4}", "\u2248": r"\approx ", "\u2044": "/", "\u03b8": r"\theta ",
        "\u2032": "'",
    }
)  # fmt: skip
_PLAIN: Final = tuple(
    (re.compile(pattern), new)
    for pattern, new in (
        (rf"\\(?:{_NAMES})\s*\{{\s*(,?)\s*(and|or)\s*\}}", r"\1 \2 "),
        (r"\\operatorname\*?\s*\{([A-Za-z]+)\}", r"\\\1 "),
        (r"\\(?:mathrm|text)\s*\{\s*([eidD])\s*\}", r"\1"),
        (rf"\\(?:{_NAMES})\s*\{{", r"\\text{"),
        (r"\\text\{\\text\{([^{}]*)\}\}", r"\\text{\1}"),
        (r"\\text\{\s*\}", ""),
        (r"\\[bB]igg?[lrm]?(?![A-Za-z])|\\middle(?![A-Za-z])", ""),
        (r"\\c?frac(?![A-Za-z])", r"\\frac"),
        (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
        (r"\\text\{\s*([$%\u20ac\u00a3\u00a5])\s*\}", r"\1"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\[lr]vert(?![A-Za-z])|\\[lr]?\|", "|"),
        (r"<=|\\leq(?:slant)?(?![A-Za-z])", r"\\le "),
        (r">=|\\geq(?:slant)?(?![A-Za-z])", r"\\ge "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"!=|\\neq(?![A-Za-z])", r"\\ne "),
        (r"\\(?:varnothing|\{\s*\\\})(?![A-Za-z])", r"\\emptyset"),
        (r"\\(?:R|Reals)(?![A-Za-z])|\\mathbf\{R\}", r"\\mathbb{R}"),
        (r"(?i)(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty"),
        (r"\\text\{\s*\\?infty\s*\}", r"\\infty"),
        (r"\*\*", "^"),
        (r"\\begin\{cases\}([^&]*)\\end\{cases\}", r"\1"),
        (r"(?<![A-Za-z])C\(\s*([0-9]+)\s*,\s*([0-9]+)\s*\)", r"\\binom{\1}{\2}"),
        (r"\{\s*([0-9]+)\s*\\choose\s*([0-9]+)\s*\}", r"\\binom{\1}{\2}"),
        (r"^(-?[0-9]{0,9}\.[0-9]{0,9}?)([0-9]{1,6}?)\2{1,9}\s*(?:\.{3}|\\l?dots|\u2026)$", r"\1\\overline{\2}"),
        (r"^([0-9]+)(?:st|nd|rd|th)$", r"\1"),
        (r"\\q?quad(?![A-Za-z])", " "),
    )
)
_SPLIT = re.compile(r"\\[A-Za-z]+|\\.|[A-Za-z]+|.", re.DOTALL)
_SPACED = re.compile(r"[-+]?[0-9]{1,3}(?: [0-9]{3})+(?:\.[0-9]+)?")
_CHOICE = re.compile(
    r"(?:(?i:option|choice|answer)\s+)?(?:\((?P<round>[A-Za-z])\)[.:]?|(?P<bare>[A-Z])(?P<mark>[).:](?=\s|$))?)(?:\s+(?P<rest>\S.*))?",
    re.DOTALL,
)
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*(?:([ap])\s?\.?\s?m\.?)?", re.IGNORECASE)
_EMPTY: Final = frozenset(
    {"no solution", "no solutions", "no real solution", "no real solutions", "empty set", "the empty set"}
)
_EVERYTHING: Final = frozenset({"all real numbers", "all reals", "all real x", "the real numbers", "real numbers"})
_COUNTS: Final = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"
)  # fmt: skip
_SHORT_WORDS: Final = frozenset(
    {"yes", "no", "odd", "dne", "mon", "tue", "wed", "thu", "fri", "sat", "sun", "red", "one", "two", "six", "ten"}
)
_FUNCTIONS: Final = frozenset(
    {
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "pi",
        "sqrt",
        "sinh",
        "cosh",
        "tanh",
        "asin",
        "acos",
        "atan",
        "arcsin",
        "arccos",
        "arctan",
        "frac",
    }
)


def plain(answer: str) -> str:
    r"""One spelling: \left, sizes, fonts and dollars gone, unicode signs as LaTeX, every text font \text{}."""
    if len(re.findall(r"(?<!\\)\$", answer)) > 1:
        answer = re.sub(r"(?<!\\)\$", " ", answer)
    answer = clean(answer).rstrip(" ,;").translate(_UNICODE)
    if "{cases}" in answer:
        answer = answer.replace(r"\\", ", ")
    for pattern, new in _PLAIN:
        answer = pattern.sub(new, answer)
    answer = " ".join(answer.split())
    if _SPACED.fullmatch(answer):
        answer = answer.replace(" ", "")
    if answer.lower() in _COUNTS:
        return str(_COUNTS.index(answer.lower()))
    return (
        _EMPTY_SET
        if unwrapped(answer).lower() in _EMPTY
        else _REALS
        if unwrapped(answer).lower() in _EVERYTHING
        else answer
    )


_EMPTY_SET: Final = r"\emptyset"
_REALS: Final = r"\mathbb{R}"


def unwrapped(text: str) -> str:
    r"""The text without \text{}, its words set apart."""
    return " ".join(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).split())


def split(text: str, *separators: str) -> list[str]:
    """The pieces between separators outside of all brackets; one piece where there are none. Separators are tokens."""
    pieces, start, depth = [], 0, 0
    for match in _SPLIT.finditer(text):
        token = match.group()
        if token in ("(", "[", "{", r"\{"):
            depth += 1
        elif token in (")", "]", "}", r"\}"):
            depth -= 1
        elif token in separators and depth == 0:
            pieces.append(text[start : match.start()].strip())
            start = match.end()
    return [*pieces, text[start:].strip()]


def is_text(text: str) -> bool:
    """Whether a plain answer is words and not mathematics."""
    bare = unwrapped(text)
    if not bare or re.search(r"[0-9\\^_=<>+*/|{}\[\]]", bare):
        return False
    found = re.findall(r"[^\W\d_]+", bare)
    if text.startswith(r"\text{") and text.endswith("}") and found and len("".join(found)) > 1:
        return True
    if any(word.lower() in _FUNCTIONS for word in found):
        return False
    return (len(found) > 1 and any(len(word) > 2 for word in found)) or any(
        len(word) > 3 or word.lower() in _SHORT_WORDS or not word.isascii() for word in found
    )


def is_date(text: str) -> bool:
    """Whether a plain answer is a day of a month in words."""
    found = unwrapped(text).lower().split()
    return any(re.match(_MONTHS, word.strip(".,")) for word in found) and re.search("[0-9]", text) is not None


def is_claim(text: str) -> str:
    """'yes', 'no', 'true' or 'false' where an answer begins with it, else ''."""
    first = re.match(r"(?i)(yes|no|true|false)(?![a-z])", unwrapped(text))
    return first[1].lower() if first and not re.match(r"(?i)no \w+$", unwrapped(text)) else ""


def same_words(one: str, other: str) -> bool:
    """Equality of text answers: case, punctuation, hyphens, articles and the order of a date's parts do not count."""
    mine, others = (_bag(text) for text in (one, other))
    if any(re.match(_MONTHS, word) for word in mine):
        return sorted(mine) == sorted(others) != []
    return mine == others != []


_MONTHS = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)$"
)


def _bag(text: str) -> list[str]:
    text = re.sub(r"[-\u2010-\u2015,.;:!?'\"()\[\]$]", " ", words(unwrapped(text)))
    text = re.sub(r"(?<=[0-9])(?:st|nd|rd|th)(?![a-z])", "", text)
    found = [word for word in text.split() if word not in ("the", "a", "an")] or text.split()
    dated = re.search("[0-9]", text) is not None
    return [word[:3] if dated and re.match(_MONTHS, word) else word for word in found]


def choice(text: str) -> tuple[str, str] | None:
    """The letter and the words behind it, of an answer such as 'B', '(b)', 'B. Paris' or 'Option B'; else None."""
    match = _CHOICE.fullmatch(unwrapped(text))
    if match is None:
        return None
    rest = match["rest"] or ""
    if match["bare"] and rest and not match["mark"]:
        return None
    return (match["round"] or match["bare"]).upper(), rest


def minutes(text: str) -> tuple[int, bool] | None:
    """A clock time as minutes since midnight and whether it says which half of the day; None for no time."""
    match = _TIME.fullmatch(unwrapped(text))
    if match is None or int(match[1]) > 24 or int(match[2]) > 59:
        return None
    hour, half = int(match[1]), (match[3] or "").lower()
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return hour * 60 + int(match[2]), bool(half) or hour > 12
