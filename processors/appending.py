"""One commit of a table: the rows, and the offsets that they came from as the library's application transactions."""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction

GROUP_BYTES = 8_388_608
"""Of a Parquet row group, compressed. Whoever asks for one row decodes the group that it is in, and a group that holds
other times is passed over; a row of `rollouts` may have a megabyte, one of `nodes` has a hundred bytes. DuckDB reads
about one megabyte of a group for any column, so much smaller ones would make it read the whole file for each."""
GROUP_ROWS = (16, 131_072)
"""The fewest and the most rows of a group, whatever their bytes."""
COMPRESSED = 0.25
"""Of Arrow's bytes, about: what a row takes in a file."""


def app_id(table: str, topic_id: str, partition: int) -> str:
    """The transaction id under which a table keeps one partition's last offset; a recreated topic has another UUID."""
    return f"{table}:{topic_id}:{partition}"


def group_rows(rows: int, size: float) -> int:
    """How many rows a Parquet row group has.

    Args:
        rows: some of the table's rows.
        size: how many bytes they take in a file.
    """
    least, most = GROUP_ROWS
    fitting = int(GROUP_BYTES * rows / size) if size else most
    return min(max(fitting, least), most)


def merging(table: DeltaTable) -> WriterProperties:
    """How the files are written into which a table's files are merged."""
    adds = pa.table(table.get_add_actions())
    columns = (adds.column(name).to_pylist() for name in ("num_records", "size_bytes"))
    rows, size = (sum(value or 0 for value in column) for column in columns)
    return WriterProperties(compression="ZSTD", max_row_group_size=group_rows(rows, size))


def commit(table: DeltaTable, rows: pa.Table, moved: Sequence[Transaction], folder: Path | None = None) -> None:
    """Rows and transactions in one commit. What fails after it (the checkpoint of the log) is not an error.

    Args:
        table: as it is now.
        rows: none = the offsets move all the same, without an empty file.
        moved: the offsets.
        folder: the table's, on this machine; pyarrow writes the file then, for the library's writer takes half as much
            processor time again. On a store that one does it, and its log says what lies between which values: there
            a reader asks the log before it fetches a file, here the file's own footer.

    Raises:
        CommitFailedError: another writer was first.
        OSError, DeltaError: it failed; the file is gone then, so that a full disk is not filled by the attempts.
    """
    told = CommitProperties(app_transactions=list(moved))
    groups = group_rows(rows.num_rows, rows.nbytes * COMPRESSED)
    added: list[AddAction | RemoveAction] = [_written(folder, rows, groups)] if folder and rows.num_rows else []
    try:
        if rows.num_rows and folder is None:
            options = WriterProperties(compression="ZSTD", max_row_group_size=groups)
            write_deltalake(table, rows, mode="append", commit_properties=told, writer_properties=options)
        else:
            table.create_write_transaction(added, "append", table.schema(), commit_properties=told)
    except (OSError, DeltaError) as error:
        if _is_in(table, added, [] if isinstance(error, CommitFailedError) else moved):
            return
        for action in added:
            (folder / action.path).unlink(missing_ok=True)
        raise


def _written(folder: Path, rows: pa.Table, groups: int) -> AddAction:
    """A new Parquet file, which is not of the table until a commit names it; `vacuum` removes one that none names."""
    path = folder / f"part-{uuid.uuid4()}.zstd.parquet"
    try:
        with pa.OSFile(str(path), "wb") as file:
            pq.write_table(rows, file, compression="zstd", row_group_size=groups, **_encoded(rows.schema))
    except OSError:
        path.unlink(missing_ok=True)  # closed and gone: half a file must not keep the room that a full disk waits for
        raise
    found = path.stat()
    return AddAction(
        path.name, found.st_size, {}, int(found.st_mtime * 1000), data_change=True,
        stats=json.dumps({"numRecords": rows.num_rows}),
    )  # fmt: skip


def _encoded(schema: pa.Schema) -> dict[str, Any]:
    """How pyarrow writes the leaves: a third less processor time than its defaults take, and a tenth less room.

    Integers are packed differences and floats go byte by byte, where a dictionary would be tried first (token ids and
    log-probs, most of a tree, are too many for one). Nobody skips a file by what is inside a list: no statistics there.
    """
    leaves = list(_leaves(schema, "", repeated=False))
    numbers = {path: name for path, kind, _ in leaves if (name := _number(kind))}
    return {
        "write_statistics": [path for path, _, repeated in leaves if not repeated],
        "use_dictionary": [path for path, _, _ in leaves if path not in numbers],
        "column_encoding": numbers,
    }


def _number(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind):
        return "DELTA_BINARY_PACKED"
    return "BYTE_STREAM_SPLIT" if pa.types.is_floating(kind) else ""


def _leaves(
    fields: Iterable["pa.Field[Any]"], above: str, *, repeated: bool
) -> Iterator[tuple[str, pa.DataType, bool]]:
    for field in fields:
        path, kind, inside = above + field.name, field.type, repeated
        while pa.types.is_list(kind):
            path, kind, inside = f"{path}.list.element", kind.value_type, True
        if pa.types.is_struct(kind):
            yield from _leaves([kind.field(at) for at in range(kind.num_fields)], f"{path}.", repeated=inside)
        else:
            yield path, kind, inside


def _is_in(table: DeltaTable, added: Sequence[AddAction | RemoveAction], moved: Sequence[Transaction]) -> bool:
    """Whether the table has these files now, or (they may be merged already) holds just these offsets."""
    table.update_incremental()
    known = set(pa.table(table.get_add_actions()).column("path").to_pylist()) if added else set()
    if any(action.path in known for action in added):
        return True
    found = [table.transaction_version(one.app_id) == one.version for one in moved]
    return bool(found) and all(found)


def first_offsets(name: str, rows: pa.Table) -> dict[str, int]:
    """The lowest offset of the rows by app id; rows of no topic have none."""
    found = rows.group_by(["_topic_id", "_partition"]).aggregate([("_offset", "min")]).to_pylist()
    return {app_id(name, row["_topic_id"], row["_partition"]): row["_offset_min"] for row in found if row["_topic_id"]}


def uncovered(name: str, rows: pa.Table, first: Mapping[str, int], held: Mapping[str, int]) -> pa.Table:
    """The rows beyond the offsets that the table holds; `first` are the rows' first_offsets."""
    if all(offset > held.get(app, -1) for app, offset in first.items()):
        return rows
    columns = (rows.column(key).to_pylist() for key in ("_topic_id", "_partition", "_offset"))
    keep = [
        not topic or offset > held.get(app_id(name, topic, part), -1)
        for topic, part, offset in zip(*columns, strict=True)
    ]
    return rows.filter(pa.array(keep))
