"""A whole running factory loses its embedded broker twice: one is killed, one is drained at its memory limit.

Both times it goes on, and afterwards nothing is lost and nothing is there twice.
"""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from commands import CLUSTER, FACTORY, ask, flags, look, twice, until

from deploy.feeding import unanswered
from deploy.ledger import STEPS
from processors import kafka
from processors.dataset import Datasets
from schemas.load import load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(bool(CLUSTER), reason="the embedded broker only"),
]

LIMIT_MB = 150
FLOWING = ("problems", "trees", "traces", "examples")


def address(data: Path) -> dict[str, Any]:
    try:
        return json.loads((data / "broker.json").read_bytes())
    except FileNotFoundError:
        return {"pid": 0}


def started(data: Path) -> int:
    """Another number with each start of all processes."""
    try:
        return (data / "state" / "settings.json").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def rows(data: Path) -> dict[str, int]:
    """Rows of the flowing tables."""
    query = "SELECT " + ", ".join(f'(SELECT count(*) FROM "{name}")' for name in FLOWING)
    return dict(zip(FLOWING, look(data, query) or [0] * len(FLOWING), strict=True))


def ballast(data: Path) -> None:
    """Make the broker grow past its limit by a topic that nobody reads."""
    settings = load(environment={}, flags=[f"factory.data={data}", "broker.compression=none"])
    with kafka.admin(settings) as admin:
        admin.create_topics({"ballast": {"num_partitions": 1, "replication_factor": 1}})
        admin.wait_for_topics(["ballast"], timeout_ms=10_000)
    producer = kafka.producer(settings)
    for _ in range(LIMIT_MB // 10):
        producer.send("ballast", value=os.urandom(10_000_000)).get(30)
    producer.close()


def forgotten(data: Path) -> dict[str, set[str]]:
    """The rows without an answer that are not on the present broker's topics either."""
    settings = load(environment={}, flags=[f"factory.data={data}"])
    found = {}
    for step in STEPS:
        with Datasets(data / "datasets").connect() as connection:
            query = f'SELECT id FROM "{step.input}" WHERE {unanswered(step)}'
            open_ids = {key for (key,) in connection.execute(query).fetchall()}
        there = {json.loads(record.value)["id"] for record in kafka.tail(settings, step.input, {})}
        if open_ids - there:
            found[step.input] = open_ids - there
    return found


def test_the_factory_goes_on_without_loss_when_its_broker_is_killed_or_drained(tmp_path: Path) -> None:
    data = tmp_path / "data"
    log = tmp_path / "up.log"
    options = flags(data, sink__flush_s=1, evaluate__problems=4, broker__memory_limit_mb=LIMIT_MB)
    with log.open("wb") as out:
        child = subprocess.Popen([*FACTORY, "up", *options, "--for", "6m"], stdout=out, stderr=out)

    def grown(before: dict[str, int]) -> bool:
        now = rows(data)
        return all(now[name] > before[name] for name in FLOWING)

    def another(broker: dict[str, Any]) -> bool:
        return address(data)["pid"] not in {0, broker["pid"]}

    try:
        until(lambda: grown(dict.fromkeys(FLOWING, 0)), 120, child, "examples")
        first, begun = address(data), started(data)
        os.kill(first["pid"], signal.SIGKILL)
        until(lambda: another(first), 60, child, "another broker after the first was killed")
        until(lambda: started(data) != begun, 60, child, "processes on it, once it was fed and its limit was set")
        second, before = address(data), rows(data)
        ballast(data)
        until(lambda: another(second), 120, child, "another broker after the second had grown too large")
        until(lambda: grown(before), 120, child, "growth on the third")
        assert forgotten(data) == {}
        assert ask(data, "ledger")["online"] is True
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == 0, log.read_text()[-4000:]
    finally:
        child.kill()
    ledger = ask(data, "ledger")
    assert ledger["closes"] is True, ledger
    assert [line["lost"] for line in ledger["stages"]] == [0] * len(ledger["stages"])
    assert twice(data) == {}
    assert "broker started anew 2 time(s)" in log.read_text()
