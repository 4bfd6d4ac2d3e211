"""The one kind of error that is meant for the person at the keyboard, the first line of any other, and a full disk."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""No room on the disk, or no more of it for this user."""


class Told(Exception):
    """An error that its reader can put right: the text is one sentence that says what is wrong and what to do.

    The command prints it without a traceback and ends with exit code 2.
    """


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def telling_full(path: Path) -> Iterator[None]:
    """An error inside that tells of a full disk (also a library's in Rust) becomes an OSError with number and path."""
    try:
        yield
    except Exception as error:
        for number in DISK_FULL:
            if getattr(error, "errno", None) == number or f"(os error {number})" in str(error):
                raise OSError(number, os.strerror(number), str(path)) from error
        raise
