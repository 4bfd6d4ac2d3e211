"""The stage 'evaluate': every published version of the policy answers the same held-out problems: the share is a row.

It runs as a task beside the Faust stages, on their engine. Which versions are done it learns from the topic and the
table `evaluations`; a version's row for 'all' is sent last, so a version counts as done only when it is whole.
"""

import asyncio
import time
from collections.abc import Sequence
from random import Random

import msgspec

from processors import kafka
from processors.adaptive import wilson
from processors.chat import Chat, count_backtracks, resolve
from processors.grading import Grader, Verdict
from processors.history import history
from processors.policy import Completion, Engine, ProbeFailed, Request, UnknownWeights
from processors.status import Status
from processors.versions import Versions
from producers.sources.held_out import held_out
from schemas.messages import Evaluation, Filtered, Message, Problem, Weights, content_id
from schemas.settings import Settings

STAGE = "evaluate"
ALL = "all"
PAUSE_S = 1.0
ACK_S = 60.0
RESAMPLES = 1000


class Answered(msgspec.Struct, frozen=True):
    """One response to one problem and its verdict."""

    problem: Problem
    completion: Completion
    verdict: Verdict

    @property
    def correct(self) -> bool:
        """Whether it is right."""
        return self.verdict.outcome == "correct"


def interval(shares: Sequence[float], samples: int) -> tuple[float, float]:
    """The 95 % interval of pass@1 over problems: Wilson for one sample a problem, else a bootstrap over the problems.

    Args:
        shares: for each problem, the share of its samples that is right.
        samples: samples a problem. (Several samples of one problem are not independent: the problem is the unit.)
    """
    if samples == 1 or len(set(shares)) <= 1:
        return wilson(sum(shares), len(shares))
    rng = Random(0)
    means = sorted(sum(rng.choices(shares, k=len(shares))) / len(shares) for _ in range(RESAMPLES))
    return means[round(0.025 * (RESAMPLES - 1))], means[round(0.975 * (RESAMPLES - 1))]


async def ask(
    engine: Engine, chat: Chat, problems: Sequence[Problem], grader: Grader, sha: str, settings: Settings
) -> list[Answered]:
    """settings.evaluate.samples graded responses to each problem, under the weights with this sha.

    Sampled at sample.temperature (0 where evaluate.greedy) with seeds that depend on problem and sample alone, so two
    versions are compared on the same draws.

    Raises:
        ProbeFailed, UnknownWeights, EngineDied: as the engine says.
    """
    section = settings.evaluate
    asked = [(problem, number) for problem in problems for number in range(section.samples)]
    prompts = {problem.id: chat.prompt_ids(problem.question) for problem in problems}
    requests = [
        Request(
            prompt_ids=prompts[problem.id],
            max_tokens=section.max_tokens,
            temperature=0.0 if section.greedy else settings.sample.temperature,
            seed=int(content_id(settings.factory.seed, problem.id, number)[:7], 16),
            weights=sha,
        )
        for problem, number in asked
    ]
    completions = await engine.generate_many(requests)
    pairs = [(problem, made.text) for (problem, _), made in zip(asked, completions, strict=True)]
    verdicts = await grader.grade_many(pairs)
    return [
        Answered(problem, made, verdict)
        for (problem, _), made, verdict in zip(asked, completions, verdicts, strict=True)
    ]


def summarize(answered: Sequence[Answered], weights: Weights, settings: Settings, seconds: float) -> list[Evaluation]:
    """One row a source, and last the one for 'all' (the mean over every problem)."""
    sources = sorted({one.problem.source for one in answered})
    groups = [(source, [one for one in answered if one.problem.source == source]) for source in sources]
    return [_row(source, group, weights, settings, seconds) for source, group in [*groups, (ALL, list(answered))]]


def _row(source: str, group: Sequence[Answered], weights: Weights, settings: Settings, seconds: float) -> Evaluation:
    by_problem: dict[str, list[bool]] = {}
    for one in group:
        by_problem.setdefault(one.problem.id, []).append(one.correct)
    shares = [sum(marks) / len(marks) for marks in by_problem.values()]
    section, count = settings.evaluate, max(1, len(group))
    low, high = interval(shares, section.samples)
    questions = content_id(*sorted(by_problem))
    return Evaluation(
        id=content_id(
            weights.policy, weights.version, weights.sha256, source, questions, section.samples, section.greedy
        ),
        policy=weights.policy,
        version=weights.version,
        sha=weights.sha256,
        trainer=weights.trainer,
        source=source,
        problems=len(shares),
        samples=section.samples,
        greedy=section.greedy,
        pass_at_1=sum(shares) / max(1, len(shares)),
        low=low,
        high=high,
        tokens=sum(len(one.completion.token_ids) for one in group) / count,
        backtracks=sum(count_backtracks(one.completion.text) for one in group) / count,
        unparsable=sum(one.verdict.outcome == "unparsable" for one in group) / count,
        seconds=seconds,
        time=time.time(),
    )


async def evaluate(
    engine: Engine, chat: Chat, problems: Sequence[Problem], grader: Grader, weights: Weights, settings: Settings
) -> list[Evaluation]:
    """One version's evaluation, without a broker: a row a source, then 'all'.

    Raises:
        ProbeFailed, UnknownWeights, EngineDied: as the engine says.
    """
    start = time.monotonic()
    answered = await ask(engine, chat, problems, grader, weights.sha256, settings)
    return summarize(answered, weights, settings, time.monotonic() - start)


def pick(pending: Sequence[Weights], turn: int) -> Weights:
    """Of the versions still to do the newest and the oldest in turn: news come soon, and no version waits for ever."""
    return max(pending, key=_version) if turn % 2 == 0 else min(pending, key=_version)


def _version(weights: Weights) -> int:
    return weights.version


def done_before(settings: Settings) -> set[tuple[int, str]]:
    """(version, sha) of every version that has its row for 'all', or was given up for a stated reason."""
    done = {
        (row.version, row.sha) for row in history(settings, Evaluation) if row.source == ALL and _ours(row, settings)
    }
    given_up = (row for row in history(settings, Filtered, f"stage = '{STAGE}'") if row.stage == STAGE)
    return done | {(int(version), sha) for row in given_up for version, _, sha in [row.input_id.partition(":")]}


def _ours(row: Evaluation, settings: Settings) -> bool:
    return row.policy == settings.policy.name


def _given_up(weights: Weights, error: Exception) -> Filtered:
    name = f"{weights.version}:{weights.sha256}"
    why = f"not evaluated: {error}"
    return Filtered(
        id=content_id(STAGE, name, why), stage=STAGE, input_topic="weights", input_id=name, why=why, time=time.time()
    )


async def run(
    settings: Settings, engine: Engine, versions: Versions, grader: Grader, status: Status, *, once: bool = False
) -> None:
    """Evaluate every announced version that has no evaluation yet, until cancelled (once: until there is none left).

    Weights that the engine refuses (a failed probe, a lost directory) become a row in `filtered`, not a crash.

    Raises:
        EngineDied, BrokerMissing, KafkaError: what the process cannot go on without.
    """
    problems = await asyncio.to_thread(held_out, settings)
    done = await asyncio.to_thread(done_before, settings)
    chat = Chat(resolve(settings.policy.path), settings.policy)
    turn = 0
    while True:
        pending = [row for row in versions.all() if (row.version, row.sha256) not in done]
        if not pending or not problems:
            if once:
                return
            await asyncio.sleep(PAUSE_S)
            continue
        weights = pick(pending, turn)
        turn += 1
        rows = await _one(settings, engine, chat, problems, grader, weights, status)
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
            rows = await evaluate(engine, chat, problems, grader, weights, settings)
        except (ProbeFailed, UnknownWeights) as error:
            status.add(errors=1)
            return [_given_up(weights, error)]
    total = rows[-1]
    status.add(records=1, tokens=round(total.tokens * total.problems * total.samples))
    status.set(version=total.version, pass_at_1=round(total.pass_at_1, 4), evaluated=total.problems)
    return list(rows)


def _publish(settings: Settings, rows: Sequence[Message]) -> None:
    client = kafka.producer(settings)
    try:
        for row in rows:
            kafka.send(client, row).get(timeout=ACK_S)
    finally:
        client.close()
