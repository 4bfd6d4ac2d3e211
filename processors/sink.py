"""The sink: topics into tables, each message once, whatever dies when.

Rows and the offsets they came from are one commit; after a crash the sink seeks to what the tables say. Before each
commit it asks whether the topics are still those it read from: a broker that was started anew has topics of the same
names under other UUIDs, and offsets that start again.
"""

import contextlib
import fcntl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from processors import kafka
from processors.dataset import Datasets, app_id
from processors.large import unpacked
from processors.rows import Buffer, Place, Unwritable, message_batch, node_batch
from processors.status import Status
from processors.stopping import stop_event
from schemas import messages as m
from schemas.codec import BadMessage, content_sha, decode
from schemas.errors import Told
from schemas.settings import Settings
from schemas.tables import TABLES
from schemas.topics import BY_NAME, message_id

POLL_MS = 200
RETRY_S = 1.0
LOCK_S = 15.0
COMPACT_EVERY = 50
"""Commits of a table between two looks at its number of files."""
LETTER_SHARE = 0.7
"""A dead letter's bytes travel as base64 inside JSON: above this share of the size limit they stay where they are."""


class TableBusy(Told, RuntimeError):
    """Another sink writes the table; the text says which."""


def run(settings: Settings, topics: list[str], status: Status) -> None:
    """Write topics to tables until SIGTERM or SIGINT; what waits is committed before it returns.

    Raises:
        BrokerMissing: when no broker answers at the start.
        TableBusy: when another sink has one of the tables.
    """
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    with stop_event() as stopping, _owning(datasets, topics):
        sink = Sink(settings, datasets, topics, status)
        sink.session(stopping)
        while not stopping.wait(RETRY_S):
            with contextlib.suppress(kafka.BrokerMissing):  # it was there before: it comes back, or we are told to stop
                sink.session(stopping)


class Sink:
    """The tables of some topics and the way into them.

    Args:
        settings: sink.flush_s (seconds), sink.flush_bytes, and the broker's.
        datasets: where the tables are; they exist.
        topics: names of topics.
        status: counts records, copies, losing copies and errors.
    """

    def __init__(self, settings: Settings, datasets: Datasets, topics: list[str], status: Status) -> None:
        self.settings = settings
        self.datasets = datasets
        self.topics = topics
        self.status = status
        if "trees" in topics:
            heal_nodes(datasets)
        self.buffers = {name: _buffer(datasets, name) for name in _tables(topics)}
        self.commits = dict.fromkeys(self.buffers, 0)
        self.ids: dict[str, str] = {}
        self.address = ""
        self.producer: KafkaProducer | None = None
        self.letters: list[Any] = []

    def session(self, stopping: threading.Event) -> None:
        """Follow the topics of one broker until told to stop, or until they are others under the same names."""
        self.address = kafka.bootstrap(self.settings)
        self.ids = kafka.topic_ids(self.settings)
        consumer = kafka.consumer(self.settings, self.topics)
        try:
            self._seek(consumer)
            self._follow(consumer, stopping)
        finally:
            consumer.close()
            if self.producer is not None:
                self.producer.close(timeout=5)
                self.producer = None

    def _seek(self, consumer: KafkaConsumer) -> None:
        for at in consumer.assignment():
            consumer.seek(at, self._held(at) + 1)

    def _held(self, at: TopicPartition) -> int:
        """The last offset that every table of the topic has."""
        tables = _tables([at.topic])
        return min(
            self.buffers[name].committed.get(app_id(name, self.ids[at.topic], at.partition), -1) for name in tables
        )

    def _follow(self, consumer: KafkaConsumer, stopping: threading.Event) -> None:
        due = time.monotonic() + self.settings.sink.flush_s
        while not stopping.is_set():
            for records in consumer.poll(POLL_MS).values():
                for record in records:
                    self.take(record)
            full = sum(buffer.size for buffer in self.buffers.values()) >= self.settings.sink.flush_bytes
            if full or time.monotonic() >= due:
                if not self._same_topics():
                    self.drop()
                    return
                self.flush()
                self.status.set(lag=_lag(consumer))
                due = time.monotonic() + self.settings.sink.flush_s
        if self._same_topics():
            self.flush()

    def _same_topics(self) -> bool:
        """Whether what waits was read from the present topics. A silent broker has not replaced them yet."""
        try:
            if kafka.bootstrap(self.settings) != self.address:
                return False
            now = kafka.topic_ids(self.settings)
        except kafka.BrokerMissing:
            return True
        return all(now.get(topic) == self.ids[topic] for topic in self.topics)

    def take(self, record: Any) -> None:  # noqa: ANN401 - kafka-python's ConsumerRecord
        """Put one record's rows into the buffers; what is not a message becomes a dead letter."""
        topic = BY_NAME[record.topic]
        place = Place(
            topic=topic.name,
            topic_id=self.ids[topic.name],
            partition=record.partition,
            offset=record.offset,
            time_ms=record.timestamp,
            sha=content_sha(record.value or b""),
        )
        try:
            value = unpacked(self.settings, record.value)
            place = msgspec.structs.replace(place, sha=content_sha(value))
            self._keep(topic.table, decode(value, topic.message), place, len(value))
            self.status.add(records=1)
        except (BadMessage, Unwritable) as error:
            self._seen(topic.table, place)
            self._bury(record, place, str(error))
            self.status.add(records=1, errors=1)

    def _keep(self, table: str, message: m.Message, place: Place, size: int) -> None:
        key = message_id(message)
        buffer = self.buffers[table]
        verdict = buffer.judge(app_id(table, place.topic_id, place.partition), place.offset, key, place.sha)
        if verdict == "new":
            row = message_batch(message, place, buffer.schema)
            nodes = node_batch(message, place, TABLES["nodes"]) if isinstance(message, m.Tree) else None
            buffer.add(row, key, place.sha, size)
            if nodes is not None:
                self.buffers["nodes"].add(nodes, key, place.sha, size)
        elif verdict != "covered":
            self.status.add(**{"copies" if verdict == "copy" else "losing": 1})
        if table == "trees":
            self._seen("nodes", place)

    def _seen(self, table: str, place: Place) -> None:
        for name in _tables([table]):
            self.buffers[name].judge(app_id(name, place.topic_id, place.partition), place.offset, "", "")

    def _bury(self, record: Any, place: Place, error: str) -> None:  # noqa: ANN401 - kafka-python's ConsumerRecord
        value, detail = record.value or b"", ""
        if len(value) > LETTER_SHARE * self.settings.broker.message_max_bytes:
            detail = f"{len(value)} bytes, too large to be copied: read them where they came from; sha256 {place.sha}"
            value = b""
        letter = m.DeadLetter(
            id=m.content_id("sink", place.topic, place.topic_id, place.partition, place.offset),
            stage="sink",
            topic=place.topic,
            partition=place.partition,
            offset=place.offset,
            key=record.key or b"",
            value=value,
            error=error,
            detail=detail,
            time=time.time(),
        )
        if self.producer is None:
            self.producer = kafka.producer(self.settings)
        self.letters.append(kafka.send(self.producer, letter))

    def flush(self) -> None:
        """Commit what waits, dead letters first: an offset is moved only past what has been written somewhere.

        `trees` is committed before `nodes`; a crash between the two is healed at the next start.
        """
        for letter in self.letters:
            letter.get(timeout=30)
        self.letters = []
        for name, buffer in self.buffers.items():
            if not buffer.offsets:
                continue
            self.datasets.append(name, buffer.rows(), buffer.offsets)
            buffer.done()
            self.commits[name] += 1
            if self.commits[name] % COMPACT_EVERY == 0:
                self.datasets.compact(name)

    def drop(self) -> None:
        """Forget what waits: the topics it was read from are gone, and what is not in a table will be fed again."""
        self.letters = []
        for buffer in self.buffers.values():
            buffer.drop()


def heal_nodes(datasets: Datasets) -> None:
    """Write the nodes of trees that have none (a crash between the two commits, perhaps on a broker that is gone)."""
    missing = [_nodes_of(row) for row in datasets.rows("trees", "id NOT IN (SELECT tree_id FROM nodes)")]
    held = datasets.offsets("trees")
    moved = {f"nodes:{app.removeprefix('trees:')}": offset for app, offset in held.items()}
    rows = pa.Table.from_batches([batch for batch in missing if batch.num_rows], schema=TABLES["nodes"])
    datasets.append("nodes", rows, moved)


def _nodes_of(row: dict[str, Any]) -> pa.RecordBatch:
    from schemas.tables import from_row

    place = Place(
        topic=row["_topic"],
        topic_id=row["_topic_id"],
        partition=row["_partition"],
        offset=row["_offset"],
        time_ms=int(row["_time"].timestamp() * 1000),
        sha=row["_sha"],
    )
    return node_batch(from_row(row, m.Tree), place, TABLES["nodes"])


def _tables(topics: list[str]) -> list[str]:
    """The tables of topics (or tables), in the order in which they are committed."""
    names = [BY_NAME[topic].table if topic in BY_NAME else topic for topic in topics]
    return [*names, "nodes"] if "trees" in names else names


def _buffer(datasets: Datasets, name: str) -> Buffer:
    return Buffer(TABLES[name], datasets.shas(name), datasets.offsets(name))


def _lag(consumer: KafkaConsumer) -> int:
    ends = {at: consumer.highwater(at) for at in consumer.assignment()}
    return sum(max(0, end - consumer.position(at)) for at, end in ends.items() if end is not None)


@contextlib.contextmanager
def _owning(datasets: Datasets, topics: list[str]) -> Iterator[None]:
    """One sink a table, on this machine by a lock (the kernel frees it when we die); elsewhere the commits decide."""
    with contextlib.ExitStack() as stack:
        for name in _tables(topics):
            lock = stack.enter_context((datasets.root / f".{name}.sink").open("w"))
            deadline = time.monotonic() + LOCK_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TableBusy(f"another sink writes the table {name!r}: stop it first") from None
                    time.sleep(0.1)
        yield
