"""A data directory with rows that nobody has worked on yet, as sinks on a broker that is gone left them.

Trees and groups of rollouts are work for the stages without an engine; examples and rewards are work for trainers. What
rows name (problems, prompts) is there, too.
"""

import asyncio
from collections.abc import Sequence

import forest
import pyarrow as pa

from processors import linearizer, verifier
from processors.dataset import Datasets, app_id
from processors.grading import Grader
from processors.nodes import node_rows
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.codec import content_sha, encode
from schemas.settings import Settings
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE


def tree(number: int) -> m.Tree:
    """Any of many shapes, with linearizable walks or without."""
    return forest.tree(forest.grown(20, number).nodes, forest.problem(index=number))


def group(number: int, version: int = 0) -> m.RolloutGroup:
    """Four responses of a few tokens under a version, right and wrong ones; in every tenth group one was given up."""
    said = ("Answer: 7", f"{number} + 0 = {number}\n\nAnswer: {number + 8}", "no idea", "Answer: 14/2")
    rollouts = []
    for line, text in enumerate(said):
        ids = [4 + (number * 7 + line * 3 + at) % 600 for at in range(6 + (number + line) % 5)]
        rollouts.append(
            m.Rollout(
                token_ids=ids,
                logprobs=[-4.0 - 0.1 * at for at in range(len(ids))],
                spans=[m.Span(version=version, sha="s", start=0, stop=len(ids))],
                finish="stop" if number % 10 else "abort",
                text=text,
            )
        )
    problem = forest.problem(index=1000 + number)
    return m.RolloutGroup(id=f"g{number}", problem=problem, round=0, prompt_ids=[358, 385, 369], rollouts=rollouts)


def prompt(group: m.RolloutGroup) -> m.Prompt:
    """What a group answers."""
    return m.Prompt(id=group.id, problem=group.problem, round=0, why="test")


async def worded(trees: list[m.Tree], settings: Settings) -> tuple[list[m.Trace], list[m.Example]]:
    """The traces of trees, and the examples that pass."""
    grader = Grader(settings)
    try:
        made = [one for tree in trees for one in linearizer.traces(tree, sha(tree), settings)]
        traces = [one for one in made if isinstance(one, m.Trace)]
        judged = [await verifier.judge(one, sha(one), grader, settings.verify) for one in traces]
        return traces, [one for one in judged if isinstance(one, m.Example)]
    finally:
        grader.close()


async def paid(groups: list[m.RolloutGroup], settings: Settings) -> list[m.RewardGroup]:
    """The groups with their rewards, as the verifier gives them; groups that it refuses are left to it."""
    grader = Grader(settings)
    try:
        whole = [one for one in groups if not verifier.is_aborted(one)]
        return [await verifier.rewarded(one, sha(one), grader) for one in whole]
    finally:
        grader.close()


def for_words(datasets: Datasets, trees: int, groups: int) -> None:
    """Work for linearize and verify."""
    datasets.create()
    write_both(datasets, [tree(number) for number in range(trees)], [group(number) for number in range(groups)])


def for_trainers(datasets: Datasets, settings: Settings, trees: int, groups: int, version: int) -> None:
    """Work for SFT, and for RL from a version on."""
    datasets.create()
    grown, sampled = [tree(number) for number in range(trees)], [group(number, version) for number in range(groups)]
    write_both(datasets, grown, sampled)
    for messages in (*asyncio.run(worded(grown, settings)), asyncio.run(paid(sampled, settings))):
        write(datasets, messages)


def write_both(datasets: Datasets, trees: list[m.Tree], groups: list[m.RolloutGroup]) -> None:
    """Trees and groups, and what they name."""
    write(datasets, [one.problem for one in (*trees, *groups)])
    write(datasets, [prompt(one) for one in groups])
    write(datasets, trees)
    write(datasets, groups)


def sha(message: m.Message) -> str:
    """Of its content."""
    return content_sha(encode(message))


def write(datasets: Datasets, messages: Sequence[m.Message]) -> None:
    """Make them rows in one commit, the nodes of trees in another."""
    topic = BY_MESSAGE[type(messages[0])]
    places = [place(topic.name, at, message) for at, message in enumerate(messages)]
    pairs = list(zip(messages, places, strict=True))
    batches = [message_batch(one, at, TABLES[topic.table]) for one, at in pairs]
    _commit(datasets, topic.table, topic.name, batches)
    if topic.table == "trees":
        _commit(datasets, "nodes", topic.name, list(map(node_rows, batches)))


def place(topic: str, offset: int, message: m.Message) -> Place:
    """On a topic of a broker that is gone."""
    where = {"topic": topic, "topic_id": f"former-{topic}", "partition": 0, "offset": offset}
    return Place(**where, time_ms=1_000 + offset, sha=sha(message))


def _commit(datasets: Datasets, table: str, topic: str, rows: list[pa.RecordBatch]) -> None:
    offsets = {app_id(table, f"former-{topic}", 0): len(rows) - 1}
    datasets.append(table, pa.Table.from_batches(rows, schema=TABLES[table]), offsets)
