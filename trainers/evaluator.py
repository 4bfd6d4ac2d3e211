"""The stage 'evaluate': every published version of the policy answers the same held-out problems: the share is a row.

It runs as a task beside the Faust stages, on their engine. What was answered is told first, in `answers`. Which
versions are done it learns from the topic and the table `evaluations`: a version's row for 'all' is sent last, so a
version counts as done only when it is whole, and the row says what was asked, so other problems, samples or limits are
another evaluation. An interrupted one goes on with the samples that are on the disk (trainers/samples.py).
"""

import asyncio
import time
from collections.abc import Sequence

from processors import kafka
from processors.chat import Chat, resolve
from processors.grading import Grader
from processors.history import history
from processors.policy import Engine, ProbeFailed, UnknownWeights, refusal
from processors.status import Status
from processors.versions import Versions
from producers.sources.held_out import held_out
from schemas.errors import Told
from schemas.killpoints import passed
from schemas.messages import Answers, Evaluation, Filtered, Message, Problem, Weights
from schemas.settings import Settings
from trainers.samples import Draw, Log, Sample, draws
from trainers.scores import ALL, Answered, asked, summarize, tell

STAGE = "evaluate"
PAUSE_S = 1.0
ACK_S = 60.0


async def ask(
    engine: Engine | None, wanted: Sequence[Draw], grader: Grader, log: Log, sha: str, settings: Settings
) -> list[Answered]:
    """The graded responses to the draws, in their order, under the weights with this sha.

    What the log has is not sampled again; what it has not is in it as soon as it is there. All of it is graded now.
    `engine` may be None where the log has everything.

    Raises:
        ProbeFailed, UnknownWeights, EngineDied: as the engine says.
        OSError: the log cannot be written.
    """

    async def one(draw: Draw) -> Answered:
        sample = log.samples.get(draw.name) or await _sampled(engine, draw, log, sha, settings)
        return Answered(draw.problem, sample, await grader.grade(draw.problem, sample.text))

    tasks = [asyncio.ensure_future(one(draw)) for draw in wanted]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()  # after an error nothing goes on


class Aborted(Told, RuntimeError):
    """The engine gave up a request: what it said of it is no sample."""


async def _sampled(engine: Engine | None, draw: Draw, log: Log, sha: str, settings: Settings) -> Sample:
    assert engine, "a sample is missing and there is nobody to ask"
    made = await engine.generate(draw.request(sha, settings))
    if made.finish == "abort":
        raise Aborted("the engine gave up a request of the evaluation: start it again, it goes on with what it has")
    sample = Sample(
        draw=draw.name,
        problem=draw.problem.id,
        number=draw.number,
        tokens=len(made.token_ids),
        finish=made.finish,
        text=made.text,
    )
    log.add(sample)
    return sample


async def evaluate(
    engine: Engine, chat: Chat, problems: Sequence[Problem], grader: Grader, weights: Weights, settings: Settings
) -> tuple[list[Answers], list[Evaluation]]:
    """One version's evaluation, without a broker: its answers, a row a problem; and a row a source, then 'all'.

    Raises:
        ProbeFailed, UnknownWeights, EngineDied: as the engine says.
        OSError: the samples cannot be kept in factory.data.
    """
    start = time.monotonic()
    wanted = draws(chat, problems, settings)
    log = Log(settings, weights.sha256, {draw.name for draw in wanted})
    try:
        answered = await ask(engine, wanted, grader, log, weights.sha256, settings)
    finally:
        log.close()
    return tell(answered, weights, settings), summarize(answered, weights, settings, time.monotonic() - start)


def pick(pending: Sequence[Weights], turn: int) -> Weights:
    """Of the versions still to do the newest and the oldest in turn: news come soon, and no version waits for ever."""
    return max(pending, key=_version) if turn % 2 == 0 else min(pending, key=_version)


def _version(weights: Weights) -> int:
    return weights.version


def done_before(settings: Settings, name: str) -> set[tuple[int, str]]:
    """(version, sha) of every version with a row for 'all' of just this evaluation and all its answers, or given up.

    Args:
        settings: the broker, the data directory, policy.name.
        name: trainers.scores.asked of the problems and settings in force.
    """
    answers: dict[tuple[int, str], set[str]] = {}
    for told in history(settings, Answers, f"asked = '{name}'"):
        if told.asked == name:
            answers.setdefault((told.version, told.sha), set()).add(told.id)
    rows = history(settings, Evaluation)
    whole = (row for row in rows if row.source == ALL and row.asked == name and _ours(row, settings))
    # Two topics reach their tables in either order: a row whose answers a crash took is no evaluation.
    done = {key for row in whole if len(answers.get(key := (row.version, row.sha), ())) == row.problems}
    given_up = (row for row in history(settings, Filtered, f"stage = '{STAGE}'") if row.stage == STAGE)
    keys = {(int(version), sha) for row in given_up for version, _, sha in [row.input_id.partition(":")]}
    # Who names a version wants it tried again: what stood in its way may have been put right.
    return done | {key for key in keys if key[0] not in settings.evaluate.versions}


def _wanted(row: Weights, settings: Settings) -> bool:
    return not settings.evaluate.versions or row.version in settings.evaluate.versions


def _ours(row: Evaluation, settings: Settings) -> bool:
    return row.policy == settings.policy.name


async def run(
    settings: Settings, engine: Engine, versions: Versions, grader: Grader, status: Status, *, once: bool = False
) -> None:
    """Evaluate every announced version that has no evaluation yet, until cancelled (once: until there is none left).

    Weights that the engine refuses (a failed probe, a lost directory) become a row in `filtered`, not a crash.

    Raises:
        EngineDied, BrokerMissing, KafkaError: what the process cannot go on without.
    """
    problems = await asyncio.to_thread(held_out, settings)
    chat = Chat(resolve(settings.policy.path), settings.policy)
    name = asked([(draw.name, draw.problem) for draw in draws(chat, problems, settings)], settings.evaluate)
    done = await asyncio.to_thread(done_before, settings, name)
    turn = 0
    while True:
        pending = [row for row in versions.all() if _wanted(row, settings) and (row.version, row.sha256) not in done]
        status.set(lag=len(pending))
        if not pending or not problems:
            if once:
                return
            await asyncio.sleep(PAUSE_S)
            continue
        weights = pick(pending, turn)
        turn += 1
        rows = await _one(settings, engine, chat, problems, grader, weights, status)
        passed("evaluate:working")
        await asyncio.to_thread(_publish, settings, rows)
        done.add((weights.version, weights.sha256))


async def _one(
    settings: Settings,
    engine: Engine,
    chat: Chat,
    problems: Sequence[Problem],
    grader: Grader,
    weights: Weights,
    status: Status,
) -> list[Message]:
    with status.in_flight:
        try:
            answers, rows = await evaluate(engine, chat, problems, grader, weights, settings)
        except (ProbeFailed, UnknownWeights) as error:  # the engine counts it
            return [refusal(STAGE, weights, error, "evaluated")]
    total = rows[-1]
    status.add(records=1)  # the engine counts tokens
    said = f"v{total.version}: pass@1 {total.pass_at_1:.3f} on {total.problems} problems"
    status.set(version=total.version, pass_at_1=round(total.pass_at_1, 4), evaluated=total.problems, evaluation=said)
    return [*answers, *rows]


def _publish(settings: Settings, rows: Sequence[Message]) -> None:
    """Send all rows, the last one when the others are there."""
    client = kafka.producer(settings)
    try:
        sent = [kafka.send(client, row) for row in rows[:-1]]
        for one in sent:
            one.get(timeout=ACK_S)
        passed("evaluate:output")
        kafka.send(client, rows[-1]).get(timeout=ACK_S)
    finally:
        client.close()
