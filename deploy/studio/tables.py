"""The tables as the studio asks them: one pinned snapshot that many requests share, and a time limit on each question.

Pinning fourteen Delta tables costs some tenths of a second, a question of ours milliseconds. So a snapshot is kept
until a table's log has a new entry; then the next request starts a new pin and is answered from the old one, unless
that is older than ten seconds.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from processors.dataset import Datasets
from processors.snapshot import connection as connect
from schemas.errors import Told, first_line
from schemas.tables import TABLES

LIMIT_S = 30.0
"""For the questions of our own pages; on a quiet machine they take milliseconds."""
KEPT = 32
"""Answers that a snapshot keeps."""
LOOK_EVERY_S = 1.0
"""How often the logs are looked at for a new entry."""
OLD_S = 10.0
"""A snapshot older than this is not shown when there is a newer one."""

Row = dict[str, Any]


class TooLong(Told, RuntimeError):
    """A question took longer than its time limit, or more memory than there is for it."""


class OtherVersion(Told, RuntimeError):
    """The tables lack what a page asks for: another version of the factory wrote them.

    Args:
        what: the first thing that is not as it should be.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"these tables were written by another version of the factory, which this page cannot read ({what})"
        )


class Snapshot(msgspec.Struct):
    """All tables at one moment."""

    connection: duckdb.DuckDBPyConnection
    key: tuple[int, ...]
    """Another one once a table may have grown (processors/places.py)."""
    made: float
    """Monotonic seconds: when it was last known to be the newest."""
    registered: dict[str, Any]
    """Arrow data behind the tables that are no views of files: those without a row, and all that lie on a store."""
    lacking: dict[str, list[str]]
    """Columns that this version's tables have and these have not, by table."""
    answers: dict[tuple[str, str], list[Row]] = msgspec.field(default_factory=dict)
    """What `Tables.kept` has asked of it."""


class Tables:
    """Questions to the tables of one data directory, from any thread.

    Args:
        data: the data directory.
        memory_mb: what one snapshot's questions may use together.
        datasets: the tables, where they are not in the data directory.
    """

    def __init__(self, data: Path, memory_mb: int = 1024, datasets: Datasets | None = None) -> None:
        self.data = data
        self.datasets = datasets or Datasets(data / "datasets")
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._held: Snapshot | None = None
        self._renewing = False

    def rows(self, sql: str, params: Sequence[object] = (), limit_s: float = LIMIT_S) -> list[Row]:
        """The rows that answer one of our own questions.

        Raises:
            NoDatasets: when there are no tables yet.
            TooLong: after limit_s seconds.
            OtherVersion: when the tables lack a column or table that the question names.
        """
        with self.cursor(limit_s) as cursor:
            try:
                found = cursor.execute(sql, list(params))
            except (duckdb.BinderException, duckdb.CatalogException) as error:
                raise OtherVersion(first_line(error)) from error
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def kept(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """As `rows`, asked once of each snapshot: for what many views of a page share. The rows are not to be changed.

        Raises:
            NoDatasets, TooLong, OtherVersion: as `rows`.
        """
        answers = self.snapshot().answers
        key = (sql, repr(params))
        if (found := answers.get(key)) is None:
            found = self.rows(sql, params)
            if len(answers) >= KEPT:
                answers.clear()
            answers[key] = found
        return found

    def one(self, sql: str, params: Sequence[object] = ()) -> Row:
        """The first row of an answer, or an empty one."""
        found = self.rows(sql, params)
        return found[0] if found else {}

    @contextmanager
    def cursor(self, limit_s: float = LIMIT_S) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the snapshot; what runs on it longer than limit_s is interrupted (TooLong)."""
        snapshot = self.snapshot()
        cursor = snapshot.connection.cursor()
        for name, data in snapshot.registered.items():
            cursor.register(name, data)
        timer = threading.Timer(limit_s, cursor.interrupt)
        timer.daemon = True
        timer.start()
        try:
            yield cursor
        except duckdb.InterruptException as error:
            raise TooLong(f"the question took longer than {limit_s:g} s and was stopped: ask for less") from error
        except duckdb.OutOfMemoryException as error:
            raise TooLong(f"the question needs more than {self._memory_mb} MB: ask for less") from error
        finally:
            timer.cancel()
            cursor.close()

    def snapshot(self) -> Snapshot:
        """The snapshot to answer from (see the module).

        Raises:
            NoDatasets: when there are no tables yet.
        """
        with self._lock:
            held, now = self._held, time.monotonic()
            if held is not None and now - held.made < LOOK_EVERY_S:
                return held
            key = self.datasets.place.stamp()
            if held is not None and held.key == key:
                held.made = now
                return held
            if held is None or now - held.made > OLD_S:
                held = self._held = self._pin(key)
            elif not self._renewing:
                self._renewing = True
                threading.Thread(target=self._renew, args=(key,), name="pin", daemon=True).start()
            return held

    def _renew(self, key: tuple[int, ...]) -> None:
        try:
            with suppress(Told):  # whoever asks once the old one is too old is told
                fresh = self._pin(key)
                with self._lock:
                    self._held = fresh
        finally:
            self._renewing = False

    def _pin(self, key: tuple[int, ...]) -> Snapshot:
        sources, conditions = self.datasets.snapshot()
        connection = connect(sources, conditions, self._memory_mb)
        held = connection.execute("SELECT table_name, column_name FROM duckdb_columns()").fetchall()
        columns: dict[str, set[str]] = {}
        for table, column in held:
            columns.setdefault(table, set()).add(column)
        lacking = {
            name: missing
            for name, schema in TABLES.items()
            if name in columns and (missing := [column for column in schema.names if column not in columns[name]])
        }
        registered = {
            name: TABLES[name].empty_table() if isinstance(source, list) else source
            for name, source in sources.items()
            if not isinstance(source, list) or not source
        }
        return Snapshot(connection=connection, key=key, made=time.monotonic(), registered=registered, lacking=lacking)
