"""A running factory in numbers, from its status files and its broker, as the panel and `factory top` show them.

What a stage counts is status.py's, as in the studio and in Prometheus; the lag is the consumer group's, asked for here.
"""

import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from processors import kafka, status
from schemas.errors import first_line
from schemas.settings import Settings
from schemas.topics import TOPICS

FLOW = ("produce", "search", "linearize", "verify", "sink", "sft", "prompts", "sample", "rl", "evaluate")
"""The stages as the data flows."""
LAG_EVERY_S = 5.0
WINDOW_S = 15.0
COLUMNS = ("records", "rate/s", "lag", "in hand", "errors", "tok/s", "weights")


class StageNow(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, summed over its processes that write their status into the data directory."""

    stage: str
    processes: int
    records: int
    rate: float
    """Records a second over the last seconds."""
    lag: int | None
    """Messages that wait for the stage's group (sink: for the tables; evaluate: versions); None where nobody knows."""
    in_flight: int
    errors: int
    tokens: int
    token_rate: float
    """Tokens a second."""
    weights: str
    """The versions that its processes have, 'v3' or 'v2, v3'."""
    waiting: str
    """What a process of it waits for, in its own words."""

    def cells(self) -> tuple[str, ...]:
        """A text a column of COLUMNS."""
        return (
            str(self.records),
            f"{self.rate:.1f}",
            "" if self.lag is None else str(self.lag),
            str(self.in_flight),
            str(self.errors),
            f"{self.token_rate:.0f}" if self.tokens else "",
            self.weights,
        )


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """All stages at one moment."""

    time: float
    """s since the epoch."""
    stages: dict[str, StageNow]
    """Every stage, also those that do not run here (0 processes)."""
    evaluation: str
    """What the last evaluation gave, '' before there is one."""
    broker: str
    """Why there is no lag; '' where there is, or where it is still asked for."""
    processes: list[dict[str, Any]]
    """The status files as they are."""


class Lags:
    """The lag of every consumer group, asked for by a thread of its own so that a slow broker never stops a panel."""

    def __init__(self, settings: Settings) -> None:
        self.by_stage: dict[str, int] = {}
        self.silent = False
        """Whether the broker answered once and did not the last time."""
        self.why = ""
        """Why it did not the last time; '' when it did, or was not asked yet."""
        self._settings = settings
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="lags", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop asking."""
        self._closing.set()
        self._thread.join(30)

    def wait(self, seconds: float) -> None:
        """Wait for the first answer, or that there is none."""
        deadline = time.monotonic() + seconds
        while not (self.by_stage or self.why) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                lags: dict[str, int] = {}
                for (group, _), lag in kafka.lags(self._settings).items():
                    lags[group] = lags.get(group, 0) + lag
                self.by_stage, self.silent, self.why = lags, False, ""
            except Exception as error:  # noqa: BLE001 - a thread's edge: whatever it is, the numbers are not to be had
                self.silent = self.silent or bool(self.by_stage)  # before its first answer it is only starting
                self.why = first_line(error)
                self.by_stage = {}
            self._closing.wait(LAG_EVERY_S)


class Numbers:
    """Looks at a data directory again and again.

    Args:
        settings: the data directory and the broker.
    """

    def __init__(self, settings: Settings) -> None:
        self.lags = Lags(settings)
        self._data = Path(settings.factory.data)
        self._before: deque[tuple[float, dict[str, tuple[int, int]]]] = deque()

    def close(self) -> None:
        """Stop asking the broker."""
        self.lags.close()

    def look(self, *, clean: bool = False) -> Look:
        """The factory now; a rate is that over the last 15 seconds, or since the first look.

        Args:
            clean: remove the status files of dead processes, which is their supervisor's business.
        """
        rows = status.read_all(self._data, clean=clean)
        now = time.monotonic()
        totals = {stage: (_total(rows, stage, "records"), _total(rows, stage, "tokens")) for stage in FLOW}
        while self._before and now - self._before[0][0] >= WINDOW_S:
            self._before.popleft()
        self._before.append((now, totals))
        return Look(
            time=time.time(),
            stages={stage: self._stage(rows, stage) for stage in FLOW},
            evaluation=next((str(row["evaluation"]) for row in rows if row.get("evaluation")), ""),
            broker=self.lags.why,
            processes=rows,
        )

    def _stage(self, rows: list[dict[str, Any]], stage: str) -> StageNow:
        mine = [row for row in rows if row.get("stage") == stage]
        (first, old), (last, new) = self._before[0], self._before[-1]
        rates = [
            max(after - before, 0) / max(last - first, 1.0)
            for before, after in zip(old[stage], new[stage], strict=True)
        ]
        told = [row["lag"] for row in mine if isinstance(row.get("lag"), int)]
        grouped = any(stage in topic.consumers for topic in TOPICS)
        versions = sorted({row["version"] for row in mine if isinstance(row.get("version"), int)})
        return StageNow(
            stage=stage,
            processes=len(mine),
            records=new[stage][0],
            rate=rates[0],
            lag=self.lags.by_stage.get(stage) if grouped else sum(told) if told else None,
            in_flight=_total(mine, stage, "in_flight"),
            errors=_total(mine, stage, "errors"),
            tokens=new[stage][1],
            token_rate=rates[1],
            weights=", ".join(f"v{version}" for version in versions),
            waiting=next((str(row["waiting"]) for row in mine if row.get("waiting")), ""),
        )


def _total(rows: list[dict[str, Any]], stage: str, field: str) -> int:
    return sum(int(row.get(field) or 0) for row in rows if row.get("stage") == stage)
