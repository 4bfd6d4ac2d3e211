"""`factory evaluate --problems FILE`: one policy on one's own problems, with no broker; the rows go into `evaluations`.

The engine asks for weights by their sha wherever it runs; here a catalog with a single entry stands in for the topic.
What is measured is exactly what the stage measures (trainers/evaluator.py), so the numbers can be compared. Samples are
kept as they come (trainers/samples.py): the same command after an interruption goes on, and once more costs only the
grading.
"""

import asyncio
import fcntl
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy import plan
from deploy.output import console
from processors.announced import weights_sha
from processors.chat import BadPolicy, Chat, resolve
from processors.dataset import Datasets
from processors.grading import Grader
from processors.policy import Engine, open_engine
from processors.rows import Place, message_batch
from processors.versions import local
from producers.sources.held_out import evaluation_file
from producers.sources.items import Bad, BadSource, question_key
from schemas.codec import content_sha, encode
from schemas.load import BadSettings
from schemas.messages import Evaluation, Problem, Weights
from schemas.settings import Settings
from schemas.tables import TABLES
from trainers.evaluator import ask
from trainers.samples import Log, draws
from trainers.scores import Answered, summarize

TABLE = "evaluations"
TICK_S = 0.5
FIELDS_TOLD = 12


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
        settings: policy, engine, verify, evaluate and factory.data, where samples and rows are kept; the first
            evaluate.problems problems of each file are asked.
        problem_files: JSONL or Parquet; a file's name without its ending is its source.
        as_json: print an array of the rows (as in the table `evaluations`) on stdout instead of a table.

    Raises:
        BadSettings, BadPolicy, EngineNotStarted, EngineUnreachable: in a sentence for the person at the keyboard.
        GraderBroken: no grading process can be started.
    """
    plan.check(settings)
    problems = read_problems(settings, problem_files)
    given = settings.policy.path
    settings = _fetched(settings)
    weights = _as_version_0(settings)
    rows = _evaluated(settings, weights, problems, given)
    keep(settings, rows)
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(rows)).decode())
    else:
        console().print(table(rows, weights))
    return rows


def keep(settings: Settings, rows: Sequence[Evaluation]) -> None:
    """Write the rows into the table `evaluations`; one that is there already stays as it is.

    Raises:
        BadPlace, OtherColumns: the data directory's tables cannot be used.
    """
    datasets = Datasets.of(settings)
    datasets.create()
    with (datasets.root / ".evaluate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the same evaluation may be asked for twice at once
        known = datasets.ids(TABLE)
        batches = [
            message_batch(row, _place(row), TABLES[TABLE])
            for row in {row.id: row for row in rows}.values()
            if row.id not in known
        ]
        if batches:
            datasets.append(TABLE, pa.Table.from_batches(batches), {})


def _place(row: Evaluation) -> Place:
    """Of a row that was on no topic."""
    at = round(row.time * 1000)
    return Place(topic="", topic_id="", partition=-1, offset=-1, time_ms=at, sha=content_sha(encode(row)))


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
            raise BadSettings(f"--problems {path}: no problem in it; {_hint(path, bad)}")
        found += ours
    return found


def _hint(path: Path, bad: Sequence[Bad]) -> str:
    """What to do about a file without a problem: where its lines are objects, their fields must be named."""
    names: list[str] = []
    for one in bad:
        try:
            row = json.loads(one.raw)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            names = [name for name in row if isinstance(name, str)]
            break
    if not names:
        return "a line is JSON with `question` and `answer`"
    listed = ", ".join(f"`{name}`" for name in names[:FIELDS_TOLD])
    source = f'{{kind = "file", name = "{path}", params = {{question = "...", answer = "..."}}}}'
    return (
        f"its fields are {listed}: say which are the question and the answer with --set 'problems.sources=[{source}]'"
    )


def _unrepeated(settings: Settings, path: Path, label: str, bad: list[Bad]) -> Iterator[Problem]:
    """The problems of a file; what is none is put into `bad`."""
    seen: set[str] = set()
    for item in evaluation_file(path, settings, label).items():
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


def _evaluated(settings: Settings, weights: Weights, problems: Sequence[Problem], given: str) -> list[Evaluation]:
    """The rows, under the policy's path as it was given and no version: this policy was announced nowhere."""
    start = time.monotonic()
    wanted = draws(Chat(weights.path, settings.policy), problems, settings)
    names = {draw.name for draw in wanted}
    log = Log(settings, weights.sha256, names)
    missing = len(names) - len(log.samples)
    if missing < len(names):
        print(f"{len(log.samples)} of {len(names)} answers are in {log.path} already", file=sys.stderr)
    doing = f"starting the engine on {weights.path}" if missing else "grading"
    with Console(stderr=True).status(doing) as spinner:
        engine = open_engine(settings, One(weights), Silent()) if missing else None
        grader = Grader(settings)

        async def work() -> list[Answered]:
            with _shown(engine, missing, spinner):
                return await ask(engine, wanted, grader, log, weights.sha256, settings)

        try:
            answered = asyncio.run(work())
        finally:
            grader.close()
            log.close()
            if engine:
                engine.close()
            if (got := len(log.samples)) < len(names):
                print(
                    f"{got} of {len(names)} answers are kept in {log.path}: the same command goes on", file=sys.stderr
                )
    named = msgspec.structs.replace(weights, policy=given, version=-1)
    rows = summarize(answered, named, settings, time.monotonic() - start)
    return [msgspec.structs.replace(row, trainer="") for row in rows]


@contextmanager
def _shown(engine: Engine | None, total: int, spinner: Any) -> Iterator[None]:  # noqa: ANN401 - a rich Status
    """Tell how far the answers are, for as long as the body takes."""

    async def follow() -> None:
        while engine:
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
    """The rows for people, of pass@k and maj@k the largest k; the interval is trainers.scores.interval's, of pass@1."""
    title = Text(f"{weights.path} ({weights.sha256[:12]}), {rows[-1].seconds:.1f} s")
    drawn = Table(title=title, box=None, title_justify="left", padding=(0, 1, 0, 0))
    drawn.add_column("source", overflow="fold")
    k = rows[-1].ks[-1:]
    many = [f"{name}@{number}" for number in k for name in ("pass", "maj")]
    for name in ("problems", "samples", "pass@1", "95 %", *many, "tokens", "backtracks", "unparsable", "cut off"):
        drawn.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        drawn.add_row(
            Text(row.source),
            f"{row.problems:,}",
            f"{row.samples}",
            f"{row.pass_at_1:.3f}",
            f"{row.low:.3f}-{row.high:.3f}",
            *(f"{values[-1]:.3f}" for values in (row.pass_at_k, row.maj_at_k) if values),
            f"{row.tokens:.1f}",
            f"{row.backtracks:.2f}",
            f"{row.unparsable:.3f}",
            f"{row.truncated:.3f}",
        )
    return drawn
