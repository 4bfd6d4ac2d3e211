"""Files beside the tables that have done their work: messages that travelled as files, and the evaluator's samples.

A file of <data>/large is needed while a record that names it may be read: by the sink, which puts the whole message
into its table, by a stage that has not passed it, or by a replay of a dead letter that holds it. A file of
<data>/answers is needed until its version's evaluation is a row: it lets an interrupted one go on. Nothing younger than
the time that is to be kept is touched.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from processors import kafka
from processors.dataset import Datasets
from processors.history import beyond
from processors.large import folder, named
from schemas.messages import DeadLetter
from schemas.settings import Settings
from schemas.topics import TOPICS, Topic
from trainers.samples import FOLDER


def clear(settings: Settings, datasets: Datasets, keep_s: float) -> dict[str, list[Path]]:
    """Remove what is older than `keep_s` seconds and not needed. Returns what was removed, by folder.

    Raises:
        BrokerMissing: a cluster that the settings name does not answer, so nobody knows what is under way.
    """
    large = _older(folder(settings), keep_s)
    if large:
        needed = set(_needed(settings, datasets))
        large = [path for path in large if path.name.partition(".")[0] not in needed]
    answers = _older(Path(settings.factory.data) / FOLDER, keep_s)
    if answers:
        with datasets.connect() as connection:
            told = {sha for (sha,) in connection.execute("SELECT sha FROM evaluations WHERE source = 'all'").fetchall()}
        answers = [path for path in answers if path.stem in told]
    for path in (*large, *answers):
        path.unlink()
    return {"large": large, FOLDER: answers}


def _older(directory: Path, keep_s: float) -> list[Path]:
    before = time.time() - keep_s
    return sorted(path for path in directory.glob("*") if path.stat().st_mtime < before)


def _needed(settings: Settings, datasets: Datasets) -> Iterator[str]:
    """The shas that dead letters and records under way name."""
    for letter in datasets.messages(DeadLetter):
        yield named(letter.value)
    try:
        there = kafka.topic_ids(settings)
    except kafka.BrokerMissing:
        if settings.broker.bootstrap:
            raise
        return  # an embedded broker that ended has no records; the next one is fed from the tables
    for topic in TOPICS:
        if topic.name in there:
            for record in kafka.tail(settings, topic.name, _passed(settings, datasets, topic)):
                yield named(record.value)


def _passed(settings: Settings, datasets: Datasets, topic: Topic) -> dict[int, int]:
    """By partition, the first offset that its table or one of its groups has not passed."""
    passed = beyond(settings, datasets, topic.message)
    for group in topic.consumers:
        done = {part: at for (name, part), at in kafka.committed(settings, group).items() if name == topic.name}
        passed = {part: min(at, done.get(part, 0)) for part, at in passed.items()}
    return passed
