"""Everything that was ever said on a topic: the table's rows, then the records that no sink has written yet.

A process that must know what it did before it was restarted asks this, and so needs no state file of its own: the
log and the tables cannot disagree with what was really published.
"""

from collections.abc import Iterator
from typing import TypeVar

from processors import kafka
from processors.dataset import Datasets, app_id
from processors.large import unpacked
from schemas.codec import BadMessage, decode
from schemas.messages import Message
from schemas.settings import Settings
from schemas.topics import BY_MESSAGE

M = TypeVar("M", bound=Message)


def history(settings: Settings, kind: type[M], where: str = "") -> Iterator[M]:
    """The messages of a type, oldest first; a message that was fed again comes twice.

    Args:
        settings: the data directory and the broker.
        kind: the message type, which names topic and table.
        where: a SQL condition on the table's rows (ours, never a user's); the topic's tail is not filtered by it.

    Raises:
        BrokerMissing: when no broker answers.
    """
    topic = BY_MESSAGE[kind]
    datasets = Datasets.of(settings)
    start: dict[int, int] = {}
    if topic.table in datasets.place.names():
        version = datasets.table(topic.table).version()
        start = beyond(settings, datasets, kind, version)
        yield from datasets.messages(kind, where, {topic.table: version})
    for record in kafka.tail(settings, topic.name, start):
        try:
            yield decode(unpacked(settings, record.value), kind)
        except BadMessage:
            continue  # the sink writes its dead letter


def beyond(settings: Settings, datasets: Datasets, kind: type[Message], version: int | None = None) -> dict[int, int]:
    """By partition, the first offset of the topic that its table (at that version) does not hold yet."""
    topic = BY_MESSAGE[kind]
    identity = kafka.topic_ids(settings).get(topic.name)
    if identity is None:
        return {}
    prefix = app_id(topic.table, identity, 0).rpartition(":")[0] + ":"
    held = datasets.offsets(topic.table, version)
    return {int(app.rpartition(":")[2]): at + 1 for app, at in held.items() if app.startswith(prefix)}
