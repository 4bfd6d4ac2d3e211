"""The driver: batches together, one version, deterministic ids and seeds, and a tree at the deadline."""

import asyncio

import msgspec
import pytest
from scripted import Policy, Words

from processors import kafka
from processors.grading import Grader
from processors.policy import Aborted, Completion, EngineDied, Request
from processors.search_driver import Driver, tree_id, tree_seed
from processors.strategy import Ask
from schemas.codec import decode
from schemas.messages import Problem, Tree, Weights, content_id
from schemas.settings import Settings

PROBLEM = Problem(id=content_id("p"), question="q", answer="1", grader="numeric", source="test")
WEIGHTS = Weights(policy="policy", version=3, parent=0, path="", sha256="abc", trainer="sft")


class Scripted:
    """The scripted policy behind the engine's interface."""

    def __init__(self, finish: str = "", delay: float = 0.0, free: int = 10**9) -> None:
        self.policy, self.finish, self.delay, self.free = Policy(1), finish, delay, free
        self.batches: list[list[Request]] = []

    async def generate_many(self, requests):
        self.batches.append(list(requests))
        await asyncio.sleep(self.delay if len(self.batches) > self.free else 0)
        return [self.one(request) for request in requests]

    def one(self, request: Request) -> Completion:
        assert request.seed is not None
        ask = Ask(prompt_ids=request.prompt_ids, max_tokens=request.max_tokens, seed=request.seed, stop=request.stop)
        said = self.policy.answer(ask)
        finish = self.finish or said.finish
        return Completion(
            token_ids=said.token_ids, logprobs=said.logprobs, text="", finish=finish, version=3, sha=request.weights
        )


def driver(settings: Settings, engine: Scripted) -> Driver:
    return Driver(settings, engine, Grader(settings), Words(), context=400)


async def test_the_same_problem_seed_and_weights_give_the_same_tree(make_settings):
    settings = make_settings("search.temperature=0.7")
    engine = Scripted()
    trees = [(await driver(settings, engine).grow(PROBLEM, WEIGHTS))[0] for _ in range(2)]
    one, two = (msgspec.structs.replace(tree, seconds=0.0) for tree in trees)
    assert one == two
    assert one.problem == PROBLEM
    assert (one.policy_version, one.policy_sha, one.strategy) == (3, "abc", "mcts")
    assert one.requests == sum(len(batch) for batch in engine.batches) // 2
    requests = [request for batch in engine.batches for request in batch]
    assert {request.weights for request in requests} == {"abc"}
    assert {request.temperature for request in requests} == {0.7}
    assert msgspec.json.decode(one.settings)["k"] == settings.search.k
    assert one.solved == any(node.verdict == "correct" for node in one.nodes)


async def test_a_batch_goes_out_at_once(make_settings):
    settings = make_settings("search.k=3", "search.rollouts=2", "search.iterations=4")
    engine = Scripted()
    await driver(settings, engine).grow(PROBLEM, WEIGHTS)
    assert len(engine.batches) <= 1 + 4 * 2
    assert len(engine.batches[0]) == 2
    assert len(engine.batches[1]) == 3


async def test_at_the_deadline_the_tree_is_given_as_it_stands(make_settings):
    settings = make_settings("search.timeout_s=0.2", "search.iterations=50", "search.stop_early=false")
    tree, _ = await driver(settings, Scripted(delay=60, free=4)).grow(PROBLEM, WEIGHTS)
    assert 0.15 < tree.seconds < 5
    assert 1 <= tree.iterations < 50
    assert all(node.terminal == bool(node.verdict) for node in tree.nodes)
    assert sum(node.visits for node in tree.nodes) > 1


async def test_an_aborted_request_is_no_tree(make_settings):
    with pytest.raises(Aborted, match=PROBLEM.id):
        await driver(make_settings(), Scripted(finish="abort")).grow(PROBLEM, WEIGHTS)


async def test_a_timeout_of_the_engine_is_not_taken_for_the_deadline(make_settings):
    class Broken(Scripted):
        async def generate_many(self, requests):
            raise TimeoutError("engine")

    with pytest.raises(TimeoutError, match="engine"):
        await driver(make_settings(), Broken()).grow(PROBLEM, WEIGHTS)


async def test_the_engines_own_error_comes_out_of_its_group(make_settings):
    class Dead(Scripted):
        async def generate_many(self, requests):
            async with asyncio.TaskGroup() as group:
                for request in requests:
                    group.create_task(self.fail(request))
            return []

        async def fail(self, request):
            raise EngineDied("broke")

    with pytest.raises(EngineDied, match="broke"):
        await driver(make_settings(), Dead()).grow(PROBLEM, WEIGHTS)


def test_ids_and_seeds_follow_problem_seed_and_policy(make_settings):
    base, other, sft = make_settings(), make_settings("factory.seed=1"), make_settings("search.policy=sft")
    other_problem = msgspec.structs.replace(PROBLEM, id=content_id("p2"))
    assert len({tree_id(PROBLEM, base), tree_id(PROBLEM, other), tree_id(PROBLEM, sft)}) == 3
    assert tree_id(PROBLEM, base) == tree_id(PROBLEM, make_settings("search.k=2"))
    assert len({tree_seed(PROBLEM, base), tree_seed(PROBLEM, other), tree_seed(other_problem, base)}) == 3
    assert 0 <= tree_seed(PROBLEM, base) < 2**31


async def test_a_tree_at_the_papers_full_budget_travels(factory_settings):
    """32 iterations of 8 actions with 16 rollouts each, up to 4,096: one message, within the size limit, read back."""
    settings = factory_settings(
        "search.k=8", "search.rollouts=16", "search.iterations=32", "search.depth=50", "search.step_tokens=24",
        "search.stop_early=false", "search.adaptive=false",
    )  # fmt: skip
    engine = Scripted()
    engine.policy = Policy(1, reflects=0.0, ends=0.0)
    tree, _ = await driver(settings, engine).grow(PROBLEM, WEIGHTS)
    rollouts = sum(node.rollouts for node in tree.nodes)
    assert tree.iterations == 32
    assert 1000 < rollouts <= 4096 + 16
    producer = kafka.producer(settings)
    kafka.send(producer, tree)
    producer.flush(30)
    (record,) = kafka.tail(settings, "trees", {})
    assert len(record.value) < settings.broker.message_max_bytes
    assert decode(record.value, Tree) == tree


async def test_every_strategy_grows_a_tree_of_its_name(make_settings):
    for strategy in ("mcts", "sample", "best_of_n"):
        settings = make_settings(f"search.strategy={strategy}", "search.samples=12", "search.stop_early=false")
        tree, _ = await driver(settings, Scripted()).grow(PROBLEM, WEIGHTS)
        assert tree.strategy == strategy
        assert tree.stopped in {"budget", "exhausted"}
        assert (strategy == "mcts") == (tree.nodes[0].rollouts != 12)
