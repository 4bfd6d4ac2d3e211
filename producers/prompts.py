"""The process 'prompts': problems for RL, chosen by SQL over the datasets and paced by what the samplers have in hand.

The default choice is a measured pass rate strictly between 0 and 1, since a group that is all right or all wrong
teaches nothing. A problem used again gets the next round, and so another group id.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import msgspec

from processors import kafka
from processors.dataset import Datasets, quoted
from processors.history import history
from processors.status import Status
from processors.stopping import stop_event
from processors.versions import Versions
from producers.sources.held_out import held_out_keys, is_reserved
from schemas.load import BadSettings
from schemas.messages import Problem, Prompt, content_id
from schemas.settings import Settings

PAUSE_S = 1.0
REFRESH_S = 15.0
"""How old a choice may be before the tables are asked again."""
ACK_S = 60.0
DEFAULT_SQL = """
WITH measured AS (
  SELECT problem_id AS id, sum(rollouts_correct) AS correct, sum(rollouts) AS total FROM nodes GROUP BY problem_id
  UNION ALL
  SELECT problem.id, len(list_filter(verdicts, lambda v: v = 'correct')), len(verdicts) FROM rewards
), rates AS (SELECT id, sum(correct) / sum(total) AS pass_rate, sum(total) AS n FROM measured GROUP BY id)
SELECT id, pass_rate, format('pass rate {:.3f} of {} rollouts', pass_rate, CAST(n AS BIGINT)) AS why
FROM rates WHERE pass_rate > 0 AND pass_rate < 1
"""
"""Rollouts of the search trees and of RL counted together."""


class Choice(msgspec.Struct, frozen=True):
    """A problem that may be used, and why."""

    problem: Problem
    pass_rate: float
    why: str


def choose(datasets: Datasets, sql: str, reserved: frozenset[str]) -> list[Choice]:
    """The problems that the query names (columns id, pass_rate, why), without those of the evaluation.

    Args:
        datasets: the tables.
        sql: settings.prompts.sql; empty = DEFAULT_SQL.
        reserved: held_out_keys of the settings.

    Raises:
        BadSettings: for a query that fails or lacks a column.
    """
    pin = datasets.versions()
    try:
        with datasets.connect(pin) as connection:
            rows = connection.execute(f"SELECT id, pass_rate, why FROM ({sql or DEFAULT_SQL})").fetchall()  # noqa: S608
    except duckdb.Error as error:
        raise BadSettings(f"prompts.sql (columns id, pass_rate, why): {error}") from error
    if not rows:
        return []
    wanted = {str(row[0]): row for row in rows}
    listed = ", ".join(quoted(name) for name in sorted(wanted))
    problems = {problem.id: problem for problem in datasets.messages(Problem, f"id IN ({listed})", pin)}
    return [
        Choice(problem, -1.0 if (rate := wanted[name][1]) is None else float(rate), str(wanted[name][2] or ""))
        for name, problem in sorted(problems.items())
        if not is_reserved(problem, reserved)
    ]


def next_prompts(choices: Sequence[Choice], rounds: dict[str, int], count: int, seed: int) -> Iterator[Prompt]:
    """The next prompts: problems used least come first, in an order that the seed shuffles. `rounds` counts on."""
    for _ in range(count if choices else 0):
        choice = min(choices, key=lambda one: _order(one.problem.id, rounds, seed))
        name = choice.problem.id
        number = rounds.get(name, 0)
        rounds[name] = number + 1
        yield Prompt(
            id=content_id(name, number),
            problem=choice.problem,
            round=number,
            why=choice.why,
            pass_rate=choice.pass_rate,
        )


def _order(name: str, rounds: dict[str, int], seed: int) -> tuple[int, str]:
    number = rounds.get(name, 0)
    return number, content_id(seed, name, number)


def may_start(settings: Settings, versions: Versions) -> bool:
    """Whether RL has a policy to sample from: SFT handed over, or what prompts.start and rl.start_version say."""
    known = versions.all()
    if settings.rl.start_version >= 0:
        return any(row.version == settings.rl.start_version for row in known)
    return bool(known) if settings.prompts.start == "weights" else any(row.handover for row in known)


def run(settings: Settings, status: Status) -> None:
    """Publish prompts from the handover on, until SIGTERM.

    Raises:
        BadSettings: prompts.sql cannot be used.
        BrokerMissing: no broker answers.
    """
    versions = Versions(settings)
    with stop_event() as stop:
        status.set(waiting="for the handover")
        while not may_start(settings, versions):
            if stop.wait(PAUSE_S):
                return
        status.set(waiting="")
        _publish(settings, status, stop)


def _publish(settings: Settings, status: Status, stop: threading.Event) -> None:
    rounds: dict[str, int] = {}
    for prompt in history(settings, Prompt):
        rounds[prompt.problem.id] = max(rounds.get(prompt.problem.id, 0), prompt.round + 1)
    reserved = held_out_keys(settings)
    datasets = Datasets(Path(settings.factory.data) / "datasets")
    client = kafka.producer(settings)
    partitions = len(client.partitions_for("prompts") or {0})
    turn, chosen_at, choices = sum(rounds.values()), float("-inf"), list[Choice]()
    while not stop.is_set():
        room = settings.prompts.ahead - kafka.lag(settings, "sample", "prompts")
        if room > 0 and time.monotonic() - chosen_at > REFRESH_S:
            choices, chosen_at = choose(datasets, settings.prompts.sql, reserved), time.monotonic()
            status.set(candidates=len(choices))
        if room <= 0 or not choices:
            stop.wait(PAUSE_S)
            continue
        futures = []
        for prompt in next_prompts(choices, rounds, room, settings.factory.seed):
            futures.append(kafka.send(client, prompt, turn % partitions))
            turn += 1
        client.flush(ACK_S)
        for future in futures:
            future.get(timeout=ACK_S)
        status.add(records=len(futures))
    client.close()
