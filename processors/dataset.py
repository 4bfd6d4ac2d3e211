"""The datasets: one Delta table a topic plus `nodes`, so that rows and the offsets they came from are ONE commit.

Kafka's committed offsets are never asked what is in a table; the table says it itself. Readers go through the table's
log (a glob over the folder of a compacted table would count rows twice) and get every table pinned to one version.
A reading connection has no way to the file system except these very Parquet files, and its settings are locked.
"""

import errno
import fcntl
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from processors.delta_log import transactions
from schemas.errors import Told
from schemas.messages import Message
from schemas.tables import TABLES, from_row
from schemas.topics import BY_MESSAGE, TOPICS

M = TypeVar("M", bound=Message)

ID_COLUMNS: Mapping[str, str] = {topic.table: topic.id for topic in TOPICS} | {"nodes": "tree_id"}
"""The column that identifies a row (in `nodes`: the tree whose nodes came together)."""
COMPACT_FILES = 50
_ATTEMPTS = 8
_CONFIGURATION: Mapping[str, str | None] = {
    "delta.checkpointInterval": "20",  # opening reads the commits since the last one
    # a training set is a query plus a table version: old versions stay readable
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}


class NoDatasets(Told, RuntimeError):
    """There are no tables in the data directory; the text says what to do."""


class OtherColumns(Told, RuntimeError):
    """A table has not the columns of this version; the text says what to do."""


class BadPlace(Told, ValueError):
    """The data directory's path cannot hold tables; the text says why."""


def app_id(table: str, topic_id: str, partition: int) -> str:
    """The transaction id under which a table keeps one partition's last offset; a recreated topic has another UUID."""
    return f"{table}:{topic_id}:{partition}"


class Datasets:
    """The tables of a data directory.

    Args:
        root: <data>/datasets; one folder a table.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()
        self._lock = threading.Lock()
        self._writers: dict[str, DeltaTable] = {}

    def create(self) -> None:
        """Create the tables that are missing; several processes may do so at once.

        Raises:
            BadPlace: for a path that Delta or DuckDB would read as a pattern.
            OtherColumns: for a table made by another version of the factory.
        """
        if odd := sorted(set(str(self.root)) & set("[]*?")):
            raise BadPlace(
                f"{self.root}: tables cannot lie under a path with {' '.join(odd)}; choose another data directory"
            )
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".create.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # racing creators of a Delta table fail
            for name, schema in TABLES.items():
                if not (self.root / name / "_delta_log").exists():
                    DeltaTable.create(
                        str(self.root / name), schema=schema, mode="ignore", configuration=dict(_CONFIGURATION)
                    )
                elif {field.name for field in self.table(name).schema().fields} != set(schema.names):
                    raise OtherColumns(
                        f"{self.root / name} was made by another version of the factory (other columns): "
                        "go on with that version, or start a new one with --data"
                    )

    def table(self, name: str, version: int | None = None) -> DeltaTable:
        """The table now, or as it was at a version.

        Raises:
            NoDatasets: when it has not been created.
        """
        try:
            return DeltaTable(str(self.root / name), version=version)
        except TableNotFoundError:
            raise NoDatasets(f"{self.root} has no table {name!r}: `factory up` creates and fills the tables") from None

    def open(self, pin: Mapping[str, int] | None = None) -> dict[str, DeltaTable]:
        """All tables that exist, each at its version in `pin` or, where that names none, as it is now.

        Raises:
            NoDatasets: when there is not one.
        """
        names = [name for name in TABLES if (self.root / name / "_delta_log").exists()]
        if not names:
            raise NoDatasets(f"{self.root} holds no tables yet: `factory up` creates and fills them")
        wanted = dict(pin or {})
        with ThreadPoolExecutor(4) as pool:
            return dict(zip(names, pool.map(lambda name: self.table(name, wanted.get(name)), names), strict=True))

    def versions(self) -> dict[str, int]:
        """The present version of each table that exists; nothing where there is none."""
        try:
            return {name: table.version() for name, table in self.open().items()}
        except NoDatasets:
            return {}

    def offsets(self, name: str, version: int | None = None) -> dict[str, int]:
        """The last offset the table holds (or has deliberately skipped), by app id `table:topic_uuid:partition`."""
        return transactions(self.root / name, self.table(name, version).version())

    def append(self, name: str, rows: pa.Table, offsets: Mapping[str, int]) -> int:
        """Add rows and move the offsets, in one commit.

        Rows at or below an offset that the table already has are dropped: another sink was first. Offsets never go
        back (the library would let them).

        Args:
            name: the table.
            rows: of TABLES[name].
            offsets: last offset by app id.

        Returns:
            How many rows were added.

        Raises:
            CommitFailedError: when eight attempts in a row met another writer.
            OSError: with errno ENOSPC when the disk is full; nothing was added then.
        """
        with self._lock:
            table = self._writers.setdefault(name, self.table(name))
            for attempt in range(_ATTEMPTS):
                table.update_incremental()
                held = {app: -1 if (at := table.transaction_version(app)) is None else at for app in offsets}
                moved = [Transaction(app, offset) for app, offset in offsets.items() if offset > held[app]]
                fresh = _uncovered(name, rows, held)
                if not moved and not fresh.num_rows:
                    return 0
                try:
                    _commit(table, fresh, moved)
                except CommitFailedError:
                    if attempt == _ATTEMPTS - 1:
                        raise
                    continue
                except (OSError, DeltaError) as error:
                    raise self._named(error, name) from error
                return fresh.num_rows
        raise AssertionError("unreachable")

    def _named(self, error: Exception, name: str) -> Exception:
        """The library's error, with the number and the place that a full disk's has everywhere else."""
        if f"os error {errno.ENOSPC}" in str(error):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.root / name))
        return error

    def compact(self, name: str, files: int = COMPACT_FILES) -> bool:
        """Merge the table's small files where there are more than `files`; older versions stay readable.

        Returns:
            Whether it was done; another writer's commit in the same moment makes it give up.
        """
        with self._lock:
            table = self._writers.setdefault(name, self.table(name))
            table.update_incremental()
            if len(table.file_uris()) <= files:
                return False
            try:
                table.optimize.compact(max_concurrent_tasks=1, writer_properties=WriterProperties(compression="ZSTD"))
            except CommitFailedError:
                return False
            return True

    def connect(self, pin: Mapping[str, int] | None = None) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection in which every table is a view of one snapshot.

        It can open the snapshot's Parquet files and nothing else, and its configuration is locked. Beside the tables
        it has the view `superseded` (see SUPERSEDED).

        Args:
            pin: table versions; a table that is not named is pinned to what it is now.
        """
        opened = self.open(pin)
        files = {name: _paths(self.root / name, opened[name]) if name in opened else [] for name in TABLES}
        connection = duckdb.connect(config={"temp_directory": "", "python_enable_replacements": False})
        everything = ", ".join(quoted(path) for paths in files.values() for path in paths)
        connection.execute(f"SET allowed_paths = [{everything}]")
        for name, paths in files.items():
            if paths:
                listed = ", ".join(quoted(path) for path in paths)
                connection.execute(f'CREATE VIEW "{name}" AS SELECT * FROM read_parquet([{listed}])')  # noqa: S608
            else:
                connection.register(name, TABLES[name].empty_table())
        connection.execute(SUPERSEDED)
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return connection

    def ids(self, name: str) -> set[str]:
        """The ids in a table (in `nodes`: of the trees), as text."""
        return set(self.shas(name))

    def shas(self, name: str) -> dict[str, str]:
        """The content sha of each id in a table."""
        with self.connect() as connection:
            query = f'SELECT DISTINCT CAST("{ID_COLUMNS[name]}" AS VARCHAR), _sha FROM "{name}"'  # noqa: S608 - ours
            return dict(connection.execute(query).fetchall())

    def messages(self, kind: type[M], where: str = "", pin: Mapping[str, int] | None = None) -> Iterator[M]:
        """The messages that a table's rows were made from, oldest first; encoding one gives the very bytes it came as.

        Args:
            kind: the message type, which names the table.
            where: a SQL condition over its columns (and other tables); ours, never a user's text.
            pin: table versions.
        """
        for row in self.rows(BY_MESSAGE[kind].table, where, pin):
            yield from_row(row, kind)

    def rows(self, name: str, where: str = "", pin: Mapping[str, int] | None = None) -> Iterator[dict[str, Any]]:
        """A table's rows with their metadata, oldest first, a few hundred at a time."""
        condition = f"WHERE {where}" if where else ""
        with self.connect(pin) as connection:
            query = f'SELECT * FROM "{name}" {condition} ORDER BY _time, _topic_id, _partition, _offset'  # noqa: S608
            for batch in connection.sql(query).to_arrow_reader(256):
                yield from batch.to_pylist()


SUPERSEDED = """
CREATE VIEW superseded AS
SELECT 'traces' AS "table", c.id, c.tree_id AS parent_id, c.tree_sha AS parent_sha, p._sha AS visible_sha
  FROM traces c JOIN trees p ON c.tree_id = p.id WHERE c.tree_sha <> p._sha
UNION ALL
SELECT 'examples', c.id, p.id, c.trace_sha, p._sha FROM examples c JOIN traces p USING (id) WHERE c.trace_sha <> p._sha
UNION ALL
SELECT 'rewards', c.id, p.id, c.rollouts_sha, p._sha
  FROM rewards c JOIN rollouts p USING (id) WHERE c.rollouts_sha <> p._sha
"""
"""Rows made from a copy of their parent that lost: the first committed copy of an id is the visible one."""


def quoted(text: str) -> str:
    """`text` as a SQL string."""
    return "'" + text.replace("'", "''") + "'"


def _paths(folder: Path, table: DeltaTable) -> list[str]:
    """The snapshot's files; their names are plain, but the folder is percent-encoded in the URIs."""
    return [str(folder / uri.rpartition("/")[2]) for uri in table.file_uris()]


def _commit(table: DeltaTable, rows: pa.Table, moved: Iterable[Transaction]) -> None:
    properties = CommitProperties(app_transactions=list(moved))
    if rows.num_rows:
        options = WriterProperties(compression="ZSTD")
        write_deltalake(table, rows, mode="append", commit_properties=properties, writer_properties=options)
    else:
        # only copies came: the offsets move all the same, without an empty file
        table.create_write_transaction([], "append", table.schema(), commit_properties=properties)


def _uncovered(name: str, rows: pa.Table, held: Mapping[str, int]) -> pa.Table:
    """The rows beyond the offsets that the table holds."""
    if not rows.num_rows or all(offset < 0 for offset in held.values()):
        return rows
    columns = (rows.column(key).to_pylist() for key in ("_topic_id", "_partition", "_offset"))
    keep = [offset > held.get(app_id(name, topic, part), -1) for topic, part, offset in zip(*columns, strict=True)]
    return rows if all(keep) else rows.filter(pa.array(keep))
