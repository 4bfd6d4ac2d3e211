"""Ask: one SQL query of the reader's own over the tables: as a table, as a quick plot, as a file to keep.

The query may only read, and only the tables (processors/asking.py); it is stopped after ten seconds (a
download after sql.timeout_s), and of its answer the page shows the first thousand rows. An answer is taken in small
batches and its bytes are counted, so that no query makes this process large.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from deploy.studio import charts, examples
from deploy.studio.render import begun, cell, interval
from deploy.studio.site import Asked, Page, Site
from deploy.tabular import names, plain
from processors.asking import BadQuery, batches, reading, sentence
from schemas.errors import Told
from schemas.tables import TABLES

SHOWN = 1_000
SHOWN_BYTES = 64_000_000
"""Of the rows that a page shows, as Arrow holds them."""
CELL_CHARS = 300
LIMIT_S = 10.0
"""A page's query is stopped then, or after sql.timeout_s where that is less."""
FILE_ROWS = 1_000_000
FILE_BYTES = 512_000_000
BATCH = 256
"""Rows that are taken at a time: those of `trees` have hundreds of kilobytes."""
WRITTEN_BYTES = 16_000_000
"""Batches are put together to this size before they are written: a Parquet file has a group of rows for each."""
KINDS = ("line", "scatter", "bar")
PLACES = {"tree_id": "/trees/", "problem_id": "/problems/"}
"""Columns whose values have a page."""


def page(site: Site, asked: Asked) -> Page:
    """The editor, and the answer where there is a query; a query that cannot be answered is a sentence beside it."""
    sql = asked.get("sql")
    values: dict[str, Any] = {
        "sql": sql,
        "schema": schema(),
        "places": PLACES,
        "examples": examples.EXAMPLES,
        "kinds": KINDS,
        "limit_s": _limit_s(site),
    }
    values |= {"error": "", "columns": [], "found": [], "more": False, "plot": None, "limit": SHOWN, "numeric": []}
    if sql:
        try:
            values |= _answer(site, asked, sql)
        except Told as error:
            values["error"] = str(error)
    return Page("ask.html", values)


def _limit_s(site: Site) -> float:
    return min(LIMIT_S, site.settings.sql.timeout_s)


def schema() -> dict[str, list[tuple[str, str]]]:
    """Each table's columns and their types, for the reader."""
    return {name: [(field, _type(table.field(field).type)) for field in table.names] for name, table in TABLES.items()}


def _type(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_type(kind.value_type)}[]"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(kind.field(at).name for at in range(kind.num_fields)) + "}"
    words = {"string": "text", "int64": "int", "int32": "int", "double": "float", "binary": "bytes"}
    return words.get(str(kind), str(kind).split("[")[0])


def _answer(site: Site, asked: Asked, sql: str) -> dict[str, Any]:
    table = pa.Table.from_batches(list(_batches(site, sql, SHOWN + 1, _limit_s(site), SHOWN_BYTES)))
    columns = names(table)
    lists = [[begun(value.as_py(), CELL_CHARS) for value in column] for column in table.slice(0, SHOWN).columns]
    numeric = [name for name, field in zip(columns, table.schema, strict=True) if _numeric(field.type)]
    values = {"columns": columns, "found": list(zip(*lists, strict=True)), "more": table.num_rows > SHOWN}
    values |= {"numeric": numeric, "right": [name in numeric for name in columns]}
    kind = asked.get("plot")
    if kind in KINDS and numeric:
        values["plot"] = _plot(asked, kind, dict(zip(columns, lists, strict=True)), numeric)
    return values


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _plot(asked: Asked, kind: str, columns: dict[str, list[Any]], numeric: list[str]) -> dict[str, Any]:
    """The chart of columns `y` (default: the numeric ones that are not x) over column `x`, or over the row's number."""
    x = asked.get("x") if asked.get("x") in columns else ""
    words = bool(x) and x not in numeric
    chosen = [name for name in asked.all("y") if name in numeric]
    y = chosen or [name for name in numeric if name != x][:8]
    count = len(next(iter(columns.values())))
    places = (
        [float(value) if value is not None else float("nan") for value in columns[x]]
        if x and not words
        else list(range(count))
    )
    order = sorted(range(count), key=lambda at: places[at]) if kind == "line" else list(range(count))
    lines = [
        charts.Line(
            name,
            [places[at] for at in order],
            [None if columns[name][at] is None else float(columns[name][at]) for at in order],
        )
        for name in y
    ]
    labels = [cell(value, 40) for value in columns[x]] if words else []
    return {"svg": charts.chart(lines, kind=kind, x_name=x or "row", width=860, labels=labels), "y": y, "x": x}


def _batches(site: Site, sql: str, rows: int, limit_s: float, limit_bytes: int) -> Iterator[pa.RecordBatch]:
    """The answer's first rows, in batches; at least one batch, for its columns.

    Raises:
        BadQuery: for SQL that is wrong, that would write, or whose answer has more than limit_bytes.
        TooLong: after limit_s.
    """
    size = 0
    with site.tables.cursor(limit_s) as cursor:
        try:
            reader = cursor.sql(reading(cursor, sql)).to_arrow_reader(min(BATCH, rows))
            left, given = rows, False
            for batch in batches(reader):
                given, size = True, size + batch.nbytes
                if size > limit_bytes:
                    raise BadQuery(
                        f"the answer has more than {limit_bytes // 1_000_000} MB: name fewer columns, or add a LIMIT"
                    )
                yield batch.slice(0, left)
                left -= batch.num_rows
                if left <= 0:
                    return
            if not given:
                yield pa.RecordBatch.from_pylist([], schema=reader.schema)
        except (duckdb.InterruptException, duckdb.OutOfMemoryException):
            raise
        except duckdb.Error as error:
            raise BadQuery(sentence(error)) from None


def written(site: Site, asked: Asked, form: str) -> Path:
    """The whole answer as a CSV or Parquet file, which the caller removes.

    Raises:
        BadQuery: as above, and for an answer of more than a million rows or half a gigabyte.
    """
    with tempfile.NamedTemporaryFile(prefix="studio-", suffix=f".{form}", delete=False) as file:
        path = Path(file.name)
    try:
        _write(site, asked.get("sql"), form, path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _write(site: Site, sql: str, form: str, path: Path) -> None:
    with contextlib.ExitStack() as stack:
        writer: Any = None
        texts: set[str] = set()
        rows = 0
        for given in _tables(site, sql):
            if writer is None:
                texts = {field.name for field in given.schema if not _held(field, form)}
            table = _as_text(given, texts)
            if writer is None:
                kind = pacsv.CSVWriter if form == "csv" else pq.ParquetWriter
                writer = stack.enter_context(kind(path, table.schema))
            writer.write_table(table)
            rows += table.num_rows
            if rows > FILE_ROWS or path.stat().st_size > FILE_BYTES:
                raise BadQuery(
                    f"the answer has more than {FILE_ROWS:,} rows or {FILE_BYTES // 1_000_000} MB: add a LIMIT"
                )


def _tables(site: Site, sql: str) -> Iterator[pa.Table]:
    """The answer in parts that are large enough to be written, every column with a name of its own."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in _batches(site, sql, FILE_ROWS + 1, site.settings.sql.timeout_s, FILE_BYTES):
        held.append(batch)
        size += batch.nbytes
        if size > WRITTEN_BYTES:
            table = pa.Table.from_batches(held)
            held, size = [], 0
            yield table.rename_columns(names(table))
    if held:
        table = pa.Table.from_batches(held)
        yield table.rename_columns(names(table))


def _held(field: "pa.Field[Any]", form: str) -> bool:
    """Whether a file of that form can hold the column as it is."""
    kind = field.type
    if form == "csv":  # which has only text
        unlike = pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_interval(kind)
        return not (unlike or isinstance(kind, pa.BaseExtensionType))
    try:
        pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
    except pa.ArrowNotImplementedError:  # spans of time, unions, and whatever holds them
        return False
    return True


def _as_text(table: pa.Table, columns: set[str]) -> pa.Table:
    """The table with some columns as text."""
    for at, name in enumerate(table.column_names):
        if name in columns:
            said = pa.array([_said(value) for value in table.column(at).to_pylist()], pa.string())
            table = table.set_column(at, name, said)
    return table


def _said(value: Any) -> str | None:  # noqa: ANN401 - any value of a table
    """Lists and objects as JSON, bytes as base64."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, pa.MonthDayNano):
        return interval(value)
    made = plain(value)
    return made if isinstance(made, str) else msgspec.json.encode(made).decode()
