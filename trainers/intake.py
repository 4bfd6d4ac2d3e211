"""RL's rewards: announced by the topic, trained on from the table, so that every step can be replayed by its ids.

The table holds the first committed copy of a group, which is the one everybody sees; a record of another copy, or one
that was handed over already, only moves the offsets. A group whose row is not in the table yet is simply not offered.
The group `rl` has a committed offset for each partition: the lowest record whose group no checkpoint has consumed.
"""

import time
from collections.abc import Collection, Container, Iterable, Sequence
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
from deltalake import DeltaTable
from kafka import OffsetAndMetadata, TopicPartition

from processors import kafka
from processors.dataset import Datasets, quoted
from processors.places import Source
from schemas.messages import RewardGroup
from schemas.settings import Settings
from schemas.tables import from_row

TOPIC = "rewards"
LOOK_S = 0.5


class _Named(msgspec.Struct):
    """All that is needed of a record; what is wrong with the rest, the sink says in a dead letter."""

    id: str


class Intake:
    """New reward groups, each once.

    Args:
        settings: the broker.
        datasets: the tables.
        known: ids that must not be offered (again).
    """

    def __init__(self, settings: Settings, datasets: Datasets, known: Iterable[str]) -> None:
        self.offered = set(known)
        self._datasets = datasets
        self._table: DeltaTable = datasets.table(TOPIC)
        self._read: set[str] = set()
        self._looked = 0.0
        self._open: dict[TopicPartition, dict[int, str]] = {}
        # Assigned, not subscribed: one trainer reads all partitions, and a long step must not cost it its place.
        self._consumer: Any = kafka.consumer(settings, group="rl")
        self._consumer.assign(kafka.partitions(self._consumer, [TOPIC]))

    @property
    def version(self) -> int:
        """The table version that was read last."""
        return int(self._table.version())

    def poll(self, timeout_ms: int = 200) -> list[RewardGroup]:
        """Groups whose rows are new in the table, in the table's order; waits up to `timeout_ms` for records."""
        for at, records in self._consumer.poll(timeout_ms).items():
            for record in records:
                self._open.setdefault(at, {})[record.offset] = _name(record.value)
        if time.monotonic() - self._looked < LOOK_S:
            return []
        self._looked = time.monotonic()
        self._table.update_incremental()
        files = self._table.file_uris()
        fresh = [file for file in files if file not in self._read]
        self._read = set(files)
        groups = _groups(self._datasets.place.files(TOPIC, fresh), self.offered) if fresh else []
        self.offered.update(group.id for group in groups)
        return groups

    def planned(self, ids: Sequence[str]) -> list[RewardGroup]:
        """The groups of a planned step, in its order; those that are no rows now are left out."""
        listed = ", ".join(quoted(key) for key in ids)
        found = {group.id: group for group in self._datasets.messages(RewardGroup, f"id IN ({listed})")}
        self._table.update_incremental()  # so that `version` has them
        return [found[key] for key in ids if key in found]

    def commit(self, consumed: Container[str]) -> None:
        """Commit, for each partition, the lowest offset whose group is not in `consumed` (or the position).

        Call it after a checkpoint that holds `consumed`.
        """
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        for at, held in self._open.items():
            self._open[at] = waiting = {offset: key for offset, key in held.items() if key and key not in consumed}
            offsets[at] = OffsetAndMetadata(min(waiting) if waiting else self._consumer.position(at), "", -1)
        if offsets:
            self._consumer.commit(offsets)

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def _name(value: bytes) -> str:
    """The group's id; '' for bytes that are no message (they are the sink's to report)."""
    try:
        return msgspec.json.decode(value, type=_Named).id
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""


def _groups(files: Source, offered: Collection[str]) -> list[RewardGroup]:
    """The groups in these files that were not offered: after a start or a compaction, a few of very many."""
    with duckdb.connect() as connection:
        if isinstance(files, list):
            fresh = f"read_parquet([{', '.join(map(quoted, files))}])"
        else:
            connection.register(fresh := "fresh", files)
        connection.register("offered", pa.table({"id": pa.array(list(offered), pa.string())}))
        query = f"SELECT * FROM {fresh} WHERE id NOT IN (FROM offered)"  # noqa: S608 - our own paths
        ordered = f"{query} ORDER BY _time, _topic_id, _partition, _offset"
        batches = connection.sql(ordered).to_arrow_reader(256)
        return [from_row(row, RewardGroup) for batch in batches for row in batch.to_pylist()]
