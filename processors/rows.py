"""From a record to the rows of its table: the pure part of the sink.

A table remembers the content sha of each id it holds. The first copy of an id is the row; a later one with the same
sha was fed again, one with another sha lost (a worker died after sending and sampled anew), and neither is written.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import pyarrow as pa

from processors import columns
from schemas import messages as m
from schemas.tables import SCHEMA_VERSION
from schemas.topics import message_id

Taken = Literal["new", "copy", "losing", "covered"]
CHUNK_BYTES = 2_097_152
"""Of messages that are made into rows at once."""


class Unwritable(ValueError):
    """A message that decodes but does not fit its table (an integer beyond 64 bits, half a surrogate pair)."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a message was read: its metadata columns."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    time_ms: int
    sha: str


def message_batch(message: m.Message, place: Place, schema: pa.Schema) -> pa.RecordBatch:
    """One row of the message's table.

    Raises:
        Unwritable: for values that have no place in the columns.
    """
    return message_rows([message], [place], schema)


def message_rows(messages: Sequence[m.Message], places: Sequence[Place], schema: pa.Schema) -> pa.RecordBatch:
    """A row for each message; all are of one type, and there is at least one.

    Raises:
        Unwritable: for values that have no place in the columns.
    """
    with _fitting():
        return pa.record_batch([*columns.fields(messages, schema), *_meta(places)], schema=schema)


def _meta(places: Sequence[Place]) -> list[Any]:
    """The metadata columns, in the order of schemas.tables.META."""
    return [
        pa.array([place.topic for place in places], pa.string()),
        pa.array([place.topic_id for place in places], pa.string()),
        pa.array([place.partition for place in places], pa.int32()),
        pa.array([place.offset for place in places], pa.int64()),
        columns.times([place.time_ms for place in places]),
        pa.array([SCHEMA_VERSION] * len(places), pa.int32()),
        pa.array([place.sha for place in places], pa.string()),
    ]


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except (ValueError, OverflowError, pa.ArrowException) as error:  # a UnicodeError is a ValueError
        raise Unwritable(f"does not fit the table: {error}") from error


class Waiting(msgspec.Struct):
    """A message on its way into a table."""

    message: m.Message
    place: Place
    record: Any
    """What it was decoded from, for its dead letter should it not fit."""


class Buffer:
    """The rows of one table that wait for the next commit, and what the table already holds.

    Args:
        schema: of the table.
        shas: content sha by id, of the committed rows.
        offsets: last committed offset by app id.
        commits: how many commits of sinks the table has.
    """

    def __init__(
        self,
        schema: pa.Schema,
        shas: dict[str, str],
        offsets: Mapping[str, int],
        commits: int = 0,
    ) -> None:
        self.schema = schema
        self.shas = shas
        self.committed = dict(offsets)
        self.commits = commits
        self.offsets: dict[str, int] = {}
        self.size = 0
        self._ids: set[str] = set()
        self._batches: list[pa.RecordBatch] = []
        self._waiting: dict[str, Waiting] = {}
        self._unconverted = 0

    def judge(self, app: str, offset: int, key: str, sha: str) -> Taken:
        """What a message with that id and content is to this table; its offset counts as seen."""
        if offset <= self.committed.get(app, -1):
            return "covered"
        self.offsets[app] = max(offset, self.offsets.get(app, -1))
        if key not in self.shas:
            return "new"
        return "copy" if self.shas[key] == sha else "losing"

    def add(self, waiting: Waiting, size: int) -> None:
        """Keep a message whose id is new; `size` is that of its bytes."""
        key = message_id(waiting.message)
        self._waiting[key] = waiting
        self._unconverted += size
        self.size += size
        self._ids.add(key)
        self.shas[key] = waiting.place.sha

    def due(self, key: str) -> bool:
        """Whether to convert before a message with this id is judged: enough waits, or its first copy does."""
        return self._unconverted >= CHUNK_BYTES or key in self._waiting

    def convert(self) -> list[tuple[Waiting, Unwritable]]:
        """Make rows of what waits. Returns the messages that do not fit the table; their ids are as new again."""
        waiting, self._waiting, self._unconverted = list(self._waiting.values()), {}, 0
        if not waiting:
            return []
        try:
            self._take(waiting)
        except Unwritable:
            return [found for one in waiting for found in self._take_one(one)]
        return []

    def _take_one(self, one: Waiting) -> list[tuple[Waiting, Unwritable]]:
        try:
            self._take([one])
        except Unwritable as error:
            self._ids.discard(message_id(one.message))
            self.shas.pop(message_id(one.message), None)
            return [(one, error)]
        return []

    def _take(self, waiting: Sequence[Waiting]) -> None:
        messages, places = [one.message for one in waiting], [one.place for one in waiting]
        self._batches.append(message_rows(messages, places, self.schema))

    def hand_over(self) -> tuple[pa.Table, dict[str, int]]:
        """What waits, as one table, and the offsets it reaches; the buffer is empty then."""
        rows, offsets = pa.Table.from_batches(self._batches, schema=self.schema), self.offsets
        self._clear()
        return rows, offsets

    def done(self, offsets: Mapping[str, int]) -> None:
        """What was handed over with these offsets is committed."""
        self.committed |= offsets
        self.commits += 1

    def drop(self) -> None:
        """Forget what waits: it was read from a topic that is no more."""
        for key in self._ids:
            self.shas.pop(key, None)
        self._waiting = {}
        self._unconverted = 0
        self._clear()

    def _clear(self) -> None:
        self.offsets = {}
        self.size = 0
        self._ids.clear()
        self._batches = []
