"""Arrow schemas made from the message types, and the lossless way from a message to a row and back.

Every table row carries where it was read from (`_topic, _topic_id, _partition, _offset, _time`), the schema
version and the content sha of the message's bytes. `nodes` is the one derived table: a row for each tree node.
"""

import types
import typing
from typing import Any, TypeVar

import msgspec
import pyarrow as pa

from schemas import messages as m
from schemas.topics import TOPICS

SCHEMA_VERSION = 1

M = TypeVar("M", bound=m.Message)

_META_FIELDS: list["pa.Field[Any]"] = [
    pa.field("_topic", pa.string()),
    pa.field("_topic_id", pa.string()),  # a recreated topic starts again at offset 0: only its UUID tells
    pa.field("_partition", pa.int32()),
    pa.field("_offset", pa.int64()),
    pa.field("_time", pa.timestamp("us", tz="UTC")),
    pa.field("_schema", pa.int32()),
    pa.field("_sha", pa.string()),
]
META = pa.schema(_META_FIELDS)

_SCALARS: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
}


def _fields(schema: pa.Schema) -> list["pa.Field[Any]"]:
    return [schema.field(name) for name in schema.names]


def arrow_type(annotation: Any) -> pa.DataType:  # noqa: ANN401 - annotations are arbitrary objects
    """The Arrow type of a message field's annotation.

    Raises:
        TypeError: for an annotation that has no column type.
    """
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return pa.string()
    if origin is list:
        return pa.list_(arrow_type(typing.get_args(annotation)[0]))
    if origin in {types.UnionType, typing.Union}:
        inner = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return arrow_type(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, m.Message):
        return pa.struct(_fields(message_schema(annotation)))
    raise TypeError(f"no Arrow type for {annotation!r}")


def message_schema(kind: type[m.Message]) -> pa.Schema:
    """The columns of a message type, without the metadata columns."""
    hints = typing.get_type_hints(kind)
    return pa.schema([pa.field(name, arrow_type(hints[name])) for name in kind.__struct_fields__])


def table_schema(kind: type[m.Message]) -> pa.Schema:
    """The columns of a table: the message's fields, then the metadata."""
    return pa.schema(_fields(message_schema(kind)) + _META_FIELDS)


_NODE_FIELDS: list["pa.Field[Any]"] = [
    pa.field("tree_id", pa.string()),
    pa.field("problem_id", pa.string()),
    pa.field("source", pa.string()),
    pa.field("policy_version", pa.int64()),
    *_fields(message_schema(m.Node)),
    pa.field("path_correct", pa.bool_()),  # a correct terminal lies in this node's subtree
    *_META_FIELDS,
]
NODES = pa.schema(_NODE_FIELDS)

TABLES: dict[str, pa.Schema] = {topic.table: table_schema(topic.message) for topic in TOPICS} | {"nodes": NODES}


def to_row(message: m.Message) -> dict[str, Any]:
    """The message as plain Python values, for pa.Table.from_pylist."""
    return dict(msgspec.to_builtins(message, builtin_types=(bytes,)))


def from_row(row: dict[str, Any], kind: type[M]) -> M:
    """The message a row was made from; metadata columns are ignored."""
    return msgspec.convert({name: row[name] for name in kind.__struct_fields__}, kind)
