"""Ask: one SQL query of the reader's own over the tables: as a table, as a quick plot, as a file to keep.

The query may only read, and only the tables (processors/asking.py); it is stopped after ten seconds (a
download after sixty), and of its answer the page shows the first thousand rows.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from deploy.studio import charts, examples
from deploy.studio.render import cell
from deploy.studio.site import Asked, Page, Site
from deploy.tabular import names
from processors.asking import BadQuery, reading, sentence
from schemas.errors import Told
from schemas.tables import TABLES

SHOWN = 1_000
LIMIT_S = 10.0
FILE_ROWS = 1_000_000
FILE_BYTES = 512_000_000
FILE_LIMIT_S = 60.0
BATCH = 8_192
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
    }
    values |= {"error": "", "columns": [], "found": [], "more": False, "plot": None, "limit": SHOWN, "numeric": []}
    if sql:
        try:
            values |= _answer(site, asked, sql)
        except Told as error:
            values["error"] = str(error)
    return Page("ask.html", values)


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
    table = pa.Table.from_batches(list(_batches(site, sql, SHOWN + 1, LIMIT_S)))
    columns = names(table)
    lists = [column.to_pylist() for column in table.slice(0, SHOWN).columns]
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


def _batches(site: Site, sql: str, rows: int, limit_s: float) -> Iterator[pa.RecordBatch]:
    """The answer's first rows, in batches; at least one batch, for its columns.

    Raises:
        BadQuery: for SQL that is wrong, or that would write.
        TooLong: after limit_s.
    """
    with site.tables.cursor(limit_s) as cursor:
        try:
            reader = cursor.sql(reading(cursor, sql)).to_arrow_reader(min(BATCH, rows))
            left, given = rows, False
            for batch in reader:
                given = True
                yield batch.slice(0, left)
                left -= batch.num_rows
                if left <= 0:
                    return
            if not given:
                yield pa.RecordBatch.from_pylist([], schema=reader.schema)
        except duckdb.InterruptException:
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
    writer: pq.ParquetWriter | pacsv.CSVWriter | None = None
    rows = 0
    for batch in _batches(site, sql, FILE_ROWS + 1, FILE_LIMIT_S):
        table = pa.table(batch).rename_columns(names(pa.table(batch)))
        table = _flat(table) if form == "csv" else table
        if writer is None:
            writer = pacsv.CSVWriter(path, table.schema) if form == "csv" else pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        rows += table.num_rows
        if rows > FILE_ROWS or path.stat().st_size > FILE_BYTES:
            raise BadQuery(f"the answer has more than {FILE_ROWS:,} rows or {FILE_BYTES // 1_000_000} MB: add a LIMIT")
    if writer is not None:
        writer.close()


def _flat(table: pa.Table) -> pa.Table:
    """Lists and objects as JSON, bytes as base64: CSV has only text."""
    import msgspec

    from deploy.tabular import plain

    columns = []
    for column in table.columns:
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            texts = [value if value is None else plain(value) for value in column.to_pylist()]
            said = [
                value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
                for value in texts
            ]
            columns.append(pa.chunked_array([pa.array(said, pa.string())]))
        else:
            columns.append(column)
    return pa.table(columns, names=table.column_names)
