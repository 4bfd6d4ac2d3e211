"""Messages above the size limit: the same bytes, ids and rows as any other; a dead letter where the file is gone."""

import threading
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from worker_tools import Workers, letters, problem, stop, until

from deploy import ledger
from processors import kafka, sink
from processors.dataset import Datasets
from processors.large import OVERHEAD_BYTES, packed, unpacked
from processors.status import Status
from schemas import messages as m
from schemas.codec import BadMessage, content_sha, encode
from schemas.settings import BrokerSection, FactorySection, Settings
from schemas.topics import TOPICS

LIMIT = 20_000


def files(settings) -> list[Path]:
    return sorted((Path(settings.factory.data) / "large").glob("*"))


@given(question=st.text(max_size=40), more=st.integers(-60, 60))
def test_the_bytes_are_the_messages_own_on_either_side_of_the_limit(tmp_path_factory, question, more):
    message = problem(1, question + "x" * (LIMIT - OVERHEAD_BYTES))
    limit = len(encode(message)) + OVERHEAD_BYTES + more
    data = str(tmp_path_factory.getbasetemp() / "large")
    settings = Settings(factory=FactorySection(data=data), broker=BrokerSection(message_max_bytes=limit))
    sent = packed(settings, message)
    assert (sent == encode(message)) is (more >= 0)
    assert len(sent) + OVERHEAD_BYTES <= limit
    assert unpacked(settings, sent) == encode(message)


def test_what_is_no_reference_is_left_alone_and_a_bad_one_is_refused(make_settings):
    settings = make_settings(f"broker.message_max_bytes={LIMIT}")
    for value in (b"", None, b"\xff", b'{"id": 1}', encode(problem(1))):
        assert unpacked(settings, value) == (value or b"")
    good = packed(settings, problem(1, "x" * LIMIT))
    sha = msgspec.json.decode(good)["sha256"]
    for bad in (good[:-3], good.replace(sha.encode(), b"../../../etc/passwd"), good.replace(sha.encode(), b"0" * 64)):
        with pytest.raises(BadMessage, match="travels as a file"):
            unpacked(settings, bad)


def test_a_large_message_goes_through_stage_sink_and_ledger(factory_settings, tmp_path):
    settings = factory_settings(
        f"broker.message_max_bytes={LIMIT}", "broker.session_timeout_ms=2000", "sink.flush_s=0.1"
    )
    whole, gone, changed = (problem(index, str(index) * LIMIT) for index in range(3))
    producer = kafka.producer(settings)
    for message in (gone, changed, whole):
        kept = files(settings)
        producer.send("problems", key=message.id.encode(), value=packed(settings, message)).get(10)
        (file,) = set(files(settings)) - set(kept)
        if message is gone:
            file.unlink()
        elif message is changed:
            file.write_bytes(zstandard.compress(encode(changed).replace(b"2", b"3")))
    producer.close()

    workers = Workers(settings, tmp_path)
    worker = workers.start("search", pad=LIMIT)
    until(lambda: kafka.lag(settings, "search", "problems") == 0)
    assert stop(worker) == 0
    (record,) = kafka.tail(settings, "filtered", {})
    assert len(record.value) < 300
    answer = msgspec.json.decode(unpacked(settings, record.value), type=m.Filtered)
    assert (answer.input_id, len(answer.why)) == (whole.id, LIMIT + 4)
    assert {letter.input_id for letter in letters(settings)} == {gone.id, changed.id}

    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    made = sink.Sink(settings, datasets, [topic.name for topic in TOPICS], Status(settings, "sink"))
    stopping = threading.Event()
    thread = threading.Thread(target=made.session, args=(stopping,))
    thread.start()
    until(lambda: len(datasets.ids("dead_letters")) == 4 and datasets.ids("filtered"), what="rows")
    stopping.set()
    thread.join(30)
    assert datasets.shas("problems") == {whole.id: content_sha(encode(whole))}
    assert datasets.shas("filtered") == {answer.id: content_sha(encode(answer))}
    assert list(datasets.messages(m.Problem)) == [whole]
    assert ledger.compute(settings).closes
