"""From a record to the rows of its table: the pure part of the sink.

A table remembers the content sha of each id it holds. The first copy of an id is the row; a later one with the same
sha was fed again, one with another sha lost (a worker died after sending and sampled anew), and neither is written.
"""

import datetime as dt
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
import pyarrow as pa

from schemas import messages as m
from schemas.tables import SCHEMA_VERSION, to_row

Taken = Literal["new", "copy", "losing", "covered"]


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

    def columns(self) -> dict[str, Any]:
        """The metadata columns of a row."""
        return {
            "_topic": self.topic,
            "_topic_id": self.topic_id,
            "_partition": self.partition,
            "_offset": self.offset,
            "_time": dt.datetime.fromtimestamp(max(self.time_ms, 0) / 1000, dt.UTC),
            "_schema": SCHEMA_VERSION,
            "_sha": self.sha,
        }


def message_batch(message: m.Message, place: Place, schema: pa.Schema) -> pa.RecordBatch:
    """One row of the message's table.

    Raises:
        Unwritable: for values that have no place in the columns.
    """
    return _batch([to_row(message) | place.columns()], schema)


def node_batch(tree: m.Tree, place: Place, schema: pa.Schema) -> pa.RecordBatch:
    """One row for each node of a tree.

    Raises:
        Unwritable: for values that have no place in the columns.
    """
    correct = paths_correct(tree.nodes)
    shared = {
        "tree_id": tree.id,
        "problem_id": tree.problem.id,
        "source": tree.problem.source,
        "policy_version": tree.policy_version,
        **place.columns(),
    }
    rows = zip(tree.nodes, correct, strict=True)
    return _batch([to_row(node) | shared | {"path_correct": right} for node, right in rows], schema)


def paths_correct(nodes: list[m.Node]) -> list[bool]:
    """For each node: does a correct terminal lie in its subtree, itself included? Parents come before children."""
    places = {node.id: at for at, node in enumerate(nodes)}
    correct = [node.terminal and node.verdict == "correct" for node in nodes]
    for at in range(len(nodes) - 1, -1, -1):
        parent = places.get(nodes[at].parent, -1)
        if correct[at] and 0 <= parent < at:
            correct[parent] = True
    return correct


def _batch(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    try:
        return pa.RecordBatch.from_pylist(rows, schema=schema)
    except (ValueError, OverflowError, pa.ArrowException) as error:  # a UnicodeError is a ValueError
        raise Unwritable(f"does not fit the table: {error}") from error


class Buffer:
    """The rows of one table that wait for the next commit, and what the table already holds.

    Args:
        schema: of the table.
        shas: content sha by id, of the committed rows.
        offsets: last committed offset by app id.
    """

    def __init__(self, schema: pa.Schema, shas: dict[str, str], offsets: Mapping[str, int]) -> None:
        self.schema = schema
        self.shas = shas
        self.committed = dict(offsets)
        self.offsets: dict[str, int] = {}
        self.size = 0
        self._ids: deque[str] = deque()
        self._batches: list[pa.RecordBatch] = []

    def judge(self, app: str, offset: int, key: str, sha: str) -> Taken:
        """What a message with that id and content is to this table; its offset counts as seen."""
        if offset <= self.committed.get(app, -1):
            return "covered"
        self.offsets[app] = max(offset, self.offsets.get(app, -1))
        if key not in self.shas:
            return "new"
        return "copy" if self.shas[key] == sha else "losing"

    def add(self, batch: pa.RecordBatch, key: str, sha: str, size: int) -> None:
        """Keep rows under an id that is new."""
        self._batches.append(batch)
        self._ids.append(key)
        self.shas[key] = sha
        self.size += size

    def rows(self) -> pa.Table:
        """What waits, as one table."""
        return pa.Table.from_batches(self._batches, schema=self.schema).combine_chunks()

    def done(self) -> None:
        """The commit succeeded."""
        self.committed |= self.offsets
        self._clear()

    def drop(self) -> None:
        """Forget what waits: it was read from a topic that is no more."""
        for key in self._ids:
            del self.shas[key]
        self._clear()

    def _clear(self) -> None:
        self.offsets = {}
        self.size = 0
        self._ids.clear()
        self._batches = []
