"""Problems from JSONL and Parquet files: every good row is a problem, every bad one is named by file and line.

Nothing in a file can stop the stream or fill the memory: a line is read up to the size limit and the rest of it is
passed over.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from producers.sources.items import RAW_BYTES, Bad, BadSource, Item, cut, make_problem
from producers.sources.mapping import Fields, Unmapped, read

PARQUET = (".parquet", ".pq")
_BLOCK = 1 << 20


class Entry(msgspec.Struct, frozen=True):
    """A row as it was found: its line, bytes and full size; `row` where it was decoded already (Parquet)."""

    line: int
    raw: bytes
    size: int
    row: object = None


class Files:
    """The rows of one or more files, one after the other; `index` counts lines over all of them from 0.

    Args:
        name: the source's name.
        paths: JSONL files, or Parquet by their ending.
        fields: the mapping.
        max_bytes: a longer row is bad.

    Raises:
        BadSource: for a path that is not there.
    """

    def __init__(self, name: str, paths: Sequence[Path], fields: Fields, max_bytes: int) -> None:
        self.name = name
        self.paths = list(paths)
        self.fields = fields
        self.max_bytes = max_bytes
        for path in self.paths:
            if not path.is_file():
                raise BadSource(f"problems.sources: {path}: no such file")

    def items(self, start: int = 0) -> Iterator[Item]:
        """The rows from index `start` on.

        Raises:
            BadSource: for a file that cannot be read at all.
        """
        before = 0
        for path in self.paths:
            last = 0
            for entry in self._entries(path):
                last = entry.line
                index = before + entry.line - 1
                if index >= start:
                    yield self._item(index, path, entry)
            before += last

    def _entries(self, path: Path) -> Iterator[Entry]:
        try:
            if path.suffix in PARQUET:
                yield from _rows(path)
            else:
                with path.open("rb") as file:
                    yield from _lines(file, self.max_bytes)
        except (OSError, pa.ArrowException) as error:
            raise BadSource(f"problems.sources: {path} cannot be read: {error}") from error

    def _item(self, index: int, path: Path, entry: Entry) -> Item:
        try:
            mapped = read(_decoded(entry, self.max_bytes), self.fields)
        except Unmapped as error:
            raw, note = cut(entry.raw, entry.size)
            bad = Bad(file=str(path), line=entry.line, kind=error.kind, detail=f"{error}{note}", raw=raw)
            return Item(index=index, bad=bad)
        problem = make_problem(source=self.name, index=index, **msgspec.structs.asdict(mapped))
        return Item(index=index, problem=problem, file=str(path), line=entry.line, raw=entry.raw)


def _decoded(entry: Entry, max_bytes: int) -> object:
    """The row as it is in the file.

    Raises:
        Unmapped: where it is too long or not JSON.
    """
    if entry.size > max_bytes:
        raise Unmapped("too long", f"{entry.size} bytes, problems.max_bytes is {max_bytes}")
    if entry.row is not None:
        return entry.row
    try:
        return msgspec.json.decode(entry.raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unmapped("malformed line", f"not JSON: {error}") from error


def _lines(file: BinaryIO, max_bytes: int) -> Iterator[Entry]:
    """The lines that are not blank; of one beyond `max_bytes` only the beginning is kept."""
    number = 0
    while head := file.readline(max_bytes + 2):  # with room for the line's end
        number += 1
        rest = 0
        block = head
        while not block.endswith(b"\n") and (block := file.readline(_BLOCK)):
            rest += len(block)
        line = head.rstrip(b"\r\n")
        size = len(head) + rest if rest else len(line)
        if line.strip() or rest:
            yield Entry(number, line if size <= max_bytes else line[:RAW_BYTES], size)


def _rows(path: Path) -> Iterator[Entry]:
    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                raw = msgspec.json.encode(row, enc_hook=str)
                yield Entry(number, raw, len(raw), row)
