"""Running a producer beside a test, and reading what it published."""

import contextlib
import threading
import time
from pathlib import Path

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from processors import kafka, sink
from processors.dataset import Datasets
from processors.status import Status
from schemas.codec import decode
from schemas.topics import BY_MESSAGE, TOPICS


def records(settings, kind):
    return list(kafka.tail(settings, BY_MESSAGE[kind].name, {}))


def published(settings, kind):
    return [decode(record.value, kind) for record in records(settings, kind)]


def until(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
    return found


class Running:
    """`main(settings, status, stop)` in a thread for as long as the block lasts; its error is raised at the end."""

    def __init__(self, main, settings):
        self.stop, self.status, self.error = threading.Event(), Status(settings, "produce"), None
        self.thread = threading.Thread(target=self._run, args=(main, settings), daemon=True)

    def _run(self, main, settings):
        try:
            main(settings, self.status, self.stop)
        except Exception as error:  # noqa: BLE001 - a thread's edge
            self.error = error

    def waiting(self, text, seconds=30.0):
        """Wait until the status says it waits for this."""
        until(lambda: self.error or text in self.status.read().get("waiting", ""), seconds)
        if self.error:
            raise self.error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(20)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error


def finish(main, settings, text):
    """Run until it waits for `text`; returns the status."""
    with Running(main, settings) as running:
        running.waiting(text)
    return running.status.read()


def commit(settings, group, topic, count):
    """Let a group have worked on the first `count` records of the topic (by partition, round)."""
    consumer = kafka.consumer(settings, group=group)
    done = {}
    for record in sorted(kafka.tail(settings, topic, {}), key=lambda one: (one.offset, one.partition))[:count]:
        done[TopicPartition(topic, record.partition)] = OffsetAndMetadata(record.offset + 1, "", -1)
    consumer.assign(list(done))
    consumer.commit(done)
    consumer.close()


@contextlib.contextmanager
def sinking(settings):
    """A sink that works for as long as the block lasts and flushes at its end."""

    def main(settings, status, stop):
        datasets = Datasets(Path(settings.factory.data) / "datasets")
        datasets.create()
        sink.Sink(settings, datasets, [topic.name for topic in TOPICS], status).session(stop)

    with Running(main, settings):
        yield
