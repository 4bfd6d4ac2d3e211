import json
import threading
import time
from pathlib import Path

import books
import msgspec
import pytest
from kafka.structs import OffsetAndMetadata, TopicPartition
from test_ledger import dead, example, filtered, problem, rewards, rollouts, trace, trained, tree

from deploy.broker import EmbeddedBroker
from deploy.feeding import feed_again, save_offsets
from processors import kafka, sink
from processors.dataset import Datasets
from processors.large import unpacked
from processors.status import Status
from schemas import messages as m
from schemas.codec import encode
from schemas.topics import TOPICS

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestCollectionWarning")


def weights(version):
    return m.Weights(
        policy="policy", version=version, parent=version - 1, path="/w", sha256=f"{version}", trainer="sft"
    )


def prompt(number):
    return m.Prompt(id=f"g{number}", problem=problem(number), round=0, why="test")


def publish(settings, *messages):
    producer = kafka.producer(settings)
    for message in messages:
        kafka.send(producer, message).get(20)
    producer.close()


class Sinking:
    """A sink that runs for as long as the block lasts, and flushes at its end."""

    def __init__(self, settings):
        datasets = Datasets(Path(settings.factory.data) / "datasets")
        datasets.create()
        self.sink = sink.Sink(settings, datasets, [topic.name for topic in TOPICS], Status(settings, "sink"))
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.sink.session, args=(self.stopping,))

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def until(true):
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def held(settings, topic):
    return sorted(record.value for record in kafka.tail(settings, topic, {}))


def ends(settings):
    return sum(kafka.highwater(settings, [topic.name for topic in TOPICS]).values())


@pytest.fixture
def quick(make_settings):
    return make_settings("sink.flush_s=0.1")


def test_an_empty_broker_gets_what_has_no_answer_and_nothing_else(quick):
    sent = [
        *map(problem, range(5)), tree(0), filtered("search", "p1", "too long"), dead("search", "p2"),
        dead("verify", "p3"), tree(7), trace(7), trace(8), example(8), trace(9), filtered("verify", "c9", "wrong"),
        *map(prompt, range(3)), rollouts(0), rollouts(1), filtered("sample", "g2", "no room"),
        rewards(0), rewards(5), rewards(6), rewards(7), trained(5), trained(7, trainer="sft", step=2),
        filtered("rl", "g6", "stale"), weights(0), weights(1),
    ]  # fmt: skip
    with EmbeddedBroker(quick):
        assert set(feed_again(quick).values()) == {0}
        publish(quick, *sent)
        books.commit(quick, "linearize", "trees")  # else each tree might have traces that are not sent yet
        with Sinking(quick):
            until(lambda: save_offsets(quick, wait_s=0.0))
    with EmbeddedBroker(quick):
        counts = feed_again(quick)
        expected = {
            "problems": [problem(3), problem(4)],
            "trees": [tree(0)],
            "traces": [trace(7)],
            "prompts": [],
            "rollouts": [rollouts(1)],
            "rewards": [rewards(0), rewards(7)],
            "weights": [weights(0), weights(1)],
            "examples": [], "training": [], "filtered": [], "dead.letters": [], "evaluations": [],
        }  # fmt: skip
        for topic, messages in expected.items():
            assert held(quick, topic) == sorted(map(encode, messages)), topic
        assert {topic: count for topic, count in counts.items() if count} == {
            topic: len(messages) for topic, messages in expected.items() if messages
        }


def test_a_row_above_the_size_limit_is_fed_again_as_a_file(quick, make_settings):
    large = msgspec.structs.replace(tree(1), settings="x" * 50_000)
    with EmbeddedBroker(quick):
        feed_again(quick)
        publish(quick, large)
        with Sinking(quick):
            until(lambda: save_offsets(quick, wait_s=0.0))
    small = make_settings("broker.message_max_bytes=20000")
    with EmbeddedBroker(small):
        assert feed_again(small)["trees"] == 1
        (value,) = held(small, "trees")
        assert len(value) < 1000
        assert unpacked(small, value) == encode(large)


def test_feeding_again_and_again_gives_the_same_rows_once(quick):
    for _ in range(3):
        with EmbeddedBroker(quick):
            feed_again(quick)
            if ends(quick) == 0:
                publish(quick, problem(1), problem(2), tree(1))
            with Sinking(quick):
                time.sleep(2)
                assert save_offsets(quick, wait_s=20)
    with Datasets(Path(quick.factory.data) / "datasets").connect() as connection:
        assert connection.execute("select id, count(*) from problems group by id order by id").fetchall() == [
            ("p1", 1),
            ("p2", 1),
        ]


def test_offsets_are_saved_only_when_the_tables_have_caught_up(quick):
    with EmbeddedBroker(quick):
        kafka.create_topics(quick)
        Datasets(Path(quick.factory.data) / "datasets").create()
        publish(quick, problem(1), problem(2), tree(1))
        group_end = {at: end for at, end in kafka.highwater(quick, ["problems"]).items() if end}
        consumer = kafka.consumer(quick, group="search")
        offsets = {TopicPartition(*at): OffsetAndMetadata(end, "", -1) for at, end in group_end.items()}
        consumer.assign(list(offsets))
        consumer.commit(offsets)
        consumer.close()
        file = Path(quick.factory.data) / "state" / "offsets.json"
        assert not save_offsets(quick, wait_s=0.5)
        assert not file.exists(), "committed offsets would be ahead of the tables"
        with Sinking(quick):
            assert save_offsets(quick, wait_s=20)
        saved = json.loads(file.read_bytes())
        assert saved["topic_ids"] == kafka.topic_ids(quick)
        assert {("problems", int(p)): o for p, o in saved["groups"]["search"]["problems"].items()} == group_end
        publish(quick, problem(3))
        before = file.read_bytes()
        assert not save_offsets(quick, wait_s=0.0)
        assert file.read_bytes() == before
