"""The tables as they were: a time, or a table's version, becomes a version of every table.

Versions are counted table by table, so `examples@12` means: the moment at which `examples` got its version 12.
"""

import re
from datetime import datetime

from deploy.options import seconds
from processors.dataset import Datasets
from processors.delta_log import committed_at, version_at
from schemas.load import BadSettings
from schemas.tables import TABLES

FORMS = "write a time (2026-01-31T18:00, or 10m for ten minutes ago) or versions of tables (examples@12,trees@3)"


def pinned(datasets: Datasets, text: str, now: datetime) -> dict[str, int]:
    """The version of every table as of a time or as of the versions of some.

    Args:
        datasets: the tables.
        text: an ISO 8601 time (local where it does not say otherwise), a duration before now, or TABLE@VERSION,...
        now: with its time zone.

    Raises:
        BadSettings: it is none of these, names no table of ours, is in the future, or before the first table.
        NoVersion: a table has not come to that version.
        NoDatasets: there are no tables.
    """
    opened = datasets.open()
    named = _versions(datasets, text) if "@" in text else {}
    if named:
        moment = max(committed_at(datasets.place.folder(name), version) for name, version in named.items())
    else:
        moment = int(_time(text, now).timestamp() * 1000)
    found = {name: version_at(datasets.place.folder(name), moment) for name in opened}
    if all(version is None for version in found.values()):
        first = min(committed_at(datasets.place.folder(name), 0) for name in opened)
        began = datetime.fromtimestamp(first / 1000, now.tzinfo).isoformat(sep=" ", timespec="seconds")
        raise BadSettings(f"--as-of {text}: the tables begin at {began}")
    # A table that was not there yet was empty, which is its version 0.
    return {name: version or 0 for name, version in found.items()} | named


def resolved(text: str, now: datetime) -> str:
    """What `--as-of` says, as it stays true: a time in full, to the log's millisecond, or versions as they are.

    Args:
        text: as for `pinned`; '' stays ''.
        now: with its time zone.

    Raises:
        BadSettings: it is no time, or in the future.
    """
    return text if not text or "@" in text else _time(text, now).isoformat(timespec="milliseconds")


def _versions(datasets: Datasets, text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\w+)@(\d+)\s*", part)
        if not match:
            raise BadSettings(f"--as-of {text}: {FORMS}")
        found[match[1]] = datasets.table(table_named(match[1]), int(match[2])).version()
    return found


def _time(text: str, now: datetime) -> datetime:
    if text.strip().isdecimal():
        raise BadSettings(f"--as-of {text}: say whose version this is: examples@{text.strip()}; or {FORMS}")
    if re.fullmatch(r"\s*\d+(\.\d+)?[smhd]\s*", text):
        return datetime.fromtimestamp(now.timestamp() - seconds(text), now.tzinfo)
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadSettings(f"--as-of {text}: {FORMS}") from None
    found = found if found.tzinfo else found.replace(tzinfo=now.tzinfo)
    if found > now:
        raise BadSettings(f"--as-of {text}: that is still to come; now is {now.isoformat(sep=' ', timespec='seconds')}")
    return found


def table_named(name: str) -> str:
    """`name`, if it is a table's.

    Raises:
        BadSettings: it is none.
    """
    if name not in TABLES:
        raise BadSettings(f"no table {name!r}; there are: {', '.join(TABLES)}")
    return name
