import collections
import contextlib
import itertools
import time

import pytest
from worker_tools import Workers, answers, letters, problem, stop, trace, until

from deploy.broker import EmbeddedBroker
from processors import kafka
from schemas.codec import encode


@pytest.fixture
def settings(factory_settings):
    """With a short session: the embedded broker lets a group's first member wait half of it."""
    return factory_settings("broker.session_timeout_ms=2000")


@pytest.fixture
def workers(settings, tmp_path):
    made = Workers(settings, tmp_path)
    yield made
    made.close()


def lag(settings, group="search", topic="problems"):
    return kafka.lag(settings, group, topic)


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_repeats_at_most_what_it_held(settings, send_all, workers):
    send_all(*[problem(i) for i in range(60)])
    # Slow messages are in hand while later ones are done: the moment at which a commit can go past the slow one.
    first = workers.start("search", seconds=0.1, slow=30.0)
    until(lambda: len(workers.lines("end")) >= 20, what="20 messages")
    time.sleep(1.5)
    first.kill()
    first.wait()
    held = collections.Counter(workers.lines("begin")) - collections.Counter(workers.lines("end"))
    second = workers.start("search", seconds=0.05)
    until(lambda: lag(settings) == 0, what="the rest")
    assert stop(second) == 0
    counts = answers(settings)
    assert set(counts) == {f"p{i}" for i in range(60)}
    # In hand at the kill, and finished but not yet committed (every second): a second's worth a partition.
    partitions = settings.topics.problems_partitions
    assert sum(counts.values()) - 60 <= len(held) + 4 * partitions
    assert letters(settings) == []


@pytest.mark.slow
def test_sigterm_finishes_what_is_in_hand_and_commits_it(settings, send_all, workers):
    send_all(*[problem(i) for i in range(40)])
    worker = workers.start("search", seconds=4.0, limit=3)
    until(lambda: len(workers.lines("begin")) >= 3, what="three in hand")
    assert stop(worker) == 0
    begun = workers.lines("begin")
    assert len(begun) == 3, "nothing new is begun"
    assert answers(settings) == collections.Counter(begun)
    assert sum(kafka.committed(settings, "search").values()) == 3
    second = workers.start("search")
    until(lambda: lag(settings) == 0)
    assert stop(second) == 0
    assert answers(settings) == collections.Counter({f"p{i}": 1 for i in range(40)})


def test_the_limit_bounds_the_messages_in_hand(settings, send_all, workers):
    send_all(*[problem(i) for i in range(60)])
    worker = workers.start("search", seconds=0.5, limit=2)
    until(lambda: len(workers.lines("end")) >= 8)
    stop(worker)
    steps = [1 if line.startswith("begin") else -1 for line in workers.journal.read_text().splitlines()]
    peak = max(itertools.accumulate(steps))
    assert peak == 2


@pytest.mark.slow
def test_what_outlasts_the_grace_is_delivered_again(settings, send_all, workers):
    send_all(*[problem(i) for i in range(6)])
    worker = workers.start("search", seconds=60.0, limit=2, grace=1.0)
    until(lambda: len(workers.lines("begin")) == 2)
    assert stop(worker, timeout=30) == 0
    assert answers(settings) == {}
    assert kafka.committed(settings, "search") == {}
    second = workers.start("search")
    until(lambda: lag(settings) == 0)
    assert stop(second) == 0
    assert answers(settings) == collections.Counter({f"p{i}": 1 for i in range(6)})


@pytest.mark.slow
def test_a_stage_moves_between_processes_and_keeps_its_offsets(settings, send_all, workers):
    send_all(*[trace(i) for i in range(30)])
    alone = workers.start("verify", seconds=0.1)
    until(lambda: len(workers.lines("end")) >= 10)
    assert stop(alone) == 0
    done = answers(settings)
    assert 10 <= len(done) < 30
    assert sum(kafka.committed(settings, "verify").values()) == len(done)
    send_all(*[problem(i) for i in range(10)])
    together = workers.start("linearize", "verify", "search")
    until(lambda: lag(settings, "verify", "traces") == 0 and lag(settings) == 0)
    assert stop(together) == 0
    assert answers(settings) == collections.Counter([f"t{i}" for i in range(30)] + [f"p{i}" for i in range(10)])


def test_bad_bytes_and_raising_handlers_become_dead_letters(settings, workers):
    producer = kafka.producer(settings)
    bad = {b"a": b"not json", b"b": b'{"id": "half"}', b"c": b"\xff\xfe\x00", b"d": b""}
    for key, value in bad.items():
        producer.send("problems", key=key, value=value, partition=0)
    producer.send("problems", key=b"e", value=encode(problem(7)), partition=0)
    producer.send("problems", key=b"f", value=encode(problem(8)), partition=0)
    producer.flush(10)
    producer.close()
    worker = workers.start("search", fail="raise", fail_on=0)
    until(lambda: lag(settings) == 0)
    assert stop(worker) == 0
    found = letters(settings)
    assert {letter.key: letter.value for letter in found} == {**bad, b"e": encode(problem(7))}
    assert answers(settings) == {"p8": 1}
    by_key = {letter.key: letter for letter in found}
    assert by_key[b"b"].input_id == "half"
    raised = by_key[b"e"]
    assert raised.stage == "search"
    assert (raised.topic, raised.partition, raised.offset) == ("problems", 0, 4)
    assert "the handler raised" in raised.error
    assert "Traceback" in raised.detail
    assert raised.input_id == "p7"


@pytest.mark.slow
def test_a_hiccup_is_tried_again_in_place_and_what_stays_broken_blocks_nothing(factory_settings, send_all, tmp_path):
    settings = factory_settings("broker.session_timeout_ms=2000", "failures.retry_s=2")
    workers = Workers(settings, tmp_path)
    producer = kafka.producer(settings)
    for index in range(4):
        producer.send("problems", key=b"k", value=encode(problem(index)), partition=0)
    producer.flush(10)
    first = workers.start("search", fail="hiccup", fail_on=1)
    until(lambda: lag(settings) == 0)
    assert stop(first) == 0
    assert letters(settings) == []
    assert answers(settings) == {f"p{index}": 1 for index in range(4)}
    for index in (4, 5, 6):
        producer.send("problems", key=b"k", value=encode(problem(index)), partition=0)
    producer.flush(10)
    producer.close()
    second = workers.start("search", fail="down", fail_on=5)
    until(lambda: lag(settings) == 0)
    assert stop(second) == 0
    workers.close()
    (letter,) = letters(settings)
    assert letter.input_id == "p5"
    assert letter.attempt >= 3
    assert letter.error == f"attempt {letter.attempt}"
    assert answers(settings) == {f"p{index}": 1 for index in (0, 1, 2, 3, 4, 6)}


@pytest.mark.slow
def test_a_stage_whose_input_becomes_dead_letters_stops_and_says_why(factory_settings, send_all, tmp_path):
    settings = factory_settings("broker.session_timeout_ms=2000", "failures.window=8", "failures.share=0.5")
    send_all(*[problem(i) for i in range(60)])
    workers = Workers(settings, tmp_path)
    worker = workers.start("search", fail="raise", fail_on=-1, limit=1)
    assert worker.wait(90) == 2, "the exit code that no supervisor answers with a restart"
    workers.close()
    said = workers.errors().splitlines()[-1]
    assert "search (from problems) stops: 5 of its last 5 inputs became dead letters" in said
    assert "the handler raised" in said
    assert len(letters(settings)) == 5


def test_a_worker_that_can_serve_no_weights_ends_and_its_input_waits(settings, send_all, workers):
    send_all(problem(1))
    worker = workers.start("search", fail="unserved")
    assert worker.wait(90) == 2
    assert workers.errors().splitlines()[-1] == "factory: weights v0: not ours"
    assert (letters(settings), lag(settings)) == ([], 1)


def test_an_answer_that_cannot_be_written_is_a_dead_letter_and_the_next_goes_on(settings, send_all, workers):
    send_all(*[problem(i) for i in range(4)])
    worker = workers.start("search", fail="unwritable", fail_on=1)
    until(lambda: lag(settings) == 0)
    assert stop(worker) == 0
    (letter,) = letters(settings)
    assert "surrogates not allowed" in letter.error
    assert set(answers(settings)) | {letter.input_id} == {f"p{i}" for i in range(4)}


def test_large_messages_pass_and_their_dead_letters_keep_them_or_point_at_them(settings, send_all, workers):
    large, larger = problem(1, "x" * 5_000_000), problem(2, "y" * 14_000_000)
    send_all(large, larger)
    worker = workers.start("search", fail="raise", fail_on=-1)
    until(lambda: lag(settings) == 0)
    assert stop(worker) == 0
    found = {letter.input_id: letter for letter in letters(settings)}
    assert found["p1"].value == encode(large)
    assert found["p2"].value == b""
    assert f"{len(encode(larger))} bytes" in found["p2"].detail


@pytest.mark.slow
def test_a_cancelled_future_ends_the_worker_and_the_message_comes_again(settings, send_all, workers):
    producer = kafka.producer(settings)
    for index in range(5):
        producer.send("problems", key=b"k", value=encode(problem(index)), partition=3)
    producer.flush(10)
    producer.close()
    worker = workers.start("search", fail="cancel", fail_on=2)
    assert worker.wait(60) == 1
    assert "cancelled" in workers.errors().splitlines()[-1]
    assert set(answers(settings)) == {"p0", "p1"}
    second = workers.start("search")
    until(lambda: lag(settings) == 0)
    assert stop(second) == 0
    assert set(answers(settings)) == {f"p{i}" for i in range(5)}


def test_a_failing_coroutine_beside_the_apps_ends_the_process(workers):
    worker = workers.start("search", fail="also")
    assert worker.wait(60) == 1
    assert "the evaluator broke" in workers.errors().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(("named", "sentence"), [(False, "has ended; start one"), (True, "has not answered for")])
def test_a_broker_that_vanishes_ends_the_worker_with_one_sentence(request, make_settings, tmp_path, named, sentence):
    embedded = make_settings("broker.session_timeout_ms=2000")
    with EmbeddedBroker(embedded) as broker:
        kafka.create_topics(embedded)
        flags = [f"broker.bootstrap={broker.address}"] if named else []
        workers = Workers(make_settings("broker.session_timeout_ms=2000", *flags), tmp_path)
        request.addfinalizer(workers.close)
        worker = workers.start("search", "verify", seconds=30.0)
        until(lambda: list((tmp_path / "data" / "status").glob(f"search-*-{worker.pid}.json")))
        time.sleep(3)
        assert worker.poll() is None
        broker.process.kill()
        started = time.monotonic()
        assert worker.wait(60) == 1
        assert time.monotonic() - started < 35
        assert sentence in workers.errors().splitlines()[-1]


@pytest.mark.slow
def test_a_worker_told_to_stop_after_its_broker_vanished_ends(request, make_settings, tmp_path):
    embedded = make_settings()
    with EmbeddedBroker(embedded) as broker:
        settings = make_settings(f"broker.bootstrap={broker.address}")
        kafka.create_topics(settings)
        with contextlib.closing(kafka.producer(settings)) as producer:
            for index in range(8):
                kafka.send(producer, problem(index))
            producer.flush(30)
        workers = Workers(settings, tmp_path)
        request.addfinalizer(workers.close)
        worker = workers.start("search", seconds=2.0, grace=3.0)
        until(lambda: len(workers.lines("begin")) >= 2)
        broker.process.kill()
        assert stop(worker, 40) == 0


@pytest.mark.slow
def test_two_workers_share_and_one_killed_loses_nothing(settings, send_all, workers):
    send_all(*[problem(i) for i in range(80)])
    first = workers.start("search", seconds=0.2)
    workers.start("search", seconds=0.2)
    until(lambda: len(workers.lines("end")) >= 15)
    first.kill()
    until(lambda: set(answers(settings)) == {f"p{i}" for i in range(80)}, 90, "all answered")
    until(lambda: lag(settings) == 0)
