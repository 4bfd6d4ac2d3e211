"""The latest rows of any table, and one row of it in full: where a stage's card on the Flow page leads to."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec
import pyarrow as pa

from deploy.studio.render import clean
from deploy.studio.site import Asked, NotThere, Page, Site, pages, window
from deploy.tabular import plain
from processors.dataset import ID_COLUMNS
from schemas.tables import META, TABLES
from schemas.topics import BY_NAME

PAGES = {
    "trees": "/trees/{id}", "traces": "/traces/{id}", "examples": "/traces/{id}", "rollouts": "/rollouts/{id}",
    "rewards": "/rollouts/{id}", "problems": "/problems/{id}", "nodes": "/trees/{tree_id}?node={id}",
    "dead_letters": "/letters/{id}",
}  # fmt: skip
"""Tables whose rows have a page of their own."""
FIELD_CHARS = 20_000


def listed(site: Site, asked: Asked) -> Page:
    """The newest rows, their short columns."""
    table = _known(asked.names["table"])
    columns, key = _columns(table), ID_COLUMNS[table]
    where, params = "true", list[object]()
    if text := asked.get("q"):
        where, params = f"starts_with(CAST({key} AS VARCHAR), $1)", [text]
    if (stage := asked.get("stage")) and "stage" in columns:
        params.append(stage)
        where += f" AND stage = ${len(params)}"
    listed_columns = ", ".join(f"{expression} AS {name}" for name, expression in columns.items())
    found = site.tables.rows(
        f"""SELECT {listed_columns}, _time FROM {table} WHERE {where}
        ORDER BY _time DESC, _offset DESC {window(asked)}""",  # noqa: S608 - our own names
        params,
    )
    count = site.tables.kept(f"SELECT count(*) AS n FROM {table}")[0]["n"]  # noqa: S608 - our own name
    for row in found:
        row["link"] = _link(table, row)
    values = {"table": table, "columns": list(columns), "key": key, "count": count, "tables": list(TABLES)}
    return Page("rows.html", pages(asked, found) | values)


def page(site: Site, asked: Asked) -> Page:
    """One row, every field."""
    table, id_ = _known(asked.names["table"]), asked.names["id"]
    key = ID_COLUMNS[table]
    row = site.tables.one(f"SELECT * FROM {table} WHERE CAST({key} AS VARCHAR) = $1", [id_])  # noqa: S608 - ours
    if not row:
        raise NotThere(f"no row of {table} has the id {id_!r}")
    fields = {name: _said(value) for name, value in row.items()}
    return Page("row.html", {"table": table, "id": id_, "fields": fields, "links": _links(row)})


def _link(table: str, row: Mapping[str, Any]) -> str:
    """The page of a row."""
    place = PAGES.get(table, f"/rows/{table}/{{{ID_COLUMNS[table]}}}")
    return place.format_map({name: quote(str(value), safe=":") for name, value in row.items()})


def _known(table: str) -> str:
    if table not in TABLES:
        raise NotThere(f"no table {table!r}; there are: {', '.join(TABLES)}")
    return table


def _columns(table: str) -> dict[str, str]:
    """Name and expression of the columns that fit into a list."""
    found: dict[str, str] = {}
    for name in TABLES[table].names:
        kind = TABLES[table].field(name).type
        if name in META.names or pa.types.is_list(kind) or pa.types.is_binary(kind) or len(found) >= 14:
            continue
        if name == "problem":
            found |= {"problem_id": "problem.id", "source": "problem.source", "question": "left(problem.question, 200)"}
        elif not pa.types.is_struct(kind):
            found[name] = f'left("{name}", 200)' if pa.types.is_string(kind) else f'"{name}"'
    return found


def _said(value: Any) -> str:  # noqa: ANN401 - any field's value
    if isinstance(value, str):
        text = value
    elif isinstance(value, dict | list):
        text = msgspec.json.format(msgspec.json.encode(clean(value))).decode()
    else:
        text = str(plain(value))
    return text if len(text) <= FIELD_CHARS else f"{text[:FIELD_CHARS]}… ({len(text):,} characters)"


def _links(row: dict[str, Any]) -> dict[str, str]:
    """Pages of what the row names."""
    links = {}
    if isinstance(row.get("problem"), dict):
        links["its problem"] = f"/problems/{quote(str(row['problem']['id']), safe='')}"
    for name, place in (("tree_id", "/trees/"), ("problem_id", "/problems/")):
        if row.get(name):
            links[f"its {name.removesuffix('_id')}"] = place + quote(str(row[name]), safe="")
    topic, id_ = BY_NAME.get(str(row.get("input_topic"))), str(row.get("input_id") or "")
    if topic and id_:
        key = ID_COLUMNS[topic.table]
        id_ = id_ if key == "id" else id_.split(":", 1)[0]  # of weights it is 'version:sha'
        links["what came in"] = _link(topic.table, {key: id_})
    return links
