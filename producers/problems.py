"""The process 'produce': problems from the sources onto the topic `problems`, never far ahead of the searchers.

It keeps no state of its own. What it sent before a restart it learns from the topic and its table, and goes on there;
whatever cannot be a problem becomes a dead letter that names file and line, and the rest goes on.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from processors import kafka
from processors.failures import Share
from processors.history import history
from processors.status import Status
from processors.stopping import stop_event
from producers.pacing import Pace
from producers.sources.held_out import BY_FAMILY, Reserved, refusal
from producers.sources.items import Bad, Item, Source, cut
from producers.sources.opening import open_all
from schemas.killpoints import passed
from schemas.messages import DeadLetter, Filtered, Message, Problem
from schemas.settings import Settings

STAGE = "produce"
BATCH = 64
"""Items taken before their messages are acknowledged: after a crash only so many can be missing behind the last one."""
PAUSE_S = 0.2
ACK_S = 60.0
TIRED = 10_000
"""A generator that only repeated itself for this many items has nothing more to give."""


class Seen:
    """What was published before: by problem its place, by source the next index, and the ids of what was refused."""

    def __init__(self) -> None:
        self.places: dict[str, tuple[str, int]] = {}
        self.next: dict[str, int] = {}
        self.refused: set[str] = set()

    def add(self, message: Message) -> None:
        """Note a message that is on its topic."""
        if isinstance(message, Problem):
            self.places[message.id] = (message.source, message.index)
            self.next[message.source] = max(self.next.get(message.source, 0), message.index + 1)
        elif isinstance(message, DeadLetter | Filtered) and message.stage == STAGE:
            self.refused.add(message.id)

    def start(self, source: str) -> int:
        """Where to read on: a batch back, since later items of it may have been acknowledged without earlier ones."""
        return max(0, self.next.get(source, 0) - BATCH)


def recall(settings: Settings) -> Seen:
    """What this factory's producers published before."""
    seen = Seen()
    for problem in history(settings, Problem):
        seen.add(problem)
    for kind in (DeadLetter, Filtered):
        for message in history(settings, kind, f"stage = '{STAGE}'"):
            seen.add(message)
    return seen


def interleave(sources: Sequence[tuple[Source, float]], start: Mapping[str, int]) -> Iterator[Item]:
    """The sources' items in the proportion of their weights: next comes the least (index + 1) / weight.

    The order depends on the indices alone, so a restart goes on in the same one.

    Args:
        sources: each with its weight > 0.
        start: first index by the source's name.
    """
    streams = {at: iter(source.items(start.get(source.name, 0))) for at, (source, _) in enumerate(sources)}
    heads = {at: item for at, stream in streams.items() if (item := next(stream, None)) is not None}
    while heads:
        at = min(heads, key=lambda one: ((heads[one].index + 1) / sources[one][1], one))
        yield heads.pop(at)
        if (item := next(streams[at], None)) is not None:
            heads[at] = item


class Judge:
    """Decides what becomes of an item; pure but for its memory of what there was."""

    def __init__(self, seen: Seen, reserved: Reserved) -> None:
        self.seen = seen
        self.reserved = reserved
        self.repeats = 0

    def message(self, item: Item) -> Message | None:
        """The problem, dead letter or filtered row to publish; None for an item that is empty or was handled before."""
        message = self._judged(item)
        if message is not None:
            self.seen.add(message)
            self.repeats = 0
        return message

    def _judged(self, item: Item) -> Message | None:
        if item.bad is not None:
            return self._refused(item.bad)
        if item.problem is None:
            return None
        if why := BY_FAMILY if item.held_out else self.reserved.why(item.problem):
            row = refusal(STAGE, item.problem, why)
            return None if row.id in self.seen.refused else row
        place = self.seen.places.get(item.problem.id)
        return item.problem if place is None else self._repeated(item, item.problem, place)

    def _repeated(self, item: Item, problem: Problem, place: tuple[str, int]) -> DeadLetter | None:
        """A generator may repeat itself, and a file be read again after a restart; a copy in a file is its fault."""
        if not item.file:
            self.repeats += 1
            return None
        if place == (problem.source, item.index):
            return None
        raw, note = cut(item.raw)
        detail = f"the same question and answer as index {place[1]} of {place[0]}{note}"
        return self._refused(Bad(file=item.file, line=item.line, kind="duplicate", detail=detail, raw=raw))

    def _refused(self, bad: Bad) -> DeadLetter | None:
        if bad.id in self.seen.refused:
            return None
        return DeadLetter(
            id=bad.id,
            stage=STAGE,
            topic="",
            value=bad.raw,
            file=bad.file,
            line=bad.line,
            error=bad.kind,
            detail=bad.detail,
            time=time.time(),
        )


class Publisher:
    """Sends messages and waits for the broker; problems go round the partitions, for searchers work on all at once.

    Args:
        settings: where the broker is.
        turn: how many problems there were before.
    """

    def __init__(self, settings: Settings, turn: int) -> None:
        self.client = kafka.producer(settings)
        self.partitions = len(self.client.partitions_for("problems") or {0})
        self.turn = turn

    def publish(self, messages: Sequence[Message]) -> None:
        """Send and wait.

        Raises:
            KafkaError: for a message that was not acknowledged.
        """
        futures = []
        for message in messages:
            partition = None
            if isinstance(message, Problem):
                partition = self.turn % self.partitions
                self.turn += 1
            futures.append(kafka.send(self.client, message, partition))
        self.client.flush(ACK_S)
        for future in futures:
            future.get(timeout=ACK_S)


def run(settings: Settings, status: Status, stop: threading.Event | None = None) -> None:
    """Publish until asked to stop; where the sources have ended or problems.limit is reached, stay and do nothing.

    Args:
        settings: problems, evaluate and the broker.
        status: what the panel shows.
        stop: set it to end; None = SIGTERM and SIGINT do.

    Raises:
        BadSource: a source cannot be opened or read.
        BrokerMissing: no broker answers.
        TooManyLetters: most of what the sources give is no problem.
    """
    with stop_event() if stop is None else contextlib.nullcontext(stop) as asked:
        seen = _publish(settings, status, asked)
        if not asked.is_set():
            status.set(waiting=f"nothing left to produce after {len(seen.places)} problems")
            asked.wait()


def _publish(settings: Settings, status: Status, stop: threading.Event) -> Seen:
    """Publish until there is nothing left or `stop` is set."""
    sources = open_all(settings)
    seen = recall(settings)
    judge = Judge(seen, Reserved(settings))
    publisher = Publisher(settings, len(seen.places))
    stream = interleave(sources, {source.name: seen.start(source.name) for source, _ in sources})
    pace = Pace(settings, "search", "problems", settings.problems.ahead)
    limit = settings.problems.limit or sys.maxsize
    share = Share(STAGE, settings.failures)
    ended = False
    while not (stop.is_set() or ended or len(seen.places) >= limit or judge.repeats >= TIRED):
        room = min(pace.room(), BATCH, limit - len(seen.places))
        if room <= 0:
            status.set(waiting="for the searchers")
            stop.wait(PAUSE_S)
            continue
        status.set(waiting="")
        with status.in_flight:
            batch, ended = take(stream, judge, room, stop)
            passed("produce:working")
            publisher.publish(batch)
        passed("produce:output")
        pace.sent(sum(isinstance(message, Problem) for message in batch))
        _count(status, batch, judge)
        _stop_at_too_many(share, batch)
    publisher.client.close()
    return seen


def _stop_at_too_many(share: Share, batch: Sequence[Message]) -> None:
    """A copy of a problem says nothing about how the file is read; other dead letters do."""
    for message in batch:
        error = ""
        if isinstance(message, DeadLetter) and message.error != "duplicate":
            error = f"{message.file} line {message.line}: {message.error}: {message.detail}"
        if too_many := share.count(error):
            raise too_many


def take(stream: Iterator[Item], judge: Judge, room: int, stop: threading.Event) -> tuple[list[Message], bool]:
    """The messages of at most BATCH items with at most `room` problems among them, and whether the stream has ended."""
    batch: list[Message] = []
    for count, item in enumerate(stream, 1):
        message = judge.message(item)
        if message is not None:
            batch.append(message)
            room -= isinstance(message, Problem)
        if room <= 0 or count >= BATCH or stop.is_set():
            return batch, False
    return batch, True


def _count(status: Status, batch: Sequence[Message], judge: Judge) -> None:
    status.add(
        records=sum(isinstance(message, Problem) for message in batch),
        errors=sum(isinstance(message, DeadLetter) for message in batch),
        held_out=sum(isinstance(message, Filtered) for message in batch),
    )
    status.set(position=dict(judge.seen.next))
