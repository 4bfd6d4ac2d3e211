"""What an embedded broker forgot, given back to it from the tables; and its offsets, saved for when it is gone.

The tables are the memory of an embedded broker: after a start its topics get again whatever has no answer yet, which is
the ledger's own question (deploy/ledger.py lists the steps). What an unclean death cost is what had not reached a
table: its inputs are fed again, so at most one flush interval is repeated.
"""

import time
from pathlib import Path

import msgspec

from deploy.ledger import STEPS, Step
from deploy.ledger_facts import GROUPS, OPEN, SavedOffsets, read_saved
from processors import kafka
from processors.dataset import Datasets, app_id, quoted
from processors.large import packed
from schemas.messages import Weights
from schemas.settings import Settings
from schemas.topics import BY_NAME, TOPICS, message_key

POLL_S = 0.3
SLACK_S = 2.0
"""By how much records of a partition may lie out of the order of their times."""
LINEARIZE = next(step for step in STEPS if step.stage == "linearize")
SEND_S = 60.0


def unanswered(step: Step) -> str:
    """The SQL condition over a step's input table: no answer, no stated reason, no dead letter."""
    answers = f'SELECT id FROM (SELECT {step.answer} FROM "{step.output}") WHERE id IS NOT NULL'  # noqa: S608 - ours
    filtered = f"SELECT input_id FROM filtered WHERE stage = '{step.stage}'"  # noqa: S608 - our own names
    letters = OPEN.format(letters="dead_letters", replays="replays") + f" AND stage = '{step.stage}'"
    return f"id NOT IN ({answers}) AND id NOT IN ({filtered}) AND id NOT IN ({letters})"


def perhaps_torn(settings: Settings) -> str:
    """The SQL condition over `trees`: perhaps only some of its traces reached the table before the broker died.

    A tree is the one input with several outputs, and they lie on several partitions, of which a sink has read one
    further than another. What the sink had not read of a partition is younger than what it had: so a tree is in doubt
    when a trace of it is no older than the youngest of the partition that the sink had read least of. This holds for
    every broker that there was: the next may die before such a tree is done again. What a topic held when offsets were
    saved is in the table.
    """
    whole = " OR ".join(
        f"_topic_id = {quoted(topic)} AND _partition = {int(partition)} AND _offset < {end}"
        for topic, ends in read_saved(settings).traces.items()
        for partition, end in ends.items()
    )
    partitions = BY_NAME["traces"].partitions(settings)
    return f"""id IN (
    WITH read AS (SELECT _topic_id, max(_time) AS upto FROM traces GROUP BY _topic_id, _partition),
      doubt AS (SELECT _topic_id, CASE WHEN count(*) < {partitions} THEN TIMESTAMPTZ 'epoch'
        ELSE min(upto) - to_seconds({SLACK_S}) END AS since FROM read GROUP BY _topic_id)
    SELECT tree_id FROM traces JOIN doubt USING (_topic_id) WHERE _time >= since AND NOT ({whole or "false"}))"""  # noqa: S608


def feed_again(settings: Settings) -> dict[str, int]:
    """Create the topics and produce, from the tables, every version of the weights and every message without an answer.

    Returns:
        Messages produced, by topic.

    Raises:
        BrokerMissing: when no broker answers.
        KafkaError: when a message was not acknowledged.
    """
    kafka.create_topics(settings)
    datasets = Datasets.of(settings)
    datasets.create()
    pin = datasets.versions()
    wanted = [("weights", "")] + [(step.input, unanswered(step)) for step in STEPS]
    wanted.append(("trees", f"NOT ({unanswered(LINEARIZE)}) AND {perhaps_torn(settings)}"))
    producer = kafka.producer(settings)
    counts: dict[str, int] = {}
    sent = []
    for topic, where in wanted:
        kind = Weights if topic == "weights" else BY_NAME[topic].message
        futures = [
            producer.send(topic, key=message_key(message), value=packed(settings, message))
            for message in datasets.messages(kind, where, pin)
        ]
        counts[topic] = counts.get(topic, 0) + len(futures)
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
    traces = read_saved(settings).traces
    if all(committed["linearize"].get(at, 0) >= end for at, end in ends.items() if at[0] == "trees"):
        # no tree is in hand: of each all traces are sent, and so in the table
        traces[ids["traces"]] = {str(partition): end for (topic, partition), end in ends.items() if topic == "traces"}
    path = Path(settings.factory.data) / "state" / "offsets.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(msgspec.json.encode(SavedOffsets(topic_ids=ids, groups=groups, traces=traces, clean=True)))
    temporary.replace(path)
    return True


def in_tables(settings: Settings, ids: dict[str, str], ends: dict[tuple[str, int], int]) -> bool:
    """Whether the tables hold (or have deliberately skipped) every record below these high watermarks."""
    datasets = Datasets.of(settings)
    for topic in TOPICS:
        held = datasets.offsets(topic.table)
        for (name, partition), end in ends.items():
            if name == topic.name and held.get(app_id(topic.table, ids[name], partition), -1) < end - 1:
                return False
    return True
