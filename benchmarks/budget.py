"""What a solved problem costs: the full budget against adaptive value estimation, and against best-of-N.

The same problems (sums and countdown of the tiny policy's families) and engine; k = 8, M = 16, 4 iterations. Arms:

- full: every new node gets its 16 rollouts and every tree its 4 iterations, as the paper does (with 32);
- race: rollouts stop by the race of processors/adaptive.py, trees never early;
- adaptive: trees stop early, too, when they hold what linearization needs or are out of reach or too easy;
- best_of_n at the mean tokens of `adaptive`, and tight/tight_best_of_n: both strategies at one small budget.

'valid' trees are solved ones; 'wrong' are distinct wrong answers, which linearization needs. A budget in tokens is
checked after whole rounds, so the arms that are matched report the tokens that they took.

    python -m benchmarks.budget [--quick] [--problems N]
"""

import argparse
import asyncio
import time

import msgspec

from benchmarks import report
from benchmarks.engines import Bench, mixed
from processors.adaptive import wilson
from processors.answers import answer_key
from schemas.load import load
from schemas.messages import Problem, Tree
from schemas.search_settings import SearchSection

FULL = SearchSection(
    k=8, rollouts=16, iterations=4, stop_early=False, adaptive=False, samples=100_000, trees_in_flight=32
)
TIGHT_TOKENS = 600


class Arm(msgspec.Struct):
    """The trees of one arm."""

    trees: list[Tree]
    seconds: float

    @property
    def solved(self) -> int:
        """Valid trees."""
        return sum(tree.solved for tree in self.trees)

    @property
    def tokens(self) -> int:
        """Generated."""
        return sum(tree.generated_tokens for tree in self.trees)

    @property
    def share(self) -> float:
        """Of the problems that were solved."""
        return self.solved / len(self.trees)

    @property
    def wrong(self) -> float:
        """Distinct wrong answers a tree, on the mean."""
        return sum(distinct_wrong(tree) for tree in self.trees) / len(self.trees)


def distinct_wrong(tree: Tree) -> int:
    """How many different wrong answers its terminals hold."""
    return len({answer_key(node.answer) for node in tree.nodes if node.verdict == "wrong"})


def grow(bench: Bench, problems: list[Problem], section: SearchSection) -> Arm:
    """All trees of an arm, from a cold prefix cache."""
    return asyncio.run(_grow(bench, problems, section))


async def _grow(bench: Bench, problems: list[Problem], section: SearchSection) -> Arm:
    weights, driver, gate = bench.labels.fresh(), bench.driver(section), asyncio.Semaphore(section.trees_in_flight)

    async def one(problem: Problem) -> Tree:
        async with gate:
            return (await driver.grow(problem, weights))[0]

    start = time.perf_counter()
    trees = list(await asyncio.gather(*map(one, problems)))
    return Arm(trees, time.perf_counter() - start)


def arms(bench: Bench, problems: list[Problem]) -> dict[str, Arm]:
    """Every arm, each told the budget of the one it is matched with."""
    change = msgspec.structs.replace
    done: dict[str, Arm] = {}
    done["full"] = grow(bench, problems, FULL)
    done["race"] = grow(bench, problems, change(FULL, adaptive=True, reach=0.0, easy=0.0))
    done["adaptive"] = grow(bench, problems, change(FULL, adaptive=True, stop_early=True))
    plain = change(FULL, strategy="best_of_n")
    done["best_of_n"] = grow(bench, problems, change(plain, max_tokens=done["adaptive"].tokens // len(problems)))
    done["tight"] = grow(bench, problems, change(FULL, adaptive=True, k=4, iterations=32, max_tokens=TIGHT_TOKENS))
    done["tight_best_of_n"] = grow(bench, problems, change(plain, max_tokens=done["tight"].tokens // len(problems)))
    for name, arm in done.items():
        low, high = wilson(arm.solved, len(problems), 1.96)
        print(
            f"budget: {name:16} {arm.tokens / len(problems):8.0f} tokens a problem  solved {arm.share:.3f} "
            f"[{low:.3f}, {high:.3f}]  wrong {arm.wrong:5.1f}  {arm.seconds:6.1f} s",
            flush=True,
        )
    return done


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 problems, to see that it works")
    parser.add_argument("--problems", type=int, default=64)
    arguments = parser.parse_args()
    count = 8 if arguments.quick else arguments.problems
    bench = Bench(load(environment={}, flags=["engine.max_model_len=512"]))
    done = arms(bench, mixed(count, 0))
    bench.close()
    values: dict[str, list[float]] = {}
    for name, arm in done.items():
        values[f"{name}_tokens_per_problem"] = [arm.tokens / count]
        values[f"{name}_tokens_per_valid_tree"] = [arm.tokens / max(arm.solved, 1)]
        values[f"{name}_solved_share"] = [arm.share]
        values[f"{name}_wrong_answers_per_tree"] = [arm.wrong]
    cost = {name: values[f"{name}_tokens_per_valid_tree"][0] for name in done}
    ratios = {
        "full_over_adaptive_tokens_per_valid_tree": cost["full"] / cost["adaptive"],
        "full_over_race_tokens_per_valid_tree": cost["full"] / cost["race"],
        "adaptive_minus_full_solved_points": 100 * (done["adaptive"].share - done["full"].share),
        "race_minus_full_solved_points": 100 * (done["race"].share - done["full"].share),
        "adaptive_minus_best_of_n_solved_points": 100 * (done["adaptive"].share - done["best_of_n"].share),
        "tight_minus_best_of_n_solved_points": 100 * (done["tight"].share - done["tight_best_of_n"].share),
    }
    report.write("budget", 1, values, ratios, notes(done, count))


def notes(done: dict[str, Arm], count: int) -> list[str]:
    """The intervals, and why the adaptive trees stopped."""
    reasons = [tree.stopped for tree in done["adaptive"].trees]
    told = ", ".join(f"{reason}: {reasons.count(reason)}" for reason in sorted(set(reasons)))
    lines = [f"{count} problems; k 8, M 16, 4 iterations (tight: k 4, to {TIGHT_TOKENS} tokens)"]
    for name, arm in done.items():
        low, high = wilson(arm.solved, count, 1.96)
        lines.append(f"{name}: solved {arm.solved} of {count}, 95 % interval {low:.3f} to {high:.3f}")
    return [*lines, f"adaptive trees stopped: {told}"]


if __name__ == "__main__":
    main()
