"""A stage run again over rows that are there, with today's code and settings: re-linearize, re-clone, re-verify.

Trees are dear, what is made of them is not. What today gives is compared with what the table holds, by content: what
is the same stays, what is new is sent (under an id that covers its content where its own is taken by another content),
and what today does not give any more gets a row in `replays` that says so. The view `replaced` lists those, and the
default training set leaves them out: the newest code wins. A second run finds nothing to do.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import pyarrow as pa

from deploy import replay_stages as stages
from deploy.code_version import code_version
from deploy.reaching import a_broker
from deploy.replay_stages import Change
from deploy.tabular import line
from processors import kafka
from processors.asking import BadQuery, answer, bounded, reading
from processors.dataset import Datasets
from processors.large import packed
from producers.pacing import Pace
from schemas.errors import Told
from schemas.messages import Example, Message, Trace, content_id
from schemas.replay import Replay
from schemas.settings import Settings
from schemas.topics import BY_NAME, message_key

BATCH = 64
"""Rows compared at a time; more cost memory, fewer cost looks into the tables."""
SENT = frozenset({"made", "filtered"})
SEND_S = 60.0
PAUSE_S = 0.5
WORDS = 100
"""Characters of a new text that a report shows."""


MEANINGS: Mapping[str, str] = {
    "unchanged": "as the table has them",
    "made": "new",
    "replaced": "others stand for them",
    "withdrawn": "not given any more",
    "restored": "given again",
    "filtered": "inputs that give none",
    "failed": "inputs that cannot be processed",
}


class BadReplay(Told, ValueError):
    """What was asked for cannot be replayed; the text says what can."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The rows to replay."""

    table: str
    version: int
    where: str = ""

    def __str__(self) -> str:
        return f"{self.table}@{self.version}"


class Report(msgspec.Struct, kw_only=True):
    """What a replay would change, or changed."""

    stage: str
    source: str
    code: str
    settings: str
    """The stage's settings that are not the defaults, as JSON."""
    read: int = 0
    counts: dict[str, int] = {}
    """Of output rows: unchanged, made, replaced, withdrawn, restored; of input rows: filtered, failed."""
    examples: dict[str, list[str]] = {}
    """A few ids of each, with why or with how the new text begins."""
    done: bool = False
    online: bool = True


def source(settings: Settings, stage: str, text: str, where: str) -> Source:
    """`TABLE[@VERSION]` of a stage's input, pinned.

    Raises:
        BadReplay: no such stage or table, or one that the stage does not read.
        NoDatasets, NoVersion: as Datasets.table.
    """
    if stage not in stages.WAYS:
        raise BadReplay(
            f"{stage!r} cannot be replayed; these can: {', '.join(stages.WAYS)} (a search or a sample made again is a "
            "new one: give the problems to a factory with another --data)"
        )
    name, at, version = text.partition("@")
    wanted = stages.WAYS[stage].input
    if name != wanted:
        raise BadReplay(f"--from {text}: {stage} reads the table {wanted}: write --from {wanted} or {wanted}@VERSION")
    if at and not version.isdecimal():
        raise BadReplay(f"--from {text}: a version is a number, as in {wanted}@17")
    table = _datasets(settings).table(name, int(version) if at else None)
    return Source(table=name, version=table.version(), where=where)


def compare(settings: Settings, stage: str, rows: Source) -> Iterator[tuple[int, list[Change]]]:
    """For each batch of input rows: how many they are, and what today's code and settings change.

    Raises:
        BadReplay: `where` is no condition over the table.
        BadSettings: as the stage's comparison.
    """
    with stages.WAYS[stage].open(settings) as today:
        for batch in _batches(_rows(settings, rows)):
            with _datasets(settings).connect() as connection:
                yield len(batch), today(batch, connection)


def dry_run(settings: Settings, stage: str, rows: Source) -> Report:
    """What `run` would do."""
    report = _report(settings, stage, rows)
    for count, changes in compare(settings, stage, rows):
        _count(report, count, changes)
    return report


def run(settings: Settings, stage: str, rows: Source, to: str = "", tell: Callable[[str], None] = print) -> Report:
    """Send what is new and mark what is not given any more; with `to`, send everything to that topic and mark nothing.

    Raises:
        BadReplay: `to` is a topic of the factory's, or no broker runs that would keep it.
        BrokerMissing, TableBusy: as a_broker.
        KafkaError: a message was not acknowledged; the same command goes on from there.
    """
    report = _report(settings, stage, rows)
    with a_broker(settings) as online:
        if to:
            _create(settings, to, online=online)
        out = Out(settings, stage, report, to, paced=online, tell=tell)
        for count, changes in compare(settings, stage, rows):
            _count(report, count, changes)
            out.send(changes)
        out.client.close()
        report.online = online
    report.done = True
    return report


class Out:
    """The way out of a replay: rows, then marks; as fast as the consumers take the rows.

    Args:
        settings: the broker.
        stage: which one is replayed.
        report: source, code and settings of the marks.
        to: another topic, or ''.
        paced: whether stages run that will consume.
        tell: hears what is waited for.
    """

    def __init__(
        self, settings: Settings, stage: str, report: Report, to: str, *, paced: bool, tell: Callable[[str], None]
    ) -> None:
        self.settings, self.report, self.to, self.tell = settings, report, to, tell
        self.client = kafka.producer(settings)
        self.topic = stages.WAYS[stage].output
        groups = BY_NAME[self.topic].consumers if paced and not to else ()
        there = [one for one in groups if kafka.consumes(settings, one, self.topic)]
        self.paces = [Pace(settings, group, self.topic, settings.broker.ahead) for group in there]

    def send(self, changes: Iterable[Change]) -> None:
        """Send one batch and wait for the broker."""
        marks = []
        rows = []
        for change in changes:
            if change.message is not None and (self._fits(change.message) if self.to else change.what in SENT):
                rows.append(change.message)
            if change.what in stages.MARKED and not self.to:
                marks.append(self._mark(change))
        self._wait(len(rows))
        # What is new and that it is new, then what it stands for: nothing is taken away before there is another.
        self._acknowledged([self._send(row) for row in rows])
        self._acknowledged([self._send(mark) for mark in marks])

    def _fits(self, message: Message) -> bool:
        return isinstance(message, BY_NAME[self.topic].message)

    def _send(self, message: Message) -> Any:  # noqa: ANN401 - kafka-python's future
        if self.to:
            return self.client.send(self.to, key=message_key(message), value=packed(self.settings, message))
        return kafka.send(self.client, message)

    def _wait(self, count: int) -> None:
        said = False
        for pace in self.paces:
            while count and pace.room() <= 0:
                if not said:
                    self.tell(f"waiting for {pace.group}: {self.settings.broker.ahead} messages of {self.topic} wait")
                    said = True
                time.sleep(PAUSE_S)
            pace.sent(count)

    def _mark(self, change: Change) -> Replay:
        assert change.what != "filtered"
        return Replay(
            id=content_id(change.what, change.row_id, change.marks),
            what=change.what,  # type: ignore[arg-type]
            topic=self.topic,
            row_id=change.row_id,
            stage=self.report.stage,
            source=self.report.source,
            code=self.report.code,
            settings=self.report.settings,
            why=change.why,
            time=time.time(),
        )

    def _acknowledged(self, futures: list[Any]) -> None:
        self.client.flush(SEND_S)
        for future in futures:
            future.get(SEND_S)


def _report(settings: Settings, stage: str, rows: Source) -> Report:
    way = stages.WAYS[stage].way(settings)
    return Report(stage=stage, source=str(rows), code=code_version(), settings=way, counts={}, examples={})


def _count(report: Report, count: int, changes: Iterable[Change]) -> None:
    report.read += count
    found = Counter(report.counts)
    for change in changes:
        found[change.what] += 1
        shown = report.examples.setdefault(change.what, [])
        if len(shown) < stages.SHOWN and change.what != "unchanged":
            said = change.why or _beginning(change.message)
            shown.append(f"{change.row_id}: {said}" if said else change.row_id)
    report.counts = dict(found)


def _beginning(message: Message | None) -> str:
    """The first words of a trace or an example."""
    return line(message.text, WORDS) if isinstance(message, Trace | Example) else ""


def lines(report: Report, to: str = "") -> list[str]:
    """The report as a person reads it."""
    found = [
        f"{report.stage} over {report.source}: {report.read:,} rows read",
        f"code {report.code}, settings {report.settings or 'the defaults'}",
    ]
    for what, count in sorted(report.counts.items()):
        found.append(f"  {count:,} {what}: {MEANINGS[what]}")
        found += [f"    {text}" for text in report.examples.get(what, [])]
    if not report.counts:
        found.append("  nothing")
    if not report.done:
        found.append("nothing was changed: --run does it")
    elif to:
        found.append(f"everything it gives went to {to}; no table was changed")
    elif not report.online:
        found.append("no factory runs: what is new goes on when it is started")
    return found


def _rows(settings: Settings, rows: Source) -> Iterator[Mapping[str, Any]]:
    """The rows that `where` names."""
    datasets, pin, condition = _datasets(settings), {rows.table: rows.version}, ""
    ids = pa.table({"id": pa.array([], pa.string())})
    if rows.where:
        text = f'SELECT id FROM "{rows.table}" WHERE (\n{rows.where}\n)'  # noqa: S608 - it only reads
        try:
            with bounded(datasets, settings.sql, pin) as connection:
                ids = answer(connection, reading(connection, text), settings.sql)
        except BadQuery as error:
            raise BadReplay(f"--where {rows.where}: {error}") from None
        condition = "WHERE id IN (SELECT id FROM chosen)"
    with datasets.connect(pin) as connection:
        connection.register("chosen", ids)
        found = connection.sql(f'SELECT * FROM "{rows.table}" {condition}')  # noqa: S608 - unsorted: a sort holds them all
        for batch in found.to_arrow_reader(BATCH):
            yield from batch.to_pylist()


def _batches(rows: Iterator[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    batch = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _create(settings: Settings, to: str, *, online: bool) -> None:
    """Another topic for everything that a replay gives."""
    if to in BY_NAME:
        raise BadReplay(f"--to {to}: the factory's own topic; leave --to out to send there what is new")
    if not online:
        raise BadReplay(f"--to {to}: no broker runs, and the embedded one would forget it: start the factory first")
    with kafka.admin(settings) as client:
        if to not in client.list_topics():
            wanted = {
                "num_partitions": settings.topics.default_partitions,
                "replication_factor": settings.broker.replication_factor,
                "configs": kafka.topic_config(settings),
            }
            client.create_topics({to: wanted})
            client.wait_for_topics([to], timeout_ms=30_000)


def _datasets(settings: Settings) -> Datasets:
    return Datasets.of(settings)
