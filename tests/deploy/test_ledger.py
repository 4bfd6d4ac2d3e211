import io
import json
import threading
import time
from pathlib import Path

import msgspec
import pytest
from books import (
    commit,
    dead,
    example,
    filtered,
    problem,
    prompt,
    rewards,
    rollouts,
    stage,
    sunk,
    trace,
    trained,
    tree,
)
from kafka.structs import OffsetAndMetadata
from rich.console import Console

from deploy import ledger, ledger_show
from deploy.broker import EmbeddedBroker
from processors import kafka
from processors.dataset import Datasets


@pytest.fixture(params=["in the topics", "in the tables"])
def place(request, factory_settings):
    """(settings, settle): settle(query) brings what was sent into the tables, or leaves it in the topics."""
    settings = factory_settings("sink.flush_s=0.1")
    Datasets(Path(settings.factory.data) / "datasets").create()

    def settle(query):
        if request.param == "in the tables":
            sunk(settings, query)

    return settings, settle


@pytest.fixture
def settings(place):
    return place[0]


def test_every_stage_counts_ids_and_closes(place, send_all):
    settings, settle = place
    send_all(*map(problem, range(6)), *map(tree, range(3)), dead("search", "p3"), filtered("search", "p4", "too long"))
    send_all(trace(0), filtered("linearize", "t1", "no correct leaf"), example(0))
    settle("(select count(*) from problems) = 6 and (select count(*) from examples) = 1")
    books = ledger.compute(settings)
    search = stage(books, "search")
    assert (search.taken, search.out, search.filtered, search.dead, search.in_flight) == (6, 3, 1, 1, 1)
    linearize = stage(books, "linearize")
    assert (linearize.taken, linearize.out, linearize.filtered, linearize.in_flight) == (3, 1, 1, 1)
    assert stage(books, "verify", "traces").out == 1
    assert books.closes
    assert books.online


def test_an_id_behind_the_committed_offset_without_an_answer_is_lost_and_named(place, send_all):
    settings, settle = place
    send_all(*map(problem, range(5)), tree(0), tree(1))
    commit(settings, "search", "problems")
    send_all(problem(77))
    settle("(select count(*) from problems) = 6 and (select count(*) from trees) = 2")
    books = ledger.compute(settings)
    search = stage(books, "search")
    assert not books.closes
    assert search.missing == ["p2", "p3", "p4"]
    assert (search.lost, search.in_flight, search.out) == (3, 1, 2)
    out = io.StringIO()
    Console(file=out, width=120).print(ledger_show.render(books))
    assert "lost: search problems -> trees: p2, p3, p4" in out.getvalue()
    assert "does NOT close" in out.getvalue()
    send_all(*(tree(number) for number in (2, 3, 4)))
    assert ledger.compute(settings).closes


def test_rollouts_and_tokens_add_up(place, send_all):
    settings, settle = place
    send_all(*map(problem, range(8)), *map(prompt, range(8)), *map(rollouts, range(8)), *map(rewards, range(5)))
    send_all(trained(0, 1), trained(7, trainer="sft"), filtered("rl", "g2", "stale by 3", rollouts=2, tokens=6))
    send_all(filtered("rl", "g3", "no signal", rollouts=2, tokens=6), dead("verify", "g5"))
    send_all(filtered("rl", "g1", "aborted", rollouts=1, tokens=3))
    settle("(select count(*) from rollouts) = 8 and (select count(*) from filtered) = 3")
    books = ledger.compute(settings)
    rl = books.rl
    pairs = {name: (amount.rollouts, amount.tokens) for name in ledger_show.PARTS for amount in [getattr(rl, name)]}
    assert pairs == {
        "generated": (16, 48),
        "trained": (3, 9),
        "stale": (2, 6),
        "filtered": (3, 9),
        "failed": (2, 6),
        "in_flight": (6, 18),
        "lost": (0, 0),
    }
    assert rl.why == {"stale by 3": 2, "no signal": 2, "aborted": 1}
    assert books.closes
    commit(settings, "verify", "rollouts")
    books = ledger.compute(settings)
    assert stage(books, "verify", "rollouts").missing == ["g6", "g7"]
    assert books.rl.lost == ledger.Amount(rollouts=4, tokens=12)
    assert not books.closes


def test_the_ledger_is_json(settings):
    books = ledger.compute(settings)
    assert json.loads(msgspec.json.encode(books))["closes"] is True
    assert msgspec.json.decode(msgspec.json.encode(books), type=ledger.Ledger) == books


def save(settings, **content):
    path = Path(settings.factory.data) / "state" / "offsets.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_with_the_embedded_broker_down_the_saved_offsets_decide(make_settings):
    settings = make_settings("sink.flush_s=0.1")
    with EmbeddedBroker(settings):
        kafka.create_topics(settings)
        producer = kafka.producer(settings)
        for one in (*map(problem, range(3)), tree(0)):
            kafka.send(producer, one).get(5)
        ends = {str(part): end for (_, part), end in kafka.highwater(settings, ["problems"]).items()}
        ids = kafka.topic_ids(settings)
        producer.close()
        sunk(settings, "(select count(*) from problems) = 3 and (select count(*) from trees) = 1")
    books = ledger.compute(settings)
    assert (books.online, books.closes) == (False, True)
    assert stage(books, "search").in_flight == 2, "nothing was saved: it will be fed again"
    save(settings, topic_ids=ids, groups={"search": {"problems": ends}})
    books = ledger.compute(settings)
    assert stage(books, "search").missing == ["p1", "p2"]
    assert not books.closes
    save(settings, topic_ids=ids, groups={"search": {"problems": ends}}, clean=False)
    assert ledger.compute(settings).closes, "answers were on their way when the offsets were saved"
    save(settings, topic_ids=ids | {"problems": "a later broker's"}, groups={"search": {"problems": ends}})
    books = ledger.compute(settings)
    assert (books.closes, stage(books, "search").in_flight) == (True, 2)


def test_on_a_new_embedded_broker_ids_wait_to_be_fed_again_and_are_lost_only_when_passed(make_settings):
    settings = make_settings("sink.flush_s=0.1")
    with EmbeddedBroker(settings):
        kafka.create_topics(settings)
        producer = kafka.producer(settings)
        for number in range(3):
            kafka.send(producer, problem(number)).get(5)
        producer.close()
        sunk(settings, "(select count(*) from problems) = 3")
    with EmbeddedBroker(settings):
        kafka.create_topics(settings)
        books = ledger.compute(settings)
        assert (books.online, books.closes, stage(books, "search").in_flight) == (True, True, 3)
        producer = kafka.producer(settings)
        for number in range(2):
            kafka.send(producer, problem(number)).get(5)
        producer.close()
        assert stage(ledger.compute(settings), "search").in_flight == 3
        commit(settings, "search", "problems")
        books = ledger.compute(settings)
        assert stage(books, "search").missing == ["p0", "p1"]
        assert stage(books, "search").in_flight == 1


def test_a_cluster_that_does_not_answer_is_an_error_and_not_a_guess(make_settings):
    settings = make_settings("broker.bootstrap=127.0.0.1:1", "broker.connect_timeout_s=0.5")
    Datasets(Path(settings.factory.data) / "datasets").create()
    with pytest.raises(kafka.BrokerMissing):
        ledger.compute(settings)


def test_no_false_alarm_while_a_stage_works(settings, send_all):
    """A worker that answers, then commits, again and again; the ledger closes at every look."""
    send_all(*map(problem, range(40)))
    stopping = threading.Event()

    def work():
        consumer = kafka.consumer(settings, group="search")
        consumer.assign(kafka.partitions(consumer, ["problems"]))
        producer = kafka.producer(settings)
        while not stopping.is_set():
            for at, records in consumer.poll(100, max_records=1).items():
                for record in records:
                    number = int(msgspec.json.decode(record.value)["id"][1:])
                    time.sleep(0.1)
                    kafka.send(producer, tree(number)).get(5)
                    consumer.commit({at: OffsetAndMetadata(record.offset + 1, "", -1)})
        producer.close()
        consumer.close()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        seen = []
        while not seen or (seen[-1] < 40 and len(seen) < 30):
            books = ledger.compute(settings)
            assert books.closes, books
            seen.append(stage(books, "search").out)
    finally:
        stopping.set()
        worker.join(20)
    assert seen[-1] == 40
    assert any(0 < out < 40 for out in seen), "it never looked while the stage worked"
