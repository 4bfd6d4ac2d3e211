"""The sink's accounts: every record that a table has passed is a row, a copy of a row, or a dead letter.

A row tells its offset, and the table's commits tell how far it has come, so what has no row shows as a gap in the
offsets. A gap is where a copy was skipped or a broken message buried; the records in the gaps are read again, and an
id that is in no row is lost. This is what finds a row that was taken out of a table, whatever else names it. It needs
the topic: of records that went with an embedded broker nothing is said here.
"""

import time
from collections.abc import Iterator
from typing import Any

from kafka import TopicPartition

from deploy.ledger_facts import Facts, whole
from deploy.ledger_lines import StageLine
from processors import kafka
from processors.dataset import ID_COLUMNS
from processors.large import unpacked
from schemas.codec import BadMessage, decode
from schemas.messages import content_id
from schemas.topics import TOPICS, Topic, message_id

STAGE = "sink"
NEAR = 500
"""Gaps closer than this many offsets are read in one go."""


def lines(facts: Facts) -> list[StageLine]:
    """An account for each topic whose broker answers, and that of `nodes`."""
    topics = [topic for topic in TOPICS if facts.online and topic.name in facts.topic_ids]
    return [*(_topic(facts, topic) for topic in topics), _nodes(facts)]


def _topic(facts: Facts, topic: Topic) -> StageLine:
    identity, held = facts.topic_ids[topic.name], facts.held(topic.name)
    query = f'SELECT _partition, count(DISTINCT _offset) FROM "{topic.table}" WHERE _topic_id = ? GROUP BY 1'  # noqa: S608
    rows: dict[int, int] = dict(facts.connection.execute(query, [identity]).fetchall())
    short = {part: at for part, at in held.items() if rows.get(part, 0) < at + 1}
    copies, dead, missing = _gaps(facts, topic, {part: _absent(facts, topic, part, at) for part, at in short.items()})
    beyond = facts.connection.execute(f"SELECT count(*) FROM tail_{topic.table}").fetchone()  # noqa: S608 - ours
    waiting = beyond[0] if beyond else 0
    out = sum(rows.values()) + copies
    return StageLine(
        stage=STAGE,
        input=topic.name,
        output=topic.table,
        taken=out + dead + waiting + len(missing),
        out=out,
        dead=dead,
        in_flight=waiting,
        lost=len(missing),
        missing=missing,
    )


def _absent(facts: Facts, topic: Topic, partition: int, last: int) -> list[int]:
    """The offsets up to `last` that no row was read from."""
    query = f"""
    SELECT place FROM range(0, ?) r(place)
    ANTI JOIN (SELECT _offset FROM "{topic.table}" WHERE _topic_id = ? AND _partition = ?) t ON t._offset = place
    ORDER BY place
    """  # noqa: S608 - our own names
    found = facts.connection.execute(query, [last + 1, facts.topic_ids[topic.name], partition])
    return [offset for (offset,) in found.fetchall()]


def _gaps(facts: Facts, topic: Topic, gaps: dict[int, list[int]]) -> tuple[int, int, list[str]]:
    """Of the records at these offsets: how many are copies, how many dead letters, and the ids of the others."""
    if not any(gaps.values()):
        return 0, 0, []
    ids = _values(facts, f'"{topic.table}"', ID_COLUMNS[topic.table])
    letters = _values(facts, whole("dead_letters"), "id")  # one is sent before the offset moves, its row comes later
    copies, dead = 0, 0
    missing: set[str] = set()
    for record in _records(facts, topic.name, gaps):
        key = _key(facts, topic, record)
        identity = facts.topic_ids[topic.name]
        letter = content_id(STAGE, topic.name, identity, record.partition, record.offset)
        if key is not None and key in ids:
            copies += 1
        elif letter in letters:
            dead += 1
        else:
            missing.add(f"{topic.name}/{record.partition}@{record.offset}" if key is None else key)
    return copies, dead, sorted(missing)


def _values(facts: Facts, rows: str, column: str) -> set[str]:
    query = f"SELECT DISTINCT CAST({column} AS VARCHAR) FROM {rows}"  # noqa: S608 - our own names
    return {key for (key,) in facts.connection.execute(query).fetchall()}


def _key(facts: Facts, topic: Topic, record: Any) -> str | None:  # noqa: ANN401 - kafka-python's ConsumerRecord
    """The id of a record's message; None for bytes that no row can be made of."""
    try:
        message = decode(unpacked(facts.settings, record.value), topic.message)
    except BadMessage:
        return None
    return message_id(message)


def _records(facts: Facts, topic: str, gaps: dict[int, list[int]]) -> Iterator[Any]:
    """The topic's records at these offsets, by partition; those that the broker has deleted are passed over."""
    client = kafka.consumer(facts.settings)
    try:
        for partition, offsets in gaps.items():
            at = TopicPartition(topic, partition)
            client.assign([at])
            first = client.beginning_offsets([at])[at]
            wanted = {offset for offset in offsets if offset >= first}
            for start, stop in _runs(sorted(wanted)):
                yield from (record for record in _read(client, at, start, stop) if record.offset in wanted)
    finally:
        client.close()


def _runs(offsets: list[int]) -> list[tuple[int, int]]:
    """Ranges [start, stop) that cover the offsets, given in order."""
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and offset - found[-1][1] < NEAR:
            found[-1] = (found[-1][0], offset + 1)
        else:
            found.append((offset, offset + 1))
    return found


def _read(client: Any, at: TopicPartition, start: int, stop: int) -> Iterator[Any]:  # noqa: ANN401 - a KafkaConsumer
    client.seek(at, start)
    deadline = time.monotonic() + kafka.STALL_S
    while client.position(at) < stop:
        records = client.poll(100).get(at, [])
        if records:
            deadline = time.monotonic() + kafka.STALL_S
        elif time.monotonic() > deadline:
            raise kafka.BrokerMissing(f"topic {at.topic!r}: offsets {start} to {stop} did not come")
        yield from (record for record in records if record.offset < stop)


def _nodes(facts: Facts) -> StageLine:
    """Every tree has all its nodes in `nodes`, unless that table has not come to the tree's offset yet."""
    query = """
    WITH grown AS (SELECT id, _sha, len(nodes) AS n, 'nodes:' || _topic_id || ':' || _partition AS app, _offset
        FROM trees),
      kept AS (SELECT tree_id AS id, _sha, count(DISTINCT nodes.id) AS n FROM nodes GROUP BY ALL),
      passed AS (SELECT unnest(?::VARCHAR[]) AS app, unnest(?::BIGINT[]) AS upto)
    SELECT coalesce(k.n, 0) AS n, grown.n AS wanted, coalesce(_offset <= upto, false) AS over, count(*), list(grown.id)
    FROM grown LEFT JOIN kept k ON k.id = grown.id AND k._sha = grown._sha LEFT JOIN passed USING (app) GROUP BY ALL
    """
    out = waiting = 0
    missing: list[str] = []
    passed = facts.offsets.get("nodes", {})
    parameters = [list(passed), list(passed.values())]
    for there, wanted, over, count, ids in facts.connection.execute(query, parameters).fetchall():
        if there == wanted:
            out += count
        elif not there and not over:
            waiting += count
        else:
            missing += ids
    return StageLine(
        stage=STAGE,
        input="trees",
        output="nodes",
        taken=out + waiting + len(missing),
        out=out,
        in_flight=waiting,
        lost=len(missing),
        missing=sorted(missing),
    )
