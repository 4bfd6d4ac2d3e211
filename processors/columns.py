"""Messages as Arrow columns, many at a time: a field of all of them after the other, never a row after the other.

A row as a dict costs some 20 microseconds a search node; a column built at once costs 2, which is what lets the sink
keep up with the disk (benchmarks/stream.py). Values come as msgspec decoded them, so their types are the columns'.
"""

from collections.abc import Sequence
from itertools import accumulate, chain
from operator import attrgetter
from typing import Any

import pyarrow as pa

from schemas import messages as m

LATEST_MS = 253_402_300_799_000
"""The last second of the year 9999; a record's timestamp may be anything."""


def column(values: Sequence[Any], kind: pa.DataType) -> "pa.Array[Any]":
    """Values as one array; messages become structs, lists of them lists of structs.

    Raises:
        ValueError, OverflowError, pa.ArrowException: for a value that the type cannot hold.
    """
    if pa.types.is_struct(kind):
        fields = [kind.field(at) for at in range(kind.num_fields)]
        return pa.StructArray.from_arrays([_attribute(values, field) for field in fields], fields=fields)
    if pa.types.is_list(kind):
        ends = pa.array(list(accumulate(map(len, values), initial=0)), pa.int32())
        return pa.ListArray.from_arrays(ends, column(list(chain.from_iterable(values)), kind.value_type), type=kind)
    return pa.array(values, type=kind)


def _attribute(messages: Sequence[Any], field: "pa.Field[Any]") -> "pa.Array[Any]":
    return column(list(map(attrgetter(field.name), messages)), field.type)


def fields(messages: Sequence[m.Message], schema: pa.Schema) -> "list[pa.Array[Any]]":
    """The columns of messages of one type, in the type's order; they lead the columns of its table.

    Raises:
        ValueError, OverflowError, pa.ArrowException: for a value that its column cannot hold.
    """
    return [_attribute(messages, schema.field(name)) for name in type(messages[0]).__struct_fields__]


def repeated(array: "pa.Array[Any]", counts: Sequence[int]) -> "pa.Array[Any]":
    """Each value as often as its count says."""
    return array.take(pa.array(list(chain.from_iterable([at] * count for at, count in enumerate(counts))), pa.int32()))


def times(milliseconds: Sequence[int]) -> "pa.Array[Any]":
    """Timestamps (us, UTC) from milliseconds since the epoch."""
    microseconds = pa.array([min(max(ms, 0), LATEST_MS) * 1000 for ms in milliseconds], pa.int64())
    return microseconds.cast(pa.timestamp("us", "UTC"))
