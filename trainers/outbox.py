"""A trainer's messages are kept until a table shows them, because a broker that lives in memory can lose what it acked.

A message is sent at once and sent again when its row has not appeared after a while; ids make the copies harmless.
What is still unseen goes into the checkpoint, so a crash of trainer AND broker loses no step, verdict or version.
"""

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from processors import kafka
from processors.dataset import ID_COLUMNS, Datasets, quoted
from schemas.codec import BadMessage, decode, encode
from schemas.messages import Message, Weights
from schemas.settings import Settings
from schemas.topics import BY_MESSAGE, BY_NAME, message_id
from trainers.checkpoint import Outgoing

RESEND_S = 60.0
FLUSH_S = 60.0
Key = tuple[str, str]


class Outbox:
    """The way out of a trainer.

    Args:
        settings: the broker.
        datasets: where a message's row is looked for.
        resend_s: a row that is not there after this long is sent again.
    """

    def __init__(self, settings: Settings, datasets: Datasets, resend_s: float = RESEND_S) -> None:
        self._settings = settings
        self._producer = kafka.producer(settings)
        self._datasets = datasets
        self._resend_s = resend_s
        self._unseen: dict[Key, tuple[Message, float]] = {}
        self._futures: list[Any] = []

    def send(self, message: Message) -> None:
        """Send without waiting; see `flush`."""
        topic = BY_MESSAGE[type(message)]
        self._unseen[topic.name, message_id(message)] = (message, time.monotonic())
        self._futures.append(kafka.send(self._producer, message))

    def flush(self) -> None:
        """Wait until the broker has acknowledged everything.

        Raises:
            KafkaError: when it did not.
        """
        self._producer.flush(FLUSH_S)
        for future in self._futures:
            future.get(FLUSH_S)
        self._futures.clear()

    def confirm(self) -> int:
        """Forget the messages whose rows are in the tables, send old ones again. Returns how many are still unseen."""
        topics = {topic for topic, _ in self._unseen}
        if topics:
            self._forget(topics)
        now = time.monotonic()
        for message, sent in list(self._unseen.values()):
            if now - sent > self._resend_s:
                self.send(message)
        return len(self._unseen)

    def _forget(self, topics: Iterable[str]) -> None:
        tables = {topic: BY_NAME[topic].table for topic in topics}
        with self._datasets.connect(only=tables.values()) as connection:
            for topic, table in tables.items():
                column = f"CAST({ID_COLUMNS[table]} AS VARCHAR)"
                wanted = ", ".join(quoted(key) for name, key in self._unseen if name == topic)
                found = connection.execute(f'SELECT {column} FROM "{table}" WHERE {column} IN ({wanted})')  # noqa: S608
                for (key,) in found.fetchall():
                    self._unseen.pop((topic, key), None)

    def newest(self) -> Weights | None:
        """The newest version that was announced by anyone, or waits here to be."""
        found = announced(self._settings, self._datasets)
        found |= {row.version: row for row, _ in self._unseen.values() if isinstance(row, Weights)}
        return found[max(found)] if found else None

    def unseen(self) -> list[Outgoing]:
        """What a checkpoint has to hold."""
        return [Outgoing(topic, msgspec.Raw(encode(message))) for (topic, _), (message, _) in self._unseen.items()]

    def restore(self, outgoing: Sequence[Outgoing]) -> None:
        """Send what a checkpoint held and no table has."""
        for item in outgoing:
            message = msgspec.json.decode(item.body, type=BY_NAME[item.topic].message)
            self._unseen[item.topic, message_id(message)] = (message, -math.inf)
        self.confirm()

    def close(self) -> None:
        """Close the producer."""
        self._producer.close(10)


def announced(settings: Settings, datasets: Datasets) -> dict[int, Weights]:
    """Every version of the policy that the topic or the table has."""
    found = list(datasets.messages(Weights))
    for record in kafka.tail(settings, "weights", {}):
        try:
            found.append(decode(record.value, Weights))
        except BadMessage:
            continue  # the sink dead-letters it
    return {row.version: row for row in found if row.policy == settings.policy.name}
