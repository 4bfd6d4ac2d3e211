"""Where the tables lie: in a folder of this machine or on a store; all that differs between the two.

A folder's files may be cut off by a power cut, and DuckDB opens them itself. A store's objects are there as a whole or
not at all, and DuckDB sees them through pyarrow, with deltalake's client and the credentials that it finds.
"""

import contextlib
import math
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from processors.mending import files_of, mend
from processors.owning import TableBusy, owned
from schemas.errors import Told, first_line
from schemas.settings import Settings
from schemas.tables import TABLES

if TYPE_CHECKING:
    from processors.store import Folder, Store

Source = Sequence[str] | Any
"""What a table is read from: the paths of its files, or a pyarrow table or dataset."""
STAMP_S = 5.0
"""A store is not asked more often than this whether the tables have grown."""


class BadPlace(Told, ValueError):
    """The data directory's path cannot hold tables; the text says why."""


class Damaged(Told, RuntimeError):
    """A table's log or a file of it is cut off or missing; the text names the command that puts it right."""


class NotOnStore(Told, ValueError):
    """Something that works in a data directory and not on a store; the text says what instead."""


def refuse(settings: Settings, what: str, instead: str) -> None:
    """Refuse what is not supported on a store.

    Raises:
        NotOnStore: the settings name one.
    """
    if settings.factory.store:
        raise NotOnStore(f"{what} on s3:// is not supported (factory.store = {settings.factory.store}): {instead}")


class Place(Protocol):
    """Where tables lie."""

    options: dict[str, str] | None
    """For deltalake."""

    def folder(self, name: str) -> "Path | Folder":
        """A table's directory."""

    def names(self) -> list[str]:
        """The tables that are there."""

    def begun(self) -> list[str]:
        """The tables whose first commit is there."""

    def make(self) -> None:
        """Make sure that tables can lie there."""

    def mend(self, name: str) -> list[str]:
        """Put right what a power cut left half-written; sentences that say what was done."""

    def unreadable(self, name: str, error: Exception) -> Told:
        """What to say of a table that cannot be read."""

    def source(self, name: str, table: DeltaTable, *, old: bool) -> tuple[Source, str]:
        """What to read a snapshot from, and the name of a file that is lost; '' = none is.

        Args:
            name: the table.
            table: the snapshot.
            old: whether it may be older than a vacuum.
        """

    def files(self, name: str, uris: Sequence[str]) -> Source:
        """What to read some files of a table from, as deltalake names them."""

    def unfinished(self, name: str, keep_s: float) -> "list[Path | Folder]":
        """Remove files older than `keep_s` seconds whose writer died, which the library does not see; those removed."""

    def size(self, name: str) -> int:
        """Of the table's Parquet files, in bytes."""

    def stamp(self) -> tuple[int, ...]:
        """Another value once a table may have a new version."""

    def failing(self) -> contextlib.AbstractContextManager[None]:
        """What fails of the place inside is told in a sentence."""


class Here:
    """Tables in a folder of this machine.

    Args:
        root: the folder.
    """

    options: dict[str, str] | None = None

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def folder(self, name: str) -> Path:
        """See Place."""
        return self.root / name

    def names(self) -> list[str]:
        """See Place."""
        return [name for name in TABLES if (self.root / name / "_delta_log").exists()]

    def begun(self) -> list[str]:
        """See Place."""
        return [name for name in TABLES if any((self.root / name / "_delta_log").glob("0*.json"))]

    def make(self) -> None:
        """See Place.

        Raises:
            BadPlace: for a path that Delta or DuckDB would read as a pattern.
        """
        if odd := sorted({*re.findall(r"[\[\]*?]|%[0-9A-Fa-f]{2}", str(self.root))}):
            raise BadPlace(
                f"{self.root}: tables cannot lie under a path with {' '.join(odd)}; choose another data directory"
            )

    def mend(self, name: str) -> list[str]:
        """See Place.

        Offsets saved of the embedded broker are ahead of the table then, and go. Nothing is touched while a sink of
        this machine has the table.

        Raises:
            Damaged: when that would take rows that were written long ago.
        """
        saved = self.root.parent / "state" / "offsets.json"
        try:
            with owned(self.root, name, wait_s=0.0):
                return mend(self.root / name, lambda: saved.unlink(missing_ok=True))
        except TableBusy:
            return []
        except ValueError as error:
            raise Damaged(str(error)) from error

    def unreadable(self, name: str, error: Exception) -> Told:
        """See Place."""
        command = f"factory compact {name} --data {shlex.quote(str(self.root.parent))}"
        return Damaged(
            f"table {name} cannot be read ({first_line(error)}): was the power cut, or the disk full? "
            f"`{command}` sets aside what was not written to its end; the rows that it held come again from their topic"
        )

    def source(self, name: str, table: DeltaTable, *, old: bool) -> tuple[Source, str]:  # noqa: ARG002
        """See Place; a file that a power cut has cut off is lost too."""
        return files_of(self.root / name, table)

    def files(self, name: str, uris: Sequence[str]) -> Source:  # noqa: ARG002
        """See Place."""
        return [unquote(uri.removeprefix("file://")) for uri in uris]  # deltalake quotes spaces and umlauts

    def unfinished(self, name: str, keep_s: float) -> "list[Path | Folder]":
        """See Place; the library writes a file as <name>#<number> and gives it its name at the end."""
        gone: list[Path | Folder] = []
        for path in (self.root / name).rglob("*#*"):
            with contextlib.suppress(FileNotFoundError):  # its writer lives, and has just given it its name
                if re.search(r"#\d+$", path.name) and path.stat().st_mtime < time.time() - keep_s:
                    path.unlink()
                    gone.append(path)
        return gone

    def size(self, name: str) -> int:
        """See Place."""
        return sum(path.stat().st_size for path in (self.root / name).glob("*.parquet"))

    def stamp(self) -> tuple[int, ...]:
        """A log's folder changes with each entry; to list the entries would take longer the more there are."""
        logs = (self.root / name / "_delta_log" for name in TABLES)
        return tuple(log.stat().st_mtime_ns if log.is_dir() else 0 for log in logs)

    @contextlib.contextmanager
    def failing(self) -> Iterator[None]:
        """See Place; a folder's errors are told where they come from."""
        yield


class There:
    """Tables on a store.

    Args:
        store: where.
    """

    def __init__(self, store: "Store") -> None:
        self.store = store
        self.options: dict[str, str] | None = store.options

    def __str__(self) -> str:
        return f"{self.store.url}/datasets"

    def folder(self, name: str) -> "Folder":
        """See Place."""
        return self.store.folder(f"datasets/{name}")

    def names(self) -> list[str]:
        """See Place."""
        there = set(self.store.names("datasets"))
        return [name for name in TABLES if name in there]

    def begun(self) -> list[str]:
        """See Place; a table's first object is its first commit."""
        return self.names()

    def mend(self, name: str) -> list[str]:  # noqa: ARG002
        """See Place; what is on a store was written to its end."""
        return []

    def unreadable(self, name: str, error: Exception) -> Told:
        """See Place."""
        return self.store.failed(error, f"table {name} cannot be read: ")

    def make(self) -> None:
        """See Place; the store must be one on which of two commits of one version the second is refused."""
        self.store.fence()

    def source(self, name: str, table: DeltaTable, *, old: bool) -> tuple[Source, str]:
        """See Place."""
        if old:
            there = self.folder(name).sizes()
            if lost := [str(path) for path in table.get_add_actions().column("path").to_pylist() if path not in there]:
                return [], lost[0]
        return table.to_pyarrow_dataset(), ""

    def files(self, name: str, uris: Sequence[str]) -> Source:
        """See Place; they are read whole."""
        folder = self.folder(name)
        read = ((folder / uri.rpartition("/")[2]).read_bytes() for uri in uris)
        return pa.concat_tables([pq.read_table(pa.BufferReader(data)) for data in read])

    def unfinished(self, name: str, keep_s: float) -> "list[Path | Folder]":  # noqa: ARG002
        """See Place; an object appears whole."""
        return []

    def size(self, name: str) -> int:
        """See Place."""
        return sum(size for path, size in self.folder(name).sizes().items() if not path.startswith("_"))

    def stamp(self) -> tuple[int, ...]:
        """See Place."""
        return (math.floor(time.monotonic() / STAMP_S),)

    def failing(self) -> contextlib.AbstractContextManager[None]:
        """See Place."""
        return self.store.failing()
