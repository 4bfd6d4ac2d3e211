"""From a row of somebody's file to a question and an answer: by a mapping in the settings, or one known by its fields.

Known without being told: GSM8K (question; answer = solution, then '#### number') and MATH-500 (problem, answer in
LaTeX, level), and whatever has `question` or `problem` beside `answer`; a row of it may name its own `grader` and bring
that one's `metadata`.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import msgspec

from producers.sources.items import BadKind, BadSource, as_number, as_text
from schemas import plugins
from schemas.messages import Grader

GSM8K_MARK = "####"
_QUESTIONS = ("question", "problem")
_DIFFICULTIES = ("difficulty", "level")


class Fields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The `params` of a file or hub source; an empty field is found by itself."""

    question: str = ""
    answer: str = ""
    grader: str = ""
    """numeric, math, text, countdown or one that a package adds; empty = numeric for GSM8K answers, math otherwise."""
    difficulty: str = ""
    metadata: str = ""
    """The field with the grader's JSON (countdown); empty = `metadata`, where a grader is named."""
    label: str = ""
    """The `source` of the problems; empty = the file's name without its ending."""
    split: str = "train"
    """Hub only: files with this word in their name."""
    config: str = ""
    """Hub only: files under a folder of this name."""
    revision: str = "main"
    """Hub only."""


class Unmapped(ValueError):
    """A row without a question, an answer or a grader that there is; `kind` says which, the text why."""

    def __init__(self, kind: BadKind, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Mapped(msgspec.Struct, frozen=True, kw_only=True):
    """What a row says."""

    question: str
    answer: str
    grader: Grader
    difficulty: float
    metadata: str


def fields(params: Mapping[str, Any], name: str) -> Fields:
    """The field mapping of a source.

    Raises:
        BadSource: for an unknown parameter, naming the nearest, or an unknown grader.
    """
    for key in params:
        if key not in Fields.__struct_fields__:
            near = difflib.get_close_matches(key, Fields.__struct_fields__, n=1, cutoff=0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(Fields.__struct_fields__)}"
            raise BadSource(f"problems.sources: {name}: unknown parameter {key!r}: {hint}")
    try:
        found = msgspec.convert(dict(params), Fields)
    except msgspec.ValidationError as error:
        raise BadSource(f"problems.sources: {name}: {error}") from error
    if found.grader and (why := plugins.unknown(plugins.GRADERS, found.grader)):
        raise BadSource(f"problems.sources: {name}: {why}")
    return found


def read(row: object, wanted: Fields) -> Mapped:
    """The problem in a row.

    Raises:
        Unmapped: where there is none.
    """
    if not isinstance(row, dict):
        raise Unmapped("malformed line", f"expected an object with fields, found {type(row).__name__}")
    question = as_text(_first(row, [wanted.question] if wanted.question else _QUESTIONS))
    if not question:
        raise Unmapped("missing question", f"no {wanted.question or ' or '.join(_QUESTIONS)} in it")
    answer = as_text(row.get(wanted.answer or "answer"))
    gsm8k = GSM8K_MARK in answer
    if gsm8k:
        answer = answer.rpartition(GSM8K_MARK)[2].strip().replace(",", "")
    if not answer:
        raise Unmapped("missing answer", f"no {wanted.answer or 'answer'} in it")
    own = as_text(row.get("grader")) if not wanted.grader else ""
    if own and (why := plugins.unknown(plugins.GRADERS, own)):
        raise Unmapped("unknown grader", f"{why}: install it, or name one for all rows with params = {{grader = ...}}")
    level = _first(row, [wanted.difficulty] if wanted.difficulty else _DIFFICULTIES)
    return Mapped(
        question=question,
        answer=answer,
        grader=wanted.grader or own or ("numeric" if gsm8k else "math"),
        difficulty=as_number(level),
        metadata=as_text(row.get(wanted.metadata or "metadata")) if wanted.metadata or wanted.grader or own else "",
    )


def _first(row: Mapping[str, Any], names: list[str] | tuple[str, ...]) -> object:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)
