import asyncio
import contextlib

import pytest
from kafka.structs import OffsetAndMetadata, TopicPartition
from worker_tools import Workers, answers, problem, stop, until

from processors import kafka, pressure
from processors.pressure import Gate
from processors.status import Status

AHEAD = 5


@pytest.fixture
def settings(factory_settings):
    return factory_settings(f"broker.ahead={AHEAD}", "broker.session_timeout_ms=2000", "topics.default_partitions=1")


@pytest.fixture
def commit(settings):
    """commit(offset) as the group 'linearize' on its one partition of 'trees'."""
    client = kafka.consumer(settings, group="linearize")
    client.assign([TopicPartition("trees", 0)])
    yield lambda offset: client.commit({TopicPartition("trees", 0): OffsetAndMetadata(offset, "", -1)})
    client.close()


def trees(settings, count):
    producer = kafka.producer(settings)
    for number in range(count):
        producer.send("trees", key=b"k", value=b"%d" % number)
    producer.flush(20)
    producer.close()


async def test_a_gate_closes_behind_a_slow_consumer_and_opens_again(settings, commit, monkeypatch):
    monkeypatch.setattr(pressure, "ASK_S", 0.05)
    status = Status(settings, "search")
    gate = Gate("search", settings, status)
    watching = asyncio.create_task(gate.watch())

    async def passes(seconds=20.0):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(gate.passed(), seconds)
            return True
        return False

    async def closed():
        async with asyncio.timeout(30):
            while gate._open.is_set():
                gate.sent()
                await asyncio.sleep(0.05)

    trees(settings, 20)
    await asyncio.sleep(1.0)
    assert await passes(), "nobody consumes: nobody is behind"
    commit(2)
    await closed()
    assert not await passes(0.5)
    assert status.read()["waiting"] == "for linearize: 18 trees wait for it"
    commit(20 - AHEAD)
    assert await passes()
    assert status.read()["waiting"] == ""
    watching.cancel()


@pytest.mark.slow
def test_a_stage_begins_nothing_while_its_consumer_is_behind(settings, commit, send_all, tmp_path):
    trees(settings, 20)
    commit(1)
    workers = Workers(settings, tmp_path)
    worker = workers.start("search", seconds=0.3, limit=1)
    send_all(*[problem(i) for i in range(40)])
    until(lambda: "for linearize" in workers.status("search").get("waiting", ""), what="the pause")
    begun = len(workers.lines("begin"))
    assert begun < 40
    with contextlib.suppress(AssertionError):
        until(lambda: len(workers.lines("begin")) > begun + 1, 3.0)
    assert len(workers.lines("begin")) <= begun + 1, "the one that was in hand ended, nothing new began"
    commit(20)
    until(lambda: kafka.lag(settings, "search", "problems") == 0, 90)
    assert stop(worker) == 0
    workers.close()
    assert set(answers(settings)) == {f"p{i}" for i in range(40)}
