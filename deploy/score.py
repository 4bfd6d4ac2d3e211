"""`factory evaluate --problems FILE`: one policy on one's own problems, with no broker and nothing written.

The engine asks for weights by their sha wherever it runs; here a catalog with a single entry stands in for the topic.
What is measured is exactly what the stage measures (trainers/evaluator.py), so the numbers can be compared.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy import plan
from processors.chat import BadPolicy, Chat, resolve
from processors.grading import Grader
from processors.policy import Engine, open_engine
from processors.versions import local, weights_sha
from producers.sources.items import Bad, BadSource, question_key
from producers.sources.opening import open_file
from schemas.load import BadSettings
from schemas.messages import Evaluation, Problem, Weights
from schemas.settings import Settings
from trainers.evaluator import evaluate

TICK_S = 0.5


class One:
    """The catalog of a policy that nobody announced: its own directory is version 0."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def by_sha(self, sha: str) -> Weights | None:
        """The policy's weights, where it is these that are asked for."""
        return self.weights if sha == self.weights.sha256 else None


class Silent:
    """A reporter for a command that has no status file."""

    def add(self, *, records: int = 0, errors: int = 0, tokens: int = 0) -> None:
        """Counts nothing."""

    def set(self, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        """Shows nothing."""


def score(settings: Settings, problem_files: Sequence[Path], *, as_json: bool = False) -> list[Evaluation]:
    """Evaluate settings.policy.path on the files and print a row a file, then 'all'.

    Args:
        settings: policy, engine, verify and evaluate; the first evaluate.problems problems of each file are asked.
        problem_files: JSONL or Parquet; a file's name without its ending is its source.
        as_json: print an array of the rows (as in the table `evaluations`) on stdout instead of a table.

    Raises:
        BadSettings, BadPolicy, EngineNotStarted, EngineUnreachable: in a sentence for the person at the keyboard.
        GraderBroken: no grading process can be started.
    """
    plan.check(settings)
    problems = read_problems(settings, problem_files)
    settings = _fetched(settings)
    weights = _as_version_0(settings)
    rows = _evaluated(settings, weights, problems)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(rows)).decode())
    else:
        Console().print(table(rows, weights))
    return rows


def read_problems(settings: Settings, files: Sequence[Path]) -> list[Problem]:
    """The first settings.evaluate.problems problems of each file, none twice; lines that are none are told on stderr.

    Raises:
        BadSettings: for a file that cannot be read or holds no problem.
    """
    if settings.evaluate.problems < 1:
        raise BadSettings("evaluate.problems must be at least 1")
    files = list(dict.fromkeys(files))
    stems = [path.stem for path in files]
    found: list[Problem] = []
    for path in files:
        bad: list[Bad] = []
        label = path.stem if stems.count(path.stem) == 1 else str(path)
        try:
            ours = list(itertools.islice(_unrepeated(settings, path, label, bad), settings.evaluate.problems))
        except BadSource as error:
            raise BadSettings(f"--problems {path}: {error}") from error
        if bad:
            print(f"{path}: {len(bad)} skipped, the first: line {bad[0].line}: {bad[0].detail}", file=sys.stderr)
        if not ours:
            raise BadSettings(f"--problems {path}: no problem in it; a line is JSON with `question` and `answer`")
        found += ours
    return found


def _unrepeated(settings: Settings, path: Path, label: str, bad: list[Bad]) -> Iterator[Problem]:
    """The problems of a file; what is none is put into `bad`."""
    seen: set[str] = set()
    for item in open_file(path, settings, label).items():
        if item.bad is not None:
            bad.append(item.bad)
        elif item.problem is not None and (key := question_key(item.problem.question)) not in seen:
            seen.add(key)
            yield item.problem


def _fetched(settings: Settings) -> Settings:
    """The settings with a directory as policy: one that a hub names is downloaded first.

    Raises:
        BadPolicy: it is neither a directory nor to be had from the hub.
    """
    policy = msgspec.structs.replace(settings.policy, path=local(resolve(settings.policy.path)))
    return msgspec.structs.replace(settings, policy=policy)


def _as_version_0(settings: Settings) -> Weights:
    path = settings.policy.path
    try:
        sha = weights_sha(path)
    except FileNotFoundError as error:
        raise BadPolicy(f"{error}; give a directory with its weights as safetensors") from error
    return Weights(
        policy=settings.policy.name, version=0, parent=-1, path=path, sha256=sha, trainer="base", time=time.time()
    )


def _evaluated(settings: Settings, weights: Weights, problems: Sequence[Problem]) -> list[Evaluation]:
    with Console(stderr=True).status(f"starting the engine on {weights.path}") as spinner:
        chat = Chat(weights.path, settings.policy)
        engine = open_engine(settings, One(weights), Silent())
        grader = Grader(settings)
        total = len(problems) * settings.evaluate.samples

        async def work() -> list[Evaluation]:
            with _shown(engine, total, spinner):
                return await evaluate(engine, chat, problems, grader, weights, settings)

        try:
            return asyncio.run(work())
        finally:
            grader.close()
            engine.close()


@contextmanager
def _shown(engine: Engine, total: int, spinner: Any) -> Iterator[None]:  # noqa: ANN401 - a rich Status
    """Tell how far the answers are, for as long as the body takes."""

    async def follow() -> None:
        while True:
            now = engine.stats()
            done = max(0, total - now.running - now.waiting)
            spinner.update(f"{done} of {total} answers, {now.tokens:,} tokens")
            await asyncio.sleep(TICK_S)

    task = asyncio.ensure_future(follow())
    try:
        yield
    finally:
        task.cancel()


def table(rows: Sequence[Evaluation], weights: Weights) -> Table:
    """The rows for people; the interval is the 95 % one of trainers.evaluator.interval."""
    title = Text(f"{weights.path} ({weights.sha256[:12]}), {rows[-1].seconds:.1f} s")
    drawn = Table(title=title, box=None, title_justify="left", padding=(0, 1, 0, 0))
    drawn.add_column("source", overflow="fold")
    for name in ("problems", "samples", "pass@1", "95 %", "tokens", "backtracks", "unparsable"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(
            Text(row.source),
            f"{row.problems:,}",
            f"{row.samples}",
            f"{row.pass_at_1:.3f}",
            f"{row.low:.3f}-{row.high:.3f}",
            f"{row.tokens:.1f}",
            f"{row.backtracks:.2f}",
            f"{row.unparsable:.3f}",
        )
    return drawn
