"""A table that a power cut left half-written is put back to its last whole version, and what it lost comes again.

SIGKILL cannot do this: a file of a table appears by rename, and a log entry by a link, once it is written. But nothing
waits for the disk, so a machine that loses its power may keep a name and lose what is behind it: a log entry, a
checkpoint of the log or a file of rows that is cut off or gone. Rows and offsets are one commit, so without it the
sink reads the same records again (or, where an embedded broker died with the machine, their inputs are worked on
again). What is set aside gets the ending `.damaged` and stays for whoever wants to look.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from processors.delta_log import actions, checkpoints, commit_file, commits

RECENT = 20
"""Commits at the end that may be set aside: what a power cut reaches. Damage before them was done by something else."""


def mend(table: Path) -> list[str]:
    """Set aside what was not written to its end. The caller makes sure that nobody writes.

    Returns:
        Sentences that say what was done; none for a table that is whole.

    Raises:
        ValueError: something is damaged that was whole long ago; the text says what.
    """
    said = _mend_checkpoints(table)
    known = commits(table)
    torn = [version for version in known[-RECENT:] if not _whole(table, version)]
    if torn and torn[0] <= max(checkpoints(table), default=-1):
        torn = []  # it is in a checkpoint; nobody reads this entry to open the table
    said += _set_aside(table, torn[0], "its log entry is cut off") if torn else []
    while lost := files_of(table, DeltaTable(str(table)))[1]:
        added = [version for version in commits(table)[-RECENT:] if lost in _added(table, version)]
        if not added:
            raise ValueError(
                f"{table / lost}: this file is cut off or gone, and it was written too long ago to be written again: "
                "put it back from a copy, or start anew with another --data"
            )
        said += _set_aside(table, added[-1], f"its file {lost} is cut off or gone")
    return said


def _mend_checkpoints(table: Path) -> list[str]:
    """Set aside checkpoints that cannot be read: the entries that they sum up are all there."""
    said = []
    for version in checkpoints(table)[-2:]:
        path = table / "_delta_log" / f"{version:020}.checkpoint.parquet"
        try:
            pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError):
            path.rename(path.with_name(f"{path.name}.damaged"))
            (table / "_delta_log" / "_last_checkpoint").unlink(missing_ok=True)
            said.append(
                f"table {table.name}: the checkpoint of its log at version {version} was cut off; no row is lost"
            )
    return said


def _whole(table: Path, version: int) -> bool:
    try:
        return bool(actions(table, version))
    except ValueError:  # also what is not JSON or not UTF-8
        return False


def files_of(folder: Path, table: DeltaTable) -> tuple[list[str], str]:
    """The paths of a snapshot's files, and the name of one that is not as long as it was written; '' = all are."""
    adds = pa.table(table.get_add_actions())
    paths, lost = [], ""
    for name, size in zip(adds.column("path").to_pylist(), adds.column("size_bytes").to_pylist(), strict=True):
        path = folder / str(name)
        paths.append(str(path))
        if not path.is_file() or path.stat().st_size != size:
            lost = path.name
    return paths, lost


def _added(table: Path, version: int) -> set[str]:
    return {action["add"]["path"] for action in actions(table, version) if "add" in action}


def _set_aside(table: Path, first: int, why: str) -> list[str]:
    """Go back to the version before `first`."""
    later = [version for version in commits(table) if version >= first]
    if first == 0:
        raise ValueError(f"{table}: its first log entry is cut off: remove this folder, it never held a row")
    for version in reversed(later):
        for path in (commit_file(table, version), table / "_delta_log" / f"{version:020}.checkpoint.parquet"):
            if path.exists():
                path.rename(path.with_name(f"{path.name}.damaged"))
    (table / "_delta_log" / "_last_checkpoint").unlink(missing_ok=True)
    return [f"table {table.name}: back to version {first - 1}: {why}; what {len(later)} commit(s) held comes again"]
