r"""How fast the grader is on two workers, and what the adversarial corpus costs it.

Every pair is a new one, so that no remembered answer helps. Integers and fractions are decided by exact numbers, LaTeX
by our own algebra, 'undecided' by math-verify in the killable processes; `math_verify_fractions` is the same fractions
handed to those processes directly, which is what the ladder saves.

    .venv/bin/python -m benchmarks.grading [--quick]
"""

import argparse
import asyncio
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from benchmarks import report
from processors.grading import Grader
from schemas.settings import Settings, VerifySection

Pairs = list[tuple[str, str]]
CONFORMANCE = Path(__file__).parent.parent / "tests" / "conformance"


def integers(count: int, rng: random.Random) -> Pairs:
    """GSM8K-like: '18' against '18', '18.00', '$18', '18 apples', or another number."""
    forms: tuple[Callable[[int], str], ...] = (str, "{}.00".format, "${:,}".format, "{} apples".format)
    return [(str(n), forms[n % 4](n if n % 3 else n + 1)) for n in (rng.randrange(10**6) for _ in range(count))]


def fractions(count: int, rng: random.Random) -> Pairs:
    r"""'\frac{a}{b}' against an unreduced 'ka/kb', a third of them wrong."""
    made = []
    for number in range(count):
        top, bottom, factor = rng.randrange(1, 10_000), rng.randrange(2, 10_000), rng.randrange(2, 9)
        made.append((rf"\frac{{{top}}}{{{bottom}}}", f"{factor * top}/{factor * bottom + (number % 3 == 0)}"))
    return made


def latex(count: int, rng: random.Random) -> Pairs:
    """MATH-like pairs of different strings: radicals, polynomials, points, intervals, ±, pi; a quarter wrong."""
    made = []
    for number in range(count):
        a, b, c = (rng.randrange(2, 1000) for _ in range(3))
        off = number % 4 == 0
        made.append(
            [
                (rf"\frac{{\sqrt{{{a}}}}}{{{b}}}", rf"\frac{{{a}}}{{{b + off}\sqrt{{{a}}}}}"),
                (rf"{a}\sqrt{{{b}}}", rf"\sqrt{{{a * a * b + off}}}"),
                (f"(x+{a})^2", f"x^2+{2 * a}x+{a * a + off}"),
                (rf"\frac{{{a}\pi}}{{{b}}}", rf"\frac{{{2 * a}}}{{{2 * b + off}}}\pi"),
                (rf"\left({a},\frac{{{b}}}{{{c}}}\right)", f"({a}, {2 * b}/{2 * c + off})"),
                (rf"[{a},\infty)", rf"x \ge {a + off}"),
                (rf"{a} \pm \sqrt{{{b}}}", rf"{a + off}+\sqrt{{{b}}}, {a}-\sqrt{{{b}}}"),
            ][number % 7]
        )
    return made


def undecided(count: int, rng: random.Random) -> Pairs:
    """What only math-verify reads: sums over whole numbers."""
    made = []
    for number in range(count):
        first = rng.randrange(1, 9_000)
        total = 10 * first + 45 + (number % 3 == 0)
        made.append((rf"\sum_{{k={first}}}^{{{first + 9}}} k", str(total)))
    return made


def per_second(grader: Grader, pairs: Pairs) -> float:
    """Answers a second over all pairs at once."""

    async def run() -> None:
        await asyncio.gather(*(grader.grade_pair(gold, answer) for gold, answer in pairs))

    start = time.perf_counter()
    asyncio.run(run())
    return len(pairs) / (time.perf_counter() - start)


def asked_directly(grader: Grader, pairs: Pairs) -> float:
    """Answers a second when each pair goes to math-verify at once."""

    async def run() -> None:
        await asyncio.gather(*(grader.pool.ask(gold, answer) for gold, answer in pairs))

    start = time.perf_counter()
    asyncio.run(run())
    return len(pairs) / (time.perf_counter() - start)


class Memory(threading.Thread):
    """The largest resident size (MB) of any grading process, looked at every 20 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self.over = threading.Event()

    def run(self) -> None:
        """Watch until `over`."""
        while not self.over.wait(0.02):
            for process in psutil.Process().children(recursive=True):
                try:
                    self.most = max(self.most, process.memory_info().rss / 2**20)
                except psutil.Error:  # it ended
                    continue


def adversarial(grader: Grader) -> dict[str, float]:
    """Seconds and memory over tests/conformance/hostile.py, and by how much the slowest passed the deadline."""
    sys.path.insert(0, str(CONFORMANCE))
    import hostile  # type: ignore[import-not-found,unused-ignore] # it lies beside the tests

    memory = Memory()
    memory.start()

    async def run() -> list[float]:
        texts = hostile.texts() + hostile.attempts("/nowhere/target")
        verdicts = await asyncio.gather(*(grader.grade_pair(hostile.GOLD, text) for text in texts))
        return [verdict.seconds for verdict in verdicts]

    start = time.perf_counter()
    seconds = asyncio.run(run())
    memory.over.set()
    return {
        "adversarial_texts": len(seconds),
        "adversarial_s": time.perf_counter() - start,
        "adversarial_slowest_s": max(seconds),
        "adversarial_rss_mb": memory.most,
        "adversarial_own_rss_mb": psutil.Process().memory_info().rss / 2**20,
    }


def main() -> None:
    """Measure and write benchmarks/results/grading.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="One run of a tenth of the pairs.")
    quick = parser.parse_args().quick
    runs, share = (1, 10) if quick else (3, 1)
    grader = Grader(Settings(verify=VerifySection(workers=2)))
    grader.pool.ask_sync("2", "3")  # both workers have imported math-verify before the clock starts
    asked_directly(grader, [(str(n), f"{n}x") for n in range(20)])
    values: dict[str, list[float]] = {}
    for run in range(runs):
        rng = random.Random(run)
        for name, make, count in (
            ("integers", integers, 20_000),
            ("fractions", fractions, 20_000),
            ("latex", latex, 7_000),
            ("undecided", undecided, 1_000),
        ):
            values.setdefault(f"{name}_per_s", []).append(per_second(grader, make(count // share, rng)))
        values.setdefault("math_verify_fractions_per_s", []).append(
            asked_directly(grader, fractions(1_000 // share, rng))
        )
        for key, value in adversarial(grader).items():
            values.setdefault(key, []).append(value)
    grader.close()
    mean = {key: sum(samples) / len(samples) for key, samples in values.items()}
    ratios = {
        "ladder_over_math_verify_fractions": mean["fractions_per_s"] / mean["math_verify_fractions_per_s"],
        "integers_over_target": mean["integers_per_s"] / 2000,
        "latex_over_target": mean["latex_per_s"] / 600,
        "adversarial_slowest_over_deadline": max(values["adversarial_slowest_s"]) / grader.settings.timeout_s,
    }
    report.write(
        "grading",
        runs,
        values,
        ratios,
        [
            "2 grading processes; every pair is new, a quarter to a third of the pairs are wrong",
            "targets: 2,000 integers/s, 600 LaTeX answers/s, no process over 1,024 MB, none over its deadline",
            "latex_per_s is one process: our own algebra decides these pairs and math-verify is not asked",
            "adversarial_rss_mb is the largest grading process, adversarial_own_rss_mb the process that asks",
        ],
    )
    for key, value in sorted(mean.items()):
        print(f"{key:32} {value:12.1f}")


if __name__ == "__main__":
    main()
