"""The problems kept for evaluation: the same ones in every process, on every machine, and never produced for training.

Of a generator, a stream of its own under another seed (for the tiny policy's families only those problems that their
hash reserves). Of a file its last rows, at most a tenth of them, unless settings.evaluate.file gives a file of its own.
"""

import itertools
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from producers.sources.gym import Gym
from producers.sources.items import Item, Source, question_key
from producers.sources.opening import configured, open_file, open_source
from schemas.messages import Problem
from schemas.settings import Settings
from schemas.tiny_problems import is_held_out

SHARE = 10
"""At most one row in so many of a training file is held out (at least one row)."""
TRIES = 50
"""A generator whose problems repeat is asked at most this often for each problem wanted."""


def held_out(settings: Settings) -> list[Problem]:
    """The evaluation problems, at most settings.evaluate.problems a source, source after source. Takes seconds.

    Raises:
        BadSource: where a source cannot be opened.
    """
    if settings.evaluate.file:
        source = open_file(Path(settings.evaluate.file), settings)
        return list(itertools.islice(_unrepeated(source.items()), settings.evaluate.problems))
    return [problem for source in _opened(settings) for problem in _of(source, settings)]


def held_out_keys(settings: Settings) -> frozenset[str]:
    """What the producer compares questions with (a copy in another file has another id).

    The families that reserve their held-out problems by a hash are left out: their items say it themselves.
    """
    if settings.evaluate.file:
        found = held_out(settings)
    else:
        found = [p for source in _opened(settings) if not _family(source) for p in _of(source, settings)]
    return frozenset(question_key(problem.question) for problem in found)


class Reserved:
    """Tells of a published problem whether the evaluation asks it, or may ask it: such a one is never trained on.

    Args:
        settings: problems.sources and evaluate.
    """

    def __init__(self, settings: Settings) -> None:
        self.keys = held_out_keys(settings)
        self.families = {source.name: family for source in _opened(settings) if (family := _family(source))}

    def __contains__(self, problem: Problem) -> bool:
        if question_key(problem.question) in self.keys:
            return True
        family = self.families.get(problem.source)
        if not family or not problem.metadata:
            return False
        metadata = json.loads(problem.metadata)
        complete = {"numbers", "target"} <= metadata.keys() or "expression" in metadata
        return complete and is_held_out(family, metadata)


def _family(source: Source) -> str:
    return source.family if isinstance(source, Gym) else ""


def _opened(settings: Settings) -> list[Source]:
    return [open_source(wanted, settings, "eval") for wanted in configured(settings)]


def _of(source: Source, settings: Settings) -> list[Problem]:
    count = settings.evaluate.problems
    return _of_generator(source, count) if isinstance(source, Gym) else _of_file(source, count)


def _of_generator(source: Gym, count: int) -> list[Problem]:
    items: Iterator[Item] = itertools.islice(source.items(), TRIES * count)
    if source.family:
        items = (item for item in items if item.held_out)
    return list(itertools.islice(_unrepeated(items), count))


def _of_file(source: Source, count: int) -> list[Problem]:
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
