"""docs/reference/tables.md: every topic and its table, made from the messages; a column's meaning is its docstring."""

import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from deploy.reference.docstrings import about, code, constants, fields, prose, table
from processors import snapshot
from schemas import messages, tables
from schemas.messages import Message
from schemas.topics import TOPICS

HEAD = """# Topics and tables

A topic carries messages as JSON, and is a table of the same name with a row a message (`dead.letters` is the table
`dead_letters`). A message's fields are the table's columns. `nodes` is the one table without a topic: a row a tree
node. The tables are asked in SQL ([how](../how-to.md#ask-in-sql)); kinds are DuckDB's, `KIND[]` is a list.
"""
META: Mapping[str, str] = MappingProxyType(
    {
        "_topic": "the topic it came on; empty for a row of none (an evaluation without a broker)",
        "_topic_id": "that topic's UUID: a topic that is made anew starts again at offset 0",
        "_partition": "its partition",
        "_offset": "its offset there",
        "_time": "when the message was sent",
        "_schema": "version of the columns",
        "_sha": "sha256 of the message's bytes",
    }
)
NODES: Mapping[str, str] = MappingProxyType(
    {
        "tree_id": "the tree's `id`",
        "problem_id": "the problem's `id`",
        "source": "the problem's `source`",
        "policy_version": "of the weights that searched",
        "path_correct": "whether a correct terminal lies in this node's subtree",
    }
)
KINDS: Mapping[pa.DataType, str] = MappingProxyType(
    {
        pa.string(): "VARCHAR",
        pa.int64(): "BIGINT",
        pa.int32(): "INTEGER",
        pa.float64(): "DOUBLE",
        pa.bool_(): "BOOLEAN",
        pa.binary(): "BLOB",
        pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    }
)
COLUMNS = ["column", "kind", "meaning"]


def page() -> list[str]:
    """The lines of the page."""
    lines = [*HEAD.splitlines(), ""]
    inner: dict[str, type[Message]] = {}
    for topic in TOPICS:
        key = f"On the topic the key is `{topic.key}`; a row's id is `{topic.id}`. "
        groups = ", ".join(f"[{group}](../concepts/{group}.md)" for group in topic.consumers)
        key += f"Read by the groups {groups}." if groups else "Read by no group: the sink writes it to its table."
        lines += [f"## {topic.table}", "", about(topic.message), "", key, "", *_columns(topic.message, inner)]
    lines += ["## nodes", "", "A row a node of a tree, made by the sink with the tree's row.", "", *_nodes()]
    for name, kind in inner.items():
        lines += [f"## {name}", "", about(kind), "", *_columns(kind, {})]
    lines += ["## Columns of every table", "", *table(COLUMNS, [_meta(field) for field in _fields(tables.META)])]
    said = constants(snapshot)
    lines += ["## Views", "", "Made of the tables, and asked as they are.", ""]
    for view in ("SUPERSEDED", "REPLACED"):
        lines += [f"* `{view.lower()}`: {prose(said[view])}"]
    lines += ["", "## Reference", "", about(messages.Reference), "", *_columns(messages.Reference, {})]
    return lines


def sql_kind(kind: pa.DataType) -> str:
    """DuckDB's name of a column's type; a struct is 'STRUCT'."""
    if isinstance(kind, pa.ListType):
        return f"{sql_kind(kind.value_type)}[]"
    return "STRUCT" if isinstance(kind, pa.StructType) else KINDS[kind]


def _fields(schema: pa.Schema) -> list["pa.Field[Any]"]:
    return [schema.field(name) for name in schema.names]


def _meta(field: "pa.Field[Any]") -> list[str]:
    return [code(field.name), code(sql_kind(field.type)), prose(META[field.name])]


def _columns(kind: type[Message], inner: dict[str, type[Message]]) -> list[str]:
    """A message's columns; the structs in it, and in them, are added to `inner`."""
    said, hints = fields(kind), typing.get_type_hints(kind)
    rows = []
    for field in _fields(tables.message_schema(kind)):
        words = code(sql_kind(field.type))
        if part := _struct(hints[field.name]):
            inner[part.__name__] = part
            for deeper in typing.get_type_hints(part).values():
                if found := _struct(deeper):
                    inner[found.__name__] = found
            words = words.replace("STRUCT", part.__name__) + f" ([{part.__name__}](#{part.__name__.lower()}))"
        rows.append([code(field.name), words, (_choices(hints[field.name]) + prose(said.get(field.name, ""))).strip()])
    return table(COLUMNS, rows)


def _struct(annotation: Any) -> type[Message] | None:  # noqa: ANN401 - annotations are arbitrary objects
    """The message type in a field, by itself or in a list; None = none."""
    inner = (typing.get_args(annotation) or (annotation,))[0]
    return inner if isinstance(inner, type) and issubclass(inner, Message) else None


def _choices(annotation: Any) -> str:  # noqa: ANN401 - annotations are arbitrary objects
    """What may stand there, where that is a few words."""
    of = typing.get_args(annotation)[0] if typing.get_origin(annotation) is list else annotation
    if typing.get_origin(of) is not typing.Literal:
        return ""
    return " or ".join(code(one) for one in typing.get_args(of)) + ". "


def _nodes() -> list[str]:
    said = {**fields(messages.Node), **NODES}
    rows = [
        [code(field.name), code(sql_kind(field.type)), prose(said[field.name])]
        for field in _fields(tables.NODES)
        if field.name not in tables.META.names
    ]
    return table(COLUMNS, rows)
