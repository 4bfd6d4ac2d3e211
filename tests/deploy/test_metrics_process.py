"""A stage as its user starts it, on a real broker: scraped while it works, found by its file, gone when it ends."""

import json
import signal
import socket
import subprocess
import sys
import time
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from schemas import messages as m

TREE = m.Tree(
    id="t1",
    problem=m.Problem(id="p1", question="1+1", answer="2", grader="numeric", source="s"),
    nodes=[
        m.Node(id=0, parent=-1, depth=0, text="", token_ids=[]),
        m.Node(id=1, parent=0, depth=1, text="Answer: 2", token_ids=[], terminal=True, answer="2", verdict="correct"),
    ],
    policy_version=0,
    policy_sha="",
    seed=0,
    iterations=0,
    generated_tokens=0,
    prompt_tokens=0,
    requests=0,
    seconds=0.0,
    solved=True,
)


@pytest.fixture
def started(settings, tmp_path):
    """started(stage, flag, ...) starts a stage on the test's broker and data directory."""
    children = []

    def start(*words):
        command = [sys.executable, "-m", "deploy.cli", *words, "--broker", settings.broker.bootstrap]
        log = (tmp_path / f"{words[0]}.log").open("w+")
        child = subprocess.Popen([*command, "--data", settings.factory.data], stdout=log, stderr=log, text=True)
        children.append(child)
        return child, log

    yield start
    for child in children:
        child.kill()
        child.wait()


def scraped(address):
    with urlopen(f"http://{address}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            sample.name: sample.value for family in families for sample in family.samples if "le" not in sample.labels
        }


def until(found, seconds=60):
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return value


def test_words_are_scraped_while_they_work(settings, send_all, started, tmp_path):
    send_all(TREE)
    child, _ = started("host", "linearize", "verify")
    (file,) = until(lambda: list((tmp_path / "data" / "metrics").glob("*.json")))
    ((target,),) = [group["targets"] for group in json.loads(file.read_text())]
    assert target.startswith("127.0.0.1:")
    until(lambda: scraped(target)["factory_verify_records_total"] >= 1)
    found = until(lambda: (now := scraped(target)) and "factory_verify_lag" in now and now)
    assert found["factory_linearize_records_total"] == 1
    assert found["factory_linearize_duration_seconds_count"] == 1
    assert found["factory_linearize_errors_total"] == found["factory_verify_errors_total"] == 0
    assert 0 <= found["factory_linearize_lag"] <= 1
    (status,) = (tmp_path / "data" / "status").glob("verify-*.json")
    told = until(lambda: (now := json.loads(status.read_text()))["records"] and now)
    assert told["metrics"] == f"http://{target}/metrics"
    assert told["records"] == found["factory_verify_records_total"]
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0
    assert not file.exists()
    assert not list((tmp_path / "data" / "status").glob("*.json"))


def test_a_port_that_is_taken_ends_the_stage_with_a_sentence(settings, started):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        child, log = started("host", "verify", "--set", f"metrics.port={port}")
        assert child.wait(60) == 2
    log.seek(0)
    assert f"factory: metrics.host = 127.0.0.1, metrics.port = {port}: the port is in use" in log.read()
