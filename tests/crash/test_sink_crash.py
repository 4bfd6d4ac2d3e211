"""SIGKILL while rows flow: every id is exactly once in its table, and nodes belong to the trees that are there."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from processors import kafka
from processors.dataset import Datasets
from schemas import messages as m

KILLS = 3
MAIN = (
    "import sys; from pathlib import Path; from schemas.load import load; from processors import sink; "
    "from processors.status import Status; s = load(environment={}, flags=sys.argv[1:]); "
    "sink.run(s, ['problems', 'trees', 'dead.letters'], Status(s, 'sink'))"
)


pytestmark = pytest.mark.slow


def start(settings):
    flags = [
        f"factory.data={settings.factory.data}",
        f"broker.bootstrap={settings.broker.bootstrap}",
        "sink.flush_s=0.1",
    ]
    return subprocess.Popen([sys.executable, "-c", MAIN, *flags], cwd=Path(__file__).parent.parent.parent)


class Flow(threading.Thread):
    """Problems, a tree for every seventh, copies and rubbish, until it is told that it is enough."""

    def __init__(self, settings):
        super().__init__()
        self.settings = settings
        self.enough = threading.Event()
        self.problems = self.trees = self.rubbish = 0

    def run(self):
        producer = kafka.producer(self.settings)
        while not self.enough.is_set():
            problem = m.Problem(id=f"p{self.problems}", question="q", answer="a", source="s")
            kafka.send(producer, problem)
            if self.problems % 7 == 0:
                kafka.send(producer, problem)  # a copy, as an at-least-once worker sends it
                kafka.send(producer, tree(self.trees, problem))
                self.trees += 1
            if self.problems % 50 == 0:
                producer.send("problems", value=b"not a message", key=str(self.problems).encode())
                self.rubbish += 1
            self.problems += 1
            time.sleep(0.005)
        producer.flush(30)
        producer.close()


def tree(number, problem):
    nodes = [m.Node(id=at, parent=at - 1, depth=at, text="x" * 50, token_ids=[1, 2, 3]) for at in range(30)]
    return m.Tree(
        id=f"t{number}",
        problem=problem,
        nodes=nodes,
        policy_version=0,
        policy_sha="",
        seed=0,
        iterations=1,
        generated_tokens=1,
        prompt_tokens=1,
        requests=1,
        seconds=0.0,
        solved=False,
    )


def ask(datasets, query):
    with datasets.connect() as connection:
        return connection.execute(query).fetchone()


def kill_in_the_middle(settings, datasets, moment):
    """Start a sink, let it commit something new, and kill it a little later."""
    before = ask(datasets, "select count(*) from problems")[0]
    process = start(settings)
    try:
        deadline = time.monotonic() + 60
        while ask(datasets, "select count(*) from problems")[0] <= before:
            assert process.poll() is None, "the sink ended by itself"
            assert time.monotonic() < deadline, "no row came"
            time.sleep(0.02)
        time.sleep(moment.uniform(0.0, 0.4))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_each_id_is_once_in_the_table_though_the_sink_is_killed_while_rows_flow(settings):
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    flow = Flow(settings)
    flow.start()
    moment = random.Random(5)
    try:
        for _ in range(KILLS):
            kill_in_the_middle(settings, datasets, moment)
            assert ask(datasets, "select count(*) = count(distinct id) from problems") == (True,)
    finally:
        flow.enough.set()
        flow.join()
    process = start(settings)
    try:
        wanted = (flow.problems, flow.trees, flow.rubbish)
        query = "select " + ", ".join(
            f"(select count(*) from {name})" for name in ("problems", "trees", "dead_letters")
        )
        deadline = time.monotonic() + 60
        while (found := ask(datasets, query)) != wanted:
            assert time.monotonic() < deadline, f"{found}, not {wanted}"
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
    for name, count in zip(("problems", "trees", "dead_letters"), wanted, strict=True):
        assert ask(datasets, f"select count(*), count(distinct id) from {name}") == (count, count)
    assert ask(datasets, "select count(*), count(distinct (tree_id, id)) from nodes") == (flow.trees * 30,) * 2
    assert ask(datasets, 'select count(distinct ("partition", "offset")) from dead_letters') == (flow.rubbish,)
