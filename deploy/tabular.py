"""An Arrow table as text for people (a table), programs (JSON) and spreadsheets (CSV), without pandas.

Text from models is shown, never obeyed: control characters that would move a terminal's cursor are replaced.
"""

import base64
import csv
import datetime as dt
import io
import math
import shutil
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

MAX_ROWS = 500
MAX_CELL = 400
CLEANED = 20
"""A line is cut out of the first so many times its length of a text: the rest need not be cleaned to be left out."""


def render(table: pa.Table, form: str = "table") -> str:
    """The table as text.

    Args:
        table: any Arrow table.
        form: 'table', 'json' (an array of objects, one a line) or 'csv'.
    """
    forms: Mapping[str, Callable[[pa.Table], str]] = {"table": as_table, "json": as_json, "csv": as_csv}
    return forms[form](table)


def plain(value: Any) -> Any:  # noqa: ANN401 - any Arrow value
    """A Python value that JSON can hold: times are ISO texts, bytes base64, NaN null.

    A whole decimal is an integer, another one a float, or its text where a float would lose digits of it.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> str | float | None:  # noqa: ANN401 - any Arrow value
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    return value if value is None or isinstance(value, int | str) else str(value)


def _number(value: Decimal) -> int | float | str:
    if value == value.to_integral_value():
        return int(value)
    near = float(value)
    return near if Decimal(repr(near)) == value else str(value)


def names(table: pa.Table) -> list[str]:
    """The column names, the second of two equal ones with a number."""
    seen: dict[str, int] = {}
    found = []
    for name in table.column_names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


def _rows(table: pa.Table) -> list[list[Any]]:
    columns = [[plain(value) for value in column.to_pylist()] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def as_json(table: pa.Table) -> str:
    """An array of objects, one on a line."""
    keys = names(table)
    lines = [msgspec.json.encode(dict(zip(keys, row, strict=True))).decode() for row in _rows(table)]
    return "[" + ",\n ".join(lines) + "]"


def as_csv(table: pa.Table) -> str:
    """CSV with a header; a list or an object is its JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names(table))
    for row in _rows(table):
        writer.writerow([_json(value) if isinstance(value, list | dict) else value for value in row])
    return out.getvalue().rstrip("\n")


def as_table(table: pa.Table) -> str:
    """A table as wide as the terminal, at most 500 rows, with the number of rows below."""
    drawn = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name, field in zip(names(table), table.schema, strict=True):
        number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        drawn.add_column(Text(visible(name)), justify="right" if number else "left", overflow="fold")
    for row in _rows(table.slice(0, MAX_ROWS)):
        drawn.add_row(*(Text(_cell(value)) for value in row))
    out = io.StringIO()
    Console(file=out, width=max(40, shutil.get_terminal_size((120, 24)).columns)).print(drawn)
    more = f", the first {MAX_ROWS} shown" if table.num_rows > MAX_ROWS else ""
    return f"{out.getvalue()}({table.num_rows:,} row{'s' * (table.num_rows != 1)}{more})"


def _cell(value: Any) -> str:  # noqa: ANN401 - what plain() gives
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = visible(_json(value) if isinstance(value, list | dict) else str(value))
    return text if len(text) <= MAX_CELL else f"{text[:MAX_CELL]}… ({len(text)} characters)"


def _json(value: Any) -> str:  # noqa: ANN401 - what plain() gives
    return msgspec.json.encode(value).decode()


def visible(text: str, newline: str = "⏎") -> str:
    """`text` with its line breaks shown as `newline` and every other unprintable character replaced."""
    shown = text.replace("\r\n", "\n").replace("\n", newline)
    return "".join(char if char.isprintable() or char == newline else "\N{REPLACEMENT CHARACTER}" for char in shown)


def line(text: object, length: int = 120) -> str:
    """A text's beginning in one line."""
    whole = str(text)
    flat = " ".join(visible(whole[: CLEANED * length], " ").split())
    return flat if len(flat) <= length and len(whole) <= CLEANED * length else flat[: length - 1] + "…"
