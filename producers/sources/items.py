"""What a source of problems gives, item by item: a problem, or a place where one should be and why there is none.

A source knows no broker: it is a name and a deterministic list of items that can be read from any index on, so that
a restart goes on where it was and a test can read it bare.
"""

import json
from collections.abc import Iterator
from typing import Literal, Protocol, runtime_checkable

import msgspec

from schemas.load import BadSettings
from schemas.messages import Grader, Problem, content_id

BadKind = Literal["malformed line", "missing question", "missing answer", "unknown grader", "too long", "duplicate"]
RAW_BYTES = 65_536
"""A dead letter of a file carries at most this much of the line."""


class BadSource(BadSettings):
    """A source cannot be opened or read; the text names it and says what to do."""


class Bad(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that is no problem."""

    file: str
    line: int
    """1-based line (or row) in `file`."""
    kind: BadKind
    detail: str = ""
    raw: bytes = b""
    """The entry's bytes, at most RAW_BYTES of them; `detail` says when it was cut."""

    @property
    def id(self) -> str:
        """The same for the same entry whenever it is read."""
        return content_id(self.file, self.line, self.kind)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a source: a problem, something bad, or neither (a generator that found nothing at this index)."""

    index: int
    problem: Problem | None = None
    bad: Bad | None = None
    held_out: bool = False
    """Kept for evaluation by the family's own rule."""
    file: str = ""
    line: int = -1
    """1-based, for a problem from a file."""
    raw: bytes = b""
    """The entry's bytes, for a problem from a file."""


@runtime_checkable
class Source(Protocol):
    """Where problems come from."""

    name: str
    """The `source` of its problems."""

    def items(self, start: int = 0) -> Iterator[Item]:
        """Its items with index >= start, in order of index; deterministic."""


def make_problem(
    *, source: str, index: int, question: str, answer: str, grader: Grader, difficulty: float = 0.0, metadata: str = ""
) -> Problem:
    """A problem with its content id."""
    return Problem(
        id=content_id(source, question, answer),
        question=question,
        answer=answer,
        grader=grader,
        source=source,
        index=index,
        difficulty=difficulty,
        metadata=metadata,
    )


def question_key(question: str) -> str:
    """The question with its white space evened out: equal for the same problem in two files (ids name the source)."""
    return content_id(" ".join(question.split()))


def cut(raw: bytes, size: int | None = None) -> tuple[bytes, str]:
    """At most RAW_BYTES of an entry, and a note where that is not all (`size`: its full length)."""
    full = len(raw) if size is None else size
    return raw[:RAW_BYTES], f"; value holds the first {RAW_BYTES} of {full} bytes" if full > RAW_BYTES else ""


def as_number(value: object) -> float:
    """A difficulty as a float; 0 for what is no finite number (JSON has no NaN, and huge integers are no floats)."""
    if not isinstance(value, int | float) or not -1e300 < value < 1e300:
        return 0.0
    return float(value)


def as_text(value: object) -> str:
    """A field as text: strings as they are, whole floats without '.0' (AMC answers), others as JSON; None is ''."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, default=str)
