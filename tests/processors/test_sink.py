import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from deltalake import DeltaTable

from deploy.broker import EmbeddedBroker
from processors import kafka, sink
from processors.dataset import Datasets, app_id
from processors.status import Status
from schemas import messages as m
from schemas.codec import decode, encode
from schemas.load import load
from schemas.topics import TOPICS

ALL = [topic.name for topic in TOPICS]


def problem(number, **other):
    return m.Problem(**{"id": f"p{number}", "question": "1+1?", "answer": "2", "source": "s", **other})


def node(number, parent, **other):
    return m.Node(id=number, parent=parent, depth=1, text=f"step {number}", token_ids=[number], **other)


def tree(number, seconds=1.0):
    nodes = [
        node(0, -1),
        node(1, 0, terminal=True, verdict="wrong"),
        node(2, 0),
        node(3, 2, terminal=True, verdict="correct"),
    ]
    return m.Tree(
        id=f"t{number}",
        problem=problem(number),
        nodes=nodes,
        policy_version=0,
        policy_sha="sha",
        seed=1,
        iterations=2,
        generated_tokens=3,
        prompt_tokens=4,
        requests=5,
        seconds=seconds,
        solved=True,
    )


@pytest.fixture
def quick(factory_settings):
    return factory_settings("sink.flush_s=0.2")


class Running:
    """A sink in a thread, for as long as the block lasts; leaving it flushes."""

    def __init__(self, settings, topics=ALL):
        self.status = Status(settings, "sink")
        self.datasets = Datasets(Path(settings.factory.data) / "datasets")
        self.datasets.create()
        self.sink = sink.Sink(settings, self.datasets, list(topics), self.status)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.sink.session, args=(self.stopping,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join(30)
        assert not self.thread.is_alive()

    def wait(self, query, expected, seconds=20):
        deadline = time.monotonic() + seconds
        while (found := ask(self.datasets, query)) != expected:
            assert time.monotonic() < deadline, f"{query}: {found}, not {expected}"
            time.sleep(0.1)


def ask(datasets, query):
    with datasets.connect() as connection:
        return connection.execute(query).fetchall()


def test_every_topic_becomes_rows_with_their_place(quick, send_all):
    sent = [problem(number) for number in range(20)]
    send_all(*sent, tree(1), m.Filtered(id="f", stage="linearize", input_topic="trees", input_id="t1", why="no"))
    with Running(quick) as running:
        running.wait("select count(*) from problems", [(20,)])
        running.wait("select count(*) from trees", [(1,)])
        running.wait("select count(*) from filtered", [(1,)])
        running.wait("select count(*) from nodes", [(4,)])
    ids = kafka.topic_ids(quick)
    assert ask(running.datasets, "select distinct _topic, _topic_id from problems") == [("problems", ids["problems"])]
    ends = kafka.highwater(quick, ["problems"])
    held = running.datasets.offsets("problems")
    assert {app_id("problems", ids["problems"], part): end - 1 for (_, part), end in ends.items() if end} == held
    assert {encode(one) for one in running.datasets.messages(m.Problem)} == {encode(one) for one in sent}
    assert running.status.read()["records"] == 22


def test_nodes_say_on_which_side_of_the_tree_they_lie(quick, send_all):
    send_all(tree(1))
    with Running(quick) as running:
        running.wait(
            "select id, path_correct, tree_id, problem_id, source from nodes order by id",
            [(at, at != 1, "t1", "p1", "s") for at in range(4)],
        )


def test_copies_are_skipped_and_losing_copies_counted_apart(quick, send_all):
    send_all(problem(1), problem(2), tree(1), problem(1), tree(1), tree(1, seconds=2.0))
    with Running(quick) as running:
        running.wait("select count(*), count(distinct id) from problems", [(2, 2)])
        running.wait("select any_value(seconds), count(*) from trees", [(1.0, 1)])
        running.wait("select count(*) from nodes", [(4,)])
    again = Running(quick)
    with again:
        send_all(problem(2), problem(3), tree(1, seconds=3.0))
        again.wait("select count(*) from problems", [(3,)])
        time.sleep(0.5)
    assert ask(again.datasets, "select count(*) from trees") == [(1,)]
    assert (running.status.read()["copies"], running.status.read()["losing"]) == (2, 1)
    assert (again.status.read()["copies"], again.status.read()["losing"]) == (1, 1)
    ids = kafka.topic_ids(quick)
    assert sum(at + 1 for at in again.datasets.offsets("problems").values()) == 5, "offsets pass what was skipped"
    assert all(app.split(":")[1] == ids["problems"] for app in again.datasets.offsets("problems"))


def test_what_is_no_message_becomes_a_dead_letter_with_its_bytes_and_the_rest_goes_on(quick, send_all):
    bad = [b"\xff\xfe", b"{}", b"", encode(problem(1)).replace(b'"index":0', b'"index":99999999999999999999')]
    producer = kafka.producer(quick)
    for value in bad:
        producer.send("problems", value=value, key=b"k").get(5)
    producer.close()
    send_all(problem(2))
    with Running(quick) as running:
        running.wait("select id from problems", [("p2",)])
        running.wait("select count(*) from dead_letters where stage = 'sink' and topic = 'problems'", [(4,)])
    letters = list(running.datasets.messages(m.DeadLetter))
    assert sorted(letter.value for letter in letters) == sorted(bad)
    assert {letter.key for letter in letters} == {b"k"}
    with Running(quick) as again:
        time.sleep(0.6)
    assert ask(again.datasets, "select count(*) from dead_letters") == [(4,)], "a restart buries nothing twice"


def test_a_dead_letter_too_large_to_copy_says_where_its_bytes_lie(factory_settings):
    settings = factory_settings("sink.flush_s=0.2", "broker.message_max_bytes=100000")
    producer = kafka.producer(settings)
    producer.send("problems", value=b"x" * 90_000).get(5)
    producer.close()
    with Running(settings) as running:
        running.wait("select count(*) from dead_letters", [(1,)])
    (letter,) = running.datasets.messages(m.DeadLetter)
    assert letter.value == b""
    assert "90000 bytes" in letter.detail
    assert letter.offset == 0


def test_a_key_too_large_to_copy_does_not_stop_the_sink(factory_settings):
    settings = factory_settings("sink.flush_s=0.2", "broker.message_max_bytes=100000")
    producer = kafka.producer(settings)
    producer.send("problems", key=b"k" * 90_000, value=b"no JSON").get(5)
    producer.close()
    with Running(settings) as running:
        running.wait("select count(*) from dead_letters", [(1,)])
    (letter,) = running.datasets.messages(m.DeadLetter)
    assert (letter.key, letter.value) == (b"", b"no JSON")
    assert letter.detail.startswith("key of 90000 bytes, too large to be copied")


def test_nodes_are_healed_after_a_crash_between_the_two_commits(quick, send_all, monkeypatch):
    send_all(tree(1), tree(2))
    append = Datasets.append

    def crash(self, name, rows, offsets, commits=None, **more):
        assert name != "nodes" or not rows.num_rows, "the crash"
        return append(self, name, rows, offsets, commits, **more)

    monkeypatch.setattr(Datasets, "append", crash)
    first = Running(quick)
    with pytest.raises(AssertionError, match="the crash"):
        first.sink.session(first.stopping)
    assert ask(first.datasets, "select (select count(*) from trees) > 0, (select count(*) from nodes)") == [(True, 0)]
    monkeypatch.setattr(Datasets, "append", append)
    with Running(quick) as running:
        running.wait("select count(*), count(distinct (tree_id, id)) from nodes", [(8, 8)])
    assert ask(running.datasets, "select count(*) from trees") == [(2,)]
    trees, nodes = (running.datasets.offsets(name) for name in ("trees", "nodes"))
    assert {app.split(":", 1)[1]: at for app, at in trees.items()} == {
        app.split(":", 1)[1]: at for app, at in nodes.items()
    }


def test_nodes_that_are_gone_are_written_again_whatever_the_offsets_say(quick, send_all):
    send_all(tree(1), tree(2))
    with Running(quick) as running:
        running.wait("select count(*) from nodes", [(8,)])
    DeltaTable(str(running.datasets.root / "nodes")).delete("tree_id = 't1'")
    with Running(quick) as again:
        again.wait("select count(*), count(distinct (tree_id, id)) from nodes", [(8, 8)])


def test_trees_that_a_power_cut_took_come_again_and_their_nodes_are_there_once(quick):
    """Of another partition nodes move on in the same commit."""
    producer = kafka.producer(quick)
    kafka.send(producer, tree(1), partition=0).get(5)
    with Running(quick) as running:
        running.wait("select count(*) from nodes", [(4,)])
    newest = max((running.datasets.root / "trees" / "_delta_log").glob("0*.json"))
    newest.write_bytes(newest.read_bytes()[:40])
    for number in range(2, 20):
        kafka.send(producer, tree(number), partition=1).get(5)
    producer.close()
    with Running(quick) as again:
        again.wait("select count(*) from trees", [(19,)])
        again.wait("select count(distinct tree_id) from nodes", [(19,)])
    assert ask(again.datasets, "select count(*), count(distinct (tree_id, id)) from nodes") == [(76, 76)]


def test_new_topics_under_old_names_end_a_session_and_begin_the_next(make_settings):
    settings = make_settings("sink.flush_s=0.3")
    with EmbeddedBroker(settings) as broker:
        kafka.create_topics(settings)
        port = int(broker.address.rpartition(":")[2])
        fill(settings, 0, 10)
        running = Running(settings)
        with running:
            running.wait("select count(*) from problems", [(10,)])
            broker.stop()
            with EmbeddedBroker(settings, port=port):
                kafka.create_topics(settings)
                fill(settings, 5, 15)
                running.thread.join(30)
                assert not running.thread.is_alive(), "the session did not notice the new topics"
                with Running(settings) as again:
                    again.wait("select count(*), count(distinct id) from problems", [(15, 15)])
                assert len(kafka.topic_ids(settings)) == len(TOPICS)
    generations = ask(running.datasets, "select count(*) from problems group by _topic_id order by 1")
    assert generations == [(5,), (10,)]


def test_what_was_read_is_written_though_the_broker_died_before_the_flush(make_settings):
    settings = make_settings("sink.flush_s=600")
    with EmbeddedBroker(settings) as broker:
        kafka.create_topics(settings)
        fill(settings, 0, 10)
        with Running(settings) as running:
            deadline = time.monotonic() + 20
            while running.status.read()["records"] < 10:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            broker.stop()
            time.sleep(1.0)
    assert len(running.datasets.ids("problems")) == 10


def fill(settings, start, stop):
    producer = kafka.producer(settings)
    for number in range(start, stop):
        kafka.send(producer, problem(number)).get(5)
    producer.close()


def test_one_sink_a_table(quick, monkeypatch):
    monkeypatch.setattr(sink, "LOCK_S", 0.2)
    datasets = Datasets(Path(quick.factory.data) / "datasets")
    datasets.create()
    with (
        sink._owning(datasets, ["problems"]),
        sink._owning(datasets, ["traces"]),
        pytest.raises(sink.TableBusy, match="problems"),
    ):
        sink.run(quick, ["problems"], Status(quick, "sink"))


def test_sigterm_flushes_what_waits(factory_settings, send_all):
    settings = factory_settings("sink.flush_s=600")
    send_all(*map(problem, range(7)))
    status = Status(settings, "sink")

    def stop():
        deadline = time.monotonic() + 20
        while status.read()["records"] < 7 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    sink.run(settings, ALL, status)
    thread.join()
    assert signal.getsignal(signal.SIGTERM) == before
    assert len(Datasets(Path(settings.factory.data) / "datasets").ids("problems")) == 7


def test_small_files_are_merged_while_rows_flow(quick, send_all, monkeypatch):
    monkeypatch.setattr(sink, "COMPACT_EVERY", 1)
    monkeypatch.setattr(sink, "COMPACT_FILES", 3)
    with Running(quick) as running:
        for number in range(6):
            send_all(problem(number))
            running.wait("select count(*) from problems", [(number + 1,)])
    assert len(running.datasets.table("problems").file_uris()) <= 4
    assert running.datasets.ids("problems") == {f"p{number}" for number in range(6)}


def test_the_codec_refuses_half_a_surrogate_pair_or_the_sink_does():
    wire = encode(problem(1)).replace(b'"1+1?"', b'"\\ud800"')
    with pytest.raises(ValueError):
        "".join(decode(wire, m.Problem).question).encode()


def test_of_two_sinks_without_a_lock_one_ends_and_no_row_is_there_twice(quick, send_all):
    """As on two machines: the lock is this machine's, so nothing but the commits stands between them."""
    send_all(*map(problem, range(5)))
    first = Running(quick)
    with first:
        first.wait("select count(*) from problems", [(5,)])
        second = Running(quick)
        ended = []

        def run():
            try:
                second.sink.session(second.stopping)
            except sink.TableBusy as error:
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        for number in range(4, 60):
            if ended or not first.thread.is_alive():
                break
            send_all(problem(number), problem(number - 1))
            time.sleep(0.1)
        second.stopping.set()
        thread.join(30)
        assert (len(ended), first.thread.is_alive()) in {(1, True), (0, False)}
    with Running(quick) as again:
        again.wait("select count(*) = count(distinct id) and count(*) >= 6 from problems", [(True,)])


def test_files_are_merged_while_nothing_comes(quick, send_all, monkeypatch):
    monkeypatch.setattr(sink, "IDLE_FILES", 1)
    monkeypatch.setattr(sink, "IDLE_S", 0.5)
    with Running(quick) as running:
        for number in range(3):
            send_all(problem(number))
            running.wait("select count(*) from problems", [(number + 1,)])
        deadline = time.monotonic() + 20
        while len(running.datasets.table("problems").file_uris()) > 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        send_all(problem(3))
        running.wait("select count(*), count(distinct id) from problems", [(4, 4)])


def test_a_sink_on_a_full_disk_waits_for_room_and_goes_on(broker, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sink, "FULL_S", 0.2)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], check=False).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        settings = load(
            environment={}, flags=[f"broker.bootstrap={broker}", f"factory.data={disk}", "sink.flush_s=0.1"]
        )
        kafka.create_topics(settings)
        with Running(settings, ["problems"]) as running:
            fill(settings, 0, 3)
            running.wait("select count(*) from problems", [(3,)])
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(b"x" * 512):
                    pass
            fill(settings, 3, 6)
            deadline = time.monotonic() + 20
            while running.status.read().get("waiting") != "the disk is full":
                assert time.monotonic() < deadline
                assert running.thread.is_alive()
                time.sleep(0.05)
            assert ask(running.datasets, "select count(*) from problems") == [(3,)]
            filler.unlink()
            running.wait("select count(*), count(distinct id) from problems", [(6, 6)])
        said = capsys.readouterr().err
        assert f"{disk}/datasets/problems: the disk is full: the sink waits for room" in said
        assert "the sink goes on" in said
    finally:
        subprocess.run(["umount", disk], check=True)
