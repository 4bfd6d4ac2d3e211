r"""Is a rewritten step still the same step? Pure, and strict: what is in doubt keeps its own words, and is counted.

A model that rewrites a step may repair it, spoil it, answer early, or give away that the branch will fail; each would
break the link from the sentence to its node. So a rewrite is taken only if it says the same numbers and expressions
in the same order and none other, states the same answer, and judges nothing that the step does not judge itself.
Words for small numbers ('three', 'half', 'twice') count as numbers, except 'one' and 'once', which are mostly not.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from processors.answers import extract_answer
from processors.chat import RESERVED, STEP_END, states_answer

LENGTH_FACTOR = 2
LENGTH_SLACK = 80
"""A rewrite may have LENGTH_FACTOR times the step's characters, and LENGTH_SLACK more."""

OVERLAP = 1 / 3
"""Share of a step's longer words (four letters, told apart by their first five) that its rewrite must have."""

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_PARTS = ("hundred", "thousand", "million", "billion", "half", "third", "quarter", "twice", "triple", "dozen", "pair")
_NAMED = {
    **{word: str(value) for value, word in enumerate(_ONES) if word != "one"},
    **{word: str(10 * ten) for ten, word in enumerate(_TENS, start=2)},
    **{word: word for word in _PARTS},
} | {
    word: name
    for name, words in (
        ("third", "thirds"),
        ("quarter", "quarters"),
        ("dozen", "dozens"),
        ("half", "halves"),
        ("triple", "tripled triples"),
        ("twice", "double doubled doubles"),
    )
    for word in words.split()
}
"""What number words are to be compared as."""
_NUMBER = re.compile(r"[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?(?![0-9])|[0-9]+(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+|[a-z]+")

_OPERATOR = "=+*/^<>\u00d7\u00f7\u00b7\u2212\u2264\u2265\u2248-"
_SPACED = re.compile(rf"(?:(?<!\s)\s+)?([{re.escape(_OPERATOR)}])\s*")
_DRESS = re.compile(r"\$|\\[()\[\]]|[*_`]{2,}|(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_CAN_SAY = re.compile(rf"(?=.*[{re.escape(_OPERATOR)}])(?:.*[0-9]|.*=)|.*\\[a-zA-Z]")

_VARIABLE = re.compile(r"(?<![\w'\u2019])[b-hj-zB-HJ-Z](?!\w)")
"""A letter that stands alone; 'a' and 'I' are words."""

_JUDGING = re.compile(
    r"\b(?:wrong|wrongly|mistake\w*|mistaken|incorrect\w*|correct\w*|errors?|right|invalid|wait|actually|unfortunately"
    r"|hmm|oops|sorry|however|verify|verified|check\w*|double-check|sure|unsure|fail\w*|impossible|reconsider|re-?think"
    r"|again|instead|let me check|try again)\b"
)
_DENYING = re.compile(r"(?i)\b(?:not|no|none|nor|never|neither|nothing|without|cannot)\b|n['\u2019]t\b")
_LONGER = re.compile(r"[^\W\d_]{4,}")
_CHATTING = re.compile(
    r"\b(?:rewrit\w*|rewrote|rephras\w*|next step|here is|here's|original step|solution so far|answer is"
    r"|final answer)\b"
)


def failure(step: str, rewrite: str) -> str:
    """The name of the first check that a rewrite of a step fails, '' when it passes all.

    In this order: 'empty', 'paragraphs' (a blank line in it), 'length', 'reserved' (a fixed phrase of
    processors/chat.py), 'verdict' (a judging word that the step does not have), 'negation' (more or fewer denials),
    'chatter' (speaks of the task), 'answer' (another final line, or an answer where the step states none),
    'expressions', 'variables', 'numbers', 'drift' (too few of the step's words).
    """
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("empty", lambda: bool(rewrite.strip())),
        ("paragraphs", lambda: STEP_END not in rewrite.strip()),
        ("length", lambda: len(rewrite) <= LENGTH_FACTOR * len(step) + LENGTH_SLACK),
        ("reserved", lambda: not any(phrase.casefold() in rewrite.casefold() for phrase in RESERVED)),
        ("verdict", lambda: _no_more(_JUDGING, step, rewrite)),
        ("negation", lambda: len(_DENYING.findall(rewrite)) == len(_DENYING.findall(step))),
        ("chatter", lambda: _no_more(_CHATTING, step, rewrite)),
        ("answer", lambda: _same_answer(step, rewrite)),
        ("expressions", lambda: keeps(expressions(step), expressions(rewrite))),
        ("variables", lambda: set(_VARIABLE.findall(step)) == set(_VARIABLE.findall(rewrite))),
        ("numbers", lambda: keeps(numbers(step), numbers(rewrite))),
        ("drift", lambda: _overlap(step, rewrite) >= OVERLAP),
    )
    return next((name for name, passes in checks if not passes()), "")


def keeps(said: Sequence[str], told: Sequence[str]) -> bool:
    """Whether all of `said` comes in `told` in order, and nothing else does (but some of it may come again)."""
    rest = iter(told)
    return set(told) <= set(said) and all(one in rest for one in said)


def numbers(text: str) -> list[str]:
    """The numbers of a text in order, as digits without thousands separators; number words by their value."""
    found = [_digits(match.group()) for match in _NUMBER.finditer(text.casefold())]
    odd = [char for char in text if char.isnumeric() and not char.isascii()]  # superscripts, other scripts' digits
    return [number for number in found if number] + odd


def _digits(token: str) -> str:
    if token.isalpha():
        return _NAMED.get(token, "")
    return token.replace(",", "")


def expressions(text: str) -> list[str]:
    r"""The formulas of a text in order, spaces and dollar signs left out: '3 * 12 = 36', 'x = 2', '\frac{1}{2}'.

    A run without spaces (those beside an operator do not count) with an operator and a digit, an equals sign, or a
    LaTeX command.
    """
    joined = _SPACED.sub(r"\1", _DRESS.sub("", text))
    runs = (run.strip(".,;:!?()\"'") for run in joined.split())
    return [run for run in runs if _CAN_SAY.match(run)]


def _overlap(step: str, rewrite: str) -> float:
    """The share of the step's longer words that the rewrite has; 1 for a step without any."""
    had, has = ({word[:5] for word in _LONGER.findall(text.casefold())} for text in (step, rewrite))
    return len(had & has) / len(had) if had else 1.0


def _same_answer(step: str, rewrite: str) -> bool:
    """The last line kept to the letter where the step states an answer, and no answer where it does not."""
    if not states_answer(step):
        return not states_answer(rewrite)
    same = extract_answer(step) == extract_answer(rewrite)
    return same and _last_line(step) == _last_line(rewrite)


def _last_line(text: str) -> str:
    return text.strip().rsplit("\n", 1)[-1].strip()


def _no_more(pattern: re.Pattern[str], step: str, rewrite: str) -> bool:
    """Whether the rewrite has no match that the step does not have as often."""
    had, has = (Counter[str](_words(pattern, text)) for text in (step, rewrite))
    return not has - had


def _words(pattern: re.Pattern[str], text: str) -> Iterable[str]:
    return (match.group() for match in pattern.finditer(text.casefold()))
