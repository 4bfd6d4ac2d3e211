"""Dead letters on real tables and a real broker: asked, shown harmlessly, sent again once, and the ledger closes."""

from pathlib import Path

import msgspec
import pytest
from test_feeding import Sinking, until
from test_ledger import example, trace, tree

from deploy import dlq, dlq_replay, ledger
from deploy.broker import EmbeddedBroker
from deploy.dlq import NoLetter, condition, escaped
from deploy.feeding import feed_again, save_offsets
from deploy.reaching import a_broker
from processors import kafka
from processors.dataset import Datasets
from processors.large import OVERHEAD_BYTES, fitting
from schemas import messages as m
from schemas.codec import content_sha, encode

HOSTILE = b'{"id": "h"}\x1b[2J\x1b]0;owned\x07\r\x9b5n\xff\xe2\x80\xae'


@pytest.fixture
def settings(make_settings):
    return make_settings("sink.flush_s=0.2", "broker.session_timeout_ms=2000")


def letter(stage, message, offset, error="it broke", **more):
    value = message if isinstance(message, bytes) else encode(message)
    topic = more.pop("topic", "traces")
    return m.DeadLetter(
        id=m.content_id(stage, topic, 0, offset, content_sha(value)), stage=stage, topic=topic, partition=0,
        offset=offset, input_id=getattr(message, "id", ""), key=b"k", value=value, error=error, time=float(offset),
        **more,
    )  # fmt: skip


LETTERS = [
    letter("verify", trace(1), 1, "no such grader 12"),
    letter("verify", trace(2), 2, "no such grader 345"),
    letter("search", HOSTILE, 3, "not a Problem: \x1b[31m", topic="problems", detail="Traceback\x1b[0m"),
    m.DeadLetter(id="line", stage="produce", topic="", file="p.jsonl", line=7, value=b"{", error="not JSON", time=4.0),
]


def publish(settings, *messages):
    producer = kafka.producer(settings)
    for message in messages:
        kafka.send(producer, message).get(20)
    producer.close()


@pytest.fixture
def filled(settings):
    Datasets(Path(settings.factory.data) / "datasets").create()
    with a_broker(settings):
        publish(settings, tree(1), tree(2), trace(1), trace(2), trace(3), example(3), *LETTERS)


def test_letters_are_counted_and_listed_and_chosen_by_sql(settings, filled):
    counts = dlq.counts(settings, condition("")).to_pylist()
    assert (counts[0]["stage"], counts[0]["error"], counts[0]["letters"]) == ("verify", "no such grader #", 2)
    assert len(counts) == 3
    rows = dlq.rows(settings, condition("stage = 'verify' and error like '%345'"), 10).to_pylist()
    assert [(row["place"], row["input_id"], row["sent"]) for row in rows] == [("traces/0@2", "c2", 0)]
    assert dlq.rows(settings, condition("", ["line"]), 10).to_pylist()[0]["place"] == "p.jsonl:7"
    with pytest.raises(Exception, match=r"one query at a time|syntax error"):
        dlq.counts(settings, condition("1=1); drop table trees; select (1"))
    shown = dlq.render(dlq.one(settings, LETTERS[2].id[:12]))
    assert "owned" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)
    assert dlq.original(settings, LETTERS[2]) == HOSTILE, "untouched"
    with pytest.raises(NoLetter, match="no dead letter's id begins with 'zz'"):
        dlq.one(settings, "zz")
    with pytest.raises(NoLetter, match="several"):
        dlq.one(settings, "")


@pytest.mark.slow
def test_sent_again_once_and_in_flight_until_there_is_an_answer(settings, filled):
    every = condition("")
    assert dlq_replay.plan(settings, every) == dlq_replay.Plan({"traces": 2, "problems": 1}, {"file": 1})
    with EmbeddedBroker(settings) as broker:
        feed_again(settings)
        with Sinking(settings):
            closed = ledger.compute(settings).stages[2]
            assert (closed.dead, closed.in_flight, closed.lost) == (2, 0, 0)
            done = dlq_replay.replay(settings, condition("stage = 'verify'"))
            assert done == dlq_replay.Plan({"traces": 2}, {}, sent=True, online=True)
            assert [record.value for record in kafka.tail(settings, "traces", {})] == [
                encode(trace(1)),
                encode(trace(2)),
            ]
            line = ledger.compute(settings).stages[2]
            assert (line.dead, line.in_flight, line.lost) == (0, 2, 0)
            # At once, before a sink has written the marks or after: nothing is sent twice.
            again = dlq_replay.replay(settings, condition("stage = 'verify'"))
            assert not again.send
            asked = dlq_replay.replay(settings, condition("stage = 'verify'", everything=True), again=True)
            assert asked.send == {"traces": 2}
            publish(settings, example(1), letter("verify", trace(2), 9))  # one passes now, one fails anew
            until(lambda: save_offsets(settings, wait_s=0.0))
            line = ledger.compute(settings).stages[2]
            assert (line.out, line.dead, line.lost) == (2, 1, 0)
            assert broker.alive()
    rows = dlq.rows(settings, condition("stage = 'verify'"), 10).to_pylist()
    assert [row["place"] for row in rows] == ["traces/0@9"], "what failed anew is open, the others were sent"


def _as_if_stopped_after_the_stage_had_passed_it(settings):
    """The letters' broker was the last one, and `verify` had committed past everything when it was saved."""
    file = Path(settings.factory.data) / "state" / "offsets.json"
    saved = msgspec.json.decode(file.read_bytes())
    (row, *_) = Datasets(Path(settings.factory.data) / "datasets").rows("traces")
    saved["topic_ids"]["traces"] = row["_topic_id"]
    saved["groups"]["verify"] = {"traces": {str(row["_partition"]): 1000}}
    file.write_bytes(msgspec.json.encode(saved))


@pytest.mark.slow
def test_without_a_factory_it_is_kept_and_fed_when_one_starts(settings, filled):
    done = dlq_replay.replay(settings, condition("", [LETTERS[0].id]))
    assert (done.send, done.online) == ({"traces": 1}, False)
    assert not dlq_replay.replay(settings, condition("", [LETTERS[0].id])).send
    line = ledger.compute(settings).stages[2]
    assert (line.dead, line.in_flight, line.lost) == (1, 1, 0)
    _as_if_stopped_after_the_stage_had_passed_it(settings)
    line = ledger.compute(settings).stages[2]
    assert (line.dead, line.in_flight, line.lost) == (1, 1, 0), "it was sent again: the next start feeds it"
    with EmbeddedBroker(settings):
        feed_again(settings)
        assert [record.value for record in kafka.tail(settings, "traces", {})] == [encode(trace(1))]


def test_bytes_too_large_to_be_copied_come_from_the_row(settings):
    large = msgspec.structs.replace(trace(5), text="x" * 1000)
    Datasets(Path(settings.factory.data) / "datasets").create()
    with a_broker(settings):
        publish(settings, large)
    (row,) = Datasets(Path(settings.factory.data) / "datasets").rows("traces")
    cut = letter("verify", large, row["_offset"])
    place = m.content_id("verify", "traces", row["_partition"], row["_offset"], content_sha(encode(large)))
    cut = msgspec.structs.replace(
        cut, id=place, partition=row["_partition"], value=b"", detail="1234 bytes, too large to be copied: read them"
    )
    assert dlq.original(settings, cut) == encode(large)
    fed_again = m.content_id("verify", "traces", row["_partition"], 77, content_sha(encode(large)))
    assert dlq.original(settings, msgspec.structs.replace(cut, id=fed_again, offset=77)) == encode(large)
    assert dlq.original(settings, msgspec.structs.replace(cut, topic="no.such.topic")) is None
    assert dlq.original(settings, msgspec.structs.replace(cut, id="another")) is None


def test_where_only_the_key_was_too_large_the_bytes_are_all_there(make_settings):
    limit = make_settings("broker.message_max_bytes=20000")
    whole = letter("verify", trace(1), 0)
    for value in (b"", b"no JSON"):
        short = fitting(limit, msgspec.structs.replace(whole, key=b"k" * 30_000, value=value))
        assert (short.key, short.value, dlq.original(limit, short)) == (b"", value, value)
    both = fitting(limit, msgspec.structs.replace(whole, key=b"k" * 30_000, value=b"v" * 30_000))
    assert (both.key, both.value) == (b"", b"")
    assert fitting(limit, whole) == whole
    assert len(encode(both)) + OVERHEAD_BYTES < 20_000


def test_no_escape_sequence_is_left():
    text = escaped(HOSTILE)
    assert "\x1b" not in text
    assert "\\x1b[2J" in text
    assert "\\u202e" in text
    assert "\\xff" in text
    assert escaped(b"a\nb") == "a\nb"
