"""The problems kept for evaluation: the same ones in every process, on every machine, and never produced for training.

Of a generator, a stream of its own under another seed (for the tiny policy's families only those problems that their
hash reserves). Of a file, those rows among the first POOL whose hash is lowest, at most a tenth of them, unless
settings.evaluate.file gives a file of its own.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

from producers.sources.gym import Gym
from producers.sources.items import Item, Source, question_key
from producers.sources.opening import configured, open_file, open_source
from schemas.messages import Problem
from schemas.settings import Settings
from schemas.tiny_problems import FAMILIES, is_held_out

POOL = 10_000
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
        found = [p for source in _opened(settings) if not reserves(source) for p in _of(source, settings)]
    return frozenset(question_key(problem.question) for problem in found)


def reserves(source: Source) -> bool:
    """Whether the source's items say themselves which are held out."""
    return isinstance(source, Gym) and source.generator in FAMILIES


def is_reserved(problem: Problem, keys: frozenset[str]) -> bool:
    """Whether a problem is, or may be, one of those that the evaluation asks."""
    if question_key(problem.question) in keys:
        return True
    return problem.source in FAMILIES and bool(problem.metadata) and _by_hash(problem)


def _by_hash(problem: Problem) -> bool:
    return is_held_out(problem.source, json.loads(problem.metadata))


def _opened(settings: Settings) -> list[Source]:
    return [open_source(wanted, settings, "eval") for wanted in configured(settings)]


def _of(source: Source, settings: Settings) -> list[Problem]:
    count = settings.evaluate.problems
    return _of_generator(source, count) if isinstance(source, Gym) else _of_file(source, count)


def _of_generator(source: Gym, count: int) -> list[Problem]:
    items: Iterator[Item] = itertools.islice(source.items(), TRIES * count)
    if reserves(source):
        items = (item for item in items if item.held_out)
    return list(itertools.islice(_unrepeated(items), count))


def _of_file(source: Source, count: int) -> list[Problem]:
    pool = list(itertools.islice(_unrepeated(source.items()), POOL))
    chosen = sorted(pool, key=lambda problem: question_key(problem.question))[: min(count, max(1, len(pool) // 10))]
    return sorted(chosen, key=lambda problem: problem.index)


def _unrepeated(items: Iterator[Item]) -> Iterator[Problem]:
    seen: set[str] = set()
    for item in items:
        if item.problem is not None and (key := question_key(item.problem.question)) not in seen:
            seen.add(key)
            yield item.problem
