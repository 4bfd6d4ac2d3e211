"""Files beside the tables that have done their work: messages that travelled as files, and the evaluator's samples.

A file of <data>/large is needed while a record that names it may be read: by the sink, which puts the whole message
into its table, by a stage that has not passed it, or by a replay of a dead letter that holds it. A file of
<data>/answers is needed until its version is evaluated by the evaluator's own rule (what was asked last, with all its
answers): it lets an interrupted one go on. Of another evaluation of the same weights that was interrupted longer ago
than the time that is to be kept, the samples are not kept. Nothing younger than that time is touched.
"""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from processors import kafka
from processors.dataset import Datasets
from processors.history import beyond
from processors.large import folder, named, unpacked
from schemas.codec import BadMessage, decode
from schemas.messages import DeadLetter
from schemas.settings import Settings
from schemas.topics import TOPICS, Topic
from trainers.retention import EVALUATED
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
            told = {sha for _, _, sha in connection.execute(EVALUATED).fetchall()}
        answers = [path for path in answers if path.stem in told]
    return {"large": _removed(large, keep_s), FOLDER: _removed(answers, keep_s)}


def _older(directory: Path, keep_s: float) -> list[Path]:
    return sorted(path for path in directory.glob("*") if _old(path, keep_s))


def _old(path: Path, keep_s: float) -> bool:
    return path.stat().st_mtime < time.time() - keep_s


def _removed(paths: Iterable[Path], keep_s: float) -> list[Path]:
    """Remove those that are old still: who sent a file's message anew while we looked has made the file young."""
    gone = []
    for path in paths:
        if _old(path, keep_s):
            path.unlink()
            gone.append(path)
    return gone


def _needed(settings: Settings, datasets: Datasets) -> Iterator[str]:
    """The shas that dead letters and records under way name.

    The offsets come first: what a group or a table had passed then, its letter was sent before, and is read after.
    """
    passed: dict[Topic, dict[int, int]] = {}
    try:
        there = kafka.topic_ids(settings)
        passed = {topic: _passed(settings, datasets, topic) for topic in TOPICS if topic.name in there}
    except kafka.BrokerMissing:
        if settings.broker.bootstrap:
            raise
        # an embedded broker that ended has no records; the next one is fed from the tables
    for letter in datasets.messages(DeadLetter):
        yield named(letter.value)
    for topic, start in passed.items():
        for record in kafka.tail(settings, topic.name, start):
            yield named(record.value)
            if topic.message is DeadLetter:
                yield _inside(settings, record.value)


def _inside(settings: Settings, value: bytes) -> str:
    """The sha that a dead letter names which is no row yet."""
    try:
        return named(decode(unpacked(settings, value), DeadLetter).value)
    except BadMessage:
        return ""


def _passed(settings: Settings, datasets: Datasets, topic: Topic) -> dict[int, int]:
    """By partition, the first offset that its table or one of its groups has not passed."""
    passed = beyond(settings, datasets, topic.message)
    for group in topic.consumers:
        done = {part: at for (name, part), at in kafka.committed(settings, group).items() if name == topic.name}
        passed = {part: min(at, done.get(part, 0)) for part, at in passed.items()}
    return passed
