"""Dead letters sent again: the original bytes to the topic they were read from, and a row in `replays` that says so.

The bytes are sent before the mark: a crash between the two means that they are sent twice, which changes nothing (an
id is one row), and never that a letter counts as sent and was not.
"""

import time
from collections import Counter
from collections.abc import Iterator

import msgspec
from kafka import KafkaProducer

from deploy import dlq
from deploy.code_version import code_version
from deploy.reaching import a_broker
from processors import kafka
from processors.history import history
from schemas.messages import DeadLetter, content_id
from schemas.replay import Replay
from schemas.settings import Settings
from schemas.topics import BY_NAME

BATCH = 100
"""Letters that are sent before their marks are."""
SEND_S = 60.0
WHY_NOT = {
    "file": "lines of files: put the file right and start the factory again",
    "gone": "their bytes were too large to be copied and are not in the table",
    "unknown": "of a topic that this version does not have",
    "sent": "sent again by somebody else in this moment",
}


class Plan(msgspec.Struct):
    """What a replay would do, or did."""

    send: dict[str, int]
    """Letters by topic."""
    skip: dict[str, int]
    """Letters by reason (WHY_NOT)."""
    sent: bool = False
    online: bool = True
    """Whether a broker ran; else the tables keep the marks, and the stages get the messages when the factory starts."""


def plan(settings: Settings, where: str) -> Plan:
    """What `replay` would send.

    Raises:
        BadQuery, NoDatasets: as dlq.letters.
    """
    fates = Counter(_fate(settings, letter) for letter, _ in dlq.letters(settings, where))
    return _plan(fates)


def replay(settings: Settings, where: str, *, again: bool = False) -> Plan:
    """Send letters again and mark them; with `again` also those whose marks no table holds yet.

    Raises:
        BadQuery, NoDatasets: as dlq.letters.
        BrokerMissing, TableBusy: as a_broker.
        KafkaError: a message was not acknowledged; those before it are marked.
    """
    fates: Counter[str] = Counter()
    with a_broker(settings) as online:
        marks = Counter(row.row_id for row in history(settings, Replay, "what = 'sent'") if row.what == "sent")
        client = kafka.producer(settings)
        code = code_version()
        for batch in _batches(settings, where):
            futures, sent = [], []
            for letter, times in batch:
                fate = "sent" if marks[letter.id] > times and not again else _fate(settings, letter)
                fates[fate] += 1
                if fate in BY_NAME:
                    futures.append(_send(client, settings, letter))
                    sent.append(_mark(letter, max(times, marks[letter.id]), code))
            _acknowledged(client, futures)
            _acknowledged(client, [kafka.send(client, mark) for mark in sent])
        client.close()
    made = _plan(fates)
    return Plan(made.send, made.skip, sent=True, online=online)


def _plan(fates: Counter[str]) -> Plan:
    return Plan(
        {name: count for name, count in fates.items() if name in BY_NAME},
        {name: count for name, count in fates.items() if name in WHY_NOT},
    )


def _fate(settings: Settings, letter: DeadLetter) -> str:
    """The topic that a letter goes to, or why to none (a key of WHY_NOT)."""
    if not letter.topic:
        return "file"
    if letter.topic not in BY_NAME:
        return "unknown"
    return letter.topic if dlq.original(settings, letter) is not None else "gone"


def _batches(settings: Settings, where: str) -> Iterator[list[tuple[DeadLetter, int]]]:
    batch: list[tuple[DeadLetter, int]] = []
    for pair in dlq.letters(settings, where):
        batch.append(pair)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _send(client: KafkaProducer, settings: Settings, letter: DeadLetter) -> object:
    """To the partition it came from, where the topic still has it."""
    there = client.partitions_for(letter.topic) or set()
    partition = letter.partition if letter.partition in there else None
    return client.send(letter.topic, key=letter.key, value=dlq.original(settings, letter), partition=partition)


def _mark(letter: DeadLetter, times: int, code: str) -> Replay:
    return Replay(
        id=content_id("sent", letter.id, times),
        what="sent",
        topic="dead.letters",
        row_id=letter.id,
        stage=letter.stage,
        source=letter.topic,
        code=code,
        why=letter.error,
        time=time.time(),
    )


def _acknowledged(client: KafkaProducer, futures: list[object]) -> None:
    client.flush(SEND_S)
    for future in futures:
        future.get(SEND_S)  # type: ignore[attr-defined]
