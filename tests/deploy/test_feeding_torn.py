"""A tree whose traces were in the table only in part when the broker died is worked on again; others are not."""

from pathlib import Path

import books
import msgspec
import pyarrow as pa
import pytest
from test_ledger import trace, tree

from deploy.broker import EmbeddedBroker
from deploy.feeding import feed_again, save_offsets
from deploy.ledger_facts import read_saved
from processors import kafka
from processors.dataset import Datasets, app_id
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.codec import content_sha, decode, encode
from schemas.tables import TABLES

TOPIC = "of-a-broker-that-died"
READ = [(0, 0, 1, 1), (1, 0, 1, 1), (0, 1, 2, 30), (1, 1, 2, 30), (0, 2, 3, 60)]
"""Of each trace: partition, offset, its tree, seconds. The sink was behind on partition 1: tree 3 has a trace there."""


@pytest.fixture
def two(make_settings):
    settings = make_settings("topics.default_partitions=2")
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    for topic, messages in (
        ("trees", [(0, at, at, tree(at)) for at in (1, 2, 3)]),
        ("traces", [(part, at, seconds, told(number, part)) for part, at, number, seconds in READ]),
    ):
        rows = [
            message_batch(message, place(topic, part, at, seconds, message), TABLES[topic])
            for part, at, seconds, message in messages
        ]
        held = {app_id(topic, TOPIC, part): max(at for p, at, *_ in messages if p == part) for part, *_ in messages}
        datasets.append(topic, pa.Table.from_batches(rows, schema=TABLES[topic]), held)
    return settings


def told(number: int, part: int) -> m.Trace:
    return msgspec.structs.replace(trace(number), id=f"c{number}-{part}", tree_id=tree(number).id)


def place(topic: str, part: int, offset: int, seconds: int, message: m.Message) -> Place:
    sha = content_sha(encode(message))
    return Place(topic=topic, topic_id=TOPIC, partition=part, offset=offset, time_ms=seconds * 1000, sha=sha)


def fed(settings) -> set[str]:
    return {decode(record.value, m.Tree).id for record in kafka.tail(settings, "trees", {})}


def test_trees_with_traces_younger_than_what_the_sink_had_read_everywhere_are_fed_again(two) -> None:
    with EmbeddedBroker(two):
        assert feed_again(two)["trees"] == 2
        assert fed(two) == {tree(2).id, tree(3).id}


def test_a_partition_of_which_nothing_was_read_leaves_every_tree_in_doubt(two, make_settings) -> None:
    with EmbeddedBroker(two):
        assert feed_again(make_settings("topics.default_partitions=3"))["trees"] == 3


def test_an_end_with_a_tree_in_hand_leaves_it_in_doubt(two) -> None:
    """Its other traces are not sent yet: that all of a topic is in its table says nothing about them."""
    with EmbeddedBroker(two):
        feed_again(two)
        producer = kafka.producer(two)
        kafka.send(producer, told(9, 0)).get(10)
        producer.close()
        books.sunk(two, "(select count(*) from traces where id = 'c9-0') = 1")
        assert save_offsets(two, wait_s=0.0)
        assert read_saved(two).traces == {}
        books.commit(two, "linearize", "trees")
        assert save_offsets(two, wait_s=0.0)
        assert list(read_saved(two).traces) == [kafka.topic_ids(two)["traces"]]


def test_after_a_clean_end_no_tree_is_in_doubt(two) -> None:
    with EmbeddedBroker(two):
        kafka.create_topics(two)
        assert save_offsets(two, wait_s=0.0)
    file = Path(two.factory.data) / "state" / "offsets.json"
    saved = read_saved(two)
    assert list(saved.traces.values()) == [{"0": 0, "1": 0}]
    saved.traces[TOPIC] = {"0": 3, "1": 2}
    file.write_bytes(msgspec.json.encode(saved))
    with EmbeddedBroker(two):
        assert feed_again(two)["trees"] == 0
