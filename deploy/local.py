"""`factory up`: the whole factory on one machine, from the broker to the summary.

It starts the embedded broker (or connects to a cluster), creates topics and tables, feeds the broker again with what
is not done, starts the stages as processes, watches them, and ends them in the order in which the data flows, so that
what is in hand is finished or left uncommitted and the tables are flushed. The embedded broker is started anew, on
another port, when it dies or has grown past its memory limit.
"""

import contextlib
import fcntl
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TextIO

import msgspec
from kafka.errors import KafkaError

from deploy.broker import EmbeddedBroker
from deploy.feeding import in_tables, save_offsets
from deploy.placement import plan
from deploy.process import GaveUp, Process, Spec
from processors import kafka, status
from processors.dataset import Datasets
from schemas.load import BadSettings
from schemas.settings import Settings
from schemas.topics import TOPICS

CLOSING_S = 15.0
"""For a stage to end once its messages in hand are done (factory.grace_s)."""
SINK_GRACE_S = 60.0
ORPHAN_GRACE_S = 5.0
"""Without a broker no message in hand can be finished; the sink still writes what it has read."""
STEADY_S = 60.0
"""A broker that dies sooner after its start uses up one of factory.restart_limit lives."""
OFFSETS_EVERY_S = 30.0
MIN_FREE_BYTES = 500_000_000
TICK_S = 0.5

Tick = Callable[["Factory"], None]


class Factory:
    """A running factory.

    Args:
        settings: all settings; `broker.bootstrap` empty = embedded broker.
    """

    def __init__(self, settings: Settings) -> None:
        self.data = Path(settings.factory.data)
        self.started = time.monotonic()
        self.recycled = 0
        self._deaths = 0
        self.stopping = self.interrupted = False
        self._lock = hold(self.data)
        self.broker = None if settings.broker.bootstrap else EmbeddedBroker(settings)
        self.settings = settings
        self.processes: list[Process] = []
        self._opened = self._saved = time.monotonic()

    def run(self, duration: float | None, tick: Tick) -> None:
        """Run until `duration` seconds have passed or SIGINT/SIGTERM comes, then stop gracefully.

        Raises:
            GaveUp: a process kept dying; everything else was stopped gracefully first.
        """
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)
        try:
            self._open()
            self._start_all()
            while not self.stopping and (duration is None or time.monotonic() - self.started < duration):
                self._watch(tick)
                tick(self)
                time.sleep(TICK_S)
        finally:
            self._stop_all(tick)
            self.close()

    def close(self) -> None:
        """Stop the embedded broker and let the data directory go."""
        if self.broker:
            self.broker.stop()
        self._lock.close()

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self.stopping = self.interrupted = True

    def _open(self) -> None:
        """Broker, topics, tables, and what is not done."""
        Datasets.of(self.settings).create()
        if self.broker:
            self.broker.open()
            self._opened = time.monotonic()
        else:
            kafka.create_topics(self.settings)

    def _start_all(self) -> None:
        settings_file = self.data / "state" / "settings.json"
        hand_over(self.settings, settings_file)
        logs = self.data / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        limit = self.settings.factory.restart_limit
        self.processes = [
            Process(spec, settings_file, logs / f"{spec.name}.log", limit) for spec in plan(self.settings)
        ]
        for process in self.processes:
            process.start()

    def _watch(self, tick: Tick) -> None:
        if self.broker and not self.broker.alive():
            self._count_death()
            _stop(self.processes, ORPHAN_GRACE_S, lambda: tick(self))
            self._begin_anew()
        elif self.broker and self.broker.over_limit():
            self._stop_all(tick)
            self._begin_anew()
        rows = status.read_all(self.data)
        try:
            for process in self.processes:
                process.watch(_records(rows, process.spec), time.monotonic())
        except GaveUp:
            if self._reachable():
                raise
        if time.monotonic() - self._saved > OFFSETS_EVERY_S:
            self._save_offsets(wait_s=0.0)
            self._saved = time.monotonic()

    def _count_death(self) -> None:
        self._deaths = 1 if time.monotonic() - self._opened > STEADY_S else self._deaths + 1
        if self._deaths >= self.settings.factory.restart_limit:
            log = self.data / "logs" / "broker.log"
            raise GaveUp(f"the embedded broker died {self._deaths} times in a row: see {log}")

    def _begin_anew(self) -> None:
        """A fresh embedded broker and fresh processes under the same data: topics are fed again from the tables."""
        assert self.broker is not None
        opened = False
        while not opened and not self.stopping:
            self.broker.stop()
            self.recycled += 1
            try:
                self._open()
                opened = True
            except (kafka.BrokerMissing, KafkaError):  # it died while it was fed
                self._opened = time.monotonic()
                self._count_death()
        if opened:
            self._start_all()

    def _reachable(self) -> bool:
        return self.broker is None or self.broker.alive()

    def _save_offsets(self, wait_s: float) -> None:
        """Where a broker dies under it, or the disk is full, those saved before stay: never ahead of the tables."""
        if self.broker and self.broker.alive():
            with contextlib.suppress(kafka.BrokerMissing, KafkaError, OSError):
                save_offsets(self.settings, wait_s)

    def _stop_all(self, tick: Tick) -> None:
        """Stop in the order of the flow: makers, then words, then (all rows written) the sink."""
        last = {"words", "linearize", "verify"}
        makers = [p for p in self.processes if p.spec.name not in {*last, "sink"}]
        words = [p for p in self.processes if p.spec.name in last]
        sinks = [p for p in self.processes if p.spec.name == "sink"]
        for group in (makers, words):
            _stop(group, self.settings.factory.grace_s + CLOSING_S, lambda: tick(self))
        if sinks and sinks[0].pid and self._reachable():
            self._await_sinks(tick)
        _stop(sinks, SINK_GRACE_S, lambda: tick(self))
        if self.processes:
            self._save_offsets(wait_s=5.0)

    def _await_sinks(self, tick: Tick) -> None:
        """Wait until the tables hold everything that the topics hold; no longer once the broker is gone."""
        with contextlib.suppress(kafka.BrokerMissing, KafkaError):
            ids = kafka.topic_ids(self.settings)
            ends = kafka.highwater(self.settings, [topic.name for topic in TOPICS])
            deadline = time.monotonic() + SINK_GRACE_S
            while not in_tables(self.settings, ids, ends) and time.monotonic() < deadline:
                tick(self)
                time.sleep(TICK_S)


def _records(rows: list[dict[str, object]], spec: Spec) -> int:
    return sum(int(str(row.get("records", 0))) for row in rows if row.get("stage") in spec.stages)


def _stop(processes: list[Process], grace: float, tick: Callable[[], None]) -> None:
    for process in processes:
        process.ask_to_stop()
    deadline = time.monotonic() + grace
    while any(process.pid for process in processes) and time.monotonic() < deadline:
        tick()
        time.sleep(TICK_S)
    for process in processes:
        process.wait(deadline)


class InUse(BadSettings):
    """Somebody else holds the data directory; the text says what to do."""


def hold(data: Path) -> TextIO:
    """Hold the data directory: one embedded broker and `factory up` at a time, and room on its disk.

    Raises:
        InUse: somebody else does.
        BadSettings: for a directory that is not writable or on a full disk.
    """
    try:
        (data / "state").mkdir(parents=True, exist_ok=True)
        lock = (data / "state" / "up.lock").open("a+")
    except OSError as error:
        raise BadSettings(f"{data}: not writable ({error.strerror}); choose another directory with --data") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InUse(f"{data}: another `factory up` runs there; stop it or choose --data DIR") from None
    free = shutil.disk_usage(data).free
    if free < MIN_FREE_BYTES:
        raise BadSettings(f"{data}: only {free // 1_000_000} MB free on its disk; free some or choose --data DIR")
    return lock


def hand_over(settings: Settings, path: Path) -> None:
    """Write the settings for the processes, readable by this user alone: engine.args may hold a token."""
    path.unlink(missing_ok=True)
    path.touch(0o600)
    path.write_bytes(msgspec.json.encode(settings))
