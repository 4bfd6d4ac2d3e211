"""`factory compact`: tables in few files, logs that are whole, and a disk without what nobody needs any more.

It may run while the factory does. Merging and removing change no row: a reader that has a version open keeps it (what a
merge replaced stays for an hour at least), and every version of a table can be asked for afterwards all the same.
"""

from collections.abc import Sequence

import msgspec

from deploy.as_of import table_named
from deploy.leftovers import clear
from processors import kafka
from processors.dataset import KEEP_S, Datasets, NoDatasets
from schemas.settings import Settings
from trainers.retention import retire

ATTEMPTS = 5
"""A merge that meets another writer's commit gives up and is tried again."""


class Compacted(msgspec.Struct, kw_only=True):
    """What was done to one table or folder."""

    name: str
    files_before: int = 0
    files: int = 0
    removed: int = 0
    freed_bytes: int = 0
    said: list[str] = []


def run(settings: Settings, names: Sequence[str], keep_days: float | None) -> list[Compacted]:
    """Mend and merge tables (all where none is named); with `keep_days` also remove what is older and not needed.

    Raises:
        BadSettings: for a table that does not exist.
        NoDatasets: there are no tables.
        Damaged: a table cannot be mended by itself.
        OSError: with errno ENOSPC when there is no room for a merged file.
        BrokerMissing: see deploy/leftovers.py.
    """
    for name in names:
        table_named(name)
    datasets = Datasets.of(settings)
    there = datasets.place.names()
    if not there:
        raise NoDatasets(f"{datasets.place} holds no tables yet: `factory up` creates and fills them")
    keep_s = None if keep_days is None else max(keep_days * 86_400, KEEP_S)
    done = [_table(datasets, name, keep_s) for name in there if not names or name in names]
    if keep_s is not None and not names:
        cleared = clear(settings, datasets, keep_s)
        done += [Compacted(name=folder, removed=len(paths)) for folder, paths in cleared.items()]
    if settings.weights.keep and not names:
        done.append(_weights(settings, datasets))
    return done


def _table(datasets: Datasets, name: str, keep_s: float | None) -> Compacted:
    done = Compacted(name=name, said=datasets.mend(name))
    done.files_before = len(datasets.table(name).file_uris())
    for _ in range(ATTEMPTS):
        if datasets.compact(name, files=1) or len(datasets.table(name).file_uris()) <= 1:
            break
    done.files = len(datasets.table(name).file_uris())
    if keep_s is not None:
        before = datasets.place.size(name)
        done.removed = len(datasets.vacuum(name, keep_s))
        done.freed_bytes = max(0, before - datasets.place.size(name))
    return done


def _weights(settings: Settings, datasets: Datasets) -> Compacted:
    """Old versions go where a broker runs, to which their rows are sent."""
    try:
        client = kafka.producer(settings)
    except kafka.BrokerMissing as error:
        return Compacted(name="weights", said=[f"weights: {error}; old versions stay until then"])
    rows = retire(settings, datasets)
    for sent in [kafka.send(client, row) for row in rows]:
        sent.get(timeout=30)
    client.close()
    return Compacted(name="weights", removed=len(rows))


def render(done: Sequence[Compacted]) -> str:
    """A line a table that was changed, then what was said."""
    lines = []
    for item in done:
        parts = [f"{item.files_before} files into {item.files}"] if item.files != item.files_before else []
        parts += [f"{item.removed} removed"] if item.removed else []
        parts += [f"{item.freed_bytes / 1e6:.1f} MB freed"] if item.freed_bytes else []
        lines += [f"{item.name}: {', '.join(parts)}"] if parts else []
    said = [sentence for item in done for sentence in item.said]
    return "\n".join([*lines, *said]) or "nothing to do: every table lies in few files already"
