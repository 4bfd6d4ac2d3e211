import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from deploy.broker import BrokerRuns, EmbeddedBroker
from processors import kafka
from processors.kafka import BrokerMissing, EmbeddedAddress
from processors.status import alive
from schemas import messages as m
from schemas.topics import TOPICS

ROOT = Path(__file__).parents[2]


def problem(number, size=1):
    return m.Problem(id=f"p{number}", question="x" * size, answer="2", source="t")


def test_it_announces_itself_and_leaves_nothing_behind(make_settings, tmp_path):
    settings = make_settings()
    with EmbeddedBroker(settings) as broker:
        assert broker.alive()
        assert kafka.bootstrap(settings) == broker.address
        kafka.create_topics(settings)
        assert set(kafka.highwater(settings, ["weights"]).values()) == {0}
        pid = broker.process.pid
    assert not alive(pid)
    assert not (tmp_path / "data" / "broker.json").exists()
    with pytest.raises(BrokerMissing, match="does not exist"):
        kafka.bootstrap(settings)


def test_a_dead_broker_is_not_taken_for_a_live_one(make_settings):
    settings = make_settings()
    with EmbeddedBroker(settings) as broker:
        broker.process.kill()
        broker.process.wait()
        assert not broker.alive()
        assert broker.rss_mb() == 0
        with pytest.raises(BrokerMissing, match="has ended"):
            kafka.bootstrap(settings)
        broker.start()
        kafka.create_topics(settings)


def test_a_taken_port_is_said_in_one_sentence(make_settings):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BrokerMissing, match=f"port {port} is taken"):
            EmbeddedBroker(make_settings(), port).start()


def test_its_memory_is_measured_and_limited(make_settings):
    settings = make_settings("broker.memory_limit_mb=60", "broker.compression=none")
    with EmbeddedBroker(settings) as broker:
        kafka.create_topics(settings)
        before = broker.rss_mb()
        assert 0 < before < 60
        assert not broker.over_limit()
        producer = kafka.producer(settings)
        for number in range(12):
            kafka.send(producer, problem(number, 8_000_000)).get(30)
        producer.close()
        assert broker.rss_mb() > before + 60
        assert broker.over_limit()


def test_a_limit_below_what_it_needs_does_not_start_it_anew_for_ever(make_settings):
    broker = EmbeddedBroker(make_settings("broker.memory_limit_mb=1", "broker.compression=none"))
    try:
        assert broker.open() == 0
        assert broker.rss_mb() > 1
        assert not broker.over_limit()
        producer = kafka.producer(broker.settings)
        for number in range(8):
            kafka.send(producer, problem(number, 8_000_000)).get(30)
        producer.close()
        assert broker.over_limit()
    finally:
        broker.stop()


def test_a_broker_of_its_own_command_is_started_anew_when_it_dies(make_settings, tmp_path):
    settings = make_settings()
    announced = tmp_path / "data" / "broker.json"
    command = [sys.executable, "-m", "deploy.cli", "broker", "--data", settings.factory.data]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        for turn in range(2):
            assert server.stdout.readline().startswith(b"broker at 127.0.0.1:")
            assert len(kafka.topic_ids(settings)) == len(TOPICS)
            if turn == 0:
                os.kill(msgspec.json.decode(announced.read_bytes(), type=EmbeddedAddress).pid, signal.SIGKILL)
        server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
        assert not announced.exists()
    finally:
        server.kill()
        server.stdout.close()


def test_a_worker_without_a_broker_says_so_and_may_be_started_again_by_its_supervisor(make_settings):
    settings = make_settings()
    command = [sys.executable, "-m", "deploy.cli", "sink", "--data", settings.factory.data, "--broker", "127.0.0.1:9"]
    command += ["--set", "broker.connect_timeout_s=1"]
    for parent, code in (([], 2), (["--parent", str(os.getpid())], 1)):
        done = subprocess.run([*command, *parent], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == code, done.stderr
        assert "no broker answered at 127.0.0.1:9" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_second_one_beside_it_is_refused_and_an_orphan_is_taken_over(make_settings, tmp_path):
    settings = make_settings()
    with EmbeddedBroker(settings) as broker:
        second = EmbeddedBroker(settings)
        with pytest.raises(BrokerRuns, match=broker.address):
            second.start()
        second.stop()
        assert kafka.bootstrap(settings) == broker.address, "the announcement is still there"
    file = tmp_path / "settings.json"
    file.write_bytes(msgspec.json.encode(settings))
    code = (
        "import sys, time, msgspec; from deploy.broker import EmbeddedBroker; from schemas.settings import Settings;"
        "EmbeddedBroker(msgspec.json.decode(open(sys.argv[1],'rb').read(), type=Settings)).start(); time.sleep(600)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=ROOT)
    announced = tmp_path / "data" / "broker.json"
    deadline = time.monotonic() + 30
    while not announced.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    orphan = msgspec.json.decode(announced.read_bytes(), type=EmbeddedAddress)
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    assert alive(orphan.pid)
    with EmbeddedBroker(settings) as broker:
        assert not alive(orphan.pid)
        assert broker.alive()
