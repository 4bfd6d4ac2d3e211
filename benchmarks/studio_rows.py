"""The data directory that benchmarks/studio.py asks: a long run's tables, written by the datasets' own writer.

Some hundred trees and groups of rollouts are made; a row is one of them with an id, a question, a time and (rollouts)
log-probabilities of its own, so that a million rows take no minute and their columns hold many values all the same.
Commits are as large as the sink's, and half of each large table's files are merged: both kinds of file are there.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random

import msgspec
import pyarrow as pa
from msgspec.structs import replace
from tokenizers import Tokenizer

from benchmarks.cloning import grown, step
from processors.chat import resolve
from processors.dataset import Datasets, app_id
from processors.linearizer import traces
from processors.nodes import node_rows
from processors.rows import Place, message_rows
from schemas import messages as m
from schemas.replay import Replay
from schemas.settings import Settings
from schemas.tables import TABLES
from schemas.topics import BY_MESSAGE, message_id

PATTERNS = 128
SIZE = 4
"""Rollouts a group."""
SOURCES = ("countdown", "chain_sum", "gsm8k_train", "numbers", "school", "letters")
STOPPED = ("complete", "too easy", "budget", "timeout", "exhausted")
BEGAN = 1_800_000_000.0
"""Seconds: when the run began. It took a day."""
LASTED = 86_400.0
COMMITS = 40
"""Of a large table; the sink merges files when there are more than fifty."""
GROUPS_A_STEP = 32
SFT_STEPS = 2_000
ASKED = 128
"""Problems of an evaluation."""


class Sizes(msgspec.Struct, frozen=True):
    """How large it is made."""

    nodes: int
    """Rows, at least."""
    groups: int
    """Rows of `rollouts`, and of `rewards`."""
    versions: int = 240
    """Of the weights; each was evaluated."""
    letters: int = 2_000
    """Dead ones."""
    commit: int = 500
    """The fewest rows of a commit."""


def filled(data: Path, sizes: Sizes) -> dict[str, int]:
    """Rows by table; all tables are written where the directory has none yet."""
    datasets = Datasets(data / "datasets")
    if not datasets.versions():
        datasets.create()
        _fill(datasets, sizes)
    with datasets.connect() as connection:
        query = " UNION ALL ".join(f"SELECT '{name}', count(*) FROM \"{name}\"" for name in TABLES)  # noqa: S608 - ours
        return dict(connection.execute(query).fetchall())


def _fill(datasets: Datasets, sizes: Sizes) -> None:
    patterns = [grown(seed) for seed in range(PATTERNS)]
    mean = sum(len(tree.nodes) for tree in patterns) / PATTERNS
    count = math.ceil(sizes.nodes / mean / PATTERNS) * PATTERNS
    groups, versions, letters = sizes.groups, sizes.versions, sizes.letters
    for messages, rows in (
        (_problems(patterns, count), count),
        (_trees(patterns, count, versions), count),
        (_traces(patterns, count), count * 4),
        (_examples(patterns, count), count * 4),
        (_prompts(patterns, count, groups), groups),
        (_groups(patterns, count, sizes), groups),
        (_rewards(patterns, count, sizes), groups),
        (_answers(patterns, count, versions), versions * ASKED),
        (_evaluations(versions), versions * (len(SOURCES) + 1)),
        (_steps(patterns, count, sizes), groups // GROUPS_A_STEP + SFT_STEPS),
        (_weights(versions), versions),
        (_filtered(groups), groups // 5),
        (_letters(count, letters), letters),
        (_replays(letters), letters // 4),
    ):
        _write(datasets, messages, rows, max(math.ceil(rows / COMMITS), sizes.commit))


def _write(datasets: Datasets, messages: Iterable[m.Message], rows: int, size: int) -> None:
    """Messages of one type, about `rows` of them, in commits of `size`, as a sink makes them."""
    half = math.ceil(rows / size) // 2
    source = iter(messages)
    at = commits = 0
    while chunk := list(itertools.islice(source, size)):
        topic = BY_MESSAGE[type(chunk[0])]
        places = [
            Place(
                topic=topic.name, topic_id="bench", partition=0, offset=at + number, sha=m.content_id("sha", id_),
                time_ms=int((BEGAN + LASTED * min((at + number) / rows, 1.0)) * 1000),
            )
            for number, id_ in enumerate(map(message_id, chunk))
        ]  # fmt: skip
        made = message_rows(chunk, places, TABLES[topic.table])
        written = {topic.table: made}
        if topic.table == "trees":
            written["nodes"] = node_rows(made)
        at, commits = at + len(chunk), commits + 1
        for name, batch in written.items():
            datasets.append(name, pa.Table.from_batches([batch]), {app_id(name, "bench", 0): at - 1})
            if commits == half:
                datasets.compact(name, 1)


def problem_id(at: int) -> str:
    """The id of the problem number `at`."""
    return m.content_id("bench", at)


def tree_id(at: int) -> str:
    """The id of that problem's tree."""
    return m.content_id("tree", at)


def group_id(at: int) -> str:
    """The id of a group of rollouts."""
    return m.content_id("prompt", at)


def trace_id(tree: str, number: int) -> str:
    """The id of a tree's trace."""
    return m.content_id(tree, number)


def answers_id(version: int, at: int) -> str:
    """The id of what a version answered to a problem."""
    return m.content_id("answers", version, at)


def letter_id(at: int) -> str:
    """The id of a dead letter."""
    return m.content_id("letter", at)


def _problem(patterns: list[m.Tree], at: int) -> m.Problem:
    pattern = patterns[at % PATTERNS].problem
    return replace(
        pattern, id=problem_id(at), question=f"{pattern.question} Say it for case {at}.", index=at,
        source=SOURCES[at % len(SOURCES)], difficulty=at % 7 / 7,
    )  # fmt: skip


def _problems(patterns: list[m.Tree], count: int) -> Iterator[m.Problem]:
    return (_problem(patterns, at) for at in range(count))


def _trees(patterns: list[m.Tree], count: int, versions: int) -> Iterator[m.Tree]:
    for at in range(count):
        yield replace(
            patterns[at % PATTERNS], id=tree_id(at), problem=_problem(patterns, at), seed=at, seconds=1 + at % 97 / 9,
            solved=at % 5 > 0, stopped=STOPPED[at % len(STOPPED)], generated_tokens=2_000 + at * 7919 % 20_000,
            policy_version=at * versions // count,
        )  # fmt: skip


def _traces(patterns: list[m.Tree], count: int) -> Iterator[m.Trace]:
    settings = Settings()
    made = [[one for one in traces(tree, "0", settings) if isinstance(one, m.Trace)] for tree in patterns]
    for at in range(count):
        problem, tree = _problem(patterns, at), tree_id(at)
        for number, one in enumerate(made[at % PATTERNS]):
            id_ = trace_id(tree, number)
            yield replace(one, id=id_, tree_id=tree, tree_sha=m.content_id("sha", tree), problem=problem)


def _examples(patterns: list[m.Tree], count: int) -> Iterator[m.Example]:
    for trace in _traces(patterns, count):
        yield m.Example(
            id=trace.id, tree_id=trace.tree_id, trace_sha=m.content_id("sha", trace.id), problem=trace.problem,
            arm=trace.arm, text=trace.text, backtracks=trace.backtracks, verdict="correct", checks=["length", "ends"],
        )  # fmt: skip


def _prompts(patterns: list[m.Tree], count: int, groups: int) -> Iterator[m.Prompt]:
    for at in range(groups):
        problem = _problem(patterns, at % count)
        yield m.Prompt(id=group_id(at), problem=problem, round=at // count, why="pass rate between 0 and 1",
                       pass_rate=at % 9 / 9)  # fmt: skip


def _groups(patterns: list[m.Tree], count: int, sizes: Sizes) -> Iterator[m.RolloutGroup]:
    rng = Random(1)
    tokenizer = Tokenizer.from_file(f"{resolve('tiny')}/tokenizer.json")
    texts = ["\n".join(step(rng) for _ in range(rng.randint(2, 4))) for _ in range(PATTERNS)]
    tokens = [tokenizer.encode(text).ids for text in texts]
    likely = [[-(rng.random() ** 4) for _ in ids] for ids in tokens]
    for at in range(sizes.groups):
        version = at * sizes.versions // sizes.groups
        rollouts = []
        for number in range(SIZE):
            which = (at * SIZE + number * 7) % PATTERNS
            ids, factor = tokens[which], rng.random()
            rollouts.append(
                m.Rollout(
                    token_ids=ids, logprobs=[value * factor for value in likely[which]], finish="stop",
                    spans=[m.Span(version=version, sha=f"{version:064x}", start=0, stop=len(ids))], text=texts[which],
                )
            )  # fmt: skip
        yield m.RolloutGroup(
            id=group_id(at), problem=_problem(patterns, at % count), round=at // count, prompt_ids=tokens[0],
            rollouts=rollouts, seconds=1 + at % 31 / 10,
        )  # fmt: skip


def _rewards(patterns: list[m.Tree], count: int, sizes: Sizes) -> Iterator[m.RewardGroup]:
    for at, group in enumerate(_groups(patterns, count, sizes)):
        right = [at % 5 > number for number in range(SIZE)]
        yield m.RewardGroup(
            id=group.id, problem=group.problem, round=group.round, rollouts_sha=m.content_id("sha", group.id),
            prompt_ids=group.prompt_ids, rollouts=group.rollouts, rewards=[1.0 if one else -1.0 for one in right],
            verdicts=["correct" if one else "wrong" for one in right], backtracks=[at % 3] * SIZE,
        )  # fmt: skip


def _answers(patterns: list[m.Tree], count: int, versions: int) -> Iterator[m.Answers]:
    for version, at in itertools.product(range(versions), range(ASKED)):
        yield m.Answers(
            id=answers_id(version, at), asked="bench", policy="policy", version=version,
            sha=f"{version:064x}", trainer="rl", problem=_problem(patterns, at % count), texts=["Answer: 7"] * 4,
            verdicts=["correct", "wrong", "wrong", "correct"], tokens=[40] * 4, backtracks=[1] * 4,
            finishes=["stop"] * 4, time=BEGAN,
        )  # fmt: skip


def _evaluations(versions: int) -> Iterator[m.Evaluation]:
    for version, source in itertools.product(range(versions), ("all", *SOURCES)):
        score = 0.2 + 0.5 * version / versions
        yield m.Evaluation(
            id=m.content_id("evaluation", version, source), policy="policy", version=version, sha=f"{version:064x}",
            trainer="rl", source=source, problems=ASKED, asked="bench", samples=4, greedy=False, pass_at_1=score,
            low=score - 0.05, high=score + 0.05, ks=[1, 4], pass_at_k=[score, score + 0.1],
            maj_at_k=[score, score + 0.05], tokens=40.0, backtracks=1.0, unparsable=0.0, time=BEGAN + version,
        )  # fmt: skip


def _steps(patterns: list[m.Tree], count: int, sizes: Sizes) -> Iterator[m.TrainingStep]:
    trained = (trace.id for trace in _traces(patterns, count))
    for number in range(SFT_STEPS):
        yield _step("sft", number, list(itertools.islice(trained, 8)), sizes.versions / SFT_STEPS)
    waits = max(sizes.groups // 50, 1)
    kept = [group_id(at) for at in range(sizes.groups - waits) if at % 5]  # the others are `_filtered`
    steps = len(kept) // GROUPS_A_STEP
    for number in range(steps):
        yield _step("rl", number, kept[number * GROUPS_A_STEP : (number + 1) * GROUPS_A_STEP], sizes.versions / steps)


def _step(trainer: str, number: int, rows: list[str], published: float) -> m.TrainingStep:
    run = f"{trainer}-1"
    return msgspec.convert(
        {
            "id": f"{run}:{number + 1}", "run": run, "trainer": trainer, "step": number + 1, "rows": rows,
            "version": int(number * published), "loss": 1 / (number + 1), "lr": 1e-5, "grad_norm": 1.0,
            "tokens": len(rows) * 400, "rollouts": len(rows) * SIZE, "reward": 1 - 1 / (number + 1), "entropy": 0.5,
            "time": BEGAN + 10 * number,
        },
        m.TrainingStep,
    )  # fmt: skip


def _weights(versions: int) -> Iterator[m.Weights]:
    for version in range(versions):
        yield m.Weights(
            policy="policy", version=version, parent=version - 1, path="/nowhere", sha256=f"{version:064x}",
            trainer="rl" if version else "base", run="rl-1", step=version, time=BEGAN + version,
        )  # fmt: skip


def _filtered(groups: int) -> Iterator[m.Filtered]:
    for at in range(0, groups, 5):
        why = "stale" if at % 4 == 0 else "all_equal"
        yield m.Filtered(
            id=m.content_id("rl", at), stage="rl", input_topic="rewards", input_id=group_id(at), why=why, rollouts=SIZE,
            tokens=SIZE * 100, source=SOURCES[at % len(SOURCES)], time=BEGAN + LASTED * at / groups,
        )  # fmt: skip


def _letters(count: int, letters: int) -> Iterator[m.DeadLetter]:
    inputs = (("search", "problems"), ("linearize", "trees"), ("verify", "traces"))
    for at in range(letters):
        stage, topic = inputs[at % 3]
        yield m.DeadLetter(
            id=letter_id(at), stage=stage, topic=topic, partition=at % 8, offset=at, input_id=problem_id(at % count),
            key=b"key", value=b'{"id": "no message"}' * 50, error=f"no message: field {at % 40} is missing",
            detail="Traceback", time=BEGAN + LASTED * at / letters,
        )  # fmt: skip


def _replays(letters: int) -> Iterator[Replay]:
    for at in range(0, letters, 4):
        yield Replay(
            id=m.content_id("replay", at), what="sent", topic="dead.letters", row_id=letter_id(at), stage="search",
            time=BEGAN + LASTED,
        )  # fmt: skip
