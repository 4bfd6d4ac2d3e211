"""A broker to send to, whether the factory runs or not: the one that runs, or this data directory's own for a moment.

Without a running factory the embedded broker is started, fed, and followed by a sink until everything that was sent is
in the tables, which are its memory; the stages go on with it when the factory is started again.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.broker import EmbeddedBroker
from deploy.feeding import in_tables, save_offsets
from deploy.local import InUse, hold
from processors import kafka
from processors.dataset import Datasets
from processors.owning import owned
from processors.sink import Sink
from processors.status import Status
from schemas.errors import Told
from schemas.settings import Settings
from schemas.tables import TABLES
from schemas.topics import TOPICS

WRITE_S = 600.0
POLL_S = 0.2


class NotWritten(Told, RuntimeError):
    """What was sent did not get into the tables; the text says what to do."""


@contextlib.contextmanager
def a_broker(settings: Settings) -> Iterator[bool]:
    """A broker answers while the block lasts; yields whether it was there before.

    Raises:
        BrokerMissing: a cluster that the settings name does not answer.
        InUse: a factory runs, and its broker does not answer (yet).
        TableBusy: no broker runs, but a sink does.
        NotWritten: see there.
    """
    try:
        kafka.topic_ids(settings)
    except kafka.BrokerMissing:
        if settings.broker.bootstrap:
            raise
    else:
        kafka.create_topics(settings)  # a running factory may be older than a topic
        yield True
        return
    data = Path(settings.factory.data)
    try:
        lock = hold(data)
    except InUse:
        raise InUse(f"{data}: a factory runs there whose broker does not answer: try again in a moment") from None
    broker = EmbeddedBroker(settings)
    try:
        broker.open()
        with _sinking(settings, Datasets.of(settings)):
            yield False
        save_offsets(settings, wait_s=POLL_S)
    finally:
        broker.stop()
        lock.close()


@contextlib.contextmanager
def _sinking(settings: Settings, datasets: Datasets) -> Iterator[None]:
    """A sink runs while the block lasts, and until the tables hold what the topics hold."""
    stopping = threading.Event()
    with contextlib.ExitStack() as stack:
        for name in TABLES:
            stack.enter_context(owned(datasets.root, name, wait_s=1.0))
        sink = Sink(settings, datasets, [topic.name for topic in TOPICS], Status(settings, "sink"))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        session = pool.submit(sink.session, stopping)
        try:
            yield
            ids = kafka.topic_ids(settings)
            ends = kafka.highwater(settings, [topic.name for topic in TOPICS])
            deadline = time.monotonic() + WRITE_S
            while not session.done() and not in_tables(settings, ids, ends):
                if time.monotonic() > deadline:
                    raise NotWritten(f"the tables did not take everything within {WRITE_S:g} s: run the command again")
                time.sleep(POLL_S)
        finally:
            stopping.set()
        session.result()
