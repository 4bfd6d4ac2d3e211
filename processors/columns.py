"""Messages as Arrow columns, many at a time: a field of all of them after the other, never a row after the other.

A row as a dict costs some 20 microseconds a search node; a column built at once costs 2, which is what lets the sink
keep up with the disk (benchmarks/stream.py). Values come as msgspec decoded them, so their types are the columns'.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec.structs import astuple

from schemas import messages as m

_NUMBERS: Mapping[pa.DataType, type[np.generic]] = {pa.int64(): np.int64, pa.float64(): np.float64}
LATEST_MS = 253_402_214_399_000
"""The last second of 9999-12-30: a record's timestamp may be anything, and is in the year 9999 in every time zone."""


def column(values: Sequence[Any], kind: pa.DataType) -> "pa.Array[Any]":
    """Values as one array; messages become structs, lists of them lists of structs.

    Raises:
        ValueError, OverflowError, pa.ArrowException: for a value that the type cannot hold.
    """
    if pa.types.is_struct(kind):
        named = [kind.field(at) for at in range(kind.num_fields)]
        return pa.StructArray.from_arrays(
            [column(part, field.type) for part, field in zip(_parts(values, len(named)), named, strict=True)],
            fields=named,
        )
    if pa.types.is_list(kind):
        lengths = list(map(len, values))
        ends = pa.array(list(accumulate(lengths, initial=0)), pa.int32())
        inner = chain.from_iterable(values)
        if kind.value_type in _NUMBERS:
            # half the time of a list of them: token ids are most of what a tree holds
            flat: pa.Array[Any] = pa.array(np.fromiter(inner, _NUMBERS[kind.value_type], sum(lengths)))
        else:
            flat = column(list(inner), kind.value_type)
        return pa.ListArray.from_arrays(ends, flat, type=kind)
    return pa.array(values, type=kind)


def _parts(messages: Sequence[Any], count: int) -> Sequence[Sequence[Any]]:
    """The values of each of `count` fields, in the order of the messages."""
    return list(zip(*map(astuple, messages), strict=True)) or [()] * count


def fields(messages: Sequence[m.Message], schema: pa.Schema) -> "list[pa.Array[Any]]":
    """The columns of messages of one type, in the type's order; they lead the columns of its table.

    Raises:
        ValueError, OverflowError, pa.ArrowException: for a value that its column cannot hold.
    """
    names = type(messages[0]).__struct_fields__
    parts = _parts(messages, len(names))
    return [column(part, schema.field(name).type) for part, name in zip(parts, names, strict=True)]


def times(milliseconds: Sequence[int]) -> "pa.Array[Any]":
    """Timestamps (us, UTC) from milliseconds since the epoch."""
    microseconds = pa.array([min(max(ms, 0), LATEST_MS) * 1000 for ms in milliseconds], pa.int64())
    return microseconds.cast(pa.timestamp("us", "UTC"))
