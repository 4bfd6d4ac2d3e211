"""The whole stage on real parts: broker, vLLM, the tiny policy, the grader; problems in, trees and dead letters out."""

import asyncio
import json
import random
import time

import msgspec
import pytest

from processors import kafka, searcher
from processors.chat import STEP_END, Chat, resolve
from processors.grading import Grader
from processors.policy import open_engine
from processors.search_driver import Driver, tree_id
from processors.status import Status
from processors.versions import Versions, ensure_base
from schemas.codec import decode
from schemas.messages import DeadLetter, Problem, Tree, content_id

pytestmark = pytest.mark.slow
QUESTION = (
    "Using all the numbers {numbers}, create an expression that equals {target}.\nYou can only use each number once."
    "\n\nFinal answer format instructions:\n1. Provide your solution as a arithmetic expression (no '=' sign)."
    "\n2. Do not include the target number in the expression.\n3. Use '*' for multiplication."
    "\n4. Use '/' for division.\n5. Do not include any other text or formatting."
)


def problem(seed: int) -> Problem:
    rng = random.Random(seed)
    numbers = [rng.randint(2, 15) for _ in range(3)]
    target = sum(numbers)
    question = QUESTION.format(numbers=", ".join(map(str, numbers)), target=target)
    metadata = json.dumps({"numbers": numbers, "target": target})
    return Problem(
        id=content_id("countdown", question, seed),
        question=question,
        answer=" + ".join(map(str, numbers)),
        grader="countdown",
        source="countdown",
        metadata=metadata,
    )


def read(settings, topic, kind):
    return [decode(record.value, kind) for record in kafka.tail(settings, topic, {})]


def check(tree: Tree, chat: Chat) -> None:
    assert tree.nodes[0].rollouts == 4
    assert tree.generated_tokens > 0
    for node in tree.nodes[1:]:
        assert node.parent < node.id
        text = chat.decode(node.token_ids)
        assert text.strip() == node.text.strip()
        assert node.terminal or text.endswith(STEP_END)
        if node.verdict in {"correct", "wrong"}:
            assert node.answer in node.text


async def test_problems_become_trees(factory_settings):
    settings = factory_settings("search.iterations=3", "engine.kv_cache_gb=0.2", "linearize.max_wrong=1")
    versions, status, grader = Versions(settings), Status(settings, "search"), Grader(settings)
    weights = ensure_base(settings, versions)
    engine = open_engine(settings, versions, status)
    app = searcher.build(settings, engine, versions, grader, status)
    problems = [problem(seed) for seed in range(6)]
    long = msgspec.structs.replace(problems[0], id=content_id("long"), question="7 " * 600)
    producer = kafka.producer(settings)
    for message in [*problems, long]:
        kafka.send(producer, message)
    producer.flush(30)
    await app.start()
    deadline = time.monotonic() + 120
    trees: list[Tree] = []
    while len(trees) < len(problems) or not read(settings, "dead.letters", DeadLetter):
        assert time.monotonic() < deadline, f"{len(trees)} trees, {status.read()}"
        await asyncio.sleep(0.5)
        trees = read(settings, "trees", Tree)
    await app.stop()
    chat = Chat(resolve("tiny"), settings.policy)
    assert {tree.id for tree in trees} == {tree_id(each, settings) for each in problems}
    for tree in trees:
        assert (tree.policy_version, tree.policy_sha) == (0, weights.sha256)
        check(tree, chat)
    assert any(node.verdict in {"correct", "wrong"} for tree in trees for node in tree.nodes)
    (letter,) = read(settings, "dead.letters", DeadLetter)
    assert letter.input_id == long.id
    assert "leaves no room" in letter.error
    driver = Driver(settings, engine, grader, chat, context=512)
    again, _ = await driver.grow(trees[0].problem, weights)
    assert msgspec.structs.replace(again, seconds=0.0) == msgspec.structs.replace(trees[0], seconds=0.0)
    engine.close()
    versions.close()
