"""kafka-python with this factory's settings in one place, because its defaults lose or refuse our messages.

Its defaults start at the end of a topic, commit by themselves, read uncommitted records and cap messages at 1 MiB.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaConfigurationError, KafkaError, TopicAlreadyExistsError

from processors.access import advice, client_options
from processors.status import alive
from schemas.codec import encode
from schemas.errors import Told
from schemas.messages import Message
from schemas.settings import Settings
from schemas.topics import BY_MESSAGE, TOPICS, message_key

FETCH_BYTES = 1 << 20
"""Of a partition at a time, whatever waits there; a larger message comes alone. It bounds what a consumer holds."""
PAUSE_S = 0.2
STALL_S = 30.0
"""A read that makes no progress for this long gives up with a clear error."""


class BrokerMissing(Told, RuntimeError):
    """No broker answers; the text says where it was looked for and what to do."""


class EmbeddedAddress(msgspec.Struct, frozen=True):
    """data/broker.json: where the embedded broker of a data directory listens."""

    bootstrap: str
    pid: int
    owner: int = 0
    """The process that started it and will stop it."""


def address_file(settings: Settings) -> Path:
    """The file in which the embedded broker announces itself."""
    return Path(settings.factory.data) / "broker.json"


def bootstrap(settings: Settings) -> str:
    """HOST:PORT[,HOST:PORT...] of the cluster, or else of this data directory's embedded broker.

    Raises:
        BrokerMissing: when neither is there.
    """
    if settings.broker.bootstrap:
        return settings.broker.bootstrap
    path = address_file(settings)
    hint = "start one with `factory up` or `factory broker`, or name a cluster with --broker HOST:PORT"
    try:
        address = msgspec.json.decode(path.read_bytes(), type=EmbeddedAddress)
    except FileNotFoundError:
        raise BrokerMissing(f"no broker: {path} does not exist; {hint}") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise BrokerMissing(f"no broker: {path} cannot be read ({error}); {hint}") from error
    if not alive(address.pid):
        raise BrokerMissing(f"no broker: the one in {path} (process {address.pid}) has ended; {hint}")
    return address.bootstrap


def _common(settings: Settings) -> dict[str, Any]:
    return {
        "bootstrap_servers": bootstrap(settings).split(","),
        "bootstrap_timeout_ms": int(settings.broker.connect_timeout_s * 1000),
        "reconnect_backoff_max_ms": 2000,
        "allow_auto_create_topics": False,
        "receive_message_max_bytes": 1_000_000_000,
        "metrics_enabled": False,
        **client_options(settings),
    }


@contextlib.contextmanager
def _reaching(settings: Settings) -> Iterator[None]:
    try:
        yield
    except KafkaConfigurationError:
        raise
    except (KafkaError, OSError) as error:
        where = bootstrap(settings)
        raise BrokerMissing(
            f"no broker answered at {where} within {settings.broker.connect_timeout_s:g} s ({type(error).__name__}): "
            f"start it, or name another with --broker HOST:PORT{advice(settings)}"
        ) from error


def producer(settings: Settings, **options: Any) -> KafkaProducer:  # noqa: ANN401 - kafka-python's own options
    """An idempotent producer (acks=all) that takes messages up to the factory's size limit.

    Raises:
        BrokerMissing: when no broker answers within broker.connect_timeout_s.
    """
    codec = settings.broker.compression
    config = {
        **_common(settings),
        "acks": "all",
        "enable_idempotence": True,
        "max_request_size": settings.broker.message_max_bytes,
        "compression_type": None if codec == "none" else codec,
        "linger_ms": 5,
        **options,
    }
    with _reaching(settings):
        return KafkaProducer(**config)


def consumer(
    settings: Settings,
    topics: Iterable[str] = (),
    group: str | None = None,
    **options: Any,  # noqa: ANN401 - kafka-python's own options
) -> KafkaConsumer:
    """A consumer from the earliest record, without auto-commit.

    Args:
        settings: broker limits and timeouts.
        topics: with a group they are subscribed; without one, all their partitions are assigned (no 3 s wait).
        group: the consumer group, None = none.
        options: overrides of kafka-python's settings.

    Raises:
        BrokerMissing: when no broker answers, or a topic has not been created.
    """
    names = list(topics)
    broker = settings.broker
    config = {
        **_common(settings),
        "group_id": group,
        "auto_offset_reset": "earliest",
        "enable_auto_commit": False,
        "isolation_level": "read_committed",
        "fetch_max_wait_ms": 200,
        "max_partition_fetch_bytes": FETCH_BYTES,
        "session_timeout_ms": broker.session_timeout_ms,
        "heartbeat_interval_ms": broker.session_timeout_ms // 3,
        "max_poll_interval_ms": broker.rebalance_timeout_ms,
        **options,
    }
    with _reaching(settings):
        made = KafkaConsumer(**config)
        if names and group is not None:
            made.subscribe(names)
        elif names:
            made.assign(partitions(made, names))
    return made


def partitions(client: KafkaConsumer, topics: Iterable[str]) -> list[TopicPartition]:
    """All partitions of the topics, in order.

    Raises:
        BrokerMissing: for a topic that the broker does not have.
    """
    found: list[TopicPartition] = []
    for topic in topics:
        numbers = client.partitions_for_topic(topic)
        if not numbers:
            raise BrokerMissing(f"the broker has no topic {topic!r}: create the topics with `factory topics create`")
        found += [TopicPartition(topic, number) for number in sorted(numbers)]
    return found


@contextlib.contextmanager
def admin(settings: Settings) -> Iterator[KafkaAdminClient]:
    """An admin client, closed on leaving.

    Raises:
        BrokerMissing: when no broker answers within broker.connect_timeout_s.
    """
    config = {name: value for name, value in _common(settings).items() if name in KafkaAdminClient.DEFAULT_CONFIG}
    with _reaching(settings):
        client = KafkaAdminClient(**config)
    try:
        yield client
    finally:
        client.close()


def send(client: KafkaProducer, message: Message, partition: int | None = None) -> Any:  # noqa: ANN401 - kafka-python's future
    """Send a message to its topic under its key; the returned future's .get() raises where it was not acknowledged.

    `partition` None = by the key's hash; a producer that feeds one worker a partition spreads them evenly itself.
    """
    topic = BY_MESSAGE[type(message)].name
    return client.send(topic, value=encode(message), key=message_key(message), partition=partition)


def topic_config(settings: Settings) -> dict[str, str]:
    """The broker-side settings a topic is created with.

    All is kept for replays: compacting `weights` by its key would forget versions that trees and evaluations name.
    """
    return {"max.message.bytes": str(settings.broker.message_max_bytes), "retention.ms": "-1"}


def create_topics(settings: Settings) -> list[str]:
    """Create the topics that are missing, with explicit partitions; returns the names of the new ones.

    A connection that is reset on the way is made again, for broker.connect_timeout_s.

    Raises:
        BrokerMissing, KafkaError: no broker answers, or it refuses.
    """
    deadline = time.monotonic() + settings.broker.connect_timeout_s
    while True:
        try:
            return _create_topics(settings)
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        time.sleep(PAUSE_S)


def _create_topics(settings: Settings) -> list[str]:
    with admin(settings) as client:
        there = set(client.list_topics())
        missing = [topic for topic in TOPICS if topic.name not in there]
        for topic in missing:
            wanted = {
                "num_partitions": topic.partitions(settings),
                "replication_factor": settings.broker.replication_factor,
                "configs": topic_config(settings),
            }
            # Two processes may create the same topic at the same moment: the loser has what it wanted.
            with contextlib.suppress(TopicAlreadyExistsError):
                client.create_topics({topic.name: wanted})
        client.wait_for_topics([topic.name for topic in TOPICS], timeout_ms=int(STALL_S * 1000))
    return [topic.name for topic in missing]


def topic_ids(settings: Settings) -> dict[str, str]:
    """The UUID of each of our topics that exists: a recreated topic starts again at offset 0 under another UUID.

    Raises:
        BrokerMissing: no broker answers, or it is busy with itself.
    """
    names = {topic.name for topic in TOPICS}
    with admin(settings) as client, _reaching(settings):
        described = client.describe_topics(sorted(names & set(client.list_topics())))
    return {topic["name"]: str(topic["topic_id"]) for topic in described if not topic["error_code"]}


def committed(settings: Settings, group: str) -> dict[tuple[str, int], int]:
    """The group's committed offsets (next to read) by (topic, partition); partitions without one are left out.

    Raises:
        BrokerMissing: as `topic_ids`.
    """
    with admin(settings) as client, _reaching(settings):
        offsets = client.list_group_offsets(group).get(group, {})
    return {(at.topic, at.partition): value.offset for at, value in offsets.items() if value.offset >= 0}


def highwater(settings: Settings, topics: Iterable[str]) -> dict[tuple[str, int], int]:
    """The offset after the last record of each partition.

    The embedded broker's end_offsets() counts the last batch as one record, so this seeks to what it says and takes
    the high watermark that comes with the fetched answer.

    Raises:
        BrokerMissing: when no answer comes within 30 s.
    """
    client = consumer(settings, topics, fetch_max_wait_ms=20, max_partition_fetch_bytes=65_536)
    try:
        return {(at.topic, at.partition): end for at, end in _ends(settings, client).items()}
    finally:
        client.close()


def _ends(settings: Settings, client: KafkaConsumer) -> dict[TopicPartition, int]:
    with _reaching(settings):
        assigned = sorted(client.assignment())
        for at, offset in client.end_offsets(assigned).items():
            client.seek(at, offset)
        found: dict[TopicPartition, int] = {}
        deadline = time.monotonic() + STALL_S
        while len(found) < len(assigned):
            client.poll(50)
            found = {at: end for at in assigned if (end := client.highwater(at)) is not None}
            if time.monotonic() > deadline:
                late = [f"{at.topic}/{at.partition}" for at in assigned if at not in found]
                raise BrokerMissing(f"no end offset of {', '.join(late)} came within {STALL_S:g} s")
    return found


def lag(settings: Settings, group: str, topic: str) -> int:
    """How many records of the topic lie at or beyond the group's committed offsets."""
    done = committed(settings, group)
    return _behind(done, highwater(settings, [topic]), topic)


def lags(settings: Settings) -> dict[tuple[str, str], int]:
    """`lag` of every (group, topic) of the factory, with one question a group and one for all topics' ends."""
    pairs = [(group, topic.name) for topic in TOPICS for group in topic.consumers]
    done = {group: committed(settings, group) for group in dict(pairs)}
    ends = highwater(settings, {topic for _, topic in pairs})
    return {(group, topic): _behind(done[group], ends, topic) for group, topic in pairs}


def consumes(settings: Settings, group: str, topic: str) -> bool:
    """Whether the group has ever committed anything of the topic; else it is not behind, it is not there."""
    return any(name == topic for name, _ in committed(settings, group))


def _behind(done: dict[tuple[str, int], int], ends: dict[tuple[str, int], int], topic: str) -> int:
    return sum(max(0, end - done.get(at, 0)) for at, end in ends.items() if at[0] == topic)


def tail(
    settings: Settings, topic: str, start: dict[int, int], ends: dict[tuple[str, int], int] | None = None
) -> Iterator[Any]:
    """The topic's records from given offsets to its present end, partition by partition interleaved.

    Args:
        settings: where the broker is.
        topic: its name.
        start: first offset by partition; a partition that is not named begins at its first record.
        ends: where to stop, by (topic, partition), where it was asked already (`highwater`); others are not read.

    Raises:
        BrokerMissing: when nothing arrives for 30 s although the end is not reached.
    """
    known = highwater(settings, [topic]) if ends is None else ends
    ends = {at: end for at, end in known.items() if end > start.get(at[1], 0)}
    client = consumer(settings)
    try:
        client.assign([TopicPartition(*at) for at in ends])
        for at in client.assignment():
            client.seek(at, start.get(at.partition, 0))
        deadline = time.monotonic() + STALL_S
        while any(client.position(TopicPartition(*at)) < end for at, end in ends.items()):
            for at, records in client.poll(100).items():
                deadline = time.monotonic() + STALL_S
                yield from (record for record in records if record.offset < ends[at.topic, at.partition])
            if time.monotonic() > deadline:
                raise BrokerMissing(f"topic {topic!r}: nothing came for {STALL_S:g} s before its end was reached")
    finally:
        client.close()


def write_address(settings: Settings, address: EmbeddedAddress) -> None:
    """Announce an embedded broker by rename."""
    path = address_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(address))
    temporary.replace(path)
