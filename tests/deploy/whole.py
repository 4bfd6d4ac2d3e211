"""A small data directory with rows in every table, made by the stages' own functions as far as they need no engine."""

import asyncio
import json
from pathlib import Path

import msgspec
from forest import problem
from searched import append, fill

from processors import linearizer, verifier
from processors.dataset import Datasets
from processors.grading import Grader
from schemas import messages as m
from schemas.codec import content_sha, encode
from schemas.settings import Settings

SAID = ("Use 3, 4: 3 + 4 = 7\n\nAnswer: 7", "Use 3, 4: 3 + 4 = 8\n\nAnswer: 8", "I do not know.", "Answer: 7")


def whole(data: Path) -> Datasets:
    """The rows of searched.fill, and of everything that comes after them."""
    datasets = fill(data)
    examples = [row["id"] for row in rows(datasets, "select id from examples order by id limit 24")]
    prompts = [prompt(index) for index in range(6)]
    groups = [group(one, SAID if index else SAID[:1] * 4) for index, one in enumerate(prompts)]
    grader = Grader(Settings())  # numbers only: it starts no process
    paid = [asyncio.run(verifier.rewarded(one, content_sha(encode(one)), grader)) for one in groups]
    equal = paid[0]
    sft = [step(number, "sft", examples[8 * number - 8 : 8 * number]) for number in (1, 2, 3)]
    rl = [step(1, "rl", [one.id for one in paid[1:3]]), step(2, "rl", [one.id for one in paid[3:5]])]
    for messages in (
        prompts, groups, paid, [version(number) for number in range(3)], [*sft, *rl],
        [answers(index) for index in range(3)], [evaluation(number) for number in range(3)],
        [*unsolved(), filtered("rl", "rewards", equal.id, "all_equal", rollouts=4, tokens=12),
         filtered("produce", "problems", "p", "held_out: the evaluation asks it"),
         filtered("verify", "traces", "t", "check failed: ends_correct (wrong)"),
         filtered("sample", "weights", "2:sha2", "not served: its probe does not agree")],
        letters(datasets),
    ):  # fmt: skip
        append(datasets, messages)
    return datasets


def rows(datasets: Datasets, query: str) -> list[dict]:
    with datasets.connect() as connection:
        return connection.sql(query).to_arrow_table().to_pylist()


def prompt(index: int) -> m.Prompt:
    asked = problem(index=index)
    name = m.content_id("prompt", asked.id, 0)
    return m.Prompt(id=name, problem=asked, round=0, why="pass rate 0.5 of 4 rollouts in search", pass_rate=0.5)


def group(of: m.Prompt, said: tuple[str, ...]) -> m.RolloutGroup:
    rollouts = [
        m.Rollout(
            token_ids=[1, 2, 3], logprobs=[-0.1, -0.2, -0.3], finish="stop", text=text,
            spans=[m.Span(version=1, sha="sha1", start=0, stop=3)],
        )
        for text in said
    ]  # fmt: skip
    return m.RolloutGroup(id=of.id, problem=of.problem, round=0, prompt_ids=[1], rollouts=rollouts, seconds=0.5)


def step(number: int, trainer: str, ids: list[str]) -> m.TrainingStep:
    return m.TrainingStep(
        id=f"{trainer}:{number}", run=trainer, trainer=trainer, step=number, version=1, loss=1 / number, lr=1e-4,
        grad_norm=1.0, tokens=24, rows=ids, rollouts=4 * len(ids) * (trainer == "rl"), time=float(number),
    )  # fmt: skip


def version(number: int) -> m.Weights:
    return m.Weights(
        policy="policy", version=number, parent=number - 1, path=f"data/weights/v{number}", sha256=f"sha{number}",
        trainer="sft" if number else "base", step=20 * number, handover=number == 2,
    )  # fmt: skip


def answers(index: int) -> m.Answers:
    asked = problem(index=100 + index)
    return m.Answers(
        id=f"answers{index}", asked="a", policy="policy", version=1, sha="sha1", trainer="sft", problem=asked,
        texts=["Answer: 7"], verdicts=["correct"], tokens=[3], backtracks=[0], finishes=["stop"],
    )  # fmt: skip


def evaluation(number: int) -> m.Evaluation:
    return m.Evaluation(
        id=f"e{number}", policy="policy", version=number, sha=f"sha{number}", trainer="sft", source="all", problems=3,
        asked="a", samples=1, greedy=False, pass_at_1=0.5, low=0.2, high=0.8, tokens=3.0, backtracks=0.0,
        unparsable=0.0,
    )  # fmt: skip


def filtered(stage: str, topic: str, name: str, why: str, **more) -> m.Filtered:
    key = m.content_id(stage, name, why)
    return m.Filtered(id=key, stage=stage, input_topic=topic, input_id=name, why=why, **more)


def unsolved() -> list[m.Filtered]:
    """What linearize says of a tree without a correct leaf."""
    from forest import node, tree

    bare = msgspec.structs.replace(tree([node(0, -1), node(1, 0, "Answer: 5", "wrong")]), id="tree-without")
    made = linearizer.traces(bare, content_sha(encode(bare)), Settings())
    return [one for one in made if isinstance(one, m.Filtered)]


def letters(datasets: Datasets) -> list[m.DeadLetter]:
    """A trace that could not be verified, and a line of a file."""
    (trace,) = datasets.messages(m.Trace, "id IN (SELECT id FROM traces ORDER BY id LIMIT 1)")
    line = json.dumps({"question": "?"}).encode()
    return [
        m.DeadLetter(
            id="letter-of-a-trace", stage="verify", topic="traces", partition=0, offset=0, input_id=trace.id,
            key=trace.id.encode(), value=encode(trace), error="OSError: a disk was away",
        ),
        m.DeadLetter(
            id="letter-of-a-line", stage="produce", topic="", value=line, file="quiz.jsonl", line=3,
            error="missing answer", detail="no answer in it",
        ),
    ]  # fmt: skip
