"""What a process does when an input fails: try again, set it aside, or stop. The same rules wherever input is taken.

A transient error (the disk, a connection, the engine) says nothing about the message: it is tried again in place, with
a backoff, until a deadline. Any other makes a dead letter at once. And where most of a stage's input becomes dead
letters, not the input is at fault but the stage (its code, its settings): it stops and says so, and loses nothing more.
"""

import errno
import time
from collections import deque

from aiokafka.errors import KafkaError, KafkaTimeoutError

from processors.large import NotReadable
from processors.policy import Aborted
from schemas.errors import DISK_FULL, Told
from schemas.settings import FailuresSection

FIRST_PAUSE_S = 0.25
LAST_PAUSE_S = 10.0
TRANSIENT_ERRNOS = frozenset(
    {*DISK_FULL, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EAGAIN, errno.ESTALE}
)


class TooManyLetters(Told, RuntimeError):
    """Most of a stage's input becomes dead letters; the text holds the last error."""


def is_transient(error: Exception) -> bool:
    """Whether trying again may help."""
    if isinstance(error, KafkaError):
        return bool(error.retriable) or isinstance(error, KafkaTimeoutError)
    if isinstance(error, NotReadable | Aborted | TimeoutError | ConnectionError):
        return True
    return isinstance(error, OSError) and error.errno in TRANSIENT_ERRNOS


class Patience:
    """The pauses between attempts: each twice as long as the one before, until `seconds` are over.

    Args:
        seconds: from the first failure on; 0 = no second attempt.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._pause = FIRST_PAUSE_S
        self._deadline: float | None = None

    def pause(self) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none."""
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self.seconds
        left = self._deadline - now
        if left <= 0:
            return None
        pause, self._pause = min(self._pause, left), min(2 * self._pause, LAST_PAUSE_S)
        return pause


class Share:
    """Counts the dead letters among a stage's last inputs.

    Args:
        stage: its name.
        settings: window (inputs) and share.
    """

    def __init__(self, stage: str, settings: FailuresSection) -> None:
        self.stage = stage
        self.most = settings.share * settings.window
        self._last: deque[bool] = deque(maxlen=settings.window)

    def count(self, error: str = "") -> TooManyLetters | None:
        """Note an input: '' for one that went well, else why it is a dead letter.

        Returns:
            What to raise, once there are too many.
        """
        self._last.append(bool(error))
        letters = sum(self._last)
        if not error or letters <= self.most:
            return None
        return TooManyLetters(
            f"{self.stage} stops: {letters} of its last {len(self._last)} inputs became dead letters, the last one "
            f"because: {error[:300]}; see `factory dlq list`, and once it is put right `factory dlq replay` "
            "(failures.share says how many are too many)"
        )
