"""The running factory as the Flow page sees it: the processes' status files and the consumer groups' lag.

It looks only while somebody looks at it: a page that was not asked for in half a minute lets both threads rest. A
broker that goes away is said in a sentence, with the age of the numbers; nothing else of the studio needs one.
"""

import contextlib
import threading
import time
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from processors import kafka, status
from schemas.errors import first_line
from schemas.settings import Settings

EVERY_S = 1.0
LAG_EVERY_S = 5.0
RATE_OVER_S = 15.0
KEPT_S = 300.0
WATCHED_S = 30.0


class Look(msgspec.Struct, frozen=True):
    """All status files at one moment."""

    at: float
    """Monotonic seconds."""
    rows: list[dict[str, Any]]

    def total(self, stage: str, field: str) -> float:
        """A field's sum over a stage's processes."""
        return sum(float(row.get(field) or 0) for row in self.rows if row.get("stage") == stage)


class Pulse:
    """Status and lag, watched from the first time that they are asked for.

    Args:
        settings: the data directory and the broker.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data = Path(settings.factory.data)
        self._lock = threading.Lock()
        self._looks: deque[Look] = deque(maxlen=int(KEPT_S / EVERY_S))
        self._asked = 0.0
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self.lags: dict[tuple[str, str], int] = {}
        """By group and topic."""
        self.broker = ""
        """Why there is no lag; '' where there is."""
        self.lag_at = 0.0
        """Monotonic seconds of the last answer of the broker; 0 = none yet."""

    def look(self) -> Look:
        """The factory now."""
        self._asked = time.monotonic()
        with self._lock:
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._repeat, args=(self._see, EVERY_S), name="status", daemon=True),
                    threading.Thread(target=self._repeat, args=(self._measure, LAG_EVERY_S), name="lag", daemon=True),
                ]
                for thread in self._threads:
                    thread.start()
        return self._see()

    def rate(self, stage: str, field: str) -> float:
        """Units a second over the last seconds; 0 until two looks lie a second apart."""
        looks = [look for look in list(self._looks) if time.monotonic() - look.at < RATE_OVER_S]
        if len(looks) < 2 or looks[-1].at - looks[0].at < 0.5:
            return 0.0
        return max(looks[-1].total(stage, field) - looks[0].total(stage, field), 0.0) / (looks[-1].at - looks[0].at)

    def rates(self, stage: str, field: str, points: int = 40) -> list[float]:
        """The rate over the last minutes, in up to `points` parts, oldest first."""
        looks = list(self._looks)
        step = max(1, len(looks) // points)
        kept = looks[::-1][::step][::-1]
        return [
            max(new.total(stage, field) - old.total(stage, field), 0.0) / max(new.at - old.at, 0.1)
            for old, new in pairwise(kept)
        ]

    def close(self) -> None:
        """Let the threads end."""
        self._closing.set()

    def _repeat(self, act: Any, every: float) -> None:  # noqa: ANN401 - one of our own methods
        while not self._closing.is_set():
            if time.monotonic() - self._asked < WATCHED_S:
                with contextlib.suppress(Exception):  # a thread's edge: the next look may find it in order
                    act()
            self._closing.wait(every)

    def _see(self) -> Look:
        look = Look(time.monotonic(), status.read_all(self._data, clean=False))
        with self._lock:
            if not self._looks or look.at - self._looks[-1].at > EVERY_S / 2:
                self._looks.append(look)
        return look

    def _measure(self) -> None:
        try:
            self.lags = kafka.lags(self._settings)
            self.broker, self.lag_at = "", time.monotonic()
        except Exception as error:  # noqa: BLE001 - whatever a broker that goes away makes the client raise
            self.broker = first_line(error)
