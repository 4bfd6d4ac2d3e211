"""The parts that trainer tests are made of: a factory with a real sink, and a trainer in a thread."""

import threading
import time

from processors import kafka
from processors.dataset import Datasets
from processors.sink import Sink
from processors.status import Status
from schemas.codec import decode
from schemas.topics import BY_MESSAGE, BY_NAME, TOPICS


class Factory:
    """Settings with a broker, tables and a running sink."""

    def __init__(self, settings) -> None:
        self.settings = settings
        self.datasets = Datasets.of(settings)
        self.datasets.create()
        self.start()

    def start(self) -> None:
        """Start the sink."""
        self.stopping = threading.Event()
        sink = Sink(self.settings, self.datasets, [topic.name for topic in TOPICS], Status(self.settings, "sink"))
        self.thread = threading.Thread(target=sink.session, args=(self.stopping,))
        self.thread.start()

    def send(self, *messages) -> None:
        producer = kafka.producer(self.settings)
        futures = [kafka.send(producer, message) for message in messages]
        for future in futures:
            future.get(30)
        producer.close()

    def table(self, *messages) -> None:
        """Send messages and wait until they are rows."""
        self.send(*messages)
        name = BY_MESSAGE[type(messages[0])].table
        wanted = {message.id for message in messages}
        until(lambda: wanted <= self.datasets.ids(name))

    def topic(self, kind) -> list:
        """Every message of a topic."""
        name = BY_MESSAGE[kind].name
        return [decode(record.value, BY_NAME[name].message) for record in kafka.tail(self.settings, name, {})]

    def rows(self, kind, where: str = "") -> list:
        return list(self.datasets.messages(kind, where))

    def close(self) -> None:
        self.stopping.set()
        self.thread.join(30)


def until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


class Trainer:
    """A trainer's `run` in a thread, as its process would run it."""

    def __init__(self, main, settings, stage: str) -> None:
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self.status = Status(settings, stage)
        self.thread = threading.Thread(target=self._run, args=(main, settings))
        self.thread.start()

    def _run(self, main, settings) -> None:
        try:
            main(settings, self.status, self.stop)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.error = error

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        if self.error:
            raise self.error

    def until(self, condition, seconds: float = 60.0) -> None:
        until(lambda: self.error is not None or condition(), seconds)
        if self.error:
            raise self.error
