"""What a replay did with a row, as a message and a table of its own: rows never change, so it is said beside them.

A column `code` in every derived table would say less (not what replaced what) and would make every table of an earlier
version unreadable, and those are the ones that are replayed.
"""

from typing import Literal

from schemas.messages import Message


class Replay(Message, frozen=True, kw_only=True):
    """What `factory replay` or `factory dlq replay` did with a row; of those about one row the newest counts."""

    id: str
    """content_id(what, row id, how many there were about the row before)."""
    what: Literal["sent", "made", "replaced", "withdrawn", "restored"]
    """sent: a dead letter's bytes went to their topic again. made: the row was made by this replay. replaced: rows made
    by it stand for this one. withdrawn: nothing stands for it. restored: the row counts again."""
    topic: str
    """The row's, and so its table."""
    row_id: str
    """The row's."""
    stage: str
    """What was run again."""
    source: str = ""
    """The table that was replayed and its version: 'trees@17'."""
    code: str = ""
    """The code that did it: package version and a hash of its source files."""
    settings: str = ""
    """The stage's settings that are not the defaults, as JSON."""
    why: str = ""
    """The reason in words, where there is one to say."""
    time: float = 0.0
    """When it was done, s since the epoch."""
