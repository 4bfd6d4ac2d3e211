import time

import pytest

from processors import kafka
from schemas import messages as m
from schemas.codec import decode
from schemas.topics import TOPICS


def problem(index: int, question: str = "1+1?") -> m.Problem:
    return m.Problem(id=m.content_id("t", index), question=question, answer="2", source="t", index=index)


def test_topics_are_created_once_with_their_partitions(settings):
    assert kafka.create_topics(settings) == []
    ids = kafka.topic_ids(settings)
    assert set(ids) == {topic.name for topic in TOPICS}
    assert len(set(ids.values())) == len(TOPICS)
    counts = {}
    for topic, _ in kafka.highwater(settings, [t.name for t in TOPICS]):
        counts[topic] = counts.get(topic, 0) + 1
    assert counts == {topic.name: topic.partitions(settings) for topic in TOPICS}


def test_highwater_is_right_for_batches_and_empty_partitions(settings, send_all):
    assert set(kafka.highwater(settings, ["weights"]).values()) == {0}
    send_all(*[problem(i) for i in range(500)])
    ends = kafka.highwater(settings, ["problems"])
    assert sum(ends.values()) == 500
    counted: dict[tuple[str, int], int] = dict.fromkeys(ends, 0)
    for record in kafka.tail(settings, "problems", {}):
        counted[record.topic, record.partition] += 1
    assert counted == ends


def test_tail_starts_where_told_and_stops_at_the_end(settings, send_all):
    send_all(*[problem(i) for i in range(50)])
    ends = {at[1]: end for at, end in kafka.highwater(settings, ["problems"]).items()}
    assert list(kafka.tail(settings, "problems", ends)) == []
    start = {partition: max(0, end - 1) for partition, end in ends.items()}
    got = list(kafka.tail(settings, "problems", start))
    assert len(got) == sum(1 for end in ends.values() if end)
    assert all(record.offset == start[record.partition] for record in got)
    assert {r.value for r in kafka.tail(settings, "problems", {})} >= {r.value for r in got}


def test_lag_counts_from_the_committed_offsets(settings, send_all):
    send_all(*[problem(i) for i in range(40)])
    assert kafka.committed(settings, "search") == {}
    assert kafka.lag(settings, "search", "problems") == 40
    reader = kafka.consumer(settings, ["problems"], group="search")
    taken = 0
    deadline = time.monotonic() + 30
    while taken < 40:
        assert time.monotonic() < deadline
        taken += sum(map(len, reader.poll(200).values()))
    reader.commit()
    reader.close()
    assert kafka.lag(settings, "search", "problems") == 0
    assert sum(kafka.committed(settings, "search").values()) == 40
    send_all(problem(99))
    assert kafka.lag(settings, "search", "problems") == 1


def test_a_five_megabyte_message_passes(settings, send_all):
    big = problem(1, "x" * 5_000_000)
    send_all(big, problem(2))
    got = {decode(record.value, m.Problem) for record in kafka.tail(settings, "problems", {})}
    assert got == {big, problem(2)}
    assert sum(kafka.highwater(settings, ["problems"]).values()) == 2


def test_many_big_messages_are_read_in_one_go(factory_settings):
    settings = factory_settings("broker.compression=none")
    producer = kafka.producer(settings)
    for index in range(16):
        kafka.send(producer, problem(index, "y" * 8_000_000)).get(30)
    producer.close()
    assert sum(1 for _ in kafka.tail(settings, "problems", {})) == 16


def test_no_broker_is_said_in_time(make_settings):
    with pytest.raises(kafka.BrokerMissing, match="factory up"):
        kafka.bootstrap(make_settings())
    settings = make_settings("broker.bootstrap=127.0.0.1:9", "broker.connect_timeout_s=1.0")
    started = time.monotonic()
    for make in (kafka.producer, kafka.consumer):
        with pytest.raises(kafka.BrokerMissing, match=r"127\.0\.0\.1:9"):
            make(settings)
    with pytest.raises(kafka.BrokerMissing), kafka.admin(settings):
        pass
    assert time.monotonic() - started < 10


def test_a_consumer_of_a_missing_topic_says_so(broker, make_settings):
    with pytest.raises(kafka.BrokerMissing, match="problems"):
        kafka.consumer(make_settings(f"broker.bootstrap={broker}"), ["problems"])


def test_groupless_reading_starts_at_once(settings, send_all):
    send_all(problem(1))
    started = time.monotonic()
    reader = kafka.consumer(settings, ["problems"])
    while not reader.poll(100):
        assert time.monotonic() - started < 2
    reader.close()
