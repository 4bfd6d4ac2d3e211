"""A small finished experiment whose answers are made up, in tables that the sink's own code writes."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from deploy.reproduce.fork import fork
from processors.chat import GO_BACK, REFLECTION, VERDICT_BAD, count_backtracks
from processors.dataset import Datasets
from processors.rows import Place, message_batch
from schemas import messages as m
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE

RIGHT, WRONG = "Answer: 3 + 4", "Answer: 3 * 4"
BACK = f"{REFLECTION}\n\n{VERDICT_BAD}\n\n{GO_BACK} use 3 and 4\n\n"
DIRECT = ("Use 3 and 4\n\n" + RIGHT, "Use 3 and 4\n\n" + WRONG)
"""A right and a wrong response without a backtrack."""
CORRECTED, SPOILED = f"{WRONG}\n\n{BACK}{RIGHT}", f"{RIGHT}\n\n{BACK}{WRONG}"


def write(out: Path, directory: str, *messages: m.Message) -> None:
    """Append messages to the tables of a data directory, one commit a table."""
    datasets = Datasets(out / directory / "datasets")
    _empty(out, directory)
    tables: dict[str, list[pa.RecordBatch]] = {}
    for at, message in enumerate(messages):
        table = BY_MESSAGE[type(message)].table
        place = Place(topic=table, topic_id="t", partition=0, offset=at, time_ms=at, sha=str(at))
        tables.setdefault(table, []).append(message_batch(message, place, TABLES[table]))
    for table, batches in tables.items():
        datasets.append(table, pa.Table.from_batches(batches), {})


def _empty(out: Path, directory: str) -> None:
    """Tables without rows, unless there are some: made once and copied, for making them costs a second."""
    if not (out / "template").exists():
        Datasets(out / "template" / "datasets").create()
    fork(out / "template", out / directory)


def problem(number: int, source: str = "test") -> m.Problem:
    task = json.dumps({"numbers": [3, 4], "target": 7})
    return m.Problem(
        id=f"{source}{number:03}", question=f"{source} {number}: make 7 of 3 and 4", answer="7", source=source,
        grader="countdown", metadata=task,
    )  # fmt: skip


def answers(version: int, number: int, texts: Sequence[str], *, source: str = "test", name: str = "", time=1.0):
    """One version's answers to one problem; a text that ends in the right answer is right."""
    right = [text.endswith(RIGHT) for text in texts]
    return m.Answers(
        id=m.content_id("answers", name, version, source, number), asked=name or f"{source}-asked", policy="p",
        version=version, sha=f"sha{version}", trainer="x", problem=problem(number, source), texts=list(texts),
        verdicts=["correct" if one else "wrong" for one in right], tokens=[len(text.split()) for text in texts],
        backtracks=[count_backtracks(text) for text in texts],
        finishes=["stop" for _ in texts], time=time,
    )  # fmt: skip


def weights(version: int, trainer: str, step: int = 0, *, handover: bool = False) -> m.Weights:
    return m.Weights(
        policy="p", version=version, parent=version - 1, path="", sha256=f"sha{version}", trainer=trainer, step=step,
        handover=handover,
    )  # fmt: skip


def training(trainer: str, step: int, **fields) -> m.TrainingStep:
    values = {"loss": 0.1, "lr": 1e-4, "grad_norm": 1.0, "tokens": 100, "rows": [f"r{step}"], "version": 0} | fields
    return m.TrainingStep(id=f"{trainer}:{step}", run=trainer, trainer=trainer, step=step, **values)


def evaluation(version: int, points: float, backtracks: float, source: str = "dev") -> m.Evaluation:
    return m.Evaluation(
        id=f"{source}{version}", policy="p", version=version, sha=f"sha{version}", trainer="x", source=source,
        problems=4, samples=2, greedy=False, pass_at_1=points, low=0, high=1, tokens=20.0, backtracks=backtracks,
        unparsable=0.0,
    )  # fmt: skip


def tree(number: int, strategy: str) -> m.Tree:
    return m.Tree(
        id=f"{strategy}{number}", problem=problem(number, "countdown"), nodes=[], strategy=strategy, policy_version=0,
        policy_sha="", seed=0, iterations=1, generated_tokens=50, prompt_tokens=5, requests=3, seconds=1.0, solved=True,
    )  # fmt: skip


def mixed(right: int, samples: int, good: str, bad: str) -> list[str]:
    """`right` good responses of `samples`, the good ones spread over the front."""
    return [good] * right + [bad] * (samples - right)


def make(out: Path, seeds: Sequence[int] = (0, 1), problems: int = 6, samples: int = 4) -> Path:
    """base: 1 of 4 right; direct_rl: 2 of 4; astro_rl: 3 of 4, all by going back; a fourth of the first ones right."""

    def score(version: int, right: int, good: str, bad: str) -> list[m.Answers]:
        # the last problem is solved by nobody, so that problems differ
        many = [right] * (problems - 1) + [0]
        return [answers(version, n, mixed(count, samples, good, bad)) for n, count in enumerate(many)]

    base = [weights(0, "base"), *score(0, 1, *DIRECT), *(tree(n, "mcts") for n in range(3))]
    write(out, "search", *base)
    write(out, "best_of_n", *(tree(n, "best_of_n") for n in range(3)))
    arms = {
        "direct": (1, 2, DIRECT, DIRECT),
        "astro": (1, 3, DIRECT, (CORRECTED, SPOILED)),
        "best_of_n": (1, 0, DIRECT, DIRECT),
    }
    for seed in seeds:
        for arm, (sft, rl, words, rl_words) in arms.items():
            rows = [
                weights(0, "base"),
                weights(1, "sft", 3, handover=True),
                *score(1, sft + (seed and arm == "direct"), *words),
            ]
            rows += [training("sft", step) for step in (1, 2, 3)]
            if arm != "best_of_n":
                rows += [weights(version, "rl", 2 * version) for version in (2, 3, 4)]
                rows += score(4, rl, *rl_words)
                rows += [training("rl", s, rollouts=8, reward=s / 9, length=20, backtracks=s) for s in range(1, 9)]
                rows += [evaluation(v, v / 10, v * 0.5 + (v == 2)) for v in (1, 2, 3, 4)]
            write(out, f"seed-{seed}/{arm}", *rows)
    plan = {
        "scale": "smoke", "seeds": list(seeds), "arms": ["base", *arms], "steps": {"sft": 3, "rl": 8},
        "samples": samples, "max_tokens": 64, "policy": "tiny", "commit": "abc",
        "dirs": {
            "search": "search", "best_of_n": "best_of_n",
            "arms": {f"seed-{s}/{arm}": {"seed": s, "arm": arm} for s in seeds for arm in arms},
        },
        "test": {"path": "test.jsonl", "sha256": "", "problems": problems}, "dev": {}, "phases": [],
    }  # fmt: skip
    (out / "plan.json").write_text(json.dumps(plan))
    (out / "timings.json").write_text(json.dumps({"search": 60.0, "seed 0 astro: train": 30.0}))
    return out


def part(out: Path, made: Path, arms: Sequence[str]) -> Path:
    """An experiment that has only these arms ('seed-0/direct') of one that is made already; the base is there, too."""
    plan = json.loads((made / "plan.json").read_text())
    known = plan["dirs"]["arms"]
    chosen = {str(made / arm): known[arm] for arm in arms}
    plan["dirs"] = {name: str(made / name) for name in ("search", "best_of_n")} | {"arms": chosen}
    plan["seeds"] = sorted({one["seed"] for one in chosen.values()})
    out.mkdir()
    (out / "plan.json").write_text(json.dumps(plan))
    return out
