"""What the ledger is computed from: committed offsets, what the topics hold beyond the tables, and the tables.

The order of reading matters. Committed offsets come FIRST: whatever a group had committed then, it had answered
before, so its answers are in what is read afterwards, and an id without an answer lies at or beyond that offset. Then
the topics, downstream before upstream (ORDER): what a row was made from is there when the row is.
With the embedded broker down, data/state/offsets.json (written while it ran) says what it had committed.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from processors import kafka
from processors.dataset import Datasets, app_id
from processors.large import unpacked
from processors.rows import Place, Unwritable, message_batch
from schemas.codec import BadMessage, content_sha, decode
from schemas.settings import Settings
from schemas.tables import TABLES
from schemas.topics import BY_NAME, TOPICS, message_id

ORDER = (
    ("dead.letters", "replays", "filtered", "evaluations", "training"),
    ("answers", "examples", "rewards"),
    ("traces", "rollouts"),
    ("trees", "prompts"),
    ("problems", "weights"),
)
"""The topics as they are read, those of a line at one moment: no row names a row of a line above its own."""
OPEN = "SELECT input_id FROM {letters} l WHERE l.id NOT IN (SELECT row_id FROM {replays} WHERE what = 'sent')"
"""The inputs of dead letters that were not sent again: the others are to be answered anew."""
GROUPS: tuple[str, ...] = tuple(sorted({group for topic in TOPICS for group in topic.consumers}))
ATTEMPTS = 3


class SavedOffsets(msgspec.Struct):
    """data/state/offsets.json: the embedded broker's topic UUIDs and its groups' committed offsets."""

    topic_ids: dict[str, str] = {}
    groups: dict[str, dict[str, dict[str, int]]] = {}
    traces: dict[str, dict[str, int]] = {}
    """Of each `traces` topic that there was, by its UUID: up to which offset, by partition, all is in the table."""
    clean: bool = True
    """False: it was written while answers were still on their way to the tables."""


def read_saved(settings: Settings) -> SavedOffsets:
    """data/state/offsets.json; where there is none that can be read, nothing is known of what was committed."""
    try:
        data = (Path(settings.factory.data) / "state" / "offsets.json").read_bytes()
        return msgspec.json.decode(data, type=SavedOffsets)
    except (OSError, msgspec.MsgspecError):
        return SavedOffsets(clean=False)


def whole(table: str) -> str:
    """SQL for a table's rows and those of its topic that it does not hold yet."""
    return f'(FROM "{table}" UNION ALL FROM tail_{table})'


def open_letters() -> str:
    """SQL for the input ids of the dead letters that stand, in a condition on `stage` to be completed with AND."""
    return OPEN.format(letters=whole("dead_letters"), replays=whole("replays"))


def gather(settings: Settings) -> "Facts":
    """The facts, all from one broker: an embedded one may be replaced while it is read.

    Raises:
        NoDatasets: when there are no tables.
        BrokerMissing: when a cluster that the settings name does not answer.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            facts = Facts(settings)
        except kafka.BrokerMissing:
            if settings.broker.bootstrap:
                raise
            continue
        if facts.settled():
            return facts
        facts.connection.close()
    return Facts(settings)


class Facts:
    """Everything that is known, online or offline.

    Args:
        settings: the data directory and the broker.

    Raises:
        NoDatasets: when there are no tables.
        BrokerMissing: when a cluster that the settings name does not answer, or a broker dies while it is read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.online = True
        self.embedded = not settings.broker.bootstrap
        self.saved = SavedOffsets()
        try:
            self.topic_ids = kafka.topic_ids(settings)
            self.groups = {group: kafka.committed(settings, group) for group in GROUPS}
        except kafka.BrokerMissing:
            if not self.embedded:
                raise
            self._offline()
        datasets = Datasets.of(settings)
        self.pin = datasets.versions()
        self.offsets = {name: datasets.offsets(name, version) for name, version in self.pin.items()}
        self.connection = self._connect(datasets)

    def settled(self) -> bool:
        """Whether the topics are still those that were read."""
        try:
            return not self.online or kafka.topic_ids(self.settings) == self.topic_ids
        except kafka.BrokerMissing:
            return False

    def _offline(self) -> None:
        self.online = False
        self.saved = read_saved(self.settings)
        self.topic_ids = self.saved.topic_ids
        self.groups = {
            group: {(topic, int(part)): at for topic, parts in topics.items() for part, at in parts.items()}
            for group, topics in self.saved.groups.items()
        }

    def held(self, topic: str) -> dict[int, int]:
        """By partition of the present topic, the last offset that its table holds or has deliberately skipped."""
        table = BY_NAME[topic].table
        prefix = app_id(table, self.topic_ids.get(topic, ""), 0).rpartition(":")[0] + ":"
        offsets = self.offsets.get(table, {})
        return {int(app.rpartition(":")[2]): at for app, at in offsets.items() if app.startswith(prefix)}

    def _connect(self, datasets: Datasets) -> duckdb.DuckDBPyConnection:
        """The tables and, beside each, `tail_<table>`: the rows of its topic that it does not hold yet."""
        tails: dict[str, pa.Table] = {}
        for line in ORDER if self.online else ():
            names = [name for name in line if name in self.topic_ids]
            ends = kafka.highwater(self.settings, names) if names else {}
            for name in names:
                start = {part: at + 1 for part, at in self.held(name).items()}
                mine = {at: end for at, end in ends.items() if at[0] == name and end > start.get(at[1], 0)}
                if mine:
                    tails[BY_NAME[name].table] = self._tail(name, start, mine)
        connection = datasets.connect(self.pin)
        for topic in TOPICS:
            connection.register(f"tail_{topic.table}", tails.get(topic.table, TABLES[topic.table].empty_table()))
        return connection

    def _tail(self, topic: str, start: dict[int, int], ends: dict[tuple[str, int], int]) -> pa.Table:
        schema = TABLES[BY_NAME[topic].table]
        records = kafka.tail(self.settings, topic, start, ends)
        return pa.Table.from_batches(list(self._batches(topic, records, schema)), schema=schema)

    def _batches(self, topic: str, records: Iterable[Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        for record in records:
            try:
                value = unpacked(self.settings, record.value)
                place = Place(
                    topic=topic,
                    topic_id=self.topic_ids[topic],
                    partition=record.partition,
                    offset=record.offset,
                    time_ms=record.timestamp,
                    sha=content_sha(value),
                )
                yield message_batch(decode(value, BY_NAME[topic].message), place, schema)
            except (BadMessage, Unwritable):
                continue  # its dead letter is counted, not it

    def in_flight(self, group: str, topic: str, candidates: Mapping[str, list[tuple[str, int, int]]]) -> set[str]:
        """Those of the ids without an answer that the group has not passed, or that wait to be fed again.

        Args:
            group: the consumer group.
            topic: its input.
            candidates: where each id was read: (topic id, partition, offset), perhaps several.
        """
        if not candidates:
            return set()
        if not self.online and not self.saved.clean:
            return set(candidates)
        done = {part: at for (name, part), at in self.groups.get(group, {}).items() if name == topic}
        now = self.topic_ids.get(topic, "")
        found = {
            key
            for key, places in candidates.items()
            if any(topic_id == now and offset >= done.get(part, 0) for topic_id, part, offset in places)
        }
        left = {key: places for key, places in candidates.items() if key not in found}
        old = {key for key, places in left.items() if all(topic_id != now for topic_id, _, _ in places)}
        if not self.online:
            return found | old | self._sent_again(group, set(left) - old)
        return found | (self._fed_again(topic, done, left, old) if left else set())

    def _sent_again(self, group: str, left: set[str]) -> set[str]:
        """Of the ids without an answer: those whose dead letter was sent again; the next start feeds them."""
        query = """
        SELECT input_id FROM dead_letters WHERE stage = ? AND id IN (SELECT row_id FROM replays WHERE what = 'sent')
        """
        return left & {key for (key,) in self.connection.execute(query, [group]).fetchall()} if left else set()

    def _fed_again(self, topic: str, done: dict[int, int], left: Mapping[str, object], old: set[str]) -> set[str]:
        """Of the ids that lie elsewhere: those with a copy beyond the committed offsets, or none on a new broker."""
        if topic not in self.topic_ids:
            return old if self.embedded else set()
        copies = set(self._ids(kafka.tail(self.settings, topic, done), topic))
        found = set(left) & copies
        if self.embedded and old - found:
            found |= old - found - set(self._ids(kafka.tail(self.settings, topic, {}), topic))
        return found

    def _ids(self, records: Iterable[Any], topic: str) -> Iterator[str]:
        for record in records:
            try:
                yield message_id(decode(unpacked(self.settings, record.value), BY_NAME[topic].message))
            except BadMessage:
                continue
