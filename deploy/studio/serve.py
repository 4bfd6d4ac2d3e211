"""Opening the studio of a data directory: checks what it was given, says what else is worth saying, serves.

Two studios may show one directory, for both only read it; the second one says where the first is.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from deploy.studio.server import NAMES, answered, running
from deploy.studio.site import Site, memory_mb
from deploy.studio.tables import Tables
from processors.status import alive
from schemas.load import BadSettings
from schemas.settings import Settings


class Announced(msgspec.Struct, frozen=True):
    """<data>/state/studio-<pid>.json: where a studio of this directory answers."""

    url: str
    pid: int


def site(settings: Settings, beside: Sequence[Path] = ()) -> Site:
    """The site of a data directory.

    Raises:
        BadSettings: for a directory that is not there.
    """
    for folder in (Path(settings.factory.data), *beside):
        if not folder.is_dir():
            raise BadSettings(f"{folder}: no such directory; name one that `factory up` has filled, with --data")
    return Site(settings, {_name(folder, beside): Tables(folder, memory_mb(settings)) for folder in beside})


def _name(folder: Path, among: Sequence[Path]) -> str:
    """A directory's short name: its last part, or more of it where another one has the same."""
    parts = folder.absolute().parts
    for count in range(1, len(parts) + 1):
        name = "/".join(parts[-count:])
        if sum(other.absolute().parts[-count:] == parts[-count:] for other in among) == 1:
            return name
    return str(folder)


@contextlib.contextmanager
def open_to(site: Site, host: str, port: int, names: Sequence[str] = ()) -> Iterator[tuple[str, list[str]]]:
    """Serve; gives the address and what a person should know.

    Args:
        site: the site.
        host: where it listens.
        port: 0 = a free one.
        names: further names that it answers to.

    Raises:
        OSError: when the port is in use.
    """
    notes = [f"studio: another one shows this directory at {other.url}; both only read it" for other in others(site)]
    if host not in NAMES:
        notes.append(
            f"studio: it listens on {host} without a login, and answers to {', '.join(sorted(answered(host, names)))}; "
            "--allow-host NAME adds a name"
        )
    with running(site, host, port, names) as url:
        mine = site.data / "state" / f"studio-{os.getpid()}.json"
        with contextlib.suppress(OSError):  # a directory that cannot be written to can be looked at all the same
            mine.parent.mkdir(exist_ok=True)
            mine.write_bytes(msgspec.json.encode(Announced(url, os.getpid())))
        try:
            yield url, notes
        finally:
            with contextlib.suppress(OSError):
                mine.unlink(missing_ok=True)


def others(site: Site) -> list[Announced]:
    """Studios that show the same directory now."""
    found = []
    for path in sorted((site.data / "state").glob("studio-*.json")):
        try:
            other = msgspec.json.decode(path.read_bytes(), type=Announced)
        except (OSError, msgspec.MsgspecError):
            continue
        if alive(other.pid) and other.pid != os.getpid():
            found.append(other)
    return found
