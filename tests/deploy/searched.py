"""Tables as the stages make them from real search trees, without a broker, for tests of what is done with tables."""

import asyncio
from pathlib import Path

import msgspec
import pyarrow as pa
from forest import grown, problem

from processors import linearizer, verifier
from processors.dataset import Datasets, app_id
from processors.grading import Grader
from processors.nodes import node_rows
from processors.rows import Place, message_batch
from schemas.codec import content_sha, encode
from schemas.messages import Example, Message, Trace, Tree
from schemas.settings import Settings
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE


def append(datasets: Datasets, messages: list[Message]) -> None:
    """Rows of one topic as its sink writes them; of trees their nodes, too."""
    topic = BY_MESSAGE[type(messages[0])]
    places = [
        Place(topic=topic.name, topic_id="u", partition=0, offset=at, time_ms=at, sha=content_sha(encode(one)))
        for at, one in enumerate(messages)
    ]
    rows = {topic.table: [message_batch(*pair, TABLES[topic.table]) for pair in zip(messages, places, strict=True)]}
    if topic.message is Tree:
        rows["nodes"] = list(map(node_rows, rows["trees"]))
    for name, batches in rows.items():
        found = pa.Table.from_batches(batches, schema=TABLES[name])
        datasets.append(name, found, {app_id(name, "u", 0): len(messages) - 1})


def fill(data: Path) -> Datasets:
    """The problems, trees, traces and examples of forty searches in `data`."""
    datasets = Datasets(data / "datasets")
    datasets.create()
    settings = Settings()
    grader = Grader(settings)  # numbers only: it starts no process
    trees = [
        msgspec.structs.replace(grown(30, seed), id=f"tree-{seed}", problem=problem(index=seed)) for seed in range(40)
    ]
    made = [one for tree in trees for one in linearizer.traces(tree, content_sha(encode(tree)), settings)]
    traces = [one for one in made if isinstance(one, Trace)]
    judged = [asyncio.run(verifier.judge(one, content_sha(encode(one)), grader, settings.verify)) for one in traces]
    examples = [one for one in judged if isinstance(one, Example)]
    assert any(one.backtracks for one in examples)
    for messages in ([tree.problem for tree in trees], trees, traces, examples):
        append(datasets, messages)
    return datasets
