"""One search driven on a real engine and grader: the generator's batches go out at once, its answers go back.

A coroutine a tree, so that many trees share one engine's batch. Everything that a tree's identity rests on (id, seeds,
pinned weights) is derived here, so that the same problem, seed, weights and settings give the same tree.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from processors.mcts import Mcts
from processors.policy import Generator, Request, ask_all
from processors.sampling import Sampling
from processors.steps import Speaker
from processors.strategy import Answers, Ask, Batch, Check, Graded, Strategy
from schemas import plugins
from schemas.messages import Problem, Tree, Weights, content_id
from schemas.settings import Settings

STRATEGIES: Mapping[str, type[Strategy]] = {"mcts": Mcts, "sample": Sampling, "best_of_n": Sampling}
"""By settings.search.strategy."""


def strategy(name: str) -> type[Strategy]:
    """The search of this name, ours or installed.

    Raises:
        BadPlugin: it is not installed, cannot be imported, or is no Strategy.
    """
    if name in STRATEGIES:
        return STRATEGIES[name]
    made = plugins.load(plugins.STRATEGIES, name)
    if not (isinstance(made, type) and issubclass(made, Strategy)):
        raise plugins.BadPlugin(f"the search strategy {name!r} is no subclass of processors.strategy.Strategy")
    return made


class Grading(Protocol):
    """The part of a Grader that a search needs."""

    async def grade_many(self, pairs: list[tuple[Problem, str]]) -> Sequence[Graded]:
        """One verdict a pair, in order."""


class Driver:
    """Grows trees on an engine.

    Args:
        chat: tokenizer and chat format of the policy.
        context: tokens that prompt and response may have together.
    """

    def __init__(self, settings: Settings, engine: Generator, grader: Grading, chat: Speaker, *, context: int) -> None:
        self.settings, self.engine, self.grader, self.chat, self.context = settings, engine, grader, chat, context
        self.strategy = strategy(settings.search.strategy)

    async def grow(self, problem: Problem, weights: Weights) -> tuple[Tree, Strategy]:
        """The tree of a problem, searched with these weights to the end, and the finished search.

        When settings.search.timeout_s is over, the tree is given as it stands after its last whole iteration.

        Raises:
            ValueError: the problem's prompt leaves no room for a step.
            Aborted: the engine gave a request up.
        """
        start = time.monotonic()
        search = self.begin(problem)
        try:
            async with asyncio.timeout(self.settings.search.timeout_s) as limit:
                await self._drive(search, problem, weights)
        except TimeoutError:
            if not limit.expired():
                raise
            search.stopped = "timeout"
        return self._tree(search, problem, weights, time.monotonic() - start), search

    def begin(self, problem: Problem) -> Strategy:
        """The search over a problem, not yet run.

        Raises:
            ValueError: the problem's prompt leaves no room for a step, or its grader is not installed here.
        """
        if why := plugins.unknown(plugins.GRADERS, problem.grader):
            raise plugins.BadPlugin(f"problem {problem.id}: {why}")
        return self.strategy(
            problem.question,
            self.chat,
            self.settings.search,
            seed=tree_seed(problem, self.settings),
            context=self.context,
            enough_wrong=self.settings.linearize.max_wrong + 1,
        )

    async def _drive(self, search: Strategy, problem: Problem, weights: Weights) -> None:
        run = search.run()
        batch = next(run, None)
        while batch is not None:
            answers = await self._answer(batch, problem, weights)
            try:
                batch = run.send(answers)
            except StopIteration:
                return

    async def _answer(self, batch: Batch, problem: Problem, weights: Weights) -> Answers:
        """The answers to a batch: all of its requests are in the engine together."""
        asks = [item for item in batch if isinstance(item, Ask)]
        if not asks:
            texts = [item.text for item in batch if isinstance(item, Check)]
            return await self.grader.grade_many([(problem, text) for text in texts])
        requests = [self.request(ask, weights) for ask in asks]
        return await ask_all(self.engine, requests, f"the search over {problem.id}")

    def request(self, ask: Ask, weights: Weights) -> Request:
        """What the engine is asked for an Ask."""
        return Request(
            prompt_ids=ask.prompt_ids,
            max_tokens=ask.max_tokens,
            temperature=self.settings.search.temperature,
            stop=ask.stop,
            seed=ask.seed,
            weights=weights.sha256,
        )

    def _tree(self, search: Strategy, problem: Problem, weights: Weights, seconds: float) -> Tree:
        return Tree(
            id=tree_id(problem, self.settings),
            problem=problem,
            nodes=[node.freeze() for node in search.arena.nodes],
            strategy=self.settings.search.strategy,
            policy_version=weights.version,
            policy_sha=weights.sha256,
            seed=search.seed,
            iterations=search.iterations,
            generated_tokens=search.generated_tokens,
            prompt_tokens=search.prompt_tokens,
            requests=search.requests,
            seconds=seconds,
            solved=search.solved,
            stopped=search.stopped,
            settings=msgspec.json.encode(self.settings.search).decode(),
        )


def tree_seed(problem: Problem, settings: Settings) -> int:
    """A 31-bit seed of the problem and factory.seed."""
    return int(content_id("seed", problem.id, settings.factory.seed)[:8], 16) >> 1


def tree_id(problem: Problem, settings: Settings) -> str:
    """The id of a search: of the problem, which policy was asked for, the strategy and the seed.

    The weights' sha is not in it: a problem that is delivered twice, with new weights in between, is one search with
    two copies, of which the first committed one counts.
    """
    asked = (settings.policy.name, settings.search.policy, settings.search.strategy, settings.factory.seed)
    return content_id("tree", problem.id, *asked)
