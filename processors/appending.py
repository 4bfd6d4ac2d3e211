"""One commit of a table: the rows, and the offsets that they came from as the library's application transactions."""

from collections.abc import Iterable, Mapping

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake

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


def properties(rows: int, size: float) -> WriterProperties:
    """How files are written.

    Args:
        rows: some of the table's rows.
        size: how many bytes they take in a file.
    """
    least, most = GROUP_ROWS
    fitting = int(GROUP_BYTES * rows / size) if size else most
    return WriterProperties(compression="ZSTD", max_row_group_size=min(max(fitting, least), most))


def merging(table: DeltaTable) -> WriterProperties:
    """How the files are written into which a table's files are merged."""
    adds = pa.table(table.get_add_actions())
    columns = (adds.column(name).to_pylist() for name in ("num_records", "size_bytes"))
    rows, size = (sum(value or 0 for value in column) for column in columns)
    return properties(rows, size)


def commit(table: DeltaTable, rows: pa.Table, moved: Iterable[Transaction]) -> None:
    """Rows and transactions in one commit."""
    told = CommitProperties(app_transactions=list(moved))
    if rows.num_rows:
        options = properties(rows.num_rows, rows.nbytes * COMPRESSED)
        write_deltalake(table, rows, mode="append", commit_properties=told, writer_properties=options)
    else:
        # only copies came: the offsets move all the same, without an empty file
        table.create_write_transaction([], "append", table.schema(), commit_properties=told)


def is_in(table: DeltaTable, moved: Iterable[Transaction]) -> bool:
    """Whether a commit that raised is there all the same: what failed after it is the checkpoint of the log."""
    table.update_incremental()
    found = [table.transaction_version(one.app_id) == one.version for one in moved]
    return bool(found) and all(found)


def uncovered(name: str, rows: pa.Table, held: Mapping[str, int]) -> pa.Table:
    """The rows beyond the offsets that the table holds."""
    if not rows.num_rows or all(offset < 0 for offset in held.values()):
        return rows
    first = rows.group_by(["_topic_id", "_partition"]).aggregate([("_offset", "min")]).to_pylist()
    if all(row["_offset_min"] > held.get(app_id(name, row["_topic_id"], row["_partition"]), -1) for row in first):
        return rows
    columns = (rows.column(key).to_pylist() for key in ("_topic_id", "_partition", "_offset"))
    keep = [offset > held.get(app_id(name, topic, part), -1) for topic, part, offset in zip(*columns, strict=True)]
    return rows if all(keep) else rows.filter(pa.array(keep))
