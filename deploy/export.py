"""`factory export`: a table, or the answer to a query, as a directory that other tools open, with a card of what it is.

The rows come from one snapshot of all tables and stream to the disk, so memory does not grow with them. They are
written beside OUT, made durable, and get its name by one rename: OUT is whole or not there, and what is there already
is never touched. `datasets.load_dataset(OUT)` opens every format.
"""

import contextlib
import os
import tempfile
from collections import Counter
from datetime import datetime
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from deploy.as_of import table_named
from deploy.export_card import card
from deploy.export_files import Exported, Format, NotExported, Shards, groups
from deploy.export_shapes import Shape, shape
from deploy.sql import Pin, datasets
from processors import asking
from schemas.settings import Settings
from trainers.scores import ALL

NO_SOURCES = (None, "", ALL)
"""What `source` also holds: nothing where a row has none, and all sources together (evaluations)."""
TABLE_S = 86_400.0
"""The time limit for a whole table; somebody's own query has sql.timeout_s."""


class Wanted(msgspec.Struct, frozen=True):
    """What is to be exported."""

    query: str
    title: str
    timeout_s: float
    as_of: str = ""
    """A time in full, or versions of tables; '' = now."""


def wanted(settings: Settings, form: Format, table: str, sql: str, as_of: str = "") -> Wanted:
    """The query behind what a command line names.

    Raises:
        NotExported: it names nothing, or two things.
        BadSettings: there is no such table.
    """
    if table and sql:
        raise NotExported(f"both the table {table!r} and --sql: leave one of them out")
    if sql:
        return Wanted(sql, "a query", settings.sql.timeout_s, as_of)
    if table:
        return Wanted(f'SELECT * FROM "{table_named(table)}"', table, TABLE_S, as_of)  # noqa: S608 - a known name
    if form == "trl":
        return Wanted(settings.sft.sql, "the training set (sft.sql)", TABLE_S, as_of)
    raise NotExported("name what to export: `factory export --format FORMAT TABLE OUT`, or --sql QUERY OUT")


def export(settings: Settings, form: Format, what: Wanted, out: Path, pin: Pin = None) -> Exported:
    """Write the rows and their card.

    Args:
        settings: the data directory, the limits, the policy (its chat format), the sources (their licences).
        form: hf leaves out the bookkeeping columns; trl makes prompts, completions and answers (export_shapes.py).
        what: the query.
        out: a directory that is not there yet.
        pin: versions of tables; one that is not named is pinned to what it is now.

    Raises:
        NotExported: OUT is there, there are no rows, or they do not fit the format.
        BadQuery: the query is wrong or beyond its limits.
        NoDatasets, NoVersion, Damaged: the tables cannot be read.
        OSError: the disk is full; nothing of the export is left.
    """
    out = out.expanduser().absolute()
    if out.exists() or out.is_symlink():
        raise NotExported(f"{out} is there already: choose another place, or remove it first")
    tables = datasets(settings)
    versions = {name: table.version() for name, table in tables.open(pin).items()}
    limits = msgspec.structs.replace(settings.sql, timeout_s=what.timeout_s)
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as beside,
        asking.bounded(tables, limits, versions) as connection,
    ):
        place = Path(beside) / out.name
        place.mkdir()
        rows = connection.sql(asking.reading(connection, what.query)).to_arrow_reader(asking.BATCH_ROWS)
        shaped = shape(form, rows.schema, settings)
        done = msgspec.structs.replace(_write(place / "data", form, shaped, rows), out=str(out))
        now = datetime.now().astimezone()
        text = card(settings, done, what.title, what.query, what.as_of, versions, shaped.schema, now)
        (place / "README.md").write_text(text, "utf-8")
        _commit(place, out)
    return done


def _write(place: Path, form: Format, shaped: Shape, rows: pa.RecordBatchReader) -> Exported:
    """Write the shards into `place`."""
    sources: Counter[str] = Counter()
    count = 0
    with contextlib.closing(Shards(place, form, shaped.schema)) as shards:
        for group in groups(asking.batches(rows), rows.schema):
            sources.update(_sources(group))
            shards.write(pa.Table.from_batches([shaped(batch) for batch in group.to_batches()], schema=shaped.schema))
            count += group.num_rows
    if not count:
        raise NotExported("the query has no rows: nothing was exported")
    size = sum(path.stat().st_size for path in place.iterdir())
    return Exported("", form, count, shards.files, size, dict(sorted(sources.items())))


def _sources(rows: pa.Table) -> dict[str, int]:
    """How many rows there are of each source of problems, where they name one."""
    if {"row_id", "source"} <= set(rows.schema.names):  # replays: what was replayed, a table
        return {}
    if "source" in rows.schema.names:
        column = rows.column("source")
    elif "problem" in rows.schema.names and pa.types.is_struct(kind := rows.schema.field("problem").type):
        if kind.get_field_index("source") < 0:
            return {}
        column = pc.struct_field(rows.column("problem"), "source")
    else:
        return {}
    return dict(Counter(str(name) for name in column.to_pylist() if name not in NO_SOURCES))


def _commit(place: Path, out: Path) -> None:
    """Make everything in `place` durable, then give it its name."""
    for path in (*place.rglob("*"), place):
        _sync(path)
    place.rename(out)
    _sync(out.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
