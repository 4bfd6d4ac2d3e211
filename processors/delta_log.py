"""The application transactions of a Delta table, read from its log: the library tells only those whose id one knows.

A sink's offsets are such transactions (app id = table, topic UUID, partition). To show them, or to tell how far a
table has come, all of them must be listed: the newest checkpoint at or before the version, then the commits after it.
"""

import json
import re
from pathlib import Path

import pyarrow.parquet as pq

_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def transactions(table: Path, version: int) -> dict[str, int]:
    """The last committed version of every app id.

    Args:
        table: the table's directory.
        version: the table version that is looked at.
    """
    log = table / "_delta_log"
    start, found = _checkpoint(log, version)
    for number in range(start, version + 1):
        for line in (log / f"{number:020}.json").read_text("utf-8").splitlines():
            if '"txn"' in line and (action := json.loads(line).get("txn")):
                found[action["appId"]] = action["version"]
    return found


def _checkpoint(log: Path, version: int) -> tuple[int, dict[str, int]]:
    """The first commit to read, and what the checkpoint before it holds."""
    names = [match for path in log.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))]
    usable = [int(match[1]) for match in names if int(match[1]) <= version]
    if not usable:
        return 0, {}
    rows = pq.read_table(log / f"{max(usable):020}.checkpoint.parquet", columns=["txn"]).column("txn").to_pylist()
    return max(usable) + 1, {row["appId"]: row["version"] for row in rows if row and row["appId"]}
