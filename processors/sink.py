"""The sink: topics into tables, each message once, whatever dies when.

Rows and the offsets they came from are one commit; after a crash the sink seeks to what the tables say. Before each
commit it asks whether the topics are still those it read from: a broker that was started anew has topics of the same
names under other UUIDs, and offsets that start again. A commit is refused when another sink has written the table, for
then this one does not know every id in it. While the disk is full the sink waits; while nothing comes it merges small
files.
"""

import contextlib
import gc
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pyarrow as pa
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from processors import kafka
from processors.dataset import COMPACT_FILES, Datasets, app_id
from processors.failures import Share, TooManyLetters
from processors.large import fitting, unpacked
from processors.nodes import nodes_of
from processors.owning import TableBusy, owned
from processors.rows import Buffer, Place, Waiting
from processors.status import Status
from processors.stopping import stop_event
from schemas import messages as m
from schemas.codec import BadMessage, content_sha, decode
from schemas.errors import DISK_FULL
from schemas.killpoints import passed
from schemas.settings import Settings
from schemas.tables import TABLES
from schemas.topics import BY_NAME, message_id

POLL_MS = 200
RETRY_S = 1.0
LOCK_S = 15.0
COMPACT_EVERY = 50
"""Commits of a table between two looks at its number of files."""
IDLE_S = 30.0
"""Nothing came for so long: a good moment to merge files."""
IDLE_FILES = 8
FULL_S = 5.0
"""Between two attempts to write to a disk that is full."""
GC_OBJECTS = 100_000
"""A tree is thousands of objects, none in a cycle: looking for cycles among them costs as much as decoding them."""

__all__ = ["Sink", "TableBusy", "heal_nodes", "run"]


def run(settings: Settings, topics: list[str], status: Status) -> None:
    """Write topics to tables until SIGTERM or SIGINT; what waits is committed before it returns.

    Raises:
        BrokerMissing: when no broker answers at the start.
        TableBusy: when another sink has one of the tables.
        TooManyLetters: when most of a topic's messages are none.
    """
    gc.set_threshold(GC_OBJECTS)
    datasets = Datasets.of(settings)
    datasets.create()
    kafka.create_topics(settings)
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
        held = datasets.held(_tables(topics))
        self.buffers = {name: Buffer(TABLES[name], *known) for name, known in held.items()}
        self.tidy = time.monotonic()
        self.ids: dict[str, str] = {}
        self.address = ""
        self.producer: KafkaProducer | None = None
        self.letters: list[Any] = []
        self._thread = ThreadPoolExecutor(1, "commits")
        self._job: dict[str, tuple[pa.Table, dict[str, int]]] = {}
        self._writing: Future[None] | None = None
        self.shares = {topic: Share(f"sink (from {topic})", settings.failures) for topic in topics}
        self.too_many: TooManyLetters | None = None

    def session(self, stopping: threading.Event) -> None:
        """Follow the topics of one broker until told to stop, or until they are others under the same names."""
        self.address = kafka.bootstrap(self.settings)
        self.ids = kafka.topic_ids(self.settings)
        consumer = kafka.consumer(self.settings, self.topics)
        try:
            self._settle_when_there_is_room(stopping)
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
                self.tidy = time.monotonic()
            if self.too_many:
                self._flush_when_there_is_room(stopping)
                self._settle_when_there_is_room(stopping)
                raise self.too_many
            full = sum(buffer.size for buffer in self.buffers.values()) >= self.settings.sink.flush_bytes
            if full or time.monotonic() >= due:
                if not self._same_topics():
                    self.drop()
                    self._settle_when_there_is_room(stopping)
                    return
                self._flush_when_there_is_room(stopping)
                self.status.set(lag=_lag(consumer))
                due = time.monotonic() + self.settings.sink.flush_s
                self._tidy()
        if not self._same_topics():
            self.drop()
        self.flush()

    def _flush_when_there_is_room(self, stopping: threading.Event) -> None:
        """Begin to commit what waits, once what is being committed is."""
        self._settle_when_there_is_room(stopping)
        self.begin()

    def _settle_when_there_is_room(self, stopping: threading.Event) -> None:
        """Settle; on a full disk wait for room, or to be told to stop. What waits is in the topics as before."""
        said = False
        while True:
            try:
                self.settle()
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                if not said:
                    print(f"factory: {error.filename}: the disk is full: the sink waits for room", file=sys.stderr)
                    self.status.set(waiting="the disk is full")
                    said = True
                if stopping.wait(FULL_S):
                    raise
                continue
            if said:
                print("factory: there is room again: the sink goes on", file=sys.stderr)
                self.status.set(waiting="")
            return

    def _tidy(self) -> None:
        """Nothing came for a while: merge the files of one table."""
        if time.monotonic() - self.tidy > IDLE_S:
            for name in self.buffers:
                if self._compact(name, IDLE_FILES):
                    return
            self.tidy = time.monotonic()

    def _compact(self, name: str, files: int) -> bool:
        """Merge files where there is room for it: no row waits for this."""
        try:
            return self.datasets.compact(name, files)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            return False

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
            if value is not record.value:  # it came as a file
                place = msgspec.structs.replace(place, sha=content_sha(value))
            self._keep(topic.table, Waiting(decode(value, topic.message), place, record), len(value))
            self.status.add(records=1)
            self.shares[topic.name].count()
        except BadMessage as error:
            self.too_many = self.shares[topic.name].count(str(error)) or self.too_many
            self._seen(topic.table, place)
            self._bury(record, place, str(error))
            self.status.add(records=1, errors=1)

    def _keep(self, table: str, waiting: Waiting, size: int) -> None:
        place, buffer = waiting.place, self.buffers[table]
        key = message_id(waiting.message)
        if buffer.due(key):
            self._convert(table)
        verdict = buffer.judge(app_id(table, place.topic_id, place.partition), place.offset, key, place.sha)
        if verdict == "new":
            buffer.add(waiting, size)
        elif verdict != "covered":
            self.status.add(**{"copies" if verdict == "copy" else "losing": 1})
        if table == "trees":
            self._seen("nodes", place)

    def _convert(self, table: str) -> None:
        """Make rows of what was read; what does not fit its table becomes a dead letter."""
        for waiting, error in self.buffers[table].convert():
            topic = waiting.place.topic
            self.too_many = self.shares[topic].count(str(error)) or self.too_many
            self._bury(waiting.record, waiting.place, str(error))
            self.status.add(errors=1)

    def _seen(self, table: str, place: Place) -> None:
        for name in _tables([table]):
            self.buffers[name].judge(app_id(name, place.topic_id, place.partition), place.offset, "", "")

    def _bury(self, record: Any, place: Place, error: str) -> None:  # noqa: ANN401 - kafka-python's ConsumerRecord
        letter = m.DeadLetter(
            id=m.content_id("sink", place.topic, place.topic_id, place.partition, place.offset),
            stage="sink",
            topic=place.topic,
            partition=place.partition,
            offset=place.offset,
            key=record.key or b"",
            value=record.value or b"",
            error=error[:1000],
            time=time.time(),
        )
        if self.producer is None:
            self.producer = kafka.producer(self.settings)
        self.letters.append(kafka.send(self.producer, fitting(self.settings, letter)))

    def flush(self) -> None:
        """Commit what waits, and come back when it is done."""
        self.settle()
        self.begin()
        self.settle()

    def begin(self) -> None:
        """Begin to commit what waits, dead letters first: an offset moves only past what has been written somewhere.

        A thread does it, so that the next messages are decoded meanwhile; `settle` says when and whether it is done.
        """
        passed("sink:working")
        for name in self.buffers:
            self._convert(name)
        for letter in self.letters:
            letter.get(timeout=30)
        self.letters = []
        self._job = {name: buffer.hand_over() for name, buffer in self.buffers.items() if buffer.offsets}
        if {"trees", "nodes"} <= self._job.keys():  # the nodes lie in the rows of their trees until they are written
            self._job["nodes"] = (self._job["trees"][0], self._job["nodes"][1])
        self._writing = self._thread.submit(self._write)

    def settle(self) -> None:
        """Wait for the commit that was begun. Raises what it raised; the next call then tries again what is left."""
        if self._writing is None and self._job:
            self._writing = self._thread.submit(self._write)
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def _write(self) -> None:
        """`trees` is committed before `nodes`; a crash between the two is healed at the next start."""
        for name, (taken, offsets) in list(self._job.items()):
            buffer = self.buffers[name]
            rows = nodes_of(taken) if name == "nodes" else taken
            with self.status.in_flight:
                self.datasets.append(name, rows, offsets, buffer.commits)
            buffer.done(offsets)
            del self._job[name]
            passed("sink:output")
            if buffer.commits % COMPACT_EVERY == 0:
                self._compact(name, COMPACT_FILES)

    def drop(self) -> None:
        """Forget what waits: the topics it was read from are gone, and what is not in a table will be fed again."""
        self.letters = []
        for buffer in self.buffers.values():
            buffer.drop()


def heal_nodes(datasets: Datasets) -> None:
    """Write the nodes of trees that have none (a crash between the two commits, perhaps on a broker that is gone)."""
    held = datasets.held(["nodes"])["nodes"]
    bare = "NOT EXISTS (SELECT 1 FROM nodes WHERE tree_id = trees.id AND nodes._sha = trees._sha)"
    trees = (pa.RecordBatch.from_pylist([row], TABLES["trees"]) for row in datasets.rows("trees", bare))
    rows = nodes_of(pa.Table.from_batches(trees, TABLES["trees"]))
    moved = {f"nodes:{app.removeprefix('trees:')}": offset for app, offset in datasets.offsets("trees").items()}
    if rows.num_rows or any(offset > held.offsets.get(app, -1) for app, offset in moved.items()):
        datasets.append("nodes", rows, moved, held.commits, missing=True)


def _tables(topics: list[str]) -> list[str]:
    """The tables of topics (or tables), in the order in which they are committed."""
    names = [BY_NAME[topic].table if topic in BY_NAME else topic for topic in topics]
    return [*names, "nodes"] if "trees" in names else names


def _lag(consumer: KafkaConsumer) -> int:
    ends = {at: consumer.highwater(at) for at in consumer.assignment()}
    return sum(max(0, end - consumer.position(at)) for at, end in ends.items() if end is not None)


@contextlib.contextmanager
def _owning(datasets: Datasets, topics: list[str]) -> Iterator[None]:
    """One sink a table, on this machine by a lock; elsewhere the commits decide."""
    with contextlib.ExitStack() as stack:
        for name in _tables(topics):
            stack.enter_context(owned(datasets.root, name, LOCK_S))
        yield
