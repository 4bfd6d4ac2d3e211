"""How full the search keeps the engine: our scheduler against the ways that public systems run trees.

The same problems, policy, engine and settings under (a) ours: a coroutine a tree, all trees on one continuous batch;
(b) lock-step: the same number of trees in flight, but every round waits for all of them; (c) one tree at a time, its
children and rollouts batched; (e) one call at a time; and (d) the ceiling: the very requests of (a) in one call to a
bare engine in a process of its own. 'Equal' are sums of 7 terms in trees of a fixed budget; 'mixed' are sums and
countdown under the factory's default settings, where a tree costs from 2 to over 100 rollouts. (c) and (e) run on the
first trees only; their trees/s are their tokens/s divided by the mean tokens of a tree of the whole set.

    python -m benchmarks.search [--quick]
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path

import msgspec

from benchmarks import report
from benchmarks.engines import Bench, chains, mixed
from processors.policy import Completion, EngineStats, Request
from processors.search_driver import Driver
from processors.strategy import Answers, Ask, Batch, Check, Strategy, Talk
from schemas.load import load
from schemas.messages import Problem, Weights
from schemas.search_settings import SearchSection

EQUAL = SearchSection(k=4, rollouts=4, iterations=3, stop_early=False, adaptive=False, trees_in_flight=48)
MIXED = SearchSection()
"""The factory's defaults: an easy tree stops at its root, a hard one uses its eight iterations."""


class Run(msgspec.Struct):
    """What one way of running the trees took."""

    trees: int
    tokens: int
    seconds: float
    hit_rate: float
    occupancy: float

    @property
    def rate(self) -> float:
        """Generated tokens a second."""
        return self.tokens / self.seconds


class Recorder:
    """An engine that remembers what it was asked, and how many tokens came."""

    def __init__(self, bench: Bench, *, one_by_one: bool = False) -> None:
        self.engine, self.one_by_one = bench.engine, one_by_one
        self.requests: list[Request] = []
        self.lengths: list[int] = []

    async def generate_many(self, requests: Sequence[Request]) -> list[Completion]:
        """As processors.policy.Engine, or with every request alone in the engine."""
        if self.one_by_one:
            completions = [await self.engine.generate(request) for request in requests]
        else:
            completions = await self.engine.generate_many(requests)
        self.requests += requests
        self.lengths += [len(completion.token_ids) for completion in completions]
        return completions


class Load(msgspec.Struct):
    """Problems and how they are searched."""

    problems: list[Problem]
    section: SearchSection


Way = Callable[[Bench, Load, Recorder], Coroutine[None, None, int]]


async def ours(bench: Bench, load: Load, engine: Recorder) -> int:
    """(a) Every tree goes on as soon as its own answers are there."""
    weights, gate = bench.labels.fresh(), asyncio.Semaphore(load.section.trees_in_flight)
    driver = bench.driver(load.section, engine)

    async def grow(problem: Problem) -> int:
        async with gate:
            tree, _ = await driver.grow(problem, weights)
        return tree.generated_tokens

    return sum(await asyncio.gather(*map(grow, load.problems)))


async def one_tree(bench: Bench, load: Load, engine: Recorder) -> int:
    """(c) and, with an engine that takes one request at a time, (e)."""
    weights, driver = bench.labels.fresh(), bench.driver(load.section, engine)
    return sum([(await driver.grow(problem, weights))[0].generated_tokens for problem in load.problems])


async def lockstep(bench: Bench, load: Load, engine: Recorder) -> int:
    """(b) Rounds: what all trees in flight want is asked at once, and all wait for the last answer of the round.

    A tree that is done is replaced before the next round, which is kinder than waiting for a whole wave.
    """
    weights, driver = bench.labels.fresh(), bench.driver(load.section, engine)
    waiting, active, tokens = list(load.problems), list[Walker](), 0
    while waiting or active:
        while waiting and len(active) < load.section.trees_in_flight:
            active.append(Walker(waiting.pop(0), driver))
        await ask_all(bench, driver, active, weights)
        tokens += sum(walker.search.generated_tokens for walker in active if walker.batch is None)
        active = [walker for walker in active if walker.batch is not None]
    return tokens


class Walker:
    """A tree that is moved from outside, one batch at a time."""

    def __init__(self, problem: Problem, driver: Driver) -> None:
        self.problem = problem
        self.search: Strategy = driver.begin(problem)
        self.run: Talk[None] = self.search.run()
        self.batch: Batch | None = next(self.run, None)

    def advance(self, answers: Answers) -> None:
        """Go on to its next batch."""
        try:
            self.batch = self.run.send(answers)
        except StopIteration:
            self.batch = None


async def ask_all(bench: Bench, driver: Driver, active: list[Walker], weights: Weights) -> None:
    """One round."""
    asks = [ask for walker in active for ask in walker.batch or () if isinstance(ask, Ask)]
    checks = [(walker, check) for walker in active for check in walker.batch or () if isinstance(check, Check)]
    completions = iter(await driver.engine.generate_many([driver.request(ask, weights) for ask in asks]))
    verdicts = iter(await bench.grader.grade_many([(walker.problem, check.text) for walker, check in checks]))
    for walker in active:
        batch = walker.batch or []
        source = completions if batch and isinstance(batch[0], Ask) else verdicts
        walker.advance([next(source) for _ in batch])  # type: ignore[arg-type]


def measure(bench: Bench, load: Load, way: Way, engine: Recorder) -> Run:
    """Run the trees one way, from a cold prefix cache."""
    before, start = bench.engine.stats(), time.perf_counter()
    tokens = asyncio.run(way(bench, load, engine))
    seconds, after = time.perf_counter() - start, bench.engine.stats()
    return Run(len(load.problems), tokens, seconds, *shares(before, after))


def shares(before: EngineStats, after: EngineStats) -> tuple[float, float]:
    """Prefix-cache hit rate and occupancy between two moments."""
    prompt = after.prompt_tokens - before.prompt_tokens
    hit = (after.cached_tokens - before.cached_tokens) / max(prompt, 1)
    return hit, (after.occupied - before.occupied) / max(after.steps - before.steps, 1)


def ceiling(recorder: Recorder) -> Run:
    """(d) What was asked in (a), in one call to a bare engine (benchmarks/ceiling.py), each to the length it had."""
    asked = [
        {"prompt_ids": request.prompt_ids, "max_tokens": length, "seed": request.seed}
        for request, length in zip(recorder.requests, recorder.lengths, strict=True)
        if length
    ]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "requests.json"
        path.write_text(json.dumps(asked))
        command = [sys.executable, "-m", "benchmarks.ceiling", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, tokens = json.loads(done.stdout.splitlines()[-1])
    return Run(0, tokens, seconds, 0.0, 0.0)


def once(bench: Bench, count: int, few: int) -> dict[str, Run]:
    """All ways once."""
    equal, varied = Load(chains(count, 0, "short"), EQUAL), Load(mixed(count, 0), MIXED)
    all_at_once = Load(varied.problems, msgspec.structs.replace(MIXED, trees_in_flight=count))
    recorder = Recorder(bench)
    runs = {"ours": measure(bench, equal, ours, recorder), "ceiling": ceiling(recorder)}
    runs["lockstep"] = measure(bench, equal, lockstep, Recorder(bench))
    runs["ours_mixed"] = measure(bench, varied, ours, Recorder(bench))
    runs["lockstep_mixed"] = measure(bench, varied, lockstep, Recorder(bench))
    runs["lockstep_mixed_all"] = measure(bench, all_at_once, lockstep, Recorder(bench))
    runs["one_tree"] = measure(bench, Load(equal.problems[: 4 * few], EQUAL), one_tree, Recorder(bench))
    alone = Recorder(bench, one_by_one=True)
    runs["one_call"] = measure(bench, Load(equal.problems[:few], EQUAL), one_tree, alone)
    for name, run in runs.items():
        print(f"search: {name:18} {run.tokens:7} tokens {run.rate:7.0f} tok/s  {run.seconds:6.1f} s", flush=True)
    return runs


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small run, to see that it works")
    quick = parser.parse_args().quick
    runs, count, few = (1, 16, 1) if quick else (2, 96, 2)
    bench = Bench(load(environment={}, flags=["engine.max_model_len=512"]))
    measure(bench, Load(chains(8, 1, "short"), EQUAL), ours, Recorder(bench))  # the engine's first steps are slow
    done = [once(bench, count, few) for _ in range(runs)]
    bench.close()
    values = {f"{name}_tokens_per_s": [run[name].rate for run in done] for name in done[0]}
    for name in ("ours", "lockstep", "ours_mixed", "lockstep_mixed", "lockstep_mixed_all", "one_tree", "one_call"):
        mean = done[0]["ours_mixed" if "mixed" in name else "ours"]
        values[f"{name}_trees_per_s"] = [run[name].rate / (mean.tokens / mean.trees) for run in done]
        values[f"{name}_occupancy"] = [run[name].occupancy for run in done]
        values[f"{name}_prefix_hit_rate"] = [run[name].hit_rate for run in done]
    ratios = {
        "ours_over_ceiling_tokens": ratio(done, "ours", "ceiling"),
        "ours_over_lockstep_trees": ratio(done, "ours", "lockstep"),
        "ours_over_lockstep_mixed_trees": ratio(done, "ours_mixed", "lockstep_mixed"),
        "ours_over_lockstep_mixed_all_at_once_trees": ratio(done, "ours_mixed", "lockstep_mixed_all"),
        "ours_over_one_tree_trees": ratio(done, "ours", "one_tree"),
        "ours_over_one_call_trees": ratio(done, "ours", "one_call"),
    }
    same = all(run["ours"].tokens == run["lockstep"].tokens for run in done)
    notes = [
        f"{count} trees, one engine thread; one_tree on {4 * few} trees, one_call on {few}",
        f"in flight: {EQUAL.trees_in_flight} equal, {MIXED.trees_in_flight} mixed, all in lockstep_mixed_all",
        f"ours and lock-step grew the same trees: {same}",
    ]
    report.write("search", runs, values, ratios, notes)


def ratio(done: list[dict[str, Run]], mine: str, other: str) -> float:
    """Mean over the runs of the ratio of token rates (of equal trees, so it is the trees' too)."""
    return sum(run[mine].rate / run[other].rate for run in done) / len(done)


if __name__ == "__main__":
    main()
