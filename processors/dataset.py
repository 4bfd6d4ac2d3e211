"""The datasets: one Delta table a topic plus `nodes`, so that rows and the offsets they came from are ONE commit.

Kafka's committed offsets are never asked what is in a table; the table says it itself. Readers go through the table's
log (a glob over the folder of a compacted table would count rows twice) and get every table pinned to one version.
A reading connection has no way to the file system except these very Parquet files, and its settings are locked.
"""

import fcntl
import math
import sys
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from processors.appending import app_id, commit, first_offsets, merging, uncovered
from processors.delta_log import Directory, committed_at, transactions
from processors.owning import TableBusy
from processors.places import BadPlace, Damaged, Here, Place, Source, There
from processors.snapshot import connection, quoted, up_to
from schemas.errors import Told, telling_full
from schemas.messages import Message
from schemas.settings import Settings
from schemas.tables import TABLES, from_row
from schemas.topics import BY_MESSAGE, TOPICS

if TYPE_CHECKING:
    from processors.store import Store

__all__ = [
    "COMPACT_FILES",
    "ID_COLUMNS",
    "BadPlace",
    "Damaged",
    "Datasets",
    "NoDatasets",
    "NoVersion",
    "OtherColumns",
    "app_id",
    "quoted",
]

M = TypeVar("M", bound=Message)

ID_COLUMNS: Mapping[str, str] = {topic.table: topic.id for topic in TOPICS} | {"nodes": "tree_id"}
"""The column that identifies a row (in `nodes`: the tree whose nodes came together)."""
COMPACT_FILES = 50
KEEP_S = 3600.0
"""A file that a compaction replaced stays at least this long: somebody may have the tables open."""
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


class NoVersion(Told, LookupError):
    """A table has no such version; the text says which it has."""


class Held(NamedTuple):
    """The content sha of each id, the last offset by app id, and how many commits sinks have made."""

    shas: dict[str, str]
    offsets: dict[str, int]
    commits: int


def _sinks(table: str) -> str:
    """The transaction id under which a table counts the commits of its sink."""
    return f"{table}:sinks"


class Datasets:
    """The tables of a data directory, or of a store.

    Args:
        root: <data>/datasets; one folder a table, and this machine's locks.
        store: where the tables are instead; None = in `root`.
    """

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Those of a factory.

        Raises:
            StoreFailed: factory.store is set, and nothing says who we are there.
        """
        root = Path(settings.factory.data) / "datasets"
        if not settings.factory.store:
            return cls(root)
        from processors.store import Store  # a client that those without a store need not load

        return cls(root, Store(settings.factory.store))

    def __init__(self, root: Path, store: "Store | None" = None) -> None:
        self.root = Path(root).absolute()
        self.place: Place = There(store) if store else Here(self.root)
        self._lock = threading.Lock()
        self._writers: dict[str, DeltaTable] = {}

    def create(self) -> None:
        """Create the tables that are missing; several processes may do so at once.

        Raises:
            BadPlace: for a path that Delta or DuckDB would read as a pattern.
            OtherColumns: for a table made by another version of the factory.
            Damaged: for one that a power cut or a full disk left half-written and that cannot be mended by itself.
        """
        self.place.make()
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".create.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # racing creators of a Delta table fail
            begun = set(self.place.begun())
            for name, schema in TABLES.items():
                if name not in begun:
                    self._create(name)
                    continue
                for sentence in self.mend(name):
                    print(f"factory: {sentence}", file=sys.stderr)
                if {field.name for field in self.table(name).schema().fields} != set(schema.names):
                    raise OtherColumns(
                        f"{self.place.folder(name)} was made by another version of the factory (other columns): "
                        "go on with that version, or start a new one with --data"
                    )

    def _create(self, name: str) -> None:
        with self.place.failing():
            try:
                DeltaTable.create(
                    str(self.place.folder(name)),
                    schema=TABLES[name],
                    mode="ignore",
                    configuration=dict(_CONFIGURATION),
                    storage_options=self.place.options,
                )
            except DeltaError:  # on a store, another machine was first
                if name not in self.place.begun():
                    raise

    def table(self, name: str, version: int | None = None) -> DeltaTable:
        """The table now, or as it was at a version.

        Raises:
            NoDatasets: when it has not been created.
            NoVersion: when it has not come to that version.
            Damaged: when its log cannot be read.
        """
        try:
            return DeltaTable(str(self.place.folder(name)), version=version, storage_options=self.place.options)
        except TableNotFoundError:
            raise NoDatasets(f"{self.place} has no table {name!r}: `factory up` creates and fills the tables") from None
        except DeltaError as error:
            if version is not None and version > (newest := self.table(name).version()):
                raise NoVersion(f"table {name} has no version {version}: they are 0 to {newest}") from None
            raise self.place.unreadable(name, error) from error
        except OSError:
            with self.place.failing():
                raise

    def mend(self, name: str) -> list[str]:
        """Set aside what a power cut left half-written at a table's end; sentences that say what was done.

        Raises:
            Damaged: when that would take rows that were written long ago.
        """
        return self.place.mend(name)

    def open(self, pin: Mapping[str, int] | None = None, only: Collection[str] = ()) -> dict[str, DeltaTable]:
        """All tables that exist, each at its version in `pin` or, where that names none, as it is now.

        Args:
            pin: table versions.
            only: these tables; empty = all.

        Raises:
            NoDatasets: when there is not one.
        """
        names = [name for name in self.place.names() if not only or name in only]
        if not names:
            raise NoDatasets(f"{self.place} holds no tables yet: `factory up` creates and fills them")
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
        held = transactions(self.place.folder(name), self.table(name, version).version())
        return {app: offset for app, offset in held.items() if app != _sinks(name)}

    def held(self, names: Iterable[str]) -> dict[str, Held]:
        """What a sink has to know of its tables, each as of one version; nodes have no ids of their own to know."""
        pin = self.versions()
        with self.connect(pin) as connection:
            shas = {name: {} if name == "nodes" else _shas(connection, name) for name in names}
        found = {}
        for name, known in shas.items():
            offsets = transactions(self.place.folder(name), pin[name])
            found[name] = Held(known, commits=offsets.pop(_sinks(name), 0), offsets=offsets)
        return found

    def append(
        self,
        name: str,
        rows: pa.Table,
        offsets: Mapping[str, int],
        commits: int | None = None,
        *,
        missing: bool = False,
    ) -> int:
        """Add rows and move the offsets, in one commit.

        Rows at or below an offset that the table already has are dropped: another sink was first. Offsets never go
        back (the library would let them).

        Args:
            name: the table.
            rows: of TABLES[name].
            offsets: last offset by app id.
            commits: a sink that knows which ids the table holds says how many commits of sinks it knows of; the table
                counts one more with the rows. That knowledge is wrong once another sink has written.
            missing: the rows are known not to be there, whatever the offsets say; only with `commits`.

        Returns:
            How many rows were added.

        Raises:
            TableBusy: another sink has written the table; nothing was added.
            CommitFailedError: when eight attempts in a row met another writer.
            OSError: with errno ENOSPC when the disk is full; nothing was added then.
        """
        # Rows may be of partitions whose offsets this commit does not move: nodes, of which the table has them already.
        first = first_offsets(name, rows)
        with self._lock, self.place.failing(), telling_full(self.root / name):
            table, folder = self._writers.setdefault(name, self.table(name)), self.place.folder(name)
            for attempt in range(_ATTEMPTS):
                table.update_incremental()
                if commits is not None and (table.transaction_version(_sinks(name)) or 0) != commits:
                    raise TableBusy(
                        f"another sink, perhaps on another machine, has written the table {name!r}: nothing is there "
                        "twice, and this sink ends; one sink a table is enough"
                    )
                held = {app: at for app in {*offsets, *first} if (at := table.transaction_version(app)) is not None}
                moved = [Transaction(app, offset) for app, offset in offsets.items() if offset > held.get(app, -1)]
                fresh = rows if missing else uncovered(name, rows, first, held)
                if commits is not None:
                    moved.append(Transaction(_sinks(name), commits + 1))
                if not moved and not fresh.num_rows:
                    return 0
                try:
                    commit(table, fresh, moved, folder if isinstance(folder, Path) else None)
                except CommitFailedError:
                    if attempt == _ATTEMPTS - 1:
                        raise
                    continue
                return fresh.num_rows
        raise AssertionError("unreachable")

    def vacuum(self, name: str, keep_s: float) -> list[Directory]:
        """Remove files that a compaction replaced, and files that no commit names, when they are older than `keep_s`.

        Every version stays readable (`connect`). Files of the last hour stay whatever `keep_s` is.

        Returns:
            What was removed.
        """
        hours = math.ceil(max(keep_s, KEEP_S) / 3600)
        table = self.table(name)
        with self.place.failing():
            gone = table.vacuum(hours, dry_run=False, enforce_retention_duration=False, full=True)
        return [self.place.folder(name) / str(file) for file in gone] + self.place.unfinished(name, hours * 3600.0)

    def compact(self, name: str, files: int = COMPACT_FILES) -> bool:
        """Merge the table's small files where there are more than `files`; older versions stay readable.

        Returns:
            Whether files were merged; another writer's commit in the same moment makes it give up.

        Raises:
            OSError: with errno ENOSPC when the disk is full; the table is as it was.
        """
        with self._lock, self.place.failing(), telling_full(self.root / name):
            table = self._writers.setdefault(name, self.table(name))
            table.update_incremental()
            if len(table.file_uris()) <= files:
                return False
            try:
                merged = table.optimize.compact(max_concurrent_tasks=1, writer_properties=merging(table))
            except CommitFailedError:
                return False
            return bool(merged["numFilesRemoved"])

    def connect(
        self, pin: Mapping[str, int] | None = None, *, memory_mb: int = 0, only: Collection[str] = ()
    ) -> duckdb.DuckDBPyConnection:
        """A DuckDB connection in which every table is a view of one snapshot.

        It can open the snapshot's Parquet files and nothing else, and its configuration is locked. Beside the tables
        it has the views `superseded` and `replaced` (processors/snapshot.py).

        Args:
            pin: table versions; a table that is not named is pinned to what it is now. A version whose files were
                removed is what it was all the same: the rows up to its offsets.
            memory_mb: what a query may use; 0 = DuckDB's own limit.
            only: the tables that are asked, and no other view: opening all takes a tenth of a second; empty = all.

        Raises:
            NoDatasets, NoVersion: as `table`.
            Damaged: a table cannot be read.
        """
        return connection(*self.snapshot(pin, only), memory_mb)

    def snapshot(
        self, pin: Mapping[str, int] | None = None, only: Collection[str] = ()
    ) -> tuple[dict[str, Source], dict[str, str]]:
        """What each table is read from, and the WHERE clause of those that are not shown as a whole; as `connect`."""
        opened = self.open(pin, only)
        sources: dict[str, Source] = {name: [] for name in only or TABLES}
        until: dict[str, str] = {}
        for name, table in opened.items():
            sources[name], lost = self.place.source(name, table, old=name in (pin or {}))
            if lost and name in (pin or {}):
                sources[name], lost = self.place.source(name, self.table(name), old=False)
                until[name] = up_to(
                    self.offsets(name, table.version()), committed_at(self.place.folder(name), table.version())
                )
            if lost:
                raise self.place.unreadable(name, RuntimeError(f"its file {lost} is cut off or gone"))
        return sources, until

    def ids(self, name: str) -> set[str]:
        """The ids in a table (in `nodes`: of the trees), as text."""
        return set(self.shas(name))

    def shas(self, name: str) -> dict[str, str]:
        """The content sha of each id in a table."""
        with self.connect(only=(name,)) as connection:
            return _shas(connection, name)

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
        with self.connect(pin, only=() if where else (name,)) as connection:
            query = f'SELECT * FROM "{name}" {condition} ORDER BY _time, _topic_id, _partition, _offset'  # noqa: S608
            for batch in connection.sql(query).to_arrow_reader(256):
                yield from batch.to_pylist()


def _shas(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, str]:
    query = f'SELECT DISTINCT CAST("{ID_COLUMNS[name]}" AS VARCHAR), _sha FROM "{name}"'  # noqa: S608 - ours
    return dict(connection.execute(query).fetchall())
