"""The user's commands with tables on S3: a sink that is killed, and readers that have another data directory."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from processors import kafka
from processors.dataset import Datasets
from schemas import messages as m

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def command(broker, store, tmp_path):
    """command("sql", ..., data="b") starts the command with that data directory on the store."""
    started = []

    def start(*words, data="a", online=True):
        flags = [
            "--data",
            str(tmp_path / data),
            "--set",
            f"factory.store={store}",
            *(["--broker", broker] if online else []),
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *words, *flags],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


class Flow(threading.Thread):
    """Problems, each seventh twice, until it is told that it is enough."""

    def __init__(self, settings):
        super().__init__()
        self.settings, self.enough, self.sent = settings, threading.Event(), 0

    def run(self):
        producer = kafka.producer(self.settings)
        while not self.enough.is_set():
            problem = m.Problem(id=f"p{self.sent}", question="q", answer="a", source="s")
            for _ in range(2 if self.sent % 7 == 0 else 1):
                kafka.send(producer, problem)
            self.sent += 1
            time.sleep(0.01)
        producer.flush(30)
        producer.close()


def count(datasets):
    return datasets.table("problems").count()


def until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.slow
def test_a_killed_sink_goes_on_without_duplicates_and_other_machines_read_the_tables(factory_settings, store, command):
    settings = factory_settings(f"factory.store={store}")
    datasets = Datasets.of(settings)
    datasets.create()
    flow = Flow(settings)
    flow.start()
    sink = command("sink", "--set", "sink.flush_s=0.2")
    until(lambda: count(datasets))
    sink.kill()
    sink.wait()
    flow.enough.set()
    flow.join()
    sink = command("sink", "--set", "sink.flush_s=0.2", data="c")  # on another machine
    until(lambda: count(datasets) >= flow.sent)
    sink.terminate()
    assert sink.wait(60) == 0

    asked, errors = (
        reader := command(
            "sql", "select count(*) as n, count(distinct id) as ids from problems", "--json", data="b", online=False
        )
    ).communicate()
    assert (reader.returncode, errors) == (0, "")
    assert json.loads(asked) == [{"n": flow.sent, "ids": flow.sent}]
    books, errors = (reader := command("ledger", "--json", data="b")).communicate()
    assert reader.returncode == 0, errors
    assert json.loads(books)["closes"]
    assert not list(Path(settings.factory.data).rglob("*.parquet"))
