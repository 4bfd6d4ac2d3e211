"""The files of an export: `data/train-00000.parquet`, ... (or .jsonl), another one when the last is large enough."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from deploy.tabular import plain
from schemas.errors import Told

Format = Literal["hf", "trl", "parquet", "jsonl"]
FORMATS: Mapping[str, Format] = {"hf": "hf", "trl": "trl", "parquet": "parquet", "jsonl": "jsonl"}
"""By the words of the command line."""
GROUP_BYTES = 16 << 20
"""Rows are gathered up to this (in memory) before they are written: a row group of Parquet."""
SHARD_BYTES = 512 << 20
"""A file that holds this much (in memory, before compression) is followed by another."""


class NotExported(Told, ValueError):
    """Nothing was exported; the text says why and what to do."""


class Exported(msgspec.Struct, frozen=True):
    """What was written."""

    out: str
    format: Format
    rows: int
    files: int
    bytes: int
    """Of the data files."""
    sources: dict[str, int]
    """Rows by source of problems, where the rows name one."""


def groups(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The batches, GROUP_BYTES or a little more at a time."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size >= GROUP_BYTES:
            yield pa.Table.from_batches(held, schema=schema)
            held, size = [], 0
    if held:
        yield pa.Table.from_batches(held, schema=schema)


class Shards:
    """The data files, written one after the other.

    Args:
        place: a directory that is made.
        form: 'jsonl', or Parquet.
        schema: of the rows.
    """

    def __init__(self, place: Path, form: Format, schema: pa.Schema) -> None:
        place.mkdir()
        self.place, self.form, self.schema = place, form, schema
        self.files = self.size = 0
        self._open: BinaryIO | pq.ParquetWriter | None = None

    def write(self, rows: pa.Table) -> None:
        """Add rows.

        Raises:
            NotExported: a column has a type that Parquet has not.
        """
        if self.size >= SHARD_BYTES:
            self.close()
        if self._open is None:
            self._open, self.size = self._next(), 0
        if isinstance(self._open, pq.ParquetWriter):
            self._open.write_table(rows)
        else:
            for row in rows.to_pylist():
                self._open.write(msgspec.json.encode(plain(row)) + b"\n")
        self.size += rows.nbytes

    def _next(self) -> BinaryIO | pq.ParquetWriter:
        ending = "jsonl" if self.form == "jsonl" else "parquet"
        path = self.place / f"train-{self.files:05}.{ending}"
        self.files += 1
        if self.form == "jsonl":
            return path.open("wb")
        try:
            return pq.ParquetWriter(path, self.schema, compression="zstd")
        except pa.ArrowNotImplementedError as error:
            raise NotExported(f"Parquet cannot hold a column of the query ({error}): CAST it, or use jsonl") from None

    def close(self) -> None:
        """End the file that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None
