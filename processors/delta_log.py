"""A Delta table's log, read by ourselves: the library tells only those transactions whose id one knows, and no times.

A sink's offsets are such transactions (app id = table, topic UUID, partition). To show them, or to tell how far a
table has come, all of them must be listed: the newest checkpoint at or before the version, then the commits after it.
"""

import json
import re
from bisect import bisect_right
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")
_COMMIT = re.compile(r"(\d{20})\.json")


def transactions(table: Path, version: int) -> dict[str, int]:
    """The last committed version of every app id.

    Args:
        table: the table's directory.
        version: the table version that is looked at.
    """
    start, found = _checkpoint(table / "_delta_log", version)
    for number in range(start, version + 1):
        for line in commit_file(table, number).read_bytes().splitlines():
            if b'"txn"' in line and (action := json.loads(line).get("txn")):
                found[action["appId"]] = action["version"]
    return found


def _checkpoint(log: Path, version: int) -> tuple[int, dict[str, int]]:
    """The first commit to read, and what the checkpoint before it holds."""
    usable = [number for number in checkpoints(log.parent) if number <= version]
    if not usable:
        return 0, {}
    rows = pq.read_table(log / f"{max(usable):020}.checkpoint.parquet", columns=["txn"]).column("txn").to_pylist()
    return max(usable) + 1, {row["appId"]: row["version"] for row in rows if row and row["appId"]}


def commit_file(table: Path, version: int) -> Path:
    """The log's entry for a version."""
    return table / "_delta_log" / f"{version:020}.json"


def checkpoints(table: Path) -> list[int]:
    """The versions at which the log has a checkpoint, ascending."""
    return _numbers(table, _CHECKPOINT)


def commits(table: Path) -> list[int]:
    """The versions that have an entry in the log, ascending."""
    return _numbers(table, _COMMIT)


def _numbers(table: Path, name: re.Pattern[str]) -> list[int]:
    return sorted(int(found[1]) for path in (table / "_delta_log").iterdir() if (found := name.fullmatch(path.name)))


def actions(table: Path, version: int) -> list[dict[str, Any]]:
    """What a commit did.

    Raises:
        ValueError: its entry is cut off.
    """
    found = [json.loads(line) for line in commit_file(table, version).read_bytes().splitlines()]
    if not found:
        raise ValueError("the entry is empty")
    return found


def committed_at(table: Path, version: int) -> int:
    """When a version was committed, in milliseconds since the epoch, by the clock of who did it."""
    first = next(iter(commit_file(table, version).read_bytes().splitlines()), b"{}")
    return int(json.loads(first).get("commitInfo", {}).get("timestamp", 0))


def version_at(table: Path, time_ms: int) -> int | None:
    """The table's version at a time, None before it was created."""
    known = commits(table)
    at = bisect_right(known, time_ms, key=lambda version: committed_at(table, version))
    return known[at - 1] if at else None
