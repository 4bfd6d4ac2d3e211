"""The problems kept for evaluation: the same ones in every process, on every machine, and never produced for training.

Of a generator or an installed source, what it gives for the purpose 'eval': a stream under another seed (for the tiny
policy's families only those problems that their hash reserves). Of a file its last rows, at most a tenth of them,
unless settings.evaluate.file gives a file of its own. A problem overlaps with them by its id or by its text (text_key):
whoever trains leaves it out and says why in a row.
"""

import itertools
import json
import re
import time
import unicodedata
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from producers.sources.files import Files
from producers.sources.gym import Gym
from producers.sources.items import Item, Source, question_key
from producers.sources.opening import configured, open_file, open_source
from schemas.messages import Filtered, Problem, content_id
from schemas.settings import Settings
from schemas.tiny_problems import is_held_out

SHARE = 10
"""At most one row in so many of a training file is held out (at least one row)."""
TRIES = 50
"""A generator whose problems repeat is asked at most this often for each problem wanted."""
WHY = "held_out"
"""Begins the `why` of every row about a problem that is kept for evaluation."""
BY_FAMILY = f"{WHY}: its family reserves it"
_DRESS = re.compile(r"\$|\\[()\[\]]|\\(?:left|right|displaystyle|dfrac|tfrac)(?![a-zA-Z])|\\[,;:!]|~")
_LOOSE = re.compile(r"\s*([^\w\s])\s*")
_ALIKE = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014\u2212\u00d7", "''\"\"---*")


def text_key(question: str) -> str:
    """Equal for questions that say the same in other dress.

    Case, Unicode forms, quotes, dashes, TeX's delimiters and spacing, white space and the stop at the end do not count;
    digits, signs and the words themselves do.
    """
    plain = unicodedata.normalize("NFKC", question).translate(_ALIKE).casefold()
    plain = _DRESS.sub(lambda found: "\\frac" if "frac" in found.group() else " ", plain)
    return content_id(_LOOSE.sub(r"\1", " ".join(plain.split())).strip().rstrip(" .?:"))


def evaluation_file(path: Path, settings: Settings, label: str = "") -> Files:
    """A file of problems to evaluate on, with the field mapping that problems.sources has for it, if any.

    Raises:
        BadSource: it is not there, or the mapping is wrong.
    """
    sources = (one for one in settings.problems.sources if one.kind == "file")
    mapped = next(
        (one for one in sources if Path(one.name).expanduser().resolve() == path.expanduser().resolve()), None
    )
    return open_file(path, settings, label, mapped)


def held_out(settings: Settings) -> list[Problem]:
    """The evaluation problems, at most settings.evaluate.problems a source, source after source. Takes seconds.

    Raises:
        BadSource: where a source cannot be opened.
    """
    if settings.evaluate.file:
        source = evaluation_file(Path(settings.evaluate.file), settings)
        return list(itertools.islice(_unrepeated(source.items()), settings.evaluate.problems))
    return [problem for source in _opened(settings) for problem in _of(source, settings)]


class Reserved:
    """Tells of a problem whether the evaluation asks it, or may ask it: such a one is never trained on.

    Args:
        settings: problems.sources and evaluate.

    Raises:
        BadSource: where a source cannot be opened.
    """

    def __init__(self, settings: Settings) -> None:
        found = [(problem, f"{problem.source} {problem.index}") for problem in held_out(settings)]
        self._ids = {problem.id: place for problem, place in found}
        self._texts = {text_key(problem.question): place for problem, place in found}
        self._families = {source.name: family for source in _opened(settings) if (family := _family(source))}

    def __contains__(self, problem: Problem) -> bool:
        return bool(self.why(problem))

    def why(self, problem: Problem) -> str:
        """The reason not to train on it, which names the evaluation's problem where it is one; '' = it is free."""
        if self._by_its_family(problem):
            return BY_FAMILY
        if place := self._ids.get(problem.id):
            return f"{WHY}: it is {place} of the evaluation"
        if place := self._texts.get(text_key(problem.question)):
            return f"{WHY}: the same text as {place} of the evaluation"
        return ""

    def _by_its_family(self, problem: Problem) -> bool:
        family = self._families.get(problem.source)
        if not family or not problem.metadata:
            return False
        metadata = json.loads(problem.metadata)
        complete = {"numbers", "target"} <= metadata.keys() or "expression" in metadata
        return complete and is_held_out(family, metadata)


def refusal(stage: str, problem: Problem, why: str) -> Filtered:
    """The row that says why a stage does not use a problem."""
    return Filtered(
        id=content_id(stage, problem.id, why),
        stage=stage,
        input_topic="problems",
        input_id=problem.id,
        why=why,
        source=problem.source,
        difficulty=problem.difficulty,
        time=time.time(),
    )


def _family(source: Source) -> str:
    return source.family if isinstance(source, Gym) else ""


def _opened(settings: Settings) -> list[Source]:
    return [open_source(wanted, settings, "eval") for wanted in configured(settings)]


def _of(source: Source, settings: Settings) -> list[Problem]:
    count = settings.evaluate.problems
    return _of_file(source, count) if isinstance(source, Files) else _of_generator(source, count)


def _of_generator(source: Source, count: int) -> list[Problem]:
    items: Iterator[Item] = itertools.islice(source.items(), TRIES * count)
    if _family(source):
        items = (item for item in items if item.held_out)
    return list(itertools.islice(_unrepeated(items), count))


def _of_file(source: Files, count: int) -> list[Problem]:
    """Its last problems, in their order. All of the file is read: its end is where evaluation and training part."""
    last: deque[Problem] = deque(maxlen=count)
    total = 0
    for problem in _unrepeated(source.items()):
        last.append(problem)
        total += 1
    kept = min(count, max(1, total // SHARE)) if total > 1 else 0
    return list(last)[len(last) - kept :]


def _unrepeated(items: Iterator[Item]) -> Iterator[Problem]:
    seen: set[str] = set()
    for item in items:
        if item.problem is not None and (key := question_key(item.problem.question)) not in seen:
            seen.add(key)
            yield item.problem
