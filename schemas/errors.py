"""The one kind of error that is meant for the person at the keyboard, the first line of any other, and a full disk."""

import errno
import os
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


def disk_full(error: BaseException, path: Path) -> OSError | None:
    """The error of a full disk, with its number and the path, that another (also a library's in Rust) tells of."""
    for number in DISK_FULL:
        if getattr(error, "errno", None) == number or f"(os error {number})" in str(error):
            return OSError(number, os.strerror(number), str(path))
    return None
