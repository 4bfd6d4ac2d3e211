"""A Delta table's log, read by ourselves: the library tells only those transactions whose id one knows, and no times.

A sink's offsets are such transactions (app id = table, topic UUID, partition). To show them, or to tell how far a
table has come, all of them must be listed: the newest checkpoint at or before the version, then the commits after it.
"""

import json
import re
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from processors.store import Folder

Directory: TypeAlias = "Path | Folder"
"""A table's, on this machine or on a store."""

_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")
_COMMIT = re.compile(r"(\d{20})\.json")


def transactions(table: Directory, version: int) -> dict[str, int]:
    """The last committed version of every app id.

    Args:
        table: the table's directory.
        version: the table version that is looked at.
    """
    start, found = _checkpoint(table, version)
    for number in range(start, version + 1):
        for line in _read(table, number):
            if b'"txn"' in line and (action := json.loads(line).get("txn")):
                found[action["appId"]] = action["version"]
    return found


def _checkpoint(table: Directory, version: int) -> tuple[int, dict[str, int]]:
    """The first commit to read, and what the checkpoint before it holds."""
    usable = [number for number in checkpoints(table) if number <= version]
    if not usable:
        return 0, {}
    file = table / "_delta_log" / f"{max(usable):020}.checkpoint.parquet"
    source = file if isinstance(file, Path) else pa.BufferReader(file.read_bytes())
    rows = pq.read_table(source, columns=["txn"]).column("txn").to_pylist()
    return max(usable) + 1, {row["appId"]: row["version"] for row in rows if row and row["appId"]}


def commit_file(table: Path, version: int) -> Path:
    """The log's entry for a version."""
    return table / "_delta_log" / _entry(version)


def _entry(version: int) -> str:
    return f"{version:020}.json"


def _read(table: Directory, version: int) -> list[bytes]:
    """The lines of a version's entry."""
    return (table / "_delta_log" / _entry(version)).read_bytes().splitlines()


def checkpoints(table: Directory) -> list[int]:
    """The versions at which the log has a checkpoint, ascending."""
    return _numbers(table, _CHECKPOINT)


def commits(table: Directory) -> list[int]:
    """The versions that have an entry in the log, ascending."""
    return _numbers(table, _COMMIT)


def _numbers(table: Directory, name: re.Pattern[str]) -> list[int]:
    return sorted(int(found[1]) for path in (table / "_delta_log").iterdir() if (found := name.fullmatch(path.name)))


def actions(table: Directory, version: int) -> list[dict[str, Any]]:
    """What a commit did.

    Raises:
        ValueError: its entry is cut off.
    """
    found = [json.loads(line) for line in _read(table, version)]
    if not found:
        raise ValueError("the entry is empty")
    return found


def committed_at(table: Directory, version: int) -> int:
    """When a version was committed, in milliseconds since the epoch, by the clock of who did it."""
    first = next(iter(_read(table, version)), b"{}")
    return int(json.loads(first).get("commitInfo", {}).get("timestamp", 0))


def version_at(table: Directory, time_ms: int) -> int | None:
    """The table's version at a time, None before it was created."""
    known = commits(table)
    at = bisect_right(known, time_ms, key=lambda version: committed_at(table, version))
    return known[at - 1] if at else None
