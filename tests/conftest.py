"""Fixtures every folder shares: a real broker for each test, and settings that point at it.

Without KAFKA_BOOTSTRAP each test starts its own embedded broker (milliseconds). With it, the same tests run against
that cluster, and the factory's topics and groups are deleted before each test.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.broker import EmbeddedBroker
from processors import kafka
from schemas.load import load
from schemas.settings import Settings
from schemas.topics import TOPICS

STAGES = ("search", "linearize", "verify", "sample", "sink", "rl", "evaluate", "sft", "produce", "prompts")


REAL_RUN = ("e2e/test_up.py", "e2e/test_studio_in_browser.py")
"""Files that look at one run of the factory, which takes minutes: they share a process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes begin first."""
    items.sort(key=lambda item: not {"e2e", "crash"} & set(item.path.parts))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """The tests of a file share a process. (xdist 3.8's own marks for groups do nothing under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "the real run" if file.endswith(REAL_RUN) else file

    return ByFile(config, log)


def wipe(settings: Settings) -> None:
    with kafka.admin(settings) as admin:
        names = {topic.name for topic in TOPICS}
        there = names & set(admin.list_topics())
        if there:
            admin.delete_topics(sorted(there))
        deadline = time.monotonic() + 30
        while names & set(admin.list_topics()):
            assert time.monotonic() < deadline, "topics were not deleted"
            time.sleep(0.1)
        # A worker that a test killed is a member until its session ends; deleted topics leave offsets behind otherwise.
        while "NonEmptyGroupError" in admin.delete_groups(list(STAGES)).values():
            assert time.monotonic() < deadline, "a group still has members"
            time.sleep(0.5)


@pytest.fixture(scope="session")
def wipe_cluster() -> Callable[[], None]:
    """wipe_cluster() makes the cluster that KAFKA_BOOTSTRAP names as new; nothing where it names none."""

    def clean() -> None:
        if cluster := os.environ.get("KAFKA_BOOTSTRAP", ""):
            wipe(load(environment={}, flags=[f"broker.bootstrap={cluster}"]))

    return clean


@pytest.fixture
def make_settings(tmp_path) -> Callable[..., Settings]:
    """make_settings("search.k=2", ...) gives settings with this test's own data directory; no broker."""

    def make(*flags: str, **environment: str) -> Settings:
        return load(environment=environment, flags=[f"factory.data={tmp_path / 'data'}", *flags])

    return make


@pytest.fixture
def broker(make_settings, wipe_cluster) -> Iterator[str]:
    """HOST:PORT of a broker without topics, for this test alone."""
    cluster = os.environ.get("KAFKA_BOOTSTRAP", "")
    if cluster:
        wipe_cluster()
        yield cluster
        return
    with EmbeddedBroker(make_settings()) as embedded:
        yield embedded.address


@pytest.fixture
def factory_settings(broker, make_settings) -> Callable[..., Settings]:
    """factory_settings("search.k=2", ...) gives settings with a broker, whose topics are created."""

    def make(*flags: str, **environment: str) -> Settings:
        settings = make_settings(f"broker.bootstrap={broker}", *flags, **environment)
        kafka.create_topics(settings)
        return settings

    return make


@pytest.fixture
def settings(factory_settings) -> Settings:
    """The default settings with this test's own broker and data directory; the topics are created."""
    return factory_settings()


@pytest.fixture
def send_all(settings) -> Callable[..., Any]:
    """send_all(message, ...) publishes messages and waits until the broker has them."""

    def send(*messages: Any) -> None:
        producer = kafka.producer(settings)
        futures = [kafka.send(producer, message) for message in messages]
        producer.flush(30)
        for future in futures:
            future.get(1)
        producer.close()

    return send


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory) -> Iterator[str]:
    """http://HOST:PORT of a local S3 server."""
    told = tmp_path_factory.mktemp("s3") / "port"
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("s3_server.py")), str(told)], stdin=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not told.exists():
        assert process.poll() is None, "the S3 server ended"
        assert time.monotonic() < deadline, "the S3 server did not start"
        time.sleep(0.05)
    yield f"http://127.0.0.1:{told.read_text()}"
    process.communicate()


@pytest.fixture(scope="session")
def make_store(s3_server) -> Callable[[pytest.MonkeyPatch], str]:
    """make_store(monkeypatch) makes a bucket, tells the environment how to come there, and gives s3://BUCKET/run."""

    def make(environment: pytest.MonkeyPatch) -> str:
        bucket = f"bucket-{uuid.uuid4().hex[:12]}"
        httpx.put(f"{s3_server}/{bucket}").raise_for_status()
        environment.setenv("AWS_ENDPOINT_URL", s3_server)
        environment.setenv("AWS_REGION", "us-east-1")
        environment.setenv("AWS_ACCESS_KEY_ID", "TESTKEYID")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        return f"s3://{bucket}/run"

    return make


@pytest.fixture
def store(make_store, monkeypatch) -> str:
    """A new store; see make_store."""
    return make_store(monkeypatch)
