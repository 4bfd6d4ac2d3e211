"""One sink a table: on this machine a lock says so, which the kernel frees when its holder dies."""

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from schemas.errors import Told


class TableBusy(Told, RuntimeError):
    """Another sink writes the table; the text says which."""


@contextlib.contextmanager
def owned(root: Path, table: str, wait_s: float) -> Iterator[None]:
    """Be the only process of this machine that writes a table of <root> by offsets.

    Raises:
        TableBusy: another process does for longer than `wait_s` seconds.
    """
    with (root / f".{table}.sink").open("w") as lock:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TableBusy(f"another sink writes the table {table!r}: stop it first") from None
                time.sleep(0.1)
        yield
