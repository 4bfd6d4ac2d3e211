"""A stage over old rows, on real tables: what changes, what does not, and that doing it twice adds nothing."""

import asyncio
from pathlib import Path

import forest
import pytest

from deploy import ledger, replay, sql
from deploy.broker import EmbeddedBroker
from deploy.code_version import code_version
from deploy.local import InUse, hold
from deploy.reaching import a_broker
from processors import kafka, linearizer, verifier
from processors.dataset import Datasets
from processors.grading import Grader
from schemas.codec import content_sha, decode, encode
from schemas.messages import Example, Filtered, Trace
from schemas.settings import SftSection

TREES = 8


@pytest.fixture
def settings(make_settings):
    return make_settings("sink.flush_s=0.2")


def publish(settings, *messages):
    producer = kafka.producer(settings)
    futures = [kafka.send(producer, message) for message in messages]
    producer.flush(30)
    for future in futures:
        future.get(1)
    producer.close()


@pytest.fixture
def filled(settings):
    """Trees, and what the stages made of them with the default settings; returns the trees."""
    trees = [forest.tree(forest.grown(20, seed).nodes, forest.problem(index=seed)) for seed in range(TREES)]
    made = [row for tree in trees for row in linearizer.traces(tree, content_sha(encode(tree)), settings)]
    grader = Grader(settings)
    judged = [
        asyncio.run(verifier.judge(row, content_sha(encode(row)), grader, settings.verify))
        for row in made
        if isinstance(row, Trace)
    ]
    grader.close()
    Datasets(Path(settings.factory.data) / "datasets").create()
    with a_broker(settings) as online:
        assert not online
        publish(settings, *(tree.problem for tree in trees), *trees, *made, *judged)
    assert {type(row) for row in made} == {Trace, Filtered}
    assert {type(row) for row in judged} == {Example}
    return trees


def again(settings, stage, table, where="", *, run=True, to=""):
    rows = replay.source(settings, stage, table, where)
    return replay.run(settings, stage, rows, to, print) if run else replay.dry_run(settings, stage, rows)


def ask(settings, query):
    return sql.query(settings, query).to_pylist()


def numbers(settings):
    tables = ("traces", "examples", "filtered", "replays", "dead_letters")
    return [ask(settings, f"select count(*) as n from {name}")[0]["n"] for name in tables]


def trained(settings):
    return {row["id"] for row in ask(settings, f"select id from ({SftSection().sql})")}


@pytest.mark.slow
def test_other_settings_make_other_rows_once_and_the_newest_count(settings, filled, make_settings):
    before, old = numbers(settings), trained(settings)
    assert set(again(settings, "linearize", "trees", run=False).counts) == {"unchanged"}
    silent = make_settings("sink.flush_s=0.2", "linearize.phrases=false")
    planned = again(silent, "linearize", "trees@1", run=False)
    assert numbers(settings) == before, "a dry run changes nothing"
    done = again(silent, "linearize", "trees@1")
    assert (done.counts, done.source, done.online) == (planned.counts, "trees@1", False)
    assert done.counts["replaced"] == len(old)
    made = ask(settings, "select * from replays where what = 'made'")
    assert {(row["stage"], row["source"], row["code"]) for row in made} == {("linearize", "trees@1", code_version())}
    assert all(row["settings"] == '{"phrases":false}' for row in made)
    assert trained(settings) == set(), "the old ones are out, the new ones are not verified"
    again(silent, "verify", "traces")
    new = trained(settings)
    assert new
    assert not new & old
    after = numbers(settings)
    assert set(again(silent, "linearize", "trees").counts) == {"unchanged"}
    assert numbers(settings) == after, "a second run adds nothing"
    assert set(again(silent, "verify", "traces", run=False).counts) == {"unchanged"}
    assert ledger.compute(settings).closes
    back = again(settings, "linearize", "trees")
    assert back.counts == {"restored": len(old), "replaced": len(new)}
    assert trained(settings) == old


@pytest.mark.slow
def test_stricter_checks_withdraw_examples_and_looser_ones_restore_them(settings, filled, make_settings):
    old = trained(settings)
    longest = max(row["n"] for row in ask(settings, "select length(text) as n from traces"))
    strict = make_settings("sink.flush_s=0.2", f"verify.max_trace_chars={longest - 1}")
    first = again(strict, "verify", "traces")
    assert first.counts["withdrawn"] >= 1
    assert "check failed: length" in first.examples["withdrawn"][0]
    assert len(trained(settings)) == len(old) - first.counts["withdrawn"]
    assert set(again(strict, "verify", "traces", run=False).counts) == {"unchanged"}
    assert again(settings, "verify", "traces").counts["restored"] == first.counts["withdrawn"]
    assert trained(settings) == old
    assert again(strict, "verify", "traces", run=False).counts == first.counts, "as often as one likes"
    assert ledger.compute(settings).closes


def test_beside_a_running_broker_and_to_a_topic_of_ones_own(settings, filled, make_settings):
    silent = make_settings("linearize.phrases=false", "broker.ahead=10000")
    with EmbeddedBroker(settings):
        kafka.create_topics(settings)
        done = again(silent, "linearize", "trees", "id in (select tree_id from traces)", to="traces.silent")
        assert done.online
        assert list(kafka.tail(silent, "traces", {})) == []
        assert again(silent, "linearize", "trees").counts["made"] == done.counts["made"]
        messages = [decode(record.value, Trace) for record in kafka.tail(silent, "traces", {})]
        aside = [decode(record.value, Trace) for record in kafka.tail(silent, "traces.silent", {})]
    assert sorted(map(encode, messages)) == sorted(map(encode, aside))
    assert len(messages) == done.counts["made"] > 0
    assert not any(trace.phrases for trace in messages)


@pytest.mark.parametrize(
    ("stage", "table", "where", "sentence"),
    [
        ("search", "problems", "", "cannot be replayed; these can: linearize, verify"),
        ("linearize", "traces", "", "linearize reads the table trees"),
        ("linearize", "trees@x", "", "a version is a number"),
        ("linearize", "trees@99", "", "has no version 99"),
        ("linearize", "trees", "nothing = 3", "--where nothing = 3"),
        (
            "linearize",
            "trees",
            "(select count(*) from range(9000000000000) r(n) where n % 7 = 9) = 1",
            "raise sql.timeout_s",
        ),
        (
            "linearize",
            "trees",
            "(select max(cast(n || 'x' as int)) from range(9) r(n)) = 1",
            "Could not convert string",
        ),
        ("linearize", "trees", "1=1); drop table trees; select (1", "one query at a time"),
    ],
)
def test_what_cannot_be_replayed_is_said(make_settings, stage, table, where, sentence):
    settings = make_settings("sql.timeout_s=1")
    Datasets(Path(settings.factory.data) / "datasets").create()
    with pytest.raises(Exception, match=sentence.replace("(", r"\(")):
        again(settings, stage, table, where, run=False)


def test_a_replay_waits_for_no_consumer_that_is_not_there(settings, filled, make_settings):
    silent = make_settings("linearize.phrases=false", "broker.ahead=1")
    with EmbeddedBroker(settings):
        kafka.create_topics(settings)
        assert again(silent, "linearize", "trees").counts["made"] > 1


def test_no_second_broker_is_started_beside_a_factory_whose_own_is_away(settings, filled):
    with hold(Path(settings.factory.data)), pytest.raises(InUse, match="try again in a moment"):
        again(settings, "linearize", "trees")


def test_a_replay_by_a_model_needs_an_engine_and_says_so(settings, make_settings):
    Datasets(Path(settings.factory.data) / "datasets").create()
    with pytest.raises(Exception, match="a replay has no engine"):
        again(make_settings("linearize.rewriter=model"), "linearize", "trees", run=False)
