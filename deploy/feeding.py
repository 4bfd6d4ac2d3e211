"""What an embedded broker forgot, given back to it from the tables; and its offsets, saved for when it is gone.

The tables are the memory of an embedded broker: after a start its topics get again whatever has no answer yet, which is
the ledger's own question (deploy/ledger.py lists the steps). What an unclean death cost is what had not reached a
table: its inputs are fed again, so at most one flush interval is repeated.
"""

import time
from pathlib import Path

import msgspec

from deploy.ledger import STEPS, Step
from deploy.ledger_facts import GROUPS, SavedOffsets
from processors import kafka
from processors.dataset import Datasets, app_id
from processors.large import packed
from schemas.messages import Weights
from schemas.settings import Settings
from schemas.topics import BY_NAME, TOPICS, message_key

POLL_S = 0.3
SEND_S = 60.0


def unanswered(step: Step) -> str:
    """The SQL condition over a step's input table: no answer, no stated reason, no dead letter."""
    answers = f'SELECT id FROM (SELECT {step.answer} FROM "{step.output}") WHERE id IS NOT NULL'  # noqa: S608 - ours
    reasons = " AND ".join(
        f"id NOT IN (SELECT input_id FROM {table} WHERE stage = '{step.stage}')"  # noqa: S608 - our own names
        for table in ("filtered", "dead_letters")
    )
    return f"id NOT IN ({answers}) AND {reasons}"


def feed_again(settings: Settings) -> dict[str, int]:
    """Create the topics and produce, from the tables, every version of the weights and every message without an answer.

    Returns:
        Messages produced, by topic.

    Raises:
        BrokerMissing: when no broker answers.
        KafkaError: when a message was not acknowledged.
    """
    kafka.create_topics(settings)
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    datasets.create()
    pin = datasets.versions()
    wanted = [("weights", "")] + [(step.input, unanswered(step)) for step in STEPS]
    producer = kafka.producer(settings)
    counts: dict[str, int] = {}
    sent = []
    for topic, where in wanted:
        kind = Weights if topic == "weights" else BY_NAME[topic].message
        futures = [
            producer.send(topic, key=message_key(message), value=packed(settings, message))
            for message in datasets.messages(kind, where, pin)
        ]
        counts[topic] = len(futures)
        sent += futures
    producer.flush(SEND_S)
    for future in sent:
        future.get(timeout=SEND_S)
    producer.close()
    return counts


def save_offsets(settings: Settings, wait_s: float) -> bool:
    """Write data/state/offsets.json, where the ledger finds what was committed once the embedded broker is gone.

    Committed offsets are read first and written only when everything that the topics held then is in the tables: an
    offset in the file is never ahead of its answers.

    Args:
        settings: the broker and the data directory.
        wait_s: how long to wait for the sinks; the file is left as it was when they are behind for longer.

    Returns:
        Whether it was written.
    """
    ids = kafka.topic_ids(settings)
    committed = {group: kafka.committed(settings, group) for group in GROUPS}
    ends = kafka.highwater(settings, [topic.name for topic in TOPICS])
    deadline = time.monotonic() + wait_s
    while not in_tables(settings, ids, ends):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    groups: dict[str, dict[str, dict[str, int]]] = {}
    for group, offsets in committed.items():
        for (topic, partition), offset in offsets.items():
            groups.setdefault(group, {}).setdefault(topic, {})[str(partition)] = offset
    path = Path(settings.factory.data) / "state" / "offsets.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(SavedOffsets(topic_ids=ids, groups=groups, clean=True)))
    temporary.replace(path)
    return True


def in_tables(settings: Settings, ids: dict[str, str], ends: dict[tuple[str, int], int]) -> bool:
    """Whether the tables hold (or have deliberately skipped) every record below these high watermarks."""
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    for topic in TOPICS:
        held = datasets.offsets(topic.table)
        for (name, partition), end in ends.items():
            if name == topic.name and held.get(app_id(topic.table, ids[name], partition), -1) < end - 1:
                return False
    return True
