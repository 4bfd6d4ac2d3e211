"""A data directory that begins with another one's tables: an arm starts from the trees that all arms share.

Only the tables are taken: checkpoints, weights and offsets are an arm's own. Parquet files never change once they are
written, so a fork links them where the file system can; the tables' logs are copied, for they grow apart.
"""

import os
import shutil
from collections.abc import Collection
from pathlib import Path


def fork(source: Path, target: Path, empty: Collection[str] = ()) -> bool:
    """Make <target>/datasets from <source>/datasets, by one rename.

    Args:
        source: a data directory whose factory does not run.
        target: another one, with tables or without.
        empty: tables to leave out; the next factory creates them without a row.

    Returns:
        Whether it was done; False where the target has tables already.

    Raises:
        OSError: for a disk that is full or not writable.
    """
    final = target / "datasets"
    if final.exists():
        return False
    temporary = target / "datasets.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    target.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns(*empty, ".*.sink", ".create.lock")
    shutil.copytree(source / "datasets", temporary, copy_function=_link, ignore=ignored)
    temporary.replace(final)
    return True


def _link(source: str, target: str) -> str:
    if source.endswith(".parquet") and "_delta_log" not in source:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            return str(shutil.copy2(source, target))
        return target
    return str(shutil.copy2(source, target))
