"""Templates to HTML. Everything is escaped, and every text is shown with its control characters replaced.

Jinja's autoescape is on for all templates, so a model's text cannot become markup; `shown` also takes what would
reorder or hide characters (control and bidirectional marks) out of it.
"""

import datetime as dt
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import msgspec
import pyarrow as pa

from deploy.tabular import CLEANED, line, plain, visible
from schemas import messages as m

HERE = Path(__file__).parent
VERDICT_MARKS = {"correct": "✓", "wrong": "✗", "unparsable": "?", "timeout": "⧖", "rejected": "⊘"}


def environment() -> jinja2.Environment:
    """The templates' environment."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "shown": shown, "line": line, "number": number, "when": when, "mark": mark, "embedded": embedded,
        "cell": cell, "ident": ident,
    }  # fmt: skip
    made.globals["zip"] = zip
    return made


def shown(text: object) -> str:
    """A text as it may be seen: its line breaks kept, other unprintable characters replaced."""
    return visible(str(text), "\n")


def number(value: object, digits: int = 3) -> str:
    """A number for people: thousands apart, `digits` significant ones of a fraction; '' for none."""
    if value is None or value == "":
        return ""
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.{digits}g}"
    return str(value)


def when(value: object) -> str:
    """A moment as day and time (UTC); seconds since the epoch, or a datetime."""
    if isinstance(value, int | float):
        value = dt.datetime.fromtimestamp(value, dt.UTC) if value else None
    return value.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S") if isinstance(value, dt.datetime) else ""


def mark(verdict: str) -> str:
    """A verdict's sign; never colour alone."""
    return VERDICT_MARKS.get(verdict, "·")


def ident(value: object) -> str:
    """An id's beginning, as lists show it."""
    return shown(value)[:8]


def embedded(value: object) -> markupsafe.Markup:
    """A value as JSON for a <script type="application/json">, with nothing in it that could end the element."""
    text = msgspec.json.encode(clean(value)).decode()
    for char, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(char, code)
    return markupsafe.Markup(text)  # noqa: S704 - escaped in the lines above


def clean(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The value with every text as `shown`."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, m.Message):
        return clean(msgspec.to_builtins(value))
    if isinstance(value, dict):
        return {shown(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return plain(value)


def cell(value: object, length: int = 300) -> str:
    """Any value of a table in one line."""
    if value is None:
        return "-"
    if isinstance(value, dt.datetime):
        return when(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, pa.MonthDayNano):
        return interval(value)
    if isinstance(value, dict | list):
        return line(msgspec.json.encode(plain(begun(value, length))).decode(), length)
    return line(plain(begun(value, length)), length)


def begun(value: Any, length: int) -> Any:  # noqa: ANN401 - any value of a table
    """As much of a value as more than `length` characters of it are made of."""
    if isinstance(value, dict):
        return {key: begun(item, length) for key, item in islice(value.items(), length)}
    if isinstance(value, list | tuple) and not isinstance(value, pa.MonthDayNano):
        return [begun(item, length) for item in value[:length]]
    return value[: CLEANED * length + 1] if isinstance(value, str | bytes) else value


def interval(value: pa.MonthDayNano) -> str:
    """A span of time in words."""
    parts = ((value.months, "months"), (value.days, "days"), (value.nanoseconds / 1e9, "s"))
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "0 s"
