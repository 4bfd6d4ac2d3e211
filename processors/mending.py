"""A table that a power cut left half-written is put back to its last whole version, and what it lost comes again.

SIGKILL cannot do this: a file of a table appears by rename, and a log entry by a link, once it is written. But nothing
waits for the disk, so a machine that loses its power may keep a name and lose what is behind it: a log entry, a
checkpoint of the log or a file of rows that is cut off or gone. Rows and offsets are one commit, so without it the
sink reads the same records again (or, where an embedded broker died with the machine, their inputs are worked on
again). What is set aside gets the ending `.damaged` and stays for whoever wants to look.
"""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from processors.delta_log import actions, checkpoints, commit_file, commits, committed_at
from schemas.errors import first_line

RECENT = 20
"""Commits at the end that may be set aside at least: what a power cut reaches.

Damage before them, and before RECENT_MS, was done by something else.
"""
RECENT_MS = 300_000
"""Those of so long before the newest may be set aside too: an idle system writes its files down within a minute."""


def mend(table: Path, before: Callable[[], None] = lambda: None) -> list[str]:
    """Set aside what was not written to its end. The caller makes sure that nobody writes.

    Args:
        table: its directory.
        before: what has to be done before rows go, should this be interrupted.

    Returns:
        Sentences that say what was done; none for a table that is whole.

    Raises:
        ValueError: something is damaged that was whole long ago; the text says what.
    """
    since = _recent(table)
    said = _mend_checkpoints(table, since)
    while damage := _damage(table, since):
        before()
        said += _set_aside(table, *damage)
    return said


def _damage(table: Path, since: int) -> tuple[int, str] | None:
    """The commit that must go next, and why; None = the table is whole."""
    # Of what is in a checkpoint nobody reads the entries to open the table.
    first = max([since, *(version + 1 for version in checkpoints(table))])
    for version in range(first, max(commits(table), default=-1) + 1):
        if not _whole(table, version):
            return version, "its log entry is cut off or gone"
    lost = files_of(table, _opened(table))[1]
    if not lost:
        return None
    recent = (version for version in reversed(commits(table)) if version >= since and _whole(table, version))
    if (added := next((version for version in recent if lost in _added(table, version)), None)) is None:
        raise ValueError(
            f"{table / lost}: this file is cut off or gone, and it was written too long ago to be written again: "
            "put it back from a copy, or start anew with another --data"
        )
    return added, f"its file {lost} is cut off or gone"


def _recent(table: Path) -> int:
    """The first version that a power cut may have reached."""
    first = newest = 0
    for count, version in enumerate(reversed(commits(table))):
        at = committed_at(table, version) if _whole(table, version) else newest
        newest = max(newest, at)
        if count >= RECENT and at < newest - RECENT_MS:
            break
        first = version
    return first


def _opened(table: Path) -> DeltaTable:
    try:
        return DeltaTable(str(table))
    except DeltaError as error:
        command = f"factory compact {table.name} --data {shlex.quote(str(table.parent.parent))}"
        raise ValueError(
            f"table {table.name} cannot be read ({first_line(error)}), and what is damaged was written too long ago to "
            f"be written again: put {table} back from a copy (`{command}` says then whether it is whole), or start "
            "anew with another --data"
        ) from error


def _mend_checkpoints(table: Path, since: int) -> list[str]:
    """Set aside checkpoints that cannot be read: the entries that they sum up are all there."""
    said = []
    newest = table / "_delta_log" / "_last_checkpoint"
    known = checkpoints(table)
    for version in sorted({*known[-2:], *(version for version in known if version >= since)}):
        path = table / "_delta_log" / f"{version:020}.checkpoint.parquet"
        try:
            pq.read_metadata(path)
        except (pa.ArrowInvalid, OSError):
            path.rename(path.with_name(f"{path.name}.damaged"))
            newest.unlink(missing_ok=True)
            said.append(
                f"table {table.name}: the checkpoint of its log at version {version} was cut off; no row is lost"
            )
    if newest.exists() and _told(newest) not in checkpoints(table):
        newest.unlink()
        said.append(f"table {table.name}: what its log said of its newest checkpoint was wrong; no row is lost")
    return said


def _told(newest: Path) -> int | None:
    """The version that `_last_checkpoint` names."""
    try:
        return int(json.loads(newest.read_bytes())["version"])
    except (ValueError, TypeError, KeyError):
        return None


def _whole(table: Path, version: int) -> bool:
    try:
        return bool(actions(table, version))
    except (ValueError, FileNotFoundError):  # also what is not JSON or not UTF-8
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
        held = "it never held a row" if later == [0] else "what its topic still has comes again"
        raise ValueError(f"{table}: its first log entry is cut off: remove this folder, {held}")
    # In this order whatever is left of an interrupted mending can be mended again: no checkpoint without its entries.
    (table / "_delta_log" / "_last_checkpoint").unlink(missing_ok=True)
    summed = [table / "_delta_log" / f"{version:020}.checkpoint.parquet" for version in later]
    for path in (*summed, *(commit_file(table, version) for version in reversed(later))):
        if path.exists():
            path.rename(path.with_name(f"{path.name}.damaged"))
    return [f"table {table.name}: back to version {first - 1}: {why}; what {len(later)} commit(s) held comes again"]
